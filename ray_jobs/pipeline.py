"""`python -m ray_jobs.pipeline`: the main job, from text to a detector and its report.

    texts -> activations of the host model -> SAE on Ray Train -> PII classifiers on its latents
    and, beside them, on raw activations -> scores on unseen texts -> report.html, manifest.json

    python -m ray_jobs.pipeline --recipe demo --output-dir runs/demo
    python -m ray_jobs.pipeline --recipe full --data s3://bucket/text.jsonl --output-dir s3://bucket/run

Run again, it reuses what is whole. `--json` prints the summary as the last line.
"""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import ray

from data.command_line import run_main
from data.storage import Store
from ray_jobs.activations.dataset import SPLITS, DataConfig
from ray_jobs.activations.prepare import Prepared
from ray_jobs.cli import parse_recipe
from ray_jobs.pii.config import ProbeConfig
from ray_jobs.pii.detector import CLASSIFIERS_NAME
from ray_jobs.pii.evaluation import strict_f1
from ray_jobs.pii.job import train_and_evaluate
from ray_jobs.results.report import render, shown
from ray_jobs.results.run_directory import code_identity, is_complete
from ray_jobs.runtime.fit import JobOptions, connect
from ray_jobs.runtime.progress import clock_time, log_to_stdout
from ray_jobs.sae.config import RECIPES as SAE_RECIPES
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.train import prepare_for, run_identity, seal_training, summary, train_sae

logger = logging.getLogger(__name__)

DATA_RECIPES = {
    "demo": DataConfig(documents=4000),
    "small": DataConfig(documents=24_000),
    "full": DataConfig(documents=100_000),
}

PROBE_RECIPES = {
    "demo": ProbeConfig(),
    "small": ProbeConfig(epochs=8),
    "full": ProbeConfig(epochs=8),
}

Configs = tuple[SAEConfig, ProbeConfig, DataConfig, JobOptions]


def recipe(name: str) -> Configs:
    """The configs of a named recipe."""
    return SAE_RECIPES[name](), PROBE_RECIPES[name], DATA_RECIPES[name], JobOptions()


def run_pipeline(configs: Configs) -> dict[str, Any]:
    """Run what is not there yet; returns the summary. Ray is initialised. Idempotent."""
    sae_config, probe_config, data, options = configs
    started_s = time.monotonic()
    output = Store.open(options.output_dir)
    prepared = prepare_for(sae_config, data, options)
    about = {
        **run_identity(sae_config, prepared),
        "probe": dataclasses.asdict(probe_config),
        **code_identity(),
    }
    if is_complete(output, about):
        logger.info("run    %s is whole: nothing to do", output.uri)
        return _summary(output)
    train_sae(sae_config, prepared, options)
    evaluations = train_and_evaluate(prepared, output, probe_config)
    output.write_json("evaluation.json", evaluations)
    history = output.read_json("training_history.json")
    facts = _facts(sae_config, prepared, history, time.monotonic() - started_s)
    page = render("SAE and PII detector", verdict(evaluations), facts, history, evaluations)
    output.write_bytes("report.html", page.encode())
    others = (f"{CLASSIFIERS_NAME}/", "evaluation.json", "report.html")
    seal_training(output, sae_config, prepared, about, others)
    return _summary(output)


def verdict(evaluations: Mapping[str, Any]) -> str:
    """Who found more, in one sentence, whoever it is."""
    latents, raw = (evaluations[name]["strict"]["f1"] for name in ("latents", "raw"))
    if None in (latents["value"], raw["value"]):
        relation = "without a labelled span in the texts there is nothing to compare"
    elif latents["low"] > raw["high"]:
        relation = "the latents beat the raw activations"
    elif raw["low"] > latents["high"]:
        relation = "the raw activations beat the latents"
    else:
        relation = "the intervals overlap, so neither beats the other"
    return (
        f"Classifiers on SAE latents reach a strict span F1 of {shown(latents)}, those on raw "
        f"activations {shown(raw)}: {relation}."
    )


def _facts(
    config: SAEConfig, prepared: Prepared, history: Mapping[str, Any], seconds: float
) -> dict[str, str]:
    train = prepared.activations["train"]
    documents = ", ".join(f"{len(prepared.dataset.labelled[s]):,} {s}" for s in SPLITS)
    return {
        "Host model": train.manifest.spec.description,
        "Texts": f"{prepared.dataset.source}: {documents}",
        "Activations": f"{train.n_rows:,} training tokens of width {train.d_in}",
        "SAE": f"{train.d_in} -> {config.n_latents:,} latents, {config.k} active per token",
        "Held-out FVU": f"{history['checks'][-1]['fvu']:.3f}",
        "Dead latents": f"{history['dead_share'][-1]:.1%}",
        "Wall time": f"{clock_time(seconds)} (training {clock_time(history['times'][-1])})",
    }


def _summary(output: Store) -> dict[str, Any]:
    """The contract's keys, from the files of a whole run."""
    evaluations = output.read_json("evaluation.json")
    f1 = {probe: strict_f1(evaluation) for probe, evaluation in evaluations.items()}
    return {**summary(output.read_json("training_history.json")), "f1": f1}


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


def parse(argv: list[str]) -> tuple[Configs, bool]:
    """The configs of a command line, and whether the summary is wanted as JSON."""
    recipes = {name: (lambda n=name: recipe(n)) for name in DATA_RECIPES}
    return parse_recipe(argv, "ray_jobs.pipeline", recipes, ("sae", "probe", "data", "job"))


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    configs, as_json = parse(argv)
    log_to_stdout()
    connect()
    result = run_pipeline(configs)
    ray.shutdown()
    output = Store.open(configs[3].output_dir)
    sys.stdout.write(table(result, output) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    run_main(main)
