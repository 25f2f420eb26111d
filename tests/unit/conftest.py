"""What several files of unit tests need."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.pii_run import Run, save_run


@contextmanager
def single_thread() -> Iterator[None]:
    """Tiny matrices: a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pii_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with PII classifiers on the embedded host; not to be written to."""
    with single_thread():
        return save_run(tmp_path_factory.mktemp("pii-run"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    with single_thread():
        yield
