"""The written library, through the dynamic linker."""

import ctypes
from pathlib import Path

import pytest

from autoscaler.simulator.machines.cuda_library import CUDA_ERROR_SYSTEM_NOT_READY, cuda_library


@pytest.mark.parametrize(("starts", "code"), [(True, 0), (False, CUDA_ERROR_SYSTEM_NOT_READY)])
def test_the_linker_takes_it(tmp_path: Path, starts: bool, code: int) -> None:
    path = tmp_path / "libcuda.so.1"
    path.write_bytes(cuda_library(8, starts=starts))
    cuda = ctypes.CDLL(str(path))
    count, version = ctypes.c_int(-1), ctypes.c_int(-1)
    assert cuda.cuInit(0) == code
    assert cuda.cuDeviceGetCount(ctypes.byref(count)) == code and count.value == 8
    assert cuda.cuDriverGetVersion(ctypes.byref(version)) == code and version.value == 12040
    with pytest.raises(AttributeError, match="undefined symbol"):
        cuda.cuCtxCreate  # noqa: B018


def test_equal_bytes_for_equal_machines() -> None:
    assert cuda_library(4, starts=True) == cuda_library(4, starts=True)
    assert cuda_library(4, starts=True) != cuda_library(2, starts=True)
