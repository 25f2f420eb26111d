"""The embedded world's `demo` recipe as a job: figures on held-out families, and how long it took.

    python -m benchmarks.waltz_demo [--seed 0]

Two workers under ZeRO 2 on a local Ray, checkpoints and results on Ceph's gateway, one worker
killed at the first checkpoint of stage 2. Prints Markdown. The world is invented: the figures say
nothing about a real model's safety.
"""

import argparse
import os
import secrets
import sys
import time

from data.storage import Store
from tests.storage.ceph import CephServer

COLUMNS = {
    "ASR": "asr",
    "ORR": "orr",
    "ASR of c0": "asr_c0",
    "ORR of c0": "orr_c0",
    "feedback asked for": "ftr",
    "repaired": "dir_repair",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    # Before the first import of Ray, which reads the mode then.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    from ray_jobs.waltzrl.evaluation.rows import TITLES
    from tests.ray.submitted import rank_1_after, run_and_kill_one

    server = CephServer()
    try:
        server.start()
        server.create_bucket("waltz")
        os.environ.update(server.environment)
        uri = server.uri("waltz", "demo")
        flags = (
            *("--recipe=demo", f"--seed={seed}", f"--output-dir={uri}"),
            *("--num-workers=2", "--cpus-per-worker=1"),
        )
        started_s = time.monotonic()
        # The checkpoint committed after stage 2 has shown its first line.
        victim = rank_1_after(r"(?s)waltz  stage 2 .*checkpoint of step \d+ committed")
        run_and_kill_one("ray_jobs.waltzrl.train", flags, victim, 3600, sys.stderr.write)
        minutes = (time.monotonic() - started_s) / 60
        rows = Store.open(uri).read_json("evaluation.json")
    finally:
        server.stop()
    sys.stdout.write(f"seed {seed}: {minutes:.1f} minutes, one worker of two killed\n\n")
    header = " | ".join(("row", *COLUMNS))
    sys.stdout.write(f"| {header} |\n{'|---' * (1 + len(COLUMNS))}|\n")
    for name, row in rows.items():
        cells = " | ".join(_cell(row[key]) for key in COLUMNS.values())
        sys.stdout.write(f"| {TITLES[name]} | {cells} |\n")


def _cell(interval: dict[str, float | None]) -> str:
    if interval["value"] is None:
        return "-"
    return f"{interval['value']:.1%} ({interval['low']:.1%}-{interval['high']:.1%})"


if __name__ == "__main__":
    main()
