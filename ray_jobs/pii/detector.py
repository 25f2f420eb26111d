"""Find and redact personal data in text, from a run's files.

    detector = SAEPIIDetector("e5-small", "runs/demo/sae_final.pt",
                              "runs/demo/classifiers")
    detector.detect("Write to jane@example.org")  # [PIISpan(9, 25, "EMAIL", 0.99)]

On the command line: python -m ray_jobs.pii.detector --run-dir runs/demo [FILE...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data.command_line import OneLineParser, run_main
from data.errors import DataError
from data.storage import Store
from ray_jobs.pii.spans import PIISpan, SpanFilter
from ray_jobs.results.run_directory import fetch

# What needs PyTorch is imported where it is used, so that the command line answers at once.
if TYPE_CHECKING:
    from ray_jobs.activations.host_model import HostModel
    from ray_jobs.pii.classifier import Classifier, Origin
    from ray_jobs.pii.features import HostTokens
    from ray_jobs.sae.model import TopKSAE

LATENTS, RAW = "latents", "raw"
"""The two kinds of classifiers, by what they read."""
SAE_NAME = "sae_final.pt"
CLASSIFIERS_NAME = "classifiers"
_TEXTS_AT_ONCE = 64


class SAEPIIDetector:
    """Host model, SAE and classifier in one.

    model_path        name or folder of the host model; None for the one the classifier names
    sae_encoder_path  `sae_final.pt`, or None to read raw activations with the raw classifier
    classifiers_path  a run's `classifiers/`, or one classifier's folder in it
    device            where the host model runs: "cpu", "cuda"

    Errors: DataError in one line when the three do not belong together.
    """

    def __init__(
        self,
        model_path: str | Path | None,
        sae_encoder_path: str | Path | None,
        classifiers_path: str | Path,
        device: str = "cpu",
    ) -> None:
        from ray_jobs.pii.classifier import Classifier

        folder = _classifier_folder(
            Path(classifiers_path), RAW if sae_encoder_path is None else LATENTS
        )
        self.classifier = Classifier.load(folder)
        origin = self.classifier.origin
        self._sae = _matching_sae(sae_encoder_path, self.classifier, folder)
        self._host = _host(model_path, origin, device)
        if self._host.fingerprint != origin.host_fingerprint:
            raise DataError(
                f"{folder} was trained on another host model than {self._host.description}; "
                f"give the one it names, {origin.host}"
            )

    @classmethod
    def from_run(
        cls,
        run_dir: str | Path,
        *,
        raw: bool = False,
        model: str | Path | None = None,
        device: str = "cpu",
    ) -> SAEPIIDetector:
        """The detector of a run directory.

        run_dir   a local directory, or the file:// or s3:// URI of a finished run, whose files
                  are fetched and checked against its manifest
        raw       takes the classifier on raw activations in place of the one on latents
        model     where the host model is now, if not where the classifier says
        """
        if "://" in str(run_dir):
            with tempfile.TemporaryDirectory(prefix="raylambda-") as scratch:
                names = (f"{CLASSIFIERS_NAME}/", *(() if raw else (SAE_NAME,)))
                fetch(Store.open(str(run_dir)), names, Path(scratch))
                return cls.from_run(scratch, raw=raw, model=model, device=device)
        run = Path(run_dir)
        if not run.is_dir():
            raise DataError(f"{run}: no such directory; give the directory that a training left")
        return cls(model, None if raw else run / SAE_NAME, run / CLASSIFIERS_NAME, device)

    def detect(self, text: str) -> list[PIISpan]:
        """Spans in order, not overlapping. A text of any length: see `HostModel` for windows."""
        return self.detect_batch([text])[0]

    @property
    def types(self) -> frozenset[str]:
        """What it can find, such as PERSON."""
        return frozenset(self.classifier.probe.scheme.labels)

    def run_host(self, texts: Sequence[str]) -> HostTokens:
        """The host model's tokens and activations of some texts, for `detect_tokens`."""
        from ray_jobs.pii.features import run_host

        return run_host(self._host, texts)

    def detect_batch(self, texts: Sequence[str]) -> list[list[PIISpan]]:
        """Spans of each text; memory is bounded by the longest 64 texts."""
        found: list[list[PIISpan]] = []
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[first : first + _TEXTS_AT_ONCE]
            found += self.detect_tokens(some, self.run_host(some))
        return found

    def detect_tokens(self, texts: Sequence[str], tokens: HostTokens) -> list[list[PIISpan]]:
        """As `detect_batch`, for texts that the host model has already been run over."""
        from ray_jobs.pii.classifier import Text

        features = self.classifier.features(tokens.activations, self._sae)
        offsets = tokens.document_offsets()
        return self.classifier.spans(list(map(Text, texts, offsets)), features)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of the host model in each text."""
        return [text.n_rows for text in self._host.tokenize(list(texts))]

    def redact(self, text: str) -> str:
        """The text with each span replaced by its label in brackets: "[PERSON]"."""
        return redacted(text, self.detect(text))


def redacted(text: str, spans: Sequence[PIISpan]) -> str:
    """`text` with each of the spans, in order and not overlapping, replaced by "[LABEL]"."""
    pieces, position = [], 0
    for span in spans:
        pieces += [text[position : span.start], f"[{span.label}]"]
        position = span.end
    return "".join([*pieces, text[position:]])


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    parser = OneLineParser(
        prog="python -m ray_jobs.pii.detector", description="Find or redact personal data."
    )
    add_detector_flags(parser)
    parser.add_argument(
        "--threshold",
        default="0",
        help="least probability: 0.5, or 0.5,PERSON=0.9 (default: the run's own choice alone)",
    )
    parser.add_argument("--types", help="only these, such as PERSON,EMAIL (default: all)")
    parser.add_argument("--allow", metavar="FILE", help="texts that are no finding, one a line")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--redact", action="store_true", help="print the redacted text")
    shown.add_argument("--json", action="store_true", help="one JSON object per input")
    parser.add_argument("files", nargs="*", default=["-"], help="UTF-8 text; - is standard input")
    options = parser.parse_args(argv)
    texts = [_read(name) for name in options.files]
    detector = detector_of(options)
    wanted = span_filter(options, detector.types)
    for name, text, found in zip(options.files, texts, detector.detect_batch(texts), strict=True):
        spans = wanted(text, found)
        if options.redact:
            sys.stdout.write(redacted(text, spans))
        elif options.json:
            row = {"file": name, "spans": [asdict(span) for span in spans]}
            sys.stdout.write(json.dumps(row) + "\n")
        else:
            sys.stdout.writelines(f"{_line(name, text, span)}\n" for span in spans)


def add_detector_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `detector_of` reads."""
    parser.add_argument("--run-dir", required=True, help="directory or URI of a run")
    parser.add_argument("--raw", action="store_true", help="the classifier on raw activations")
    parser.add_argument("--model", help="the run's host model, if it is elsewhere now")
    parser.add_argument("--device", default="cpu", help="where the host model runs: cpu, cuda")


