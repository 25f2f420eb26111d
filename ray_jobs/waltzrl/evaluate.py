"""Command `python -m ray_jobs.waltzrl.evaluate`: the paper's rows on any data set.

python -m ray_jobs.waltzrl.evaluate --run-dir runs/waltz
python -m ray_jobs.waltzrl.evaluate --run-dir s3://bucket/run --data x.csv --judge FORM@URL@MODEL
python -m ray_jobs.waltzrl.evaluate --model FOLDER --data x.csv --judge FORM@local:MODEL

With --run-dir: the rows of its base model and of its trained agents, on the run's own test prompts
or on all prompts of other files that it was not trained on. With --model alone: the rows that need
no training. One process, on its GPU if there is one. Writes `evaluation.json`, `verdict.json` and
`report.html`.
"""

import json
import sys
from collections.abc import Sequence

from data.command_line import module_logger, run_main
from data.storage import Store
from ray_jobs.cli import parse_recipe
from ray_jobs.waltzrl.options import EvaluateOptions

logger = module_logger(__name__)


def main(argv: Sequence[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {"evaluate": lambda: (EvaluateOptions(),)}
    (options,), as_json = parse_recipe(
        argv, "python -m ray_jobs.waltzrl.evaluate", recipes, ("evaluate",)
    )
    # PyTorch only now: a mistake is answered at once.
    from ray_jobs.runtime.progress import log_to_stdout
    from ray_jobs.waltzrl.evaluation.report import text_table
    from ray_jobs.waltzrl.evaluation_job import evaluate

    log_to_stdout()
    rows = evaluate(options)
    for line in text_table(rows):
        logger.info("%s", line)
    logger.info("waltz  %s", Store.open(options.output_dir).uri)
    if as_json:
        sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    run_main(main)
