"""Whether this process sees the host at all, or only the inside of a container."""

import os
import re
from functools import cache
from pathlib import Path

from workers.runtimes.process_identity import read_bytes

# The kernel's fixed number of the pid namespace in which it was started (PROC_PID_INIT_INO).
_FIRST_PID_NAMESPACE = 4026531836
# A system container (LXC, nspawn) is the host to its user, and not meant.
_APPLICATION = re.compile(rb"docker|containerd|kubepods|libpod|crio|garden|buildkit")
_ENVIRON = re.compile(rb"(?:^|\0)container=(?:docker|podman|oci|containerd|crio|kube)")
_MARKS = (".dockerenv", "run/.containerenv")
_ADVICE = "run CLOS on the host, or give the container the host's namespaces (--pid=host --network=host)"


@cache
def blind_because(root: str = "/") -> str | None:
    """Why the host's ports and processes cannot be seen from here; None if they can.

    A pid namespace of one's own alone says nothing (a WSL distribution has one, and is the host to its user): it is a
    container's if there is a container's mark as well. A mark alone says nothing either: a virtual machine may be made
    of a container's image.
    """
    proc = Path(root) / "proc"
    inside = _number(proc / "self" / "ns" / "pid")
    if inside is not None and inside != _FIRST_PID_NAMESPACE and _is_container(Path(root)):
        return f"CLOS runs inside a container and sees that container's processes and ports only: {_ADVICE}"
    mine = _number(proc / "self" / "ns" / "net")
    # Process 2 is the kernel's on a host, and may be asked where process 1 hides itself.
    first = _number(proc / "1" / "ns" / "net") or _number(proc / "2" / "ns" / "net")
    if mine is not None and first is not None and mine != first:
        return f"CLOS runs in a network namespace of its own and does not see the host's ports: {_ADVICE}"
    return None


def _is_container(root: Path) -> bool:
    if any((root / mark).exists() for mark in _MARKS):
        return True
    groups = read_bytes(str(root / "proc" / "1" / "cgroup")) or b""
    environ = read_bytes(str(root / "proc" / "1" / "environ")) or b""
    return bool(_APPLICATION.search(groups) or _ENVIRON.search(environ))


def _number(path: Path) -> int | None:
    """The number of a namespace; None where it may not be asked."""
    try:
        return int(os.readlink(path).partition("[")[2].rstrip("]"))
    except (OSError, ValueError):
        return None
