"""`python -m ray_jobs.pii.evaluate`: how well a run's detector finds spans in a labelled file.

python -m ray_jobs.pii.evaluate --run-dir runs/demo --data test.jsonl
"""

import argparse
import json
import sys
from collections.abc import Sequence

from data.command_line import OneLineParser, run_main
from data.documents import Document, read_documents
from ray_jobs.pii.detector import SAEPIIDetector, add_detector_flags, detector_of
from ray_jobs.pii.evaluation import Evaluation, evaluate, table


def evaluate_detector(
    detector: SAEPIIDetector, documents: Sequence[Document], seed: int = 0
) -> Evaluation:
    """Run a detector over the documents' texts and score what it finds."""
    texts = [document.text for document in documents]
    return evaluate(documents, detector.detect_batch(texts), detector.count_tokens(texts), seed)


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    parser = OneLineParser(
        prog="python -m ray_jobs.pii.evaluate",
        description="How well a run's detector finds spans in a labelled file.",
    )
    add_detector_flags(parser)
    parser.add_argument("--data", required=True, help="JSONL or Parquet with text and spans")
    parser.add_argument("--dataset", dest="data", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="all scores on one line, as JSON")
    options = parser.parse_args(argv)
    documents = read_documents(options.data)
    evaluation = evaluate_detector(detector_of(options), documents)
    shown = json.dumps(evaluation.to_json()) if options.json else table(evaluation)
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    run_main(main)
