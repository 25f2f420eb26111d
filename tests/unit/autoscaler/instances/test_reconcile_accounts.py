"""A key of another account sees no machine of the cluster: that must not look like zero."""

import pytest
from click import ClickException

from autoscaler.errors import AmbiguousLaunchError, AuthError
from autoscaler.simulator import FailNext
from tests import provider_rig as rig
from tests.provider_rig import make


def of_key(simulation, home, key):
    section = rig.laptop_section(rig.CLUSTER)
    return rig.provider_on(section, rig.session(simulation, home, key=key))


def test_ray_down_with_another_accounts_key_is_refused_in_one_line(tmp_path):
    ours, theirs = rig.account(), rig.account(api_keys=("other",))
    laptop = of_key(ours, tmp_path, "sim")
    (head,) = make(laptop, name="head")
    stranger = of_key(theirs, tmp_path, "other")
    with pytest.raises(ClickException) as caught:
        stranger.nodes_for_teardown({})
    assert caught.value.exit_code == 2
    assert head in str(caught.value) and "that account's key" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(AuthError):
        stranger.cluster.end()
    theirs.add_fault(FailNext("list", failure=500, n=4))
    with pytest.raises(AuthError):
        stranger.cluster.end()
    with pytest.raises(ClickException):
        make(stranger, name="head")
    assert theirs.invariants.report()["instances"] == 0
    assert laptop.cluster.session.ledger.running_ids("demo") == [head]
    assert laptop.cluster.end().ended == (head,) and ours.invariants.report()["alive"] == 0
    make(of_key(theirs, tmp_path, "other"), name="head")


def test_a_new_key_of_the_same_account_takes_the_machines_over(tmp_path):
    simulation = rig.account(api_keys=("sim", "new"))
    (head,) = make(of_key(simulation, tmp_path, "sim"), name="head")
    simulation.advance(60.0)
    renewed = of_key(simulation, tmp_path, "new")
    assert renewed.nodes_for_teardown({}) == [head]
    assert renewed.cluster.end().ended == (head,)


def test_a_launch_of_another_account_that_may_yet_come_counts_too(tmp_path):
    ours, theirs = rig.account(), rig.account(api_keys=("other",))
    laptop = of_key(ours, tmp_path, "sim")
    ours.add_fault(FailNext(failure=504, committed=True, commit_after_s=600.0))
    session = laptop.cluster.session
    session.teardown.terminate_late_arrivals = lambda cluster: None
    with pytest.raises(ClickException) as caught:
        make(laptop, name="head")
    assert isinstance(caught.value.__cause__, AmbiguousLaunchError)
    with pytest.raises(ClickException, match="may run, launched with the API key"):
        of_key(theirs, tmp_path, "other").nodes_for_teardown({})
