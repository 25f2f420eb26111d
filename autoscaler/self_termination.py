"""`python -m autoscaler.self_termination`, on the head: ends the cluster it belongs to.

It is what `ray exec --stop` and `ray submit --stop` run in place of `sudo shutdown`: a machine
of Lambda's that is shut down goes on billing.
"""

import json
import sys

from autoscaler.credentials import head_config
from autoscaler.errors import AutoscalerError, ConfigError
from autoscaler.session import Session, open_session
from autoscaler.tags import KIND_HEAD, belongs_to, kind_of

TIME_LIMIT_S = 600.0
LOOK_EVERY_S = 10.0


def end_own_cluster(session: Session, cluster: str, time_limit_s: float = TIME_LIMIT_S) -> None:
    """Workers first, the head last: it takes this process with it.

    Raises the last AutoscalerError when the API let nothing be ended in time.
    """
    deadline_s = session.clock() + time_limit_s
    while True:
        try:
            instances = [
                instance
                for instance in session.client.list_instances()
                if belongs_to(instance, cluster) and not instance.status.is_leaving
            ]
        except AutoscalerError:
            if session.clock() > deadline_s:
                raise
            session.sleep(LOOK_EVERY_S)
            continue
        workers = [i.id for i in instances if kind_of(i) != KIND_HEAD]
        heads = [i.id for i in instances if kind_of(i) == KIND_HEAD]
        ended = session.terminator.terminate(workers, "the cluster stops itself")
        if not ended.failed:
            ended = session.terminator.terminate(heads, "the cluster stops itself")
        if not ended.failed:
            return
        if session.clock() > deadline_s:
            raise next(iter(ended.failed.values()))
        session.sleep(LOOK_EVERY_S)


def main() -> int:
    try:
        try:
            # Ray writes it as JSON, whatever its name says.
            cluster = json.loads(head_config().read_text(encoding="utf-8"))["cluster_name"]
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{head_config()}: not a head's configuration: {error}") from None
        end_own_cluster(open_session(), cluster)
    except AutoscalerError as error:
        sys.stderr.write(f"Error: this machine still bills: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