def span_filter(options: argparse.Namespace, known: frozenset[str]) -> SpanFilter:
    """The spans that a command line asks for. `known` are the detector's types.

    Raises:
        DataError: a type that the detector does not have, a threshold that is no probability, or
            a file that cannot be read.
    """
    types = frozenset(filter(None, (options.types or "").replace(" ", "").split(",")))
    thresholds: dict[str, float] = {}
    for part in options.threshold.split(","):
        name, _, value = part.strip().rpartition("=")
        try:
            thresholds[name] = float(value)
        except ValueError:
            thresholds[name] = -1.0
        if not 0 <= thresholds[name] <= 1:
            raise DataError(f"--threshold {part!r}: give a number from 0 to 1, or TYPE=0.9")
    if unknown := sorted((types | thresholds.keys()) - known - {""}):
        raise DataError(f"no type {unknown[0]!r}; this detector has {', '.join(sorted(known))}")
    allowed = _read(options.allow).splitlines() if options.allow else []
    return SpanFilter(
        types=types or None,
        threshold=thresholds.pop("", 0.0),
        thresholds=thresholds,
        allowed=frozenset(line.strip().casefold() for line in allowed if line.strip()),
    )


def detector_of(options: argparse.Namespace) -> SAEPIIDetector:
    """The detector that a command line asks for. Errors: those of `SAEPIIDetector`."""
    return SAEPIIDetector.from_run(
        options.run_dir, raw=options.raw, model=options.model, device=options.device
    )


def _read(name: str) -> str:
    """The text of a file, or of standard input for "-", which must be UTF-8."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: byte {error.start} is not UTF-8; convert the text") from error
    except OSError as error:
        raise DataError(f"{name}: {error.strerror}; give a readable text file") from error


def _line(name: str, text: str, span: PIISpan) -> str:
    shown = json.dumps(text[span.start : span.end], ensure_ascii=False)
    return f"{name}:{span.start}-{span.end}\t{span.label}\t{span.score:.3f}\t{shown}"


def _classifier_folder(path: Path, name: str) -> Path:
    """`path` itself if it is a classifier's folder, else the one called `name` in it."""
    if (path / "config.json").is_file():
        return path
    if not (path / name).is_dir():
        raise DataError(f"{path} holds no classifier {name!r}; give a run's classifiers folder")
    return path / name


def _host(path: str | Path | None, origin: Origin, device: str) -> HostModel:
    from ray_jobs.activations.host_model import HostModel

    name = str(path or origin.host)
    try:
        return HostModel(name, origin.layer, dtype=origin.dtype, device=device)
    except DataError as error:
        if path:
            raise
        raise DataError(f"{error}; if it is elsewhere now, say where with --model") from error


def _matching_sae(path: str | Path | None, classifier: Classifier, folder: Path) -> TopKSAE | None:
    from ray_jobs.sae.export import load_sae

    encoder = classifier.origin.encoder
    if path is None:
        if encoder != RAW:
            raise DataError(f"{folder} reads SAE latents; give the SAE it was trained on")
        return None
    if encoder == RAW:
        raise DataError(f"{folder} reads raw activations; give no SAE with it")
    sae = load_sae(path)
    if sae.fingerprint != encoder:
        raise DataError(
            f"{path} and {folder} do not belong together: the classifier was trained on the "
            f"latents of SAE {encoder[:12]}, this one is {sae.fingerprint[:12]}; take both "
            "from one run"
        )
    return sae


if __name__ == "__main__":
    run_main(main)
