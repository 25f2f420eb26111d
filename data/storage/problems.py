"""What went wrong, in plain words, and whether it can pass by itself.

pyarrow reports every failure of S3 as an OSError whose text holds the AWS error's name.
"""

import errno
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from data.errors import StorageError
from data.storage.filesystem import credentials_visible

_AWS = re.compile(r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))?")
_DETAIL = re.compile(r"AWS Error .*? during \w+ operation: (?P<detail>.*)", re.DOTALL)
_REQUEST_ID = re.compile(r"\s*\(Request ID: [^)]*\)")
_DOCTOR = "`python -m data.storage doctor URI` shows what this place can do"


@dataclass(frozen=True)
class Problem:
    reason: str
    mend: str
    permanent: bool


NO_BUCKET = Problem("the bucket does not exist", "create it or correct the URI", permanent=True)
_PERMANENT = {
    "NO_SUCH_BUCKET": (NO_BUCKET.reason, NO_BUCKET.mend),
    "INVALID_ACCESS_KEY_ID": (
        "the server does not know this access key",
        "correct AWS_ACCESS_KEY_ID or the profile",
    ),
    "SIGNATURE_DOES_NOT_MATCH": (
        "the secret key does not belong to the access key",
        "correct AWS_SECRET_ACCESS_KEY or the profile",
    ),
    "INVALID_CLIENT_TOKEN_ID": ("the session token is wrong", "correct AWS_SESSION_TOKEN"),
    "EXPIRED_TOKEN": ("the credentials have expired", "fetch new ones"),
    "REQUEST_TIME_TOO_SKEWED": ("this machine's clock is wrong", "set the clock"),
    "PERMANENT_REDIRECT": ("the bucket lies in another region", "set region= in the URI"),
}
_STATUS = {
    301: ("the bucket lies in another region", "set region= in the URI"),
    411: (
        "the server wants a Content-Length (411)",
        "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
    ),
    507: ("the server has no space left (507)", "free some"),
}
_LOCAL = {
    errno.ENOSPC: ("the disk is full", "free space or choose another place"),
    errno.EDQUOT: ("the disk quota is used up", "free space or choose another place"),
    errno.EFBIG: ("the file is too large for this place", "choose another place"),
    errno.EACCES: ("no permission", "change the permissions or choose another place"),
    errno.EPERM: ("no permission", "change the permissions or choose another place"),
    errno.EROFS: ("the disk is read-only", "choose another place"),
    errno.ENOENT: ("it does not exist", "correct the path"),
    errno.ENOTDIR: ("a file stands where a directory must be", "correct the path"),
    errno.EEXIST: ("a file stands where a directory must be", "correct the path"),
    errno.EISDIR: ("it is a directory", "correct the path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter path"),
}
_LOCAL_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR}


def explain(error: OSError, server: str | None = None) -> Problem:
    """`server` is the S3 host for messages; None for AWS itself and for local files."""
    aws = _AWS.search(str(error))
    if aws is None:
        return _explain_local(error)
    code, status = aws["code"], int(aws["status"] or 0)
    if code in _PERMANENT:
        return Problem(*_PERMANENT[code], permanent=True)
    if code == "ACCESS_DENIED" or status in (401, 403):
        return _denied()
    if code == "NETWORK_CONNECTION":
        return Problem(
            f"the server {server or 'of AWS'} cannot be reached ({_detail(error)})",
            "check that it runs, the network, and endpoint_override or AWS_ENDPOINT_URL_S3",
            permanent=False,
        )
    if status in _STATUS:
        return Problem(*_STATUS[status], permanent=True)
    refused = 400 <= status < 500 and status not in (404, 408, 409, 429)
    return Problem(
        f"the server answered {code} {status or ''} ({_detail(error)})", _DOCTOR, refused
    )


def storage_error(doing: str, where: str, problem: Problem, after_s: float = 0.0) -> StorageError:
    """The one line: what, where, why, for how long it was tried, and the mend."""
    tried = f", tried for {after_s:.0f} s" if after_s >= 1 and not problem.permanent else ""
    return StorageError(f"cannot {doing} {where}: {problem.reason}{tried}; {problem.mend}")


def _denied() -> Problem:
    if credentials_visible():
        return Problem(
            "access denied",
            "these credentials need the right to list, read, write and delete there "
            "(a wrong key can look the same)",
            permanent=True,
        )
    return Problem(
        "access denied, and this process has no credentials",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        permanent=True,
    )


def _explain_local(error: OSError) -> Problem:
    number = error.errno or 0
    if number in _LOCAL:
        return Problem(*_LOCAL[number], permanent=True)
    return Problem(
        _one_line(error.strerror or str(error)), _DOCTOR, permanent=number not in _LOCAL_TRANSIENT
    )


def _detail(error: OSError) -> str:
    found = _DETAIL.search(str(error))
    text = _REQUEST_ID.sub("", found["detail"] if found else str(error))
    return _one_line(text).partition("; Details:")[0] or "no details"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


# Repeats what failed for a passing reason until it has made no progress for too long.

logger = logging.getLogger(__name__)
T = TypeVar("T")
_MAX_DELAY_S = 5.0


class Progress:
    """How far any attempt has come, and since when none came further."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._furthest_bytes = 0
        self._since = clock()

    def reached(self, size_bytes: int) -> None:
        if size_bytes > self._furthest_bytes:
            self._furthest_bytes, self._since = size_bytes, self._clock()

    def stuck_s(self) -> float:
        return self._clock() - self._since


def with_retries(
    attempt: Callable[[Progress], T],
    *,
    doing: str,
    where: str,
    server: str | None,
    retry_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of `attempt`, which may run several times and reports how far it has come.

    Raises StorageError at once for what cannot pass by itself (no permission, no bucket, a
    full disk), else when `retry_s` have gone by without progress. Other errors than OSError
    pass through.
    """
    progress, delay_s = Progress(clock), 0.25
    while True:
        try:
            return attempt(progress)
        except OSError as error:
            problem, stuck_s = explain(error, server), progress.stuck_s()
            if problem.permanent or stuck_s >= retry_s:
                raise storage_error(doing, where, problem, stuck_s) from error
            logger.warning("cannot %s %s yet: %s; trying again", doing, where, problem.reason)
            sleep(min(delay_s, max(retry_s - stuck_s, 0.0)))
            delay_s = min(delay_s * 2, _MAX_DELAY_S)
