"""The main job on Ray: texts, activations, SAE, PII classifiers, report, manifest.

Each step reuses what an earlier start of the same run left complete. Command line: `pipeline.py`.
"""

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any

from data.storage import Store
from ray_jobs.activations.dataset import SPLITS, DataConfig
from ray_jobs.activations.prepare import Prepared
from ray_jobs.pii.config import ProbeConfig
from ray_jobs.pii.detector import CLASSIFIERS_NAME
from ray_jobs.pii.evaluation import strict_f1
from ray_jobs.pii.job import train_and_evaluate
from ray_jobs.results.report import render, shown
from ray_jobs.results.run_directory import code_identity, is_complete
from ray_jobs.runtime.options import JobOptions
from ray_jobs.runtime.progress import clock_time
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.job import finish_run, prepare_for, run_identity, summary, train_sae

logger = logging.getLogger(__name__)


def run_pipeline(
    sae_config: SAEConfig, probe_config: ProbeConfig, data: DataConfig, options: JobOptions
) -> dict[str, Any]:
    """Run what is not there yet; returns the summary. Ray is initialised. Idempotent."""
    started_s = time.monotonic()
    output = Store.open(options.output_dir)
    prepared = prepare_for(sae_config, data, options)
    about = {
        **run_identity(sae_config, prepared),
        "probe": dataclasses.asdict(probe_config),
        **code_identity(),
    }
    if is_complete(output, about):
        logger.info("run    %s: already complete", output.uri)
        return _summary(output)
    train_sae(sae_config, prepared, options)
    evaluations = train_and_evaluate(prepared, output, probe_config)
    output.write_json("evaluation.json", evaluations)
    history = output.read_json("training_history.json")
    facts = _facts(sae_config, prepared, history, time.monotonic() - started_s)
    page = render("SAE and PII detector", verdict(evaluations), facts, history, evaluations)
    output.write_bytes("report.html", page.encode())
    others = (f"{CLASSIFIERS_NAME}/", "evaluation.json", "report.html")
    finish_run(output, sae_config, prepared, about, others)
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
        **({"Attention sinks": train.sinks_in_words} if train.manifest.n_sinks else {}),
        "SAE": f"{train.d_in} -> {config.n_latents:,} latents, {config.k} active per token",
        "Held-out FVU": f"{history['checks'][-1]['fvu']:.3f}",
        "Dead latents": f"{history['dead_share'][-1]:.1%}",
        "Wall time": f"{clock_time(seconds)} (training {clock_time(history['times'][-1])})",
    }


def _summary(output: Store) -> dict[str, Any]:
    """The contract's keys, from the files of a complete run."""
    evaluations = output.read_json("evaluation.json")
    f1 = {probe: strict_f1(evaluation) for probe, evaluation in evaluations.items()}
    return {**summary(output.read_json("training_history.json")), "f1": f1}
