"""What does stopping early save, and does it still find the best SAE?

    python -m benchmarks.sweep [--seeds 0,1,2,3,4] [--trials 32] [--folder DIR]

32 trials of a real sweep on the embedded host's activations, harvested once: every trial run
to its end, and the same trials under ASHA and the plateau rule, both by `ray_jobs.sweep` on a
local Ray with two places. For each seed: steps, worker-seconds and CPU-seconds saved, and how
much worse the best trial is. Then what the machinery costs a trial, against the bare loop and
against a Ray Train group for each trial. Prints Markdown. With the same --folder, an interrupted
benchmark resumes.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ray

from data.storage import Store
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.activations.prepare import Prepared
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.job import prepare_for, run_identity, train_sae
from ray_jobs.sae.search_space import job_spec
from ray_jobs.sae.trials import SAETrials
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import Report, make_plan
from ray_jobs.sweep.run import Trials, run_sweep
from ray_jobs.sweep.space import Point

BASE = SAEConfig(
    n_latents=1536, k=32, max_steps=300, batch_size=512, epochs=8, warmup_steps=6,
    dead_after_tokens=10_000, eval_every_steps=15,
)  # fmt: skip
SPACE = "learning_rate=2e-4:2e-2 n_latents=512,1024 aux_weight=0,0.03125,0.125 batch_size=512,1024"
DOCUMENTS = 500
OVERHEAD_TRIALS = 6


@dataclass(frozen=True)
class Timed:
    """A trial that says beside its metrics how much CPU time its process has taken for it."""

    trials: SAETrials

    def run(self, point: Point, folder: Store, report: Report) -> None:
        start_s = time.process_time()

        def told(metrics: dict[str, Any]) -> None:
            report({**metrics, "cpu_seconds": time.process_time() - start_s})

        self.trials.run(point, folder, told)


def sweep(
    folder: Path, prepared: Prepared, config: SweepConfig, base: SAEConfig
) -> list[dict[str, Any]]:
    """Run a sweep; the trials of its ledger."""
    spec = job_spec(base, config)
    plan = make_plan(replace(spec, metrics={**spec.metrics, "cpu_seconds": False}), config)
    options = JobOptions(output_dir=str(folder))
    trials = trials_of(prepared, config, base)
    timed = Trials(Timed(trials).run, trials.finish, trials.identity, trials.about)
    run_sweep(plan, lambda _: timed, options)
    return json.loads((folder / "sweep.json").read_text())["trials"]


def trials_of(prepared: Prepared, config: SweepConfig, base: SAEConfig) -> SAETrials:
    """The trials of `python -m ray_jobs.sae.sweep` on these activations."""
    return SAETrials(
        base=base,
        sweep=config,
        tokens=base.batch_size * (base.max_steps or 0),
        train=prepared.activations["train"],
        held_out=prepared.activations["validation"],
        cache_dir=Path(tempfile.gettempdir()),
        probe=None,
        about=run_identity(base, prepared),
    )


def total(trials: list[dict[str, Any]], what: str) -> float:
    """Sum over all trials: of their last report, or of the worker's time."""
    if what == "seconds":
        return sum(trial["seconds"] for trial in trials)
    return sum(trial["reports"][-1][what] for trial in trials)


def best(trials: list[dict[str, Any]]) -> float:
    """The lowest FVU of a trial with a result."""
    whole = [t for t in trials if t["state"] in ("finished", "plateau")]
    return min(trial["reports"][-1]["fvu"] for trial in whole)


def one_seed(folder: Path, prepared: Prepared, seed: int, n_trials: int) -> dict[str, Any]:
    """Both sweeps of a seed."""
    config = SweepConfig(trials=n_trials, space=SPACE, seed=seed, max_concurrent=2, resume=True)
    full = sweep(folder / f"full-{seed}", prepared, replace(config, scheduler="none"), BASE)
    early = replace(BASE, enable_early_stopping=True)
    asha = sweep(folder / f"asha-{seed}", prepared, config, early)
    saved = {
        name: 1 - total(asha, what) / total(full, what)
        for name, what in (("steps", "step"), ("worker_s", "seconds"), ("cpu_s", "cpu_seconds"))
    }
    states = {state: sum(t["state"] == state for t in asha) for state in ("finished", "plateau")}
    return {
        "seed": seed,
        "saved": saved,
        "best_full": best(full),
        "best_asha": best(asha),
        "gap": best(asha) / best(full) - 1,
        "states": states,
    }


