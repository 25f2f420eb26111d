"""An account, and the provider as its cluster's head and laptop have it."""

import pytest

from tests import provider_rig as rig


@pytest.fixture
def sim():
    return rig.account()


@pytest.fixture
def head(sim, tmp_path):
    return rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path / "head"))


@pytest.fixture
def laptop(sim, tmp_path):
    return rig.provider_on(rig.laptop_section(rig.CLUSTER), rig.session(sim, tmp_path / "laptop"))
