"""Random schedules through Ray's real autoscalers: what leaked, doubled, rushed or overspent.

    python -m benchmarks.provider_schedules [--count 10000] [--autoscaler v2] [--seed 1]

The schedules are those of the tests, drawn from another seed each time one is given. A
schedule that breaks a rule is printed, and the exit code is 1.
"""

import argparse
import logging
import sys
import time
from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.reconciling.schedules import Schedule, check, live_through, schedules
from tests.reconciling.v1 import V1Monitor
from tests.reconciling.v2 import V2Monitor
from tests.reconciling.world import World

MONITORS = {"v2": V2Monitor, "v1": V1Monitor}


def tally(totals: Counter[str], world: World, schedule: Schedule) -> None:
    report = world.report()
    totals["schedules"] += 1
    totals["events"] += len(schedule.happenings)
    totals["rounds"] += world.ticks
    totals["machines"] += report["instances"]
    totals["requests"] += report["requests"]
    totals["lives of a monitor"] += sum(head.lives for head in world.all_heads)
    totals["leaked machines"] += report["leaked_instances"]
    totals["duplicates"] += report["duplicate_nonces"] + report["duplicate_names"]
    totals["reinstalls of live workers"] += world.reinstalls
    totals["requests over the rate"] += report["requests_over_rate"]


def run(count: int, autoscaler: str, number: int) -> tuple[Counter[str], list[str]]:
    totals: Counter[str] = Counter()
    broken: list[str] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(schedules(with_hours=True))
    def live(schedule: Schedule) -> None:
        world = live_through(schedule, MONITORS[autoscaler])
        tally(totals, world, schedule)
        try:
            check(world, schedule)
        except AssertionError as error:
            broken.append(f"{error}: {schedule}")

    live()
    return totals, broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--autoscaler", choices=MONITORS, default="v2")
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    logging.disable(logging.CRITICAL)
    started_s = time.process_time()
    totals, broken = run(flags.count, flags.autoscaler, flags.seed)
    print(f"| autoscaler {flags.autoscaler}, seed {flags.seed} | |\n|---|---|")
    for name, value in totals.items():
        print(f"| {name} | {value:,} |")
    print(f"| rules broken | {len(broken)} |")
    print(f"| CPU-seconds | {time.process_time() - started_s:,.0f} |")
    for line in broken:
        print(line)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
