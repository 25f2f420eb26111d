"""What several files of training tests need."""

import pytest

from ray_jobs.activations.prepare import Prepared
from tests.ray.training import Lines, prepared


@pytest.fixture
def lines() -> Lines:
    """What a person would see of the trainings that this test runs."""
    return Lines()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Activation sets of planted directions."""
    return prepared(tmp_path_factory.mktemp("activations"))
