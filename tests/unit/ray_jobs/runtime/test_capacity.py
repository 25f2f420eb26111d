"""Where workers and trials fit, and how large they can be; what never fits is refused."""

import json

import pytest

from data.errors import RefusedError
from ray_jobs.runtime import cluster as capacity
from ray_jobs.runtime.fit import scaling, worker_needs
from ray_jobs.runtime.options import JobOptions

SMALL = {"CPU": 4.0, "memory": 1e9, "node:10.0.0.1": 1.0}
LARGE = {"CPU": 200.0, "GPU": 8.0}
GPU_WORKER = {"CPU": 1.0, "GPU": 1.0}


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    def make(standing, startable=()):
        nodes = [{"Alive": True, "Resources": node} for node in standing]
        dead = {"Alive": False, "Resources": {"CPU": 999.0, "GPU": 99.0}}
        types = {
            f"type{index}": {"resources": node, "max_workers": count}
            for index, (node, count) in enumerate(startable)
        }
        config = tmp_path / capacity.HEAD_CONFIG
        config.write_text(json.dumps({"available_node_types": types}))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr("ray.nodes", lambda: [*nodes, dead])

    return make


def test_what_fits_nowhere_is_refused_in_one_line(cluster):
    cluster([SMALL], [(LARGE, 0)])
    with pytest.raises(RefusedError) as caught:
        capacity.node_that_fits(GPU_WORKER)
    assert str(caught.value).startswith("no node has room for 1 CPU, 1 GPU, and none")
    assert "the cluster has 4 CPU." in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_node_that_the_autoscaler_may_start_is_room(cluster):
    cluster([SMALL], [(LARGE, 2)])
    assert capacity.node_that_fits(GPU_WORKER) == LARGE
    assert capacity.room_now(GPU_WORKER) == 0


def test_two_small_nodes_are_no_large_one(cluster):
    cluster([SMALL, SMALL])
    with pytest.raises(RefusedError):
        capacity.node_that_fits({"CPU": 6.0})
    assert capacity.room_now({"CPU": 2.0}) == 4


@pytest.mark.parametrize(
    ("standing", "startable", "workers", "cpus"),
    [
        ([{"CPU": 8.0}], [], 3, 2),
        ([{"CPU": 4.0}, {"CPU": 12.0}], [], 2, 6),  # 8, half of all, would leave one waiting
        ([{"CPU": 4.0}, {"CPU": 4.0}], [], 1, 4),  # 8, all there is, would wait for ever
        ([{"CPU": 2.0}], [({"CPU": 16.0}, 4)], 2, 1),  # what stands is enough
        ([{}], [({"CPU": 16.0}, 4)], 8, 8),
        ([{"CPU": 2.0}], [], 4, 1),
    ],
)
def test_workers_are_as_large_as_the_nodes_allow(cluster, standing, startable, workers, cpus):
    cluster(standing, startable)
    assert capacity.cpus_for_each(workers) == cpus


def test_a_cluster_that_has_scaled_to_its_head_is_asked_for_gpus(cluster):
    cluster([SMALL], [(LARGE, 2)])
    assert worker_needs(JobOptions(num_workers="4")) == GPU_WORKER
    assert worker_needs(JobOptions(num_workers="4", use_gpu=False)) == {"CPU": 1.0}
    chosen = scaling(JobOptions(num_workers="2-16"))
    assert (chosen.num_workers, chosen.use_gpu) == ((2, 16), True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": "17"}, "17 workers of 1 CPU, 1 GPU each .* have room for 16: lower"),
        ({"num_workers": "3", "use_gpu": False, "cpus_per_worker": 150}, "have room for 2: lower"),
        ({"cpus_per_worker": 201}, "no node has room for 201 CPU, 1 GPU"),
    ],
)
def test_workers_that_would_wait_for_ever_are_refused_in_one_line(cluster, options, message):
    cluster([SMALL], [(LARGE, 2)])
    with pytest.raises(RefusedError, match=message) as caught:
        scaling(JobOptions(**options))
    assert "\n" not in str(caught.value)
