"""What is tried again, for how long, and the words when it is given up."""

import errno
from collections.abc import Callable

import pytest

from data.errors import StorageError
from data.storage.problems import explain
from data.storage.transfer import RETRY_ENV, TransferProgress, default_retry_s, with_retries


def test_the_retry_budget_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRY_ENV, "2.5")
    assert default_retry_s() == 2.5
    for text in ("soon", "-1", "nan"):
        monkeypatch.setenv(RETRY_ENV, text)
        with pytest.raises(StorageError, match=RETRY_ENV):
            default_retry_s()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


def run(attempt: Callable[[TransferProgress], int], clock: Clock, retry_s: float = 100.0) -> int:
    return with_retries(
        attempt,
        doing="write",
        where="s3://bucket/file",
        server="host:1",
        retry_s=retry_s,
        clock=clock,
        sleep=clock.sleep,
    )


UNREACHABLE = OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7, no")


def test_an_outage_within_the_budget_is_ridden_out() -> None:
    clock = Clock()

    def attempt(_: TransferProgress) -> int:
        if clock.now_s < 1095:
            raise UNREACHABLE
        return 5

    assert run(attempt, clock) == 5
    assert 1095 <= clock.now_s < 1101


def test_an_outage_beyond_the_budget_is_reported() -> None:
    clock = Clock()

    def attempt(_: TransferProgress) -> int:
        raise UNREACHABLE

    with pytest.raises(StorageError, match=r"host:1 cannot be reached .* tried for 100 s"):
        run(attempt, clock)
    assert clock.now_s == pytest.approx(1100)


def test_the_budget_starts_anew_with_real_progress_only() -> None:
    clock, sizes = Clock(), iter([10, 10, 30, 30, 30, 30, 30, 30, 30, 30])

    def attempt(progress: TransferProgress) -> int:
        clock.sleep(40)
        progress.reached(next(sizes))
        raise UNREACHABLE

    with pytest.raises(StorageError):
        run(attempt, clock)
    assert 1120 + 100 <= clock.now_s < 1120 + 150  # 30 bytes were first reached at 1120


@pytest.mark.parametrize(
    ("text", "permanent", "said"),
    [
        ("AWS Error ACCESS_DENIED during PutObject operation: x", True, "access denied"),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation: x", True, "bucket does not exist"),
        ("AWS Error UNKNOWN (HTTP status 411) during PutObject operation: x", True, "411"),
        ("AWS Error UNKNOWN (HTTP status 400) during PutObject operation: x", True, "400"),
        ("AWS Error UNKNOWN (HTTP status 429) during PutObject operation: x", False, "429"),
        ("AWS Error UNKNOWN (HTTP status 500) during PutObject operation: a\nb", False, "(a b)"),
        ("AWS Error NO_SUCH_UPLOAD during UploadPart operation: x", False, "NO_SUCH_UPLOAD"),
        ("AWS Error SLOW_DOWN during PutObject operation: (Request ID: 9)", False, "SLOW_DOWN"),
    ],
)
def test_what_can_pass_and_what_cannot(text: str, permanent: bool, said: str) -> None:
    problem = explain(OSError(text))
    assert (problem.permanent, said in problem.reason) == (permanent, True), problem
    assert "Request ID" not in problem.reason


def test_network_disks_get_their_retries() -> None:
    assert not explain(OSError(errno.ESTALE, "Stale file handle")).permanent
    assert explain(OSError(errno.ENOSPC, "No space left on device")).permanent
