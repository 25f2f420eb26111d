"""The points that a sweep tries: Ray Tune's random sampling, or Optuna through Ray Tune."""

from typing import Any

import numpy as np
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.sample import Domain

from data.errors import ConfigError
from ray_jobs.results.run_directory import digest_of
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.ledger import COMPLETE, Ledger
from ray_jobs.sweep.space import Choice, Dimension, Point, Space

POINT = "point"
"""Under this key a trial's config holds its point."""


def sample_points(space: Space, count: int, seed: int) -> list[Point]:
    """`count` different points of the space, by Ray Tune's own random sampling; seeded."""
    rng = np.random.RandomState(seed % 2**32)
    domains = {name: _domain(dimension) for name, dimension in space.dimensions.items()}
    points: dict[str, Point] = {}
    while len(points) < count:
        point = {name: _plain(domain.sample(random_state=rng)) for name, domain in domains.items()}
        points.setdefault(digest_of(point), point)
    return list(points.values())


def make_search(
    config: SweepConfig, space: Space, rising: bool, ledger: Ledger
) -> tuple[Searcher | None, dict[str, Any]]:
    """Ray Tune's `search_alg` and `param_space` for the trials that are still to be run.

    Random points were all drawn when the sweep began; Optuna is given what earlier trials
    reached and begins with those that were under way.

    Raises:
        ConfigError: Optuna is not installed.
    """
    open_points = [trial.point for trial in ledger.open_trials()]
    if config.search == "random":
        return None, {POINT: tune.grid_search(open_points)}
    from ray.tune.search.optuna import OptunaSearch

    domains = {POINT: {name: _domain(d) for name, d in space.dimensions.items()}}
    try:
        search = OptunaSearch(
            OptunaSearch.convert_search_space(domains),
            metric=config.metric,
            mode="max" if rising else "min",
            seed=config.seed + len(ledger.trials),
            points_to_evaluate=[_flat(point) for point in open_points],
        )
    except AssertionError as error:
        raise ConfigError("search", "optuna is not installed: pip install optuna") from error
    for trial in ledger.trials:
        if trial.reports and trial.ended:
            search.add_evaluated_point(
                _flat(trial.point),
                trial.reports[-1][config.metric],
                pruned=trial.state not in COMPLETE,
            )
    return search, {}


def _flat(point: Point) -> dict[str, Any]:
    return {f"{POINT}/{name}": value for name, value in point.items()}


def _domain(dimension: Dimension) -> Domain:
    if isinstance(dimension, Choice):
        return tune.choice(list(dimension.values))
    if dimension.whole:
        return tune.lograndint(int(dimension.low), int(dimension.high) + 1)
    return tune.loguniform(dimension.low, dimension.high)


def _plain(value: Any) -> Any:
    """Python's own number for numpy's."""
    return value.item() if isinstance(value, np.generic) else value
