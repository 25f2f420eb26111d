"""SAE training whose storage and results are on a real S3 server that fails in the middle."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from data.errors import StorageError
from data.storage import Store
from ray_jobs.activations.prepare import Prepared
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.checkpoint.saving import MAX_FAILED_SAVES
from tests.ray.training import CONFIG, Lines, train
from tests.storage.ceph import ACCESS_KEY, CephServer
from tests.storage.faultproxy import Fault, FaultProxy, fault_on

pytestmark = [pytest.mark.ray, pytest.mark.storage]

SHORT = replace(CONFIG, epochs=1)
"""100 steps, a checkpoint due every 20."""


@pytest.fixture(scope="module", autouse=True)
def local_ray(ceph: CephServer) -> Iterator[None]:
    """A Ray whose processes find the server's credentials in their environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ceph.environment.items():
            patch.setenv(name, value)
        # Long enough for the outage below, short enough for what never mends.
        patch.setenv("RAYLAMBDA_STORAGE_RETRY_S", "60")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def committed_steps(uri: str) -> list[int]:
    """Steps of all checkpoints that count, in whatever run's folder they are."""
    store = Store.open(uri).child("checkpoints")
    folders = [store.child(name) for name in store.directories()]
    return sorted(i.step for folder in folders for i in CheckpointStore(folder).committed())


def test_saved_resumed_and_retrieved(
    data: Prepared, s3_uri: str, tmp_path: Path, lines: Lines
) -> None:
    train(s3_uri, data, SHORT, cpus_per_worker=1)
    kept = committed_steps(s3_uri)
    assert kept[-1] == 100 and len(kept) == SHORT.keep_checkpoints
    run = Store.open(s3_uri)
    run.fetch("sae_final.pt", tmp_path / "first.pt")
    run.delete("sae_final.pt")
    train(s3_uri, data, SHORT, cpus_per_worker=1)
    assert any("resuming from checkpoint" in line and "step 100" in line for line in lines.lines)
    run.fetch("sae_final.pt", tmp_path / "second.pt")
    assert (tmp_path / "first.pt").read_bytes() == (tmp_path / "second.pt").read_bytes()


def test_the_server_killed_for_twenty_seconds_loses_nothing(
    data: Prepared, s3: CephServer, s3_uri: str, lines: Lines
) -> None:
    first_checkpoint = threading.Event()
    lines.on_line = lambda line: "committed" in line and first_checkpoint.set()
    with ThreadPoolExecutor(1) as elsewhere:
        training = elsewhere.submit(train, s3_uri, data, SHORT, cpus_per_worker=1)
        assert first_checkpoint.wait(120)
        s3.kill_gateway()
        time.sleep(20)  # the server's clock is the wall's
        s3.start_gateway()  # in this thread: the kernel ends a daemon with the thread that made it
        history = training.result()
    assert history["stopped"]["step"] == 100
    assert not any("was not saved" in line for line in lines.lines)
    assert committed_steps(s3_uri)[-1] == 100


def test_checkpoints_that_cannot_be_stored_end_the_job_though_its_results_could(
    data: Prepared, s3: CephServer, s3_uri: str, proxied_uri: str, proxy: FaultProxy, lines: Lines
) -> None:
    refused = Fault("answer", status=403, code="AccessDenied", match="/checkpoints/")
    with fault_on(proxy, refused), pytest.raises(StorageError) as caught:
        train(proxied_uri, data, CONFIG, cpus_per_worker=1)
    said = f"^{MAX_FAILED_SAVES} checkpoints in a row could not be stored, .*access denied"
    assert re.match(said, str(caught.value)) and "\n" not in str(caught.value)
    assert committed_steps(s3_uri) == []
    assert not any(re.search(r"checkpoint of step \d+ committed", x) for x in lines.lines)
    # It ended long before its last step.
    assert sum("was not saved" in line for line in lines.lines) == MAX_FAILED_SAVES


def test_a_place_that_cannot_be_used_is_one_line_before_any_worker_starts(
    data: Prepared, s3: CephServer, s3_uri: str, proxied_uri: str, proxy: FaultProxy, lines: Lines
) -> None:
    nowhere = s3.uri("no-such-bucket", "run")
    with pytest.raises(StorageError, match="the bucket does not exist") as no_bucket:
        train(s3_uri, data, SHORT, storage=nowhere, cpus_per_worker=1)
    with fault_on(proxy, Fault("answer", status=403, code="AccessDenied")):
        with pytest.raises(StorageError, match="access denied") as no_right:
            train(proxied_uri, data, SHORT, storage=s3_uri, cpus_per_worker=1)
    assert "\n" not in str(no_bucket.value) + str(no_right.value)
    assert lines.workers() == {}


def test_no_secret_is_in_what_the_workers_are_sent(data: Prepared, s3_uri: str) -> None:
    import pickle

    sent = pickle.dumps((data, Store.open(s3_uri)))
    assert ACCESS_KEY.encode() not in sent
