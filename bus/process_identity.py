"""Who a process is, so that a pid which was given to another since is never mistaken for it.

Each process of CLOS registers itself under `<home>/run/pids/`; whoever finds such a file later asks `is_alive`
before it signals. Standard library only, since process managers and the command line read it too.
"""

import functools
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_START_TICKS = 19  # field 22 of /proc/<pid>/stat, counted after the command's closing parenthesis
_STATE = 0


@functools.cache
def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command stands in parentheses and may hold spaces and parentheses itself.
    return text.rpartition(")")[2].split()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none, or only its corpse."""
    stat = _stat(pid)
    if stat is None or stat[_STATE] in ("Z", "X"):
        return None
    return int(stat[_START_TICKS])


def identity(pid: int | None = None) -> dict[str, Any]:
    """`{boot_id, pid, start_ticks}` of `pid`, or of the calling process.

    Raises:
        ProcessLookupError: there is no such process.
    """
    pid = os.getpid() if pid is None else pid
    ticks = start_ticks(pid)
    if ticks is None:
        raise ProcessLookupError(pid)
    return {"boot_id": boot_id(), "pid": pid, "start_ticks": ticks}


def is_alive(claimed: Mapping[str, Any]) -> bool:
    """Whether exactly the process that wrote this identity still runs."""
    pid = claimed.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 1:
        return False
    return claimed.get("boot_id") == boot_id() and claimed.get("start_ticks") == start_ticks(pid)


def send(claimed: Mapping[str, Any], number: signal.Signals) -> bool:
    """Signal exactly the process that wrote this identity. False if it is gone.

    Raises:
        PermissionError: it belongs to somebody else.
    """
    if not is_alive(claimed):
        return False
    try:
        opened = os.pidfd_open(claimed["pid"])
    except ProcessLookupError:
        return False
    try:
        # Asked again now that the pid cannot be given to another any more.
        if not is_alive(claimed):
            return False
        signal.pidfd_send_signal(opened, number)
    except ProcessLookupError:
        return False
    else:
        return True
    finally:
        os.close(opened)


def register(home: Path, role: str) -> Path:
    """Write `run/pids/<role>.<pid>.json` for the calling process; the caller may unlink it at its end."""
    folder = home / "run" / "pids"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return write_identity(folder / f"{role}.{os.getpid()}.json", identity() | {"role": role})


def write_identity(path: Path, content: Mapping[str, Any]) -> Path:
    """Put an identity into `path` (0600), whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(dict(content), file)
    draft.replace(path)
    return path


def read_identity(path: Path) -> dict[str, Any] | None:
    """What `write_identity` wrote; None where there is nothing readable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def registered(home: Path) -> list[dict[str, Any]]:
    """Every process of this home that said so and still runs, each with its `role` and its `file`.

    Files of processes that are gone are removed on the way.
    """
    found = []
    for path in sorted((home / "run" / "pids").glob("*.json")):
        content = read_identity(path)
        if content is not None and is_alive(content):
            found.append(content | {"file": str(path)})
        else:
            path.unlink(missing_ok=True)
    return found
