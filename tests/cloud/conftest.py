"""The marker of tests on real machines of the simulated cloud."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cloud: starts machines of the simulated cloud")
