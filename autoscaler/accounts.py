"""Whose machines they are: another account's key sees none of them, which is no proof of an end.

A key is known by its fingerprint only. So a key that shows one machine of another's is a new
key of the same account, and the records become its own.
"""

from collections.abc import Iterable

from autoscaler.domain import Instance
from autoscaler.errors import AuthError
from autoscaler.instances.journal import Journal
from autoscaler.lambda_cloud.tags import nonce_of
from autoscaler.money.ledger import Ledger


def check_account(
    ledger: Ledger, journal: Journal, cluster: str, instances: Iterable[Instance]
) -> None:
    """`instances` are a whole list. Raises AuthError if what bills, or a launch that may yet
    make a machine, is of a key whose machines this key does not see."""
    foreign = ledger.foreign(cluster) | journal.foreign(cluster)
    if not foreign:
        return
    seen = {name for i in instances for name in (i.id, nonce_of(i))}
    own = {account for name, account in foreign.items() if name in seen}
    for account in own:
        ledger.take_over(cluster, account)
        journal.take_over(cluster, account)
    hidden = sorted(name for name, account in foreign.items() if account not in own)
    if hidden:
        others = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
        raise AuthError(
            f"cluster {cluster!r}: {hidden[0]}{others} may run, launched with the API key of "
            f"account {foreign[hidden[0]]}, and this key ({ledger.account}) does not see it: use "
            "that account's key; or, if Lambda's console shows that nothing runs, move "
            "~/.raylambda/state.db away"
        )
