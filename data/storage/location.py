"""The location of a store: a storage URI, parsed, validated and free of secrets."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from data.errors import StorageError

S3_OPTIONS = ("endpoint_override", "region", "scheme")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_HOST = re.compile(r"(https?://)?[A-Za-z0-9_.\-\[\]:]+/?")
_SECRETS_BELONG = (
    "keep credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or in a profile file, "
    "never in the URI"
)


@dataclass(frozen=True)
class Location:
    """A directory or file of a disk or bucket.

    `path` is absolute for files and `bucket/key` for S3; `options` are those of S3_OPTIONS.
    """

    kind: Literal["file", "s3"]
    path: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def uri(self) -> str:
        query = f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        return f"{self.kind}://{quote(self.path)}{query}"

    @property
    def label(self) -> str:
        """For messages: a plain path, or the URI without its query."""
        return self.path if self.kind == "file" else f"s3://{self.path}"

    @property
    def bucket(self) -> str:
        return self.path.partition("/")[0]

    def child(self, name: str) -> "Location":
        return Location(self.kind, f"{self.path.rstrip('/')}/{name}", self.options)


def parse_location(uri: str) -> Location:
    """A `file:///...` or `s3://bucket/...` URI, or a plain local path (made absolute).

    Raises StorageError in one line that repeats no part of a URI that may be a secret.
    """
    scheme, separator, _ = uri.partition(":/")
    if not separator or "/" in scheme:
        if not uri:
            raise StorageError("the storage URI is empty; give file:///..., s3://... or a path")
        return Location("file", str(Path(uri).expanduser().absolute()))
    if scheme == "file":
        return _parse_file(uri)
    if scheme == "s3":
        return _parse_s3(uri)
    shown = scheme if re.fullmatch(r"[a-z0-9+]{1,10}", scheme) else "?"
    raise StorageError(f"storage URI of scheme {shown!r} is not supported; use file:// or s3://")


def _parse_file(uri: str) -> Location:
    parts = urlsplit(uri)
    if not uri.startswith("file:///") or parts.query or parts.fragment:
        raise StorageError(
            "a file URI is file:/// and an absolute path, nothing else; correct the storage URI"
        )
    return Location("file", unquote(parts.path).rstrip("/") or "/")


def _parse_s3(uri: str) -> Location:
    bucket, _, rest = uri.removeprefix("s3://").partition("/")
    bucket = bucket.partition("?")[0]
    if not uri.startswith("s3://") or not _BUCKET.fullmatch(bucket):
        raise StorageError(
            "the part after s3:// is not a bucket's name; the form is s3://bucket/path, and "
            + _SECRETS_BELONG
        )
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if set(options) - set(S3_OPTIONS) or parts.fragment:
        raise StorageError(
            f"the query of s3://{bucket}/... may hold {', '.join(S3_OPTIONS)} only; "
            + _SECRETS_BELONG
        )
    _check_options(bucket, options)
    key = "/".join(part for part in unquote(parts.path).split("/") if part)
    return Location("s3", f"{bucket}/{key}".rstrip("/"), tuple(sorted(options.items())))


def _check_options(bucket: str, options: dict[str, str]) -> None:
    patterns = {"endpoint_override": _HOST, "region": re.compile(r"[A-Za-z0-9-]+")}
    patterns["scheme"] = re.compile(r"https?")
    for name, value in options.items():
        if not patterns[name].fullmatch(value):
            raise StorageError(
                f"{name} in the query of s3://{bucket}/... is not of the form "
                f"{'host:port' if name == 'endpoint_override' else patterns[name].pattern}; "
                "correct the storage URI"
            )
