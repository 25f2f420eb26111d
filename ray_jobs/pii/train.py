"""`python -m ray_jobs.pii.train`: PII classifiers on a SAE's latents and on raw activations.

python -m ray_jobs.pii.train --recipe demo --sae runs/demo/sae_final.pt --output-dir runs/pii
python -m ray_jobs.pii.train --data own.jsonl --sae runs/demo/sae_final.pt --output-dir runs/own

One process, without Ray.
"""

import json
import sys
from functools import partial
from typing import Any

from data.command_line import module_logger, run_main
from data.errors import ConfigError
from data.files import check_local_files
from data.storage import Store
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.cli import parse_recipe
from ray_jobs.pii.config import HostConfig, ProbeConfig
from ray_jobs.pii.evaluation import strict_f1

logger = module_logger(__name__)

DOCUMENTS = {"demo": 4000, "small": 24_000}
"""Built-in texts by recipe."""


def recipe(name: str) -> tuple[ProbeConfig, DataConfig, HostConfig]:
    """The configs of a named recipe."""
    return ProbeConfig(), DataConfig(documents=DOCUMENTS[name]), HostConfig()


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {name: partial(recipe, name) for name in DOCUMENTS}
    configs, as_json = parse_recipe(
        argv, "python -m ray_jobs.pii.train", recipes, ("probe", "data", "host")
    )
    config, data, host = configs
    for name in ("sae", "output_dir"):
        if not getattr(host, name):
            raise ConfigError(f"--{name.replace('_', '-')}", "must be given")
    data.check_files()
    check_local_files(host.sae)
    # PyTorch only now: a mistake is answered at once.
    from ray_jobs.pii.local_job import EVALUATION_NAME, run
    from ray_jobs.runtime.progress import log_to_stdout

    log_to_stdout()
    run(config, data, host)
    store = Store.open(host.output_dir)
    _show(store.uri, store.read_json(EVALUATION_NAME), as_json)


def _show(uri: str, evaluations: dict[str, Any], as_json: bool) -> None:
    f1 = {name: strict_f1(score) for name, score in evaluations.items()}
    if as_json:
        sys.stdout.write(json.dumps({"f1": f1}) + "\n")
        return
    shown = ", ".join(f"{name} {score['overall'] or 0:.3f}" for name, score in f1.items())
    logger.info("pii    strict F1: %s", shown)
    logger.info("pii    %s/classifiers", uri)


if __name__ == "__main__":
    run_main(main)
