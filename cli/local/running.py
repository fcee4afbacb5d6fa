"""What runs on a home: the lock that keeps a second `up` out, the supervisor's identity, and what one left."""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bus.process_identity import (
    boot_id,
    identity,
    is_alive,
    read_identity,
    registered,
    send,
    start_ticks,
    write_identity,
)
from cli.errors import CliError
from cli.local.embedded_redis import ROLE as REDIS_ROLE
from cli.local.process_manager import REDIS, Control, socket_path

TERM_S = 5.0
STOP_S = 9.0


def supervisor(home: Path) -> dict[str, Any] | None:
    """The identity of the supervisor that runs this home, or None."""
    found = read_identity(home / "run" / "supervisor.json")
    return found if found is not None and is_alive(found) else None


def record_supervisor(home: Path, pid: int, foreground: bool = False) -> None:
    """Remember who runs this home; in the foreground, also the `clos up` that stays with it.

    A command that only brought CLOS up is no part of it, and neither are its children.

    Raises:
        ProcessLookupError: it is gone already.
    """
    stays = {"up_pid": os.getpid()} if foreground else {}
    write_identity(home / "run" / "supervisor.json", identity(pid) | {"role": "supervisor"} | stays)


@contextlib.contextmanager
def starting(home: Path) -> Iterator[None]:
    """Hold the home's lock while CLOS starts on it.

    Raises:
        CliError: another `clos up` holds it, or CLOS runs here already.
    """
    with open(home / "run" / "up.lock", "a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            lock.seek(0)
            raise CliError(f"another `clos up` (pid {lock.read().strip()}) is starting CLOS on {home}") from held
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        if there := supervisor(home):
            raise CliError(
                f"CLOS runs on {home} already (pid {there['pid']})", hint="`clos down` stops it; `clos status` shows it"
            )
        yield


def end_leftovers(home: Path, say: Callable[[str], None]) -> None:
    """End what a supervisor that died left behind: the server last, since the others write to it."""
    left = registered(home)
    left += _unregistered(home, {process["pid"] for process in left})
    if left:
        say("ending what an earlier CLOS left: " + ", ".join(f"{p['role']} (pid {p['pid']})" for p in left))
    for group in ([p for p in left if p["role"] != REDIS_ROLE], [p for p in left if p["role"] == REDIS_ROLE]):
        end(group)
    for process in left:
        if "file" in process:
            Path(process["file"]).unlink(missing_ok=True)
    (home / "run" / "supervisor.json").unlink(missing_ok=True)


def _unregistered(home: Path, known: set[int]) -> list[dict[str, Any]]:
    """What a dead supervisor of this home had started and that has not said yet who it is.

    Its session outlives it, and no pid is given anew while a session bears its number; should both be gone and the
    number be another one's since, that one does not run on this home.
    """
    dead = read_identity(home / "run" / "supervisor.json") or {}
    number = dead.get("pid")
    # A living process of that number, or a session of it that this command is in, is another one's.
    if dead.get("boot_id") != boot_id() or start_ticks(int(number or 0)) is not None or os.getsid(0) == number:
        return []
    found = []
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        with contextlib.suppress(OSError):  # gone, or somebody else's
            if pid not in known and os.getsid(pid) == number and _runs_on(home, pid):
                found.append(identity(pid) | {"role": "not ready"})
    return found


def _runs_on(home: Path, pid: int) -> bool:
    return b"CLOS_HOME=" + os.fsencode(home) in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def end(processes: list[dict[str, Any]], term_s: float = TERM_S) -> None:
    """TERM to exactly these, and KILL to those that stay. Returns when all are gone, or after 2 s more."""
    for number, limit_s in ((signal.SIGTERM, term_s), (signal.SIGKILL, 2.0)):
        processes = [p for p in processes if send(p, number)]
        deadline = time.monotonic() + limit_s
        while any(map(is_alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.02)
        processes = [p for p in processes if is_alive(p)]


def stop(home: Path, there: Mapping[str, Any], limit_s: float = STOP_S) -> None:
    """Stop CLOS's own processes, all at once but the embedded server, which goes last, then the supervisor."""
    deadline = time.monotonic() + limit_s
    control = Control(socket_path(home))
    with contextlib.suppress(OSError):
        # A supervisor that does not answer is ended below, and its programs by their own identities.
        others = [name for name in control.running() if not name.startswith(f"{REDIS}:")]
        _stop_and_wait(control, others, deadline)
        _stop_and_wait(control, list(control.running()), deadline + 1.0)
        control.call("supervisor.shutdown")
    gone_by = max(time.monotonic(), deadline) + 1.0
    while is_alive(there) and time.monotonic() < gone_by:
        # Any request wakes its loop, which otherwise looks once a second whether it may go.
        with contextlib.suppress(OSError):
            control.programs()
        time.sleep(0.02)
    if is_alive(there):
        end([dict(there)], term_s=0.0)
    end_leftovers(home, lambda _: None)


def _stop_and_wait(control: Control, names: list[str], deadline: float) -> None:
    if not names:
        return
    control.stop(names)
    while set(control.running()) & set(names) and time.monotonic() < deadline:
        time.sleep(0.02)
