"""Sweeps on a real local Ray: killed workers, a killed driver, spent money, bad trials."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.tune.search.optuna import OptunaSearch

from data.errors import JobError, RefusedError, StorageError
from data.storage import Store
from data.storage.probe import Probe
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.activations.prepare import Prepared
from ray_jobs.results.run_directory import verify
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.job import prepare_for
from ray_jobs.sae.search_space import job_spec
from ray_jobs.sae.trials import sweep_sae
from ray_jobs.sweep import cost
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.cost import Prices, Rate
from ray_jobs.sweep.plan import make_plan
from tests.ray.training import CONFIG, Lines

pytestmark = pytest.mark.ray

BASE = replace(CONFIG, enable_early_stopping=True, keep_checkpoints=50)
SWEEP = SweepConfig(
    trials=6, space="learning_rate=1e-3:3e-2 n_latents=96,128", max_concurrent=2, checks=9,
    grace_checks=1,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def sweep(
    folder: Path, data: Prepared, config: SweepConfig = SWEEP, base: SAEConfig = BASE,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    plan = make_plan(job_spec(base, config), config)
    return sweep_sae(plan, base, lambda _: data, JobOptions(output_dir=str(folder), **options))


def ledger_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text())


@pytest.fixture(scope="module")
def calm(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep that ran in peace; a learning rate of 1e30 is past all numbers."""
    folder = tmp_path_factory.mktemp("calm")
    config = replace(SWEEP, trials=3, space="learning_rate=2e-3,1e-2,1e30", scheduler="none")
    sweep(folder, data, config, price_cents_per_hour=100)
    return folder


def test_a_trial_that_fails_ends_alone_and_only_the_best_is_kept(calm: Path):
    trials = ledger_of(calm)["trials"]
    states = {trial["point"]["learning_rate"]: trial["state"] for trial in trials}
    assert states.pop(1e30) == "failed" and set(states.values()) <= {"finished", "plateau"}
    reason = next(trial["reason"] for trial in trials if trial["state"] == "failed")
    assert reason.startswith("the loss is not finite at step")
    values = {t["point"]["learning_rate"]: t["reports"][-1]["fvu"] for t in trials if t["reports"]}
    assert values[1e-2] < values[2e-3]
    history = json.loads((calm / "best" / "training_history.json").read_text())
    assert history["checks"][-1]["fvu"] == values[1e-2]
    assert verify(Store.open(str(calm / "best"))) >= 2
    assert (calm / "best" / "sae_final.pt").exists()
    assert "<svg" in (calm / "sweep.html").read_text()
    kept = list((calm / "trials").glob("*/*"))
    assert len(kept) == 1 and list(kept[0].glob("checkpoints/*/COMMITTED.json"))