def overhead(folder: Path, prepared: Prepared) -> list[str]:
    """Wall seconds of a short trial: bare, as a trial of a sweep, in a Ray Train group of its own.

    The bare loop and the sweep share no process, so each first trial pays for imports; it is
    shown apart.
    """
    base = replace(BASE, max_steps=60, eval_every_steps=30, enable_early_stopping=False)
    config = SweepConfig(
        trials=OVERHEAD_TRIALS, space="aux_weight=0.01:0.1", scheduler="none", checks=2,
        grace_checks=1, max_concurrent=1,
    )  # fmt: skip
    trials = trials_of(prepared, config, base)
    bare = ray.get(_bare.remote(trials, str(folder / "bare")))
    start_s = time.monotonic()
    swept = [t["seconds"] for t in sweep(folder / "swept", prepared, config, base)]
    wall_s = time.monotonic() - start_s
    grouped = []
    for number in range(3):
        start_s = time.monotonic()
        train_sae(
            replace(base, seed=number),
            prepared,
            JobOptions(output_dir=str(folder / f"group-{number}"), cpus_per_worker=1),
        )
        grouped.append(time.monotonic() - start_s)
    median = statistics.median
    return [
        "| a 60-step trial | median, s | first, s |",
        "|---|---|---|",
        f"| bare loop in one process | {median(bare[1:]):.2f} | {bare[0]:.2f} |",
        f"| trial of a sweep | {median(swept[1:]):.2f} | {swept[0]:.2f} |",
        f"| Ray Train group for each | {median(grouped[1:]):.2f} | {grouped[0]:.2f} |",
        "",
        f"whole sweep of {OVERHEAD_TRIALS}, one at a time: {wall_s:.1f} s wall, "
        f"{wall_s - sum(swept):.1f} s of it outside of trials",
    ]


@ray.remote(num_cpus=1)
def _bare(trials: SAETrials, folder: str) -> list[float]:
    """The same trials, one after the other, in this process without Ray Tune."""
    seconds = []
    for number in range(OVERHEAD_TRIALS):
        start_s = time.monotonic()
        point = {"aux_weight": 0.01 + 0.01 * number}
        trials.run(point, Store.open(folder).child(str(number)), lambda _: None)
        seconds.append(time.monotonic() - start_s)
    return seconds


def table(results: list[dict[str, Any]]) -> str:
    """A row a seed, and their mean and range."""
    lines = [
        "| seed | steps saved | worker-seconds saved | CPU-seconds saved | best FVU, full | "
        "best FVU, ASHA | worse by |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        shares = " | ".join(f"{r['saved'][name]:.1%}" for name in ("steps", "worker_s", "cpu_s"))
        lines.append(
            f"| {r['seed']} | {shares} | {r['best_full']:.4f} | {r['best_asha']:.4f} "
            f"| {r['gap']:.2%} |"
        )
    columns = [[r["saved"][name] for r in results] for name in ("steps", "worker_s", "cpu_s")]
    spread = " | ".join(f"{statistics.mean(c):.1%} ({min(c):.1%}-{max(c):.1%})" for c in columns)
    gaps = [r["gap"] for r in results]
    lines.append(
        f"| mean (range) | {spread} | | | {statistics.mean(gaps):.2%} "
        f"({min(gaps):.2%} to {max(gaps):.2%}) |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="raylambda-sweep-"))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    prepared = prepare_for(BASE, DataConfig(documents=DOCUMENTS), JobOptions(str(folder / "data")))
    train = prepared.activations["train"]
    print(f"{train.manifest.spec.description}, {train.n_rows:,} training tokens; {SPACE}\n")
    results = []
    for seed in map(int, given.seeds.split(",")):
        start_s = time.monotonic()
        results.append(one_seed(folder, prepared, seed, given.trials))
        print(f"seed {seed}: {time.monotonic() - start_s:.0f} s", results[-1]["states"], flush=True)
    print("\n" + table(results) + "\n", flush=True)
    # Never gone on with: what was whole already would take no time.
    with tempfile.TemporaryDirectory(prefix="raylambda-overhead-") as scratch:
        print("\n".join(overhead(Path(scratch), prepared)) + "\n", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
