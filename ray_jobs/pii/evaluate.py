"""`python -m ray_jobs.pii.evaluate`: how well a run's detector finds spans in a labelled file.

python -m ray_jobs.pii.evaluate --run-dir runs/demo --data test.jsonl
python -m ray_jobs.pii.evaluate --run-dir runs/demo --data conll.txt --both \\
    --labels PER=PERSON,LOC=,ORG=,MISC= --errors errors.jsonl
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.command_line import OneLineParser, run_main
from data.documents import read_documents
from data.files import write_lines
from ray_jobs.pii.corpus import Corpus, errors, parse_mapping
from ray_jobs.pii.detector import LATENTS, RAW, SAEPIIDetector, add_detector_flags, detector_of
from ray_jobs.pii.evaluation import Evaluation, evaluate, table
from ray_jobs.pii.spans import PIISpan

PROGRESS_INTERVAL_S = 5.0
_DOCUMENTS_AT_ONCE = 64


def find_spans(
    detectors: Mapping[str, SAEPIIDetector], texts: Sequence[str]
) -> dict[str, list[list[PIISpan]]]:
    """What each detector of one host model finds in each text; the host runs once.

    Progress goes to standard error every few seconds.
    """
    found: dict[str, list[list[PIISpan]]] = {name: [] for name in detectors}
    host = next(iter(detectors.values()))
    shown_s = time.monotonic()
    for first in range(0, len(texts), _DOCUMENTS_AT_ONCE):
        some = texts[first : first + _DOCUMENTS_AT_ONCE]
        tokens = host.run_host(some)
        for name, detector in detectors.items():
            found[name] += detector.detect_tokens(some, tokens)
        if time.monotonic() - shown_s > PROGRESS_INTERVAL_S:
            shown_s = time.monotonic()
            sys.stderr.write(f"{first + len(some):,}/{len(texts):,} documents\n")
    return found


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    options = _parser().parse_args(argv)
    mapping = parse_mapping(options.labels)
    documents = read_documents(options.data)
    detectors = {RAW if options.raw else LATENTS: detector_of(options)}
    if options.both:
        options.raw = not options.raw
        detectors[RAW if options.raw else LATENTS] = detector_of(options)
    first = next(iter(detectors.values()))
    corpus = Corpus.of(documents, mapping, first.types)
    texts = [document.text for document in documents]
    n_tokens = first.count_tokens(texts)
    lines: list[bytes] = []
    scores = {}
    for name, spans in find_spans(detectors, texts).items():
        counted = corpus.counted(spans)
        scores[name] = evaluate(corpus.documents, counted, n_tokens)
        for each in errors(corpus.documents, counted):
            lines.append(json.dumps({"probe": name, **each}, ensure_ascii=False).encode() + b"\n")
    if options.errors:
        write_lines(str(Path(options.errors)), lines)
    _show(scores, first.types - corpus.types, as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m ray_jobs.pii.evaluate",
        description="How well a run's detector finds spans in a labelled file.",
    )
    add_detector_flags(parser)
    parser.add_argument("--data", required=True, help="labelled text: a file or a local folder")
    parser.add_argument("--dataset", dest="data", help=argparse.SUPPRESS)
    parser.add_argument(
        "--labels", default="", help="theirs=ours, such as PER=PERSON,LOC= (LOC is ignored)"
    )
    parser.add_argument("--both", action="store_true", help="latents and raw activations")
    parser.add_argument("--errors", metavar="FILE", help="every missed or wrong span, as JSONL")
    parser.add_argument("--json", action="store_true", help="all scores on one line, as JSON")
    return parser


def _show(scores: Mapping[str, Evaluation], unlabelled: frozenset[str], *, as_json: bool) -> None:
    if as_json:
        values = {name: evaluation.to_json() for name, evaluation in scores.items()}
        shown = json.dumps(values if len(values) > 1 else next(iter(values.values())))
    else:
        parts = [f"{name}\n{table(evaluation)}" for name, evaluation in scores.items()]
        shown = "\n\n".join(parts)
        if unlabelled:
            shown += f"\nnot labelled in these texts, so left out: {', '.join(sorted(unlabelled))}"
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    run_main(main)
