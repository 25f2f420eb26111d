"""Storage failures in plain words: the reason, the fix, and whether a retry can help.

pyarrow reports every failure of S3 as an OSError whose text holds the AWS error's name.
"""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import StorageError

_AWS = re.compile(r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))?")
_DETAIL = re.compile(r"AWS Error .*? during \w+ operation: (?P<detail>.*)", re.DOTALL)
_REQUEST_ID = re.compile(r"\s*\(Request ID: [^)]*\)")
_DOCTOR = "`python -m data.storage doctor URI` shows what works there"


@dataclass(frozen=True)
class Problem:
    """Why an operation failed and what to do; a `permanent` one is not retried."""

    reason: str
    fix: str
    permanent: bool


NO_BUCKET = Problem("the bucket does not exist", "create it or correct the URI", permanent=True)
_PERMANENT = {
    "NO_SUCH_BUCKET": (NO_BUCKET.reason, NO_BUCKET.fix),
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
    errno.ENOSPC: ("the disk is full", "free space or choose another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free space or choose another disk"),
    errno.EFBIG: ("the file is too large for this disk", "choose another disk"),
    errno.EACCES: ("no permission", "change the permissions or choose another disk"),
    errno.EPERM: ("no permission", "change the permissions or choose another disk"),
    errno.EROFS: ("the disk is read-only", "choose another disk"),
    errno.ENOENT: ("it does not exist", "correct the path"),
    errno.ENOTDIR: ("a file stands where a directory must be", "correct the path"),
    errno.EEXIST: ("a file stands where a directory must be", "correct the path"),
    errno.EISDIR: ("it is a directory", "correct the path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter path"),
}
_LOCAL_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR}


def explain(error: OSError, server: str | None = None) -> Problem:
    """What an error of pyarrow or of the local file system means.

    `server` is the S3 host for messages; None for AWS itself and for local files.
    """
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
    """The one line: what, where, why, for how long it was tried, and the fix."""
    tried = f", tried for {after_s:.0f} s" if after_s >= 1 and not problem.permanent else ""
    return StorageError(f"cannot {doing} {where}: {problem.reason}{tried}; {problem.fix}")


def _denied() -> Problem:
    if _has_credentials():
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


def _has_credentials() -> bool:
    """Whether this process has any source of credentials, valid or not."""
    names = (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    )
    if any(os.environ.get(name) for name in names):
        return True
    default = Path.home() / ".aws" / "credentials"
    return Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", default)).is_file()


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