def test_a_node_that_does_not_share_the_places_ends_the_sweep_in_one_line(
    data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    @contextmanager
    def elsewhere(*_: object) -> Iterator[Probe]:
        yield Probe("probe", (Store.open(str(tmp_path)),))  # a file that is not there

    config, base = replace(SWEEP, trials=2, scheduler="none"), replace(CONFIG, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("ray_jobs.sweep.run.check_output_locations", elsewhere)
        with pytest.raises(StorageError, match="is not shared: node"):
            sweep(tmp_path, data, config, base)
    assert not list(tmp_path.glob("trials/*/*"))
    assert not any(trial["reports"] for trial in ledger_of(tmp_path)["trials"])
    # No trial is lost by it.
    sweep(tmp_path, data, replace(config, resume=True), base)
    assert {trial["state"] for trial in ledger_of(tmp_path)["trials"]} == {"finished"}


class KillAfterTwoCheckpoints:
    """Kills, once, the process that a sweep in `folder` says a trial runs as."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: int | None = None

    def __call__(self, line: str) -> None:
        if self.process is None and " runs as process " in line:
            self.process = int(line.split(" runs as process ")[1].split()[0])
            threading.Thread(target=self.wait_and_kill, args=(self.process,)).start()

    def wait_and_kill(self, process: int) -> None:
        for _ in range(60_000):
            if len(committed(self.folder)) >= 2:
                break
            time.sleep(0.005)
        os.kill(process, signal.SIGKILL)


def committed(folder: Path) -> list[Path]:
    """Committed checkpoints of all trials."""
    return [path.parent for path in folder.glob("trials/*/*/checkpoints/*/COMMITTED.json")]


def test_a_trial_whose_worker_was_killed_goes_on_and_is_the_same(
    calm: Path, tmp_path: Path, data: Prepared, lines: Lines
):
    """One trial alone: its checkpoints say where each of its two lives began."""
    lines.on_line = KillAfterTwoCheckpoints(tmp_path)
    result = sweep(tmp_path, data, replace(SWEEP, trials=1, space="learning_rate=1e-2"))
    assert any("trial 1 lost its worker" in line for line in lines.lines)
    assert any("resuming from checkpoint step-" in line for line in lines.lines)
    undisturbed = next(
        t["reports"] for t in ledger_of(calm)["trials"] if t["point"] == result["best"]
    )
    (trial,) = ledger_of(tmp_path)["trials"]
    assert [(r["check"], r["step"], r["fvu"]) for r in trial["reports"]] == [
        (r["check"], r["step"], r["fvu"]) for r in undisturbed
    ]
    lives: dict[str, list[int]] = {}
    for checkpoint in committed(tmp_path):
        _, step, _, attempt = checkpoint.name.split("-")
        lives.setdefault(attempt, []).append(int(step))
    first, second = sorted(lives.values(), key=min)
    assert max(first) < min(second)


DRIVER = """
import pickle, sys
from pathlib import Path
import ray
from tests.ray.test_sweep import sweep
ray.init(address=sys.argv[3], log_to_driver=False)
sweep(Path(sys.argv[1]), pickle.loads(Path(sys.argv[2]).read_bytes()))
"""
"""A second driver on the Ray of this test: what it started ends with it, the nodes stay."""


def test_a_killed_driver_resumes_without_running_an_ended_trial_again(
    tmp_path: Path, data: Prepared, lines: Lines
):
    folder, pickled, output = tmp_path / "sweep", tmp_path / "data.pickle", tmp_path / "output"
    pickled.write_bytes(pickle.dumps(data))
    address = ray.get_runtime_context().gcs_address
    with output.open("wb") as out:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder), str(pickled), address],
            cwd=Path(__file__).parents[2],
            stdout=out,
            stderr=out,
        )
    try:
        before = wait_for_ended_trials(folder, driver, output)
    finally:
        driver.kill()
        driver.wait()
    with pytest.raises(JobError, match="add --resume"):
        sweep(folder, data)
    with pytest.raises(JobError, match="trials: .* was started with 6, not 5"):
        sweep(folder, data, replace(SWEEP, resume=True, trials=5))
    result = sweep(folder, data, replace(SWEEP, resume=True))
    after = {trial["number"]: trial for trial in ledger_of(folder)["trials"]}
    assert len(after) == 6
    started = [line for line in lines.lines if " runs as process " in line]
    for trial in before:
        now = after[trial["number"]]
        if trial["state"] == "stopped":  # and may have been called back to where it was
            assert now["reports"][: len(trial["reports"])] == trial["reports"]
        else:
            assert now == trial
        assert not any(line.startswith(f"sweep  trial {trial['number']} ") for line in started)
    assert {trial["state"] for trial in after.values()} <= {"finished", "plateau", "stopped"}
    assert result["best_metric"] > 0 and 0 < result["steps_saved_share"] < 1
    assert verify(Store.open(str(folder / "best"))) >= 2
    again = sweep(folder, data)  # already complete
    assert again == result and any("already complete" in line for line in lines.lines)


def wait_for_ended_trials(
    folder: Path, driver: subprocess.Popen, output: Path
) -> list[dict[str, Any]]:
    """The ended trials of a sweep under way, as soon as there are two and more to come."""
    deadline_s = time.monotonic() + 180
    while time.monotonic() < deadline_s:
        assert driver.poll() is None, output.read_text()
        if (folder / "sweep.json").exists():
            trials = ledger_of(folder)["trials"]
            ended = [t for t in trials if t["state"] in ("finished", "plateau", "stopped")]
            if len(ended) >= 2:
                assert len(ended) < len(trials)
                return ended
        time.sleep(0.02)
    raise AssertionError("the sweep did not end two trials")


def test_spent_money_ends_the_sweep_with_the_best_so_far(
    tmp_path: Path, data: Prepared, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    def rate(_: Prices) -> Rate:
        """What a trial has reported and saved costs everything."""
        begun = (tmp_path / "sweep.json").exists()
        reported = begun and any(trial["reports"] for trial in ledger_of(tmp_path)["trials"])
        return Rate(1e12 if reported and committed(tmp_path) else 0.0)

    monkeypatch.setattr(Prices, "rate", rate)
    monkeypatch.setattr(cost, "LOOK_INTERVAL_S", 0.1)
    long = replace(BASE, epochs=200, enable_early_stopping=False)
    config = replace(SWEEP, max_cost_cents=100, checks=90)
    result = sweep(tmp_path, data, config, long, price_cents_per_hour=100)
    ledger = ledger_of(tmp_path)
    assert ledger["ended"] == "the money is spent"
    assert not any(trial["state"] == "finished" for trial in ledger["trials"])
    history = json.loads((tmp_path / "best" / "training_history.json").read_text())
    assert history["stopped"]["reason"] == "ended from outside"
    assert history["checks"][-1]["fvu"] == result["best_metric"]
    verify(Store.open(str(tmp_path / "best")))


def test_optuna_resumed_tells_of_ended_trials_and_never_exceeds_their_number(
    tmp_path: Path, data: Prepared, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    def rate(_: Prices) -> Rate:
        """Two ended trials, and a third that has a result to leave, cost everything."""
        begun = (tmp_path / "sweep.json").exists()
        trials = ledger_of(tmp_path)["trials"] if begun else []
        ended = [trial for trial in trials if trial["state"] in ("finished", "plateau")]
        return Rate(1e12 if len(ended) >= 2 else 0.0)

    told: list[float] = []
    add = OptunaSearch.add_evaluated_point

    def add_evaluated_point(self: OptunaSearch, point: Any, value: float, **more: Any) -> None:
        told.append(value)
        add(self, point, value, **more)

    monkeypatch.setattr(OptunaSearch, "add_evaluated_point", add_evaluated_point)
    monkeypatch.setattr(cost, "LOOK_INTERVAL_S", 0.02)
    base = replace(BASE, epochs=1, enable_early_stopping=False)
    config = replace(
        SWEEP, search="optuna", scheduler="none", trials=5, checks=3, max_cost_cents=100
    )
    with monkeypatch.context() as spent:
        spent.setattr(Prices, "rate", rate)
        sweep(tmp_path, data, config, base, price_cents_per_hour=100)
    before = ledger_of(tmp_path)
    assert before["ended"] == "the money is spent" and told == []
    ended = [trial for trial in before["trials"] if trial["state"] == "finished"]
    assert 2 <= len(ended) < 5
    lines.lines.clear()
    sweep(tmp_path, data, replace(config, resume=True, max_cost_cents=None), base)
    trials = ledger_of(tmp_path)["trials"]
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4, 5]
    assert {trial["state"] for trial in trials} == {"finished"}
    assert len({json.dumps(trial["point"]) for trial in trials}) == 5
    assert told == [trial["reports"][-1]["fvu"] for trial in ended]
    for trial in before["trials"]:  # begun or not, it is still the same one
        after = trials[trial["number"] - 1]
        assert after["point"] == trial["point"]
        if trial in ended:
            assert after == trial
            assert not any(f"trial {trial['number']} (" in line for line in lines.lines)


def test_a_harvest_that_costs_more_than_there_is_ends_before_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Prices, "rate", lambda _: Rate(1e12))
    monkeypatch.setattr(cost, "LOOK_INTERVAL_S", 0.02)
    config = replace(SWEEP, max_cost_cents=100)
    plan = make_plan(job_spec(BASE, config), config)
    options = JobOptions(output_dir=str(tmp_path), price_cents_per_hour=100)
    texts = DataConfig(documents=60, languages="en")
    with pytest.raises(RefusedError, match="max_cost_cents.* is spent before a trial could run"):
        sweep_sae(plan, BASE, lambda watch: prepare_for(BASE, texts, options, watch), options)
    assert not (tmp_path / "sweep.json").exists()
    assert json.loads((tmp_path / "spend.json").read_text())["cents"] > 100


def test_a_trial_that_fits_on_no_node_is_refused_at_once(tmp_path: Path, data: Prepared):
    with pytest.raises(RefusedError, match="no node has room for 64 CPU, and none"):
        sweep(tmp_path, data, cpus_per_worker=64)
    assert not (tmp_path / "sweep.json").exists()
