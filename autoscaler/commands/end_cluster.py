"""The end of a cluster from its own head, and the report of what its machines cost.

`raylambda end-cluster` is what `ray exec --stop` and `ray submit --stop` run in place of
`sudo shutdown`: Lambda goes on billing a machine that is shut down. Workers that an autoscaler
launches meanwhile would outlive the only machine that looks after them. So first launches stop,
then everything else is terminated and verified, and the head goes last.
"""

import signal
import sys
from contextlib import suppress

from autoscaler.domain import Instance
from autoscaler.errors import AutoscalerError, StateError, TeardownUnverifiedError, UnavailableError
from autoscaler.instances.teardown import TIME_LIMIT_S
from autoscaler.instances.unavailable_offerings import EVERYWHERE, Reason
from autoscaler.lambda_cloud.credentials import own_cluster
from autoscaler.lambda_cloud.tags import KIND_HEAD, belongs_to, kind_of
from autoscaler.money.budget import cost_in_words
from autoscaler.session import Session, open_session

LOOK_EVERY_S = 10.0


def end_own_cluster(session: Session, cluster: str, time_limit_s: float = TIME_LIMIT_S) -> None:
    """Workers first, late arrivals included; the head last: it takes this process with it.

    Raises TeardownUnverifiedError or the API's error when something could not be ended in time; the
    head is not ended before its workers are. Idempotent.
    """
    with suppress(StateError):  # without a state file nothing is launched either
        session.unavailable_offerings.mark_unavailable(
            EVERYWHERE, Reason.ENDING, session.clock(), advertised=False
        )
    deadline_s = session.clock() + time_limit_s
    heads = _heads(session, cluster, deadline_s)
    session.teardown.terminate_others(
        cluster, heads, time_limit_s=max(0.0, deadline_s - session.clock())
    )
    with suppress(StateError):  # said here, since nobody else will know
        cost = cost_in_words(session.ledger.charges(cluster), (), session.clock())
        sys.stdout.write(f"Its workers have ended. This run has cost {cost}.\n")
        sys.stdout.flush()
    while failed := session.terminator.terminate(heads, "the cluster stops itself").failed:
        if session.clock() > deadline_s:
            raise next(iter(failed.values()))
        session.sleep(LOOK_EVERY_S)


def _heads(session: Session, cluster: str, deadline_s: float) -> list[str]:
    """The head's id, from the first list that shows it."""
    problem: AutoscalerError = TeardownUnverifiedError(
        f"no list shows the head of cluster {cluster!r}"
    )
    while True:
        instances: tuple[Instance, ...] = ()
        try:
            instances = session.client.list_instances()
        except UnavailableError as error:
            problem = error
        heads = [i.id for i in instances if belongs_to(i, cluster) and kind_of(i) == KIND_HEAD]
        if heads:
            return heads
        if session.clock() > deadline_s:
            raise problem
        session.sleep(LOOK_EVERY_S)


def main() -> int:
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN
    )  # a laptop that disconnects must not keep the bill running
    try:
        cluster = own_cluster()
        sys.stdout.write("Ending the cluster: its workers, and when that is verified this head.\n")
        sys.stdout.flush()
        end_own_cluster(open_session(), cluster)
    except AutoscalerError as error:
        sys.stderr.write(f"Error: this machine still bills: {error}\n")
        return error.exit_code
    return 0


def report_charges() -> int:
    """`raylambda charges`: one line with what the head's machines have cost, for its laptop."""
    try:
        cluster = own_cluster()
        sys.stdout.write(f"{open_session().spend_sync(cluster).report()}\n")
    except AutoscalerError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0
