"""A `libcuda.so.1` of three functions, for machines that have no GPU: it starts, or fails as
broken hosts do. Written as bytes, so that no compiler is needed where tests run.

The file is the least that the dynamic linker takes (System V ABI, gABI 4.1, chapters 4 and 5;
AMD64 supplement): one segment with the tables and the code, one with the dynamic section,
which the linker writes to.
"""

import struct

CUDA_SUCCESS = 0
CUDA_ERROR_SYSTEM_NOT_READY = 802
"""What H100 machines answered that came up with a CUDA that never starts."""

DRIVER_VERSION = 12040

_PAGE = 0x1000
_HEADER, _PROGRAM_HEADERS = 64, 4 * 56
_LOAD, _DYNAMIC, _GNU_STACK = 1, 2, 0x6474E551
_READ_WRITE, _READ_EXECUTE = 6, 5
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 4, 5, 6, 10, 11, 14
_GLOBAL_FUNCTION = 0x12
_TEXT_SECTION = 1
"""Any index but 0: the linker asks only whether the symbol is defined."""


def cuda_library(gpus: int, *, starts: bool) -> bytes:
    """The library as a file for x86-64.

    `cuInit` answers CUDA_SUCCESS, or CUDA_ERROR_SYSTEM_NOT_READY when CUDA does not start;
    `cuDeviceGetCount` and `cuDriverGetVersion` answer the same, and store their number.
    """
    result = CUDA_SUCCESS if starts else CUDA_ERROR_SYSTEM_NOT_READY
    return _shared_object(
        "libcuda.so.1",
        {
            "cuInit": _return(result),
            "cuDeviceGetCount": _store(gpus) + _return(result),
            "cuDriverGetVersion": _store(DRIVER_VERSION) + _return(result),
        },
    )


def _return(value: int) -> bytes:
    """mov eax, value; ret"""
    return b"\xb8" + struct.pack("<I", value) + b"\xc3"


def _store(value: int) -> bytes:
    """mov dword [rdi], value"""
    return b"\xc7\x07" + struct.pack("<I", value)


def _shared_object(name: str, functions: dict[str, bytes]) -> bytes:
    strings = b"\0" + b"".join(n.encode() + b"\0" for n in (name, *functions))
    count = len(functions) + 1
    # One bucket whose chain runs through all symbols, so that no hash is ever compared.
    hashes = struct.pack(f"<{3 + count}I", 1, count, 1, 0, *range(2, count), 0)
    hash_at = _HEADER + _PROGRAM_HEADERS
    symbols_at = _aligned(hash_at + len(hashes), 8)
    strings_at = symbols_at + 24 * count
    code_at = _aligned(strings_at + len(strings), 16)
    symbols, code = bytes(24), b""
    for function, body in functions.items():
        value = (code_at + len(code), len(body))
        at = strings.index(b"\0" + function.encode() + b"\0") + 1
        symbols += struct.pack("<IBBHQQ", at, _GLOBAL_FUNCTION, 0, _TEXT_SECTION, *value)
        code += body
    dynamic = struct.pack(
        "<14Q",
        *(_DT_HASH, hash_at, _DT_SYMTAB, symbols_at, _DT_STRTAB, strings_at),
        *(_DT_STRSZ, len(strings), _DT_SYMENT, 24, _DT_SONAME, 1, 0, 0),
    )
    end = code_at + len(code)
    file = bytearray(_PAGE)
    tables = _file_header() + _program_headers(end, len(dynamic))
    parts = {0: tables, hash_at: hashes, symbols_at: symbols, strings_at: strings, code_at: code}
    for at, part in parts.items():
        file[at : at + len(part)] = part
    return bytes(file) + dynamic


def _file_header() -> bytes:
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    kind, machine, version, entry, sections_at, flags = 3, 62, 1, 0, 0, 0
    return identity + struct.pack(
        "<HHIQQQIHHHHHH",
        *(kind, machine, version, entry, _HEADER, sections_at, flags),
        *(_HEADER, 56, 4, 64, 0, 0),
    )


def _program_headers(code_end: int, dynamic_size: int) -> bytes:
    where = (_PAGE, _PAGE, _PAGE, dynamic_size, dynamic_size)
    return (
        struct.pack("<IIQQQQQQ", _LOAD, _READ_EXECUTE, 0, 0, 0, code_end, code_end, _PAGE)
        + struct.pack("<IIQQQQQQ", _LOAD, _READ_WRITE, *where, _PAGE)
        + struct.pack("<IIQQQQQQ", _DYNAMIC, _READ_WRITE, *where, 8)
        + struct.pack("<IIQQQQQQ", _GNU_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16)
    )


def _aligned(offset: int, to: int) -> int:
    return -(-offset // to) * to
