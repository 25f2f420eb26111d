"""Rate limit: the account's request rate, shared by all threads and processes of this machine.

Lambda allows an account one request a second and one launch in twelve. A request claims its
moment in the state file before it is sent; nobody claims the future, so a launch that waits
its twelve seconds blocks no list, and a process that dies while it waits blocks nobody.

A cluster's laptop and head share no file. They take turns by the clock on the wall, which
machines keep equal to a few milliseconds: neither is ever too soon after the other. Heads of
several clusters on one account have the same turn and may collide; a 429 then parts them.

Where the state file cannot be used, a process limits its own rate, so that machines can
still be found and terminated. Launches then get no slot.
"""

import enum
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from autoscaler.domain import Lane
from autoscaler.errors import StateError, UnavailableError
from autoscaler.state import State

REQUEST_INTERVAL_S = 1.0
LAUNCH_INTERVAL_S = 12.0
ROUND_S = 2.5
"""Every machine has one turn in a round."""
TURN_S = 0.2
"""How late in its turn a request may leave: two turns' requests are still 1.05 s apart."""
BACK_OFF_S = {Lane.GENERAL: 2.0, Lane.TERMINATE: 2.0, Lane.LAUNCH: LAUNCH_INTERVAL_S}
"""Pause after a 429 that does not say how long."""
MAX_BACK_OFF_S = 60.0
URGENT_S = 1.0
"""How long past the next free moment the other lanes stand back for a waiting termination."""
MIN_SLEEP_S = 0.01
"""Shortest wait: where several processes wait for one moment, the losers look again."""

Moments: TypeAlias = tuple[float, float, float]
"""When the next request is free, the next launch; until when a waiting termination goes first."""

logger = logging.getLogger(__name__)


class Turn(enum.Enum):
    """Whose turn; the value is when it begins, in seconds from the round's beginning."""

    LAPTOP = 0.0
    HEAD = ROUND_S / 2


class SharedRateLimit:
    """`clock` must be shared by the processes (epoch seconds); one set back is noticed."""

    def __init__(
        self,
        state: State,
        account: str,
        *,
        turn: Turn | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`account` names the key: the rate is not the cluster's. Without a `turn` the machine
        has the whole rate to itself."""
        self._state = state
        self._account = account
        self._turn = turn
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._lock = threading.Lock()
        self._own: Moments = (0.0, 0.0, 0.0)

    def wait(self, lane: Lane, deadline_s: float | None = None) -> float:
        """Blocks until a request of this lane may be sent, and returns that moment.

        Raises UnavailableError (`not_executed`) as soon as it is clear that this will not be
        before `deadline_s`, and for a launch StateError.
        """
        while True:
            now_s = self._clock()
            free_s = self._claim(lane, now_s)
            if free_s <= now_s:
                return now_s
            if deadline_s is not None and free_s > deadline_s:
                raise UnavailableError(
                    f"the account's rate limit leaves no {lane} request before the deadline "
                    f"({free_s - now_s:.0f} s to wait)",
                    not_executed=True,
                )
            self._sleep(max(free_s - now_s, MIN_SLEEP_S))

    def back_off(self, lane: Lane, delay_s: float | None) -> float:
        """After a 429: no request of this lane from this machine for `delay_s`. Returns until when.

        A guess of our own gets up to half of itself added at random, since another machine
        that was refused at the same moment guesses the same.
        """
        if delay_s is None:
            delay_s = BACK_OFF_S[lane] * (1 + 0.5 * self._jitter())
        until_s = self._clock() + min(delay_s, MAX_BACK_OFF_S)
        logger.info("Lambda limits the rate: no %s request for %.0f s", lane, delay_s)
        column = "launch_s" if lane is Lane.LAUNCH else "general_s"
        try:
            with self._state.transaction() as connection:
                general_s, launch_s, _ = self._read(connection, self._clock())
                until_s = max(until_s, launch_s if lane is Lane.LAUNCH else general_s)
                connection.execute(
                    f"UPDATE pace SET {column} = ? WHERE account = ?", (until_s, self._account)
                )
        except StateError:
            with self._lock:  # launches have none
                self._own = (max(self._own[0], until_s), *self._own[1:])
        return until_s

    def _claim(self, lane: Lane, now_s: float) -> float:
        """Takes `now_s` if it is free (and returns it), else says when to ask again."""
        try:
            with self._state.transaction() as connection:
                free_s, moments = self._take(lane, now_s, self._read(connection, now_s))
                connection.execute(
                    "REPLACE INTO pace VALUES (?, ?, ?, ?)", (self._account, *moments)
                )
        except StateError as error:
            if lane is Lane.LAUNCH:
                raise
            with self._lock:
                if self._own == (0.0, 0.0, 0.0):
                    logger.warning("%s", error)
                free_s, self._own = self._take(lane, now_s, self._own)
        return free_s

    def _take(self, lane: Lane, now_s: float, moments: Moments) -> tuple[float, Moments]:
        general_s, launch_s, urgent_until_s = moments
        free_s = general_s
        if lane is Lane.LAUNCH:
            free_s = max(free_s, launch_s)
        if lane is not Lane.TERMINATE:
            free_s = max(free_s, urgent_until_s)
        free_s = self._in_turn(max(free_s, now_s))
        if free_s > now_s:
            if lane is Lane.TERMINATE:
                urgent_until_s = free_s + URGENT_S
        else:
            general_s = now_s + REQUEST_INTERVAL_S
            if lane is Lane.LAUNCH:
                launch_s = now_s + LAUNCH_INTERVAL_S
            if lane is Lane.TERMINATE:
                urgent_until_s = 0.0
        return free_s, (general_s, launch_s, urgent_until_s)

    def _in_turn(self, at_s: float) -> float:
        """The first moment from `at_s` on that is in this machine's turn."""
        if self._turn is None:
            return at_s
        into_s = (at_s - self._turn.value) % ROUND_S
        return at_s if into_s < TURN_S else at_s + ROUND_S - into_s

    def _read(self, connection: sqlite3.Connection, now_s: float) -> Moments:
        connection.execute("INSERT OR IGNORE INTO pace VALUES (?, 0, 0, 0)", (self._account,))
        row = connection.execute(
            "SELECT general_s, launch_s, urgent_until_s FROM pace WHERE account = ?",
            (self._account,),
        ).fetchone()
        # A moment further off than any pause of ours means that the clock was set back.
        horizon_s = now_s + MAX_BACK_OFF_S + LAUNCH_INTERVAL_S
        general_s, launch_s, urgent_until_s = (s if s <= horizon_s else now_s for s in row)
        return general_s, launch_s, urgent_until_s
