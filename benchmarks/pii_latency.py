"""How long does the detector take for 100 words on one core?

python -m benchmarks.pii_latency --run-dir runs/demo
"""

import argparse
import itertools
import platform
import statistics
import sys
import time

import torch

from data.builders.pii import pii_documents
from data.command_line import run_main
from ray_jobs.pii.detector import SAEPIIDetector

WORDS = 100
TEXTS = 60
WARM_UP = 5


def texts_of_100_words() -> list[str]:
    """Test documents joined and cut to 100 words each, line breaks kept."""
    documents = pii_documents("test", seed=1, documents=4000, languages=("en",))
    words = itertools.chain.from_iterable(document.text.split(" ") for document in documents)
    return [" ".join(itertools.islice(words, WORDS)) for _ in range(TEXTS + WARM_UP)]


def main(arguments: list[str]) -> None:
    """Print median and 95th percentile per text, one at a time, with one thread."""
    parser = argparse.ArgumentParser(prog="pii_latency.py", description=__doc__)
    parser.add_argument("--run-dir", default="runs/demo")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for raw in (False, True):
        detector = SAEPIIDetector.from_run(options.run_dir, raw=raw)
        wall_s, cpu_s = [], []
        texts = texts_of_100_words()
        for text in texts:
            wall, cpu = time.perf_counter(), time.process_time()
            detector.detect(text)
            wall_s.append(time.perf_counter() - wall)
            cpu_s.append(time.process_time() - cpu)
        wall_s, cpu_s = sorted(wall_s[WARM_UP:]), cpu_s[WARM_UP:]
        tokens = statistics.mean(detector.count_tokens(texts))
        sys.stdout.write(
            f"{'raw' if raw else 'latents':8} {WORDS} words ({tokens:.0f} tokens), one thread: "
            f"median {1000 * statistics.median(wall_s):.1f} ms wall, "
            f"{1000 * statistics.median(cpu_s):.1f} ms CPU, "
            f"95th percentile {1000 * wall_s[int(0.95 * len(wall_s))]:.1f} ms "
            f"({TEXTS} texts, torch {torch.__version__}, {platform.machine()})\n"
        )


if __name__ == "__main__":
    run_main(main)
