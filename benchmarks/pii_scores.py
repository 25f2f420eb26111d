"""Does the demo's detector reach its floor: a strict span F1 of 0.85 in English?

python -m benchmarks.pii_scores --run-dir runs/demo
"""

import argparse
import sys

from data.command_line import run_main
from data.errors import JobError
from data.storage import Store

FLOOR = 0.85


def main(arguments: list[str]) -> None:
    """Print the strict F1 of both probes by language; the latents must reach the floor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", default="runs/demo")
    run = Store.open(parser.parse_args(arguments).run_dir)
    found = {}
    for probe, scores in run.read_json("evaluation.json").items():
        found[probe] = {name: s["f1"]["value"] for name, s in scores["by_language"].items()}
        shown = "  ".join(f"{name} {f1:.3f}" for name, f1 in found[probe].items())
        sys.stdout.write(f"{probe:8} {shown}\n")
    english = found["latents"].get("en") or 0.0
    if english < FLOOR:
        raise JobError(f"latents reach {english:.3f} in English, less than {FLOOR}")


if __name__ == "__main__":
    run_main(main)
