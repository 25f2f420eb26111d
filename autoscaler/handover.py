"""One run over several heads: what laptop and head tell each other of its cost, and the user."""

import threading

from autoscaler.bootstrap.config import ProviderConfig
from autoscaler.errors import BudgetError
from autoscaler.money.budget import dollars, spent_cents
from autoscaler.money.handover import Row
from autoscaler.session import Session


class Handover:
    """Thread-safe."""

    def __init__(self, cluster: str, config: ProviderConfig, session: Session) -> None:
        self._cluster = cluster
        self._config = config
        self._session = session
        self._lock = threading.Lock()
        self._is_taken = False

    def to_head(self, head_id: str) -> list[Row]:
        """On the laptop, each time before a head gets its configuration, where this goes."""
        self._session.books.entrust(head_id, self._config.caps)
        return self._session.books.before(self._cluster, head_id)

    def from_laptop(self) -> None:
        """On the head, before anything is launched. Raises StateError; then call it again."""
        with self._lock:
            if not self._is_taken and self._config.former_charges:
                self._session.books.take(self._cluster, self._config.former_charges)
            self._is_taken = True

    def from_head(self, head_id: str, output: str) -> None:
        """On the laptop: what `charges_report` has said. Raises ProtocolError."""
        books, now_s = self._session.books, self._session.clock()
        books.take_report(self._cluster, head_id, output, now_s)

    def explained(self, error: BudgetError) -> BudgetError:
        """The refusal of a head, with what of the run stands behind it."""
        ledger, now_s = self._session.ledger, self._session.clock()
        unseen = ledger.unseen(self._cluster)
        if not unseen and not ledger.charges(self._cluster):
            return error
        text = f"{error}. A run goes on until `ray down` has verified its end"
        if unseen:
            most = spent_cents(unseen, now_s)
            sum_ = "an unknown sum" if most is None else f"{dollars(most)}"
            text += (
                f"; of this one {sum_} counts for workers of heads that ended before they told "
                "what those have cost"
            )
        if running := ledger.running_ids(self._cluster):
            text += f"; {len(running)} of its machines may still bill"
        return BudgetError(f"{text}: run `ray down`, and the next starts from zero")
