"""`python -m ray_jobs.pipeline`: the main job, from text to a detector and its report.

    texts -> activations of the host model -> SAE on Ray Train -> PII classifiers on its latents
    and, for comparison, on raw activations -> scores on unseen texts -> report.html, manifest.json

    python -m ray_jobs.pipeline --recipe demo --output-dir runs/demo
    python -m ray_jobs.pipeline --recipe full --data s3://bucket/text.jsonl --output-dir s3://bucket/run

Rerun, it reuses what is complete. `--json` prints the summary as the last line.
"""

import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from data.command_line import run_main
from data.storage import Store
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.cli import parse_recipe
from ray_jobs.pii.config import ProbeConfig
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sae.config import RECIPES as SAE_RECIPES
from ray_jobs.sae.config import SAEConfig

DATA_RECIPES = {
    "demo": DataConfig(documents=4000),
    "small": DataConfig(documents=24_000),
    "llm": DataConfig(documents=1600),
    "full": DataConfig(documents=100_000),
}

PROBE_RECIPES = {
    "demo": ProbeConfig(),
    "small": ProbeConfig(epochs=8),
    "llm": ProbeConfig(),
    "full": ProbeConfig(epochs=8),
}

Configs = tuple[SAEConfig, ProbeConfig, DataConfig, JobOptions]


def recipe(name: str) -> Configs:
    """The configs of a named recipe."""
    return SAE_RECIPES[name](), PROBE_RECIPES[name], DATA_RECIPES[name], JobOptions()


def parse(argv: list[str]) -> tuple[Configs, bool]:
    """The configs of a command line, and whether the summary is wanted as JSON."""
    recipes = {name: partial(recipe, name) for name in DATA_RECIPES}
    parts = ("sae", "probe", "data", "job")
    return parse_recipe(argv, "python -m ray_jobs.pipeline", recipes, parts)


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    configs, as_json = parse(argv)
    _, _, data, options = configs
    data.check_files()
    # PyTorch and Ray only now: a mistake is answered at once.
    import ray

    from ray_jobs.pipeline_job import run_pipeline
    from ray_jobs.runtime.fit import connect
    from ray_jobs.runtime.progress import log_to_stdout

    log_to_stdout()
    connect()
    result = run_pipeline(*configs)
    ray.shutdown()
    sys.stdout.write(table(result, Store.open(options.output_dir)) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")


def table(result: Mapping[str, Any], output: Store) -> str:
    """The end of the job's output: a short table and the paths."""
    f1 = result["f1"]
    languages = list(f1["latents"]["by_language"])
    lines = [
        "",
        f"SAE     FVU {result['fvu']:.3f}   dead {result['dead_share']:.1%}   "
        f"steps {result['steps']:,}" + ("   stopped early" if result["stopped_early"] else ""),
        f"{'PII F1':8}{'all':>7}" + "".join(f"{language:>7}" for language in languages),
    ]
    for probe, scores in f1.items():
        cells = [scores["overall"], *(scores["by_language"].get(name) for name in languages)]
        lines.append(f"{probe:8}" + "".join(_cell(cell) for cell in cells))
    names = ("report.html", "sae_final.pt", "classifiers/", "manifest.json")
    return "\n".join([*lines, "", *(f"{output.uri}/{name}" for name in names)])


def _cell(f1: float | None) -> str:
    return f"{'-' if f1 is None else f'{f1:.3f}':>7}"


if __name__ == "__main__":
    run_main(main)
