"""The image of a machine: the files that its overlay lays over this host's root file system.

As on Lambda, the account is `ubuntu` with sudo, and `nvidia-smi` and `libcuda.so.1` answer for
the GPUs. The Python of this process, with all that is installed in it, comes first on the path.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

from autoscaler.simulator.machines.machines import Blueprint

USER_ID = 4242
"""User id of `ubuntu` in a machine; no account of this host has it."""

_OWN = tuple(map(Path, ("/tmp", "/run", "/dev", "/proc", "/sys")))
"""Directories that a machine has to itself."""

_SSHD = """\
Port 22
ListenAddress {ip}
HostKey /run/host_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
PrintMotd no
MaxStartups 100
MaxSessions 100
AllowTcpForwarding yes
SetEnv PATH={path}
Subsystem sftp internal-sftp
PidFile none
"""

_POWER_OFF = "#!/bin/sh\n# Process 1 is sshd: the machine ends with it.\nkill -TERM 1\n"

_NVIDIA_SMI = """\
#!/bin/sh
# This machine has no GPU: the list is what `nvidia-smi -L` would show.
cat <<'END'
{lines}
END
"""

_LIBCUDA = """\
int cuInit(unsigned flags) { return RESULT; }
int cuDeviceGetCount(int *count) { *count = GPUS; return RESULT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return RESULT; }
"""
_CUDA_SUCCESS = 0
_CUDA_ERROR_SYSTEM_NOT_READY = 802
"""What H100 machines answered that came up with a CUDA that never starts."""
_DRIVER_VERSION = 12040

_SUDO_AS_USER = """\
#!/bin/sh
# This machine has one account, which may do what root may.
while :; do case ${1-} in -*) shift ;; *) break ;; esac; done
exec "$@"
"""

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_tree(tree: Path, blueprint: Blueprint, hostname: str, ip: str, *, as_root: bool) -> None:
    """Writes the files of one machine below `tree`, laid out as in its file system."""
    path = f"{Path(sys.executable).parent}:{SYSTEM_PATH}"
    files = {
        "etc/hostname": f"{hostname}\n",
        "etc/hosts": f"127.0.0.1 localhost\n{ip} {hostname}\n",
        # Refused at once, where the host's own name servers would be silent.
        "etc/resolv.conf": "nameserver 127.0.0.1\n",
        "etc/profile.d/zz-machine.sh": f"export PATH={path}\n",
        "etc/ssh/sshd_machine.conf": _SSHD.format(ip=ip, path=path),
        "home/ubuntu/.ssh/authorized_keys": "".join(f"{k}\n" for k in blueprint.public_keys),
        **_accounts(as_root),
    }
    for name, text in files.items():
        _write(tree / name, text)
    for name in ("shutdown", "poweroff", "halt", "reboot"):
        _write(tree / "usr/local/sbin" / name, _POWER_OFF, 0o755)
    if as_root:
        _write(tree / "etc/sudoers.d/ubuntu", "ubuntu ALL=(ALL) NOPASSWD:ALL\n", 0o440)
        (tree / "etc/sudoers.d").chmod(0o750)
    else:
        _write(tree / "usr/local/bin/sudo", _SUDO_AS_USER, 0o755)
    for skeleton in Path("/etc/skel").glob(".[a-z]*"):
        if skeleton.is_file():
            _write(tree / "home/ubuntu" / skeleton.name, skeleton.read_text())
    (tree / "home/ubuntu/.ssh").chmod(0o700)
    if blueprint.gpus:
        _write_driver(tree, blueprint)
    _open_parents(tree)


def visible() -> list[Path]:
    """This host's directories that a machine needs bound into it, because the overlay of `/`
    lacks them: below a directory that is the machine's own, or on another file system."""
    here = os.stat("/").st_dev
    wanted = dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix), _repository()))
    return [
        path
        for path in wanted
        if any(path.is_relative_to(own) for own in _OWN) or path.stat().st_dev != here
    ]


def _repository() -> Path:
    """Where this package is imported from."""
    return Path(__file__).resolve().parents[3]


def _accounts(as_root: bool) -> dict[str, str]:
    """This host's accounts and `ubuntu`."""
    passwd, group = (
        _without_ubuntu(Path(f"/etc/{name}").read_text()) for name in ("passwd", "group")
    )
    shadow = "root:*:19000:0:99999:7:::\n"
    if as_root:
        shadow = _without_ubuntu(Path("/etc/shadow").read_text())
    else:
        # With a group `tty`, sshd would hand terminals to it, which it may not.
        group = "".join(line for line in group.splitlines(True) if not line.startswith("tty:"))
    return {
        "etc/passwd": f"{passwd}ubuntu:x:{USER_ID}:{USER_ID}::/home/ubuntu:/bin/bash\n",
        "etc/group": f"{group}ubuntu:x:{USER_ID}:\n",
        "etc/shadow": f"{shadow}ubuntu:*:19000:0:99999:7:::\n",
    }


def _without_ubuntu(accounts: str) -> str:
    return "".join(line for line in accounts.splitlines(True) if not line.startswith("ubuntu:"))


def _write_driver(tree: Path, blueprint: Blueprint) -> None:
    lines = [
        f"GPU {n}: NVIDIA {blueprint.gpu_name} (UUID: GPU-{blueprint.id[:8]}-{n})"
        for n in range(blueprint.gpus)
    ]
    _write(tree / "usr/bin/nvidia-smi", _NVIDIA_SMI.format(lines="\n".join(lines)), 0o755)
    library = tree / _library_folder() / "libcuda.so.1"
    library.parent.mkdir(parents=True, exist_ok=True)
    result = _CUDA_SUCCESS if blueprint.cuda_starts else _CUDA_ERROR_SYSTEM_NOT_READY
    # Without the C library: gcc alone is enough, which is all that `probe` asks for.
    subprocess.run(
        [
            *("cc", "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1"),
            *(f"-DRESULT={result}", f"-DGPUS={blueprint.gpus}", f"-DVERSION={_DRIVER_VERSION}"),
            *("-x", "c", "-", "-o", str(library)),
        ],
        input=_LIBCUDA.encode(),
        check=True,
        timeout=60,
    )


def _library_folder() -> str:
    """One that the dynamic linker searches by default."""
    folders = (f"usr/lib/{platform.machine()}-linux-gnu", "usr/lib64", "usr/lib")
    return next(folder for folder in folders if Path("/", folder).is_dir())


def _open_parents(tree: Path) -> None:
    """Lets every user reach the Python that machines use, whoever owns its folders here."""
    for needed in (Path(sys.prefix), Path(sys.base_prefix), _repository()):
        for folder in needed.parents:
            mode = folder.stat().st_mode & 0o7777
            if mode & 0o001:
                continue
            opened = tree / folder.relative_to("/")
            opened.mkdir(parents=True, exist_ok=True)
            opened.chmod(mode | 0o011)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
