"""`python -m ray_jobs.sae.train`: harvest activations and train a TopK SAE on Ray Train.

python -m ray_jobs.sae.train --recipe demo --output-dir runs/sae
python -m ray_jobs.sae.train --recipe full --data s3://bucket/text.jsonl --output-dir s3://bucket/run
"""

import json
import sys
from functools import partial

from data.command_line import module_logger, run_main
from data.storage import Store
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.cli import parse_recipe
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sae.config import RECIPES, SAEConfig

logger = module_logger(__name__)


def recipe(name: str) -> tuple[SAEConfig, DataConfig, JobOptions]:
    """The configs of a named recipe."""
    return RECIPES[name](), DataConfig(), JobOptions()


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {name: partial(recipe, name) for name in RECIPES}
    configs, as_json = parse_recipe(
        argv, "python -m ray_jobs.sae.train", recipes, ("sae", "data", "job")
    )
    config, data, options = configs
    data.check_files()
    # PyTorch and Ray only now: a mistake is answered at once.
    import ray

    from ray_jobs.runtime.fit import connect
    from ray_jobs.runtime.progress import log_to_stdout
    from ray_jobs.sae.job import FINAL_MODEL, run

    log_to_stdout()
    connect()
    result = run(config, data, options)
    ray.shutdown()
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    logger.info(
        "sae    FVU %.3f, %.1f %% dead, %d steps",
        result["fvu"],
        100 * result["dead_share"],
        result["steps"],
    )
    logger.info("sae    %s/%s", Store.open(options.output_dir).label, FINAL_MODEL)


if __name__ == "__main__":
    run_main(main)
