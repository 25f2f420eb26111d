"""A probe of this host for what machines need: the programs, and the kernel's namespaces.

The kernel is tried, not asked for its version.
"""

import os
import platform
import shutil
import subprocess
from typing import Literal

Mode = Literal["none", "root", "user"]

_PROGRAMS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "pivot_root": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",
    "cc": "gcc",
    "/usr/sbin/sshd": "openssh-server",
}
"""The programs that make machines, and the Debian package of each."""

_TRIAL = """
set -e
mount -t tmpfs trial /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay trial -o "$1,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
mount -t proc trial /proc
ip link add name trial0 type bridge
ip link add name trial1 type veth peer name trial2
"""

_NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--propagation", "private")
_SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def why_not(mode: Literal["root", "user"]) -> str | None:
    """Why this host cannot make machines of this mode, in one line; None when it can.

    Makes the namespaces, an overlay, a bridge and a link for a moment.
    """
    if platform.machine() != "x86_64":
        return f"machines imitate x86_64, this is {platform.machine()}"
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=_SEARCHED) is None:
            return f"{program} is missing: apt-get install {package}"
    if mode == "root" and os.geteuid() != 0:
        return "not root"
    user = () if mode == "root" else ("--user", "--map-root-user")
    layer = "lowerdir=/" if mode == "root" else "userxattr,lowerdir=/etc"
    done = subprocess.run(
        ["unshare", *user, *_NAMESPACES, "--", "/bin/sh", "-c", _TRIAL, "trial", layer],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": _SEARCHED},
        check=False,
    )
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines() or [f"unshare ended with {done.returncode}"]
    return f"the kernel refuses namespaces ({said[0]})"


def choose(wanted: str) -> tuple[Mode, str]:
    """(mode, reason) for `--machines`: the reason is empty unless the mode had to be `none`.

    `auto` prefers root, whose machines have a memory limit.
    """
    if wanted == "none":
        return "none", ""
    modes: tuple[Literal["root", "user"], ...] = ("root", "user")
    reasons: list[str] = []
    for mode in modes:
        if wanted in ("auto", mode):
            reason = why_not(mode)
            if reason is None:
                return mode, ""
            reasons.append(f"as {mode}: {reason}")
    return "none", "; ".join(dict.fromkeys(reasons))
