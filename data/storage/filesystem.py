"""The pyarrow filesystem of a location, built in each process from its own environment.

pyarrow's S3 filesystem pickles its keys in clear and loses its retry strategy on the way, so
it is never pickled here; and it ignores AWS's standard endpoint variables, which are read here.
"""

import configparser
import os
from pathlib import Path

import pyarrow.fs as pafs

from data.errors import StorageError
from data.storage.location import Location, parse_location
from data.storage.transfer import default_retry_s


def open_filesystem(uri: str, retry_s: float | None = None) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path in it, for readers such as Parquet's. Do not pickle it."""
    location = parse_location(uri)
    budget_s = default_retry_s() if retry_s is None else retry_s
    return build_filesystem(location, budget_s), location.path


def build_filesystem(location: Location, retry_s: float) -> pafs.FileSystem:
    """`retry_s` bounds the SDK's own timeouts and retries. Contacts no server.

    Raises:
        StorageError: the endpoint is not of the form http(s)://host:port.
    """
    if location.kind == "file":
        return pafs.LocalFileSystem()
    endpoint, region = resolve_endpoint(location), resolve_region(location)
    # Newer AWS SDKs send bodies without a length by default, which many S3 servers refuse (411).
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    if endpoint is None:
        return pafs.S3FileSystem(region=region, **_sdk_options(retry_s))
    # Only AWS has the metadata service; elsewhere asking for it costs seconds.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    scheme, host = endpoint
    return pafs.S3FileSystem(
        endpoint_override=host,
        scheme=scheme,
        region=region or "us-east-1",
        **_sdk_options(retry_s),
    )


def _sdk_options(retry_s: float) -> dict[str, object]:
    """The SDK retries requests within a transfer; the store repeats whole files.

    Few retries: an upload that stalls takes the SDK 28 s longer than `request_timeout`.
    """
    retries = min(int(retry_s // 10), 2)
    return {
        "allow_delayed_open": True,  # one request for a small file, not three
        "request_timeout": min(max(retry_s / 4, 1.0), 20.0),
        "connect_timeout": min(max(retry_s / 8, 1.0), 10.0),
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=retries),
    }


def resolve_endpoint(location: Location) -> tuple[str, str] | None:
    """(scheme, host) of an S3 server that is not AWS: from the URI, the environment, then the AWS
    profile."""
    options = dict(location.options)
    url = (
        options.get("endpoint_override")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or _profile_endpoint()
    )
    if not url:
        return None
    scheme, separator, host = url.partition("://")
    if not separator:
        scheme, host = "https", url
    scheme, host = options.get("scheme", scheme), host.rstrip("/")
    if scheme not in ("http", "https") or not host or set(host) & set("@/?#"):
        raise StorageError(
            "the S3 endpoint is not of the form http(s)://host:port; correct endpoint_override "
            "in the URI or AWS_ENDPOINT_URL_S3"
        )
    return scheme, host


def pinned(location: Location) -> Location:
    """The location with the endpoint and region that this process finds for it written into it,
    for processes with another environment."""
    if location.kind == "file":
        return location
    found = dict(location.options)
    endpoint, region = resolve_endpoint(location), resolve_region(location)
    if endpoint is not None:
        found["scheme"], found["endpoint_override"] = endpoint
    if region is not None:
        found["region"] = region
    return Location(location.kind, location.path, tuple(sorted(found.items())))


def resolve_region(location: Location) -> str | None:
    """From the URI, the environment, then the AWS profile."""
    return (
        dict(location.options).get("region")
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or _profile().get("region")
    )


def _aws_config() -> configparser.RawConfigParser:
    config = configparser.RawConfigParser()
    path = Path(os.environ.get("AWS_CONFIG_FILE", Path.home() / ".aws" / "config"))
    try:
        config.read(path)
    except configparser.Error as error:
        raise StorageError(f"cannot read the AWS profile file {path}; correct it") from error
    return config


def _profile() -> dict[str, str]:
    name = os.environ.get("AWS_PROFILE", "default")
    config = _aws_config()
    section = name if name == "default" else f"profile {name}"
    return dict(config[section]) if config.has_section(section) else {}


def _profile_endpoint() -> str | None:
    """`endpoint_url` of the profile, its `services` section's `s3` first, as the SDKs do."""
    profile = _profile()
    config, services = _aws_config(), f"services {profile.get('services')}"
    if config.has_section(services):
        for line in config[services].get("s3", "").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "endpoint_url":
                return value.strip()
    return profile.get("endpoint_url")
