"""Ending a process that is not CLOS's own: which one exactly, which never, and how.

The deny list stands here, at the effect, and nowhere else: no caller can leave it out.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from domain.errors import HolderChanged, TerminationRefused, TimedOut
from workers.runtimes import process_identity as processes
from workers.runtimes.namespaces import blind_because
from workers.runtimes.process_names import command_of, user_name
from workers.runtimes.process_tree import KERNEL_THREAD, Home, Process, Tree, home_of

_KILL_LIMIT_S = 5.0
# What a host cannot do without, by the name of the process or of its program. Names in /proc end at 15 bytes.
_ENGINE = ("dockerd", "containerd", "containerd-shim", "docker-init", "rootlesskit", "crio", "podman", "conmon")
_PROXY = ("docker-proxy", "rootlessport")
_SYSTEM = ("sshd", "systemd", "dbus-daemon", "dbus-broker", "init", "login", "agetty", "udevd", "NetworkManager")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, told from every other that had or will have its pid."""

    pid: int
    start_ticks: int
    boot_id: str
    name: str
    command: str | None
    user: str | None
    uid: int


def identify(pid: int) -> ProcessIdentity | None:
    """Who has that pid now; None if nobody."""
    found = Tree().process(pid)
    if found is None or found.dead:
        return None
    try:
        uid = os.stat(f"{processes.PROC}/{pid}").st_uid
    except OSError:
        return None
    return ProcessIdentity(
        pid, found.start_ticks, processes.boot_id(), found.name, command_of(pid), user_name(uid), uid
    )


def refusal(pid: int, *, allow_foreign: bool = False) -> str | None:
    """Why a process is not ended, whoever asks; None if it may be.

    `allow_foreign` lifts one reason only: that it is another user's.
    """
    tree = Tree()
    found = tree.process(pid)
    if because := blind_because():
        return because
    if pid <= 2:
        return "it is the system's first process" if pid <= 1 else "it is the kernel's"
    if found is None or found.dead:
        return None
    return (
        _is_ours(found, tree)
        or _is_vital(found, tree)
        or _is_managed(found, tree)
        or (None if allow_foreign else _is_foreign(pid))
    )


def _is_ours(found: Process, tree: Tree) -> str | None:
    if found.flags & KERNEL_THREAD or found.parent == 2:
        return "it is a thread of the kernel"
    if found.pid == os.getpid():
        return "it is this worker"
    if any(parent.pid == found.pid for parent in tree.parents(os.getpid())):
        return "this worker descends from it"
    if found.session == os.getsid(0):
        return "it runs in this worker's own session"
    # Another home's processes as well: there they are somebody's CLOS.
    homes = [home for pid in (found.pid, found.parent) if (home := home_of(pid)) is not None]
    if any(home.has(found.pid, tree) for home in [*homes, *_own_home()]):
        return "it is one of CLOS's own processes (`clos down` stops them)"
    return None


def _own_home() -> Iterator[Home]:
    if (home := home_of(os.getpid())) is not None:
        yield home


def _is_vital(found: Process, tree: Tree) -> str | None:
    names = {found.name, _program(found.pid)}
    if any(_named(name, _PROXY) for name in names):
        return "it is the engine's proxy: stop the container that it stands for"
    if any(_named(name, _ENGINE) for name in names):
        return "it is part of the container engine"
    if any(_named(name, _SYSTEM) or name.startswith("systemd-") for name in names):
        return "the system needs it"
    if (container := tree.container(found.pid)) is not None:
        return f"it runs in the container {container[:12]}: stop the container"
    return None


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"{processes.PROC}/{pid}/exe")).removesuffix(" (deleted)")
    return ""


def _named(name: str, wanted: tuple[str, ...]) -> bool:
    return any(
        name == each or name == each[:15] or (each in ("containerd-shim",) and name.startswith(each)) for each in wanted
    )


def _is_managed(found: Process, tree: Tree) -> str | None:
    mark = tree.mark(found.pid)
    if mark is None or not mark.kept:
        # One whose service is forgotten can be ended by nobody else.
        return None
    return f"it belongs to the service {mark.service_id}: stop the service"


def _is_foreign(pid: int) -> str | None:
    try:
        uid = os.stat(f"{processes.PROC}/{pid}").st_uid
    except OSError:
        return None
    if uid == os.geteuid():
        return None
    return f"it belongs to another user, {user_name(uid)} (`allow_foreign` ends it all the same)"


def terminate(identity: ProcessIdentity, *, allow_foreign: bool = False, grace_s: float = 5.0) -> list[str]:
    """End exactly this process: TERM, and KILL if it lives after `grace_s`. What was done, as sentences.

    Raises:
        HolderChanged: it has ended, or the pid is another's by now; nobody was signalled.
        TerminationRefused: it is on the deny list, or the system forbids it.
        TimedOut: it survives KILL (it hangs in the kernel).
    """
    if identity.boot_id != processes.boot_id():
        raise _changed(identity, "the machine was restarted since")
    with processes.held(identity.pid, identity.start_ticks) as opened:
        # From here on the pid cannot become another's: what is checked now is what is signalled.
        now = identify(identity.pid) if opened is not None else None
        if opened is None or now is None:
            raise _changed(identity, "it has ended, or its pid is another's by now")
        if (now.uid, now.name) != (identity.uid, identity.name):
            raise _changed(identity, f"it runs {now.name} as {now.user} by now")
        if (because := refusal(identity.pid, allow_foreign=allow_foreign)) is not None:
            raise TerminationRefused(identity.pid, because, name=identity.name)
        try:
            return _end(identity, opened, grace_s)
        except PermissionError as refused:
            because = f"the system forbids it: it belongs to {identity.user}"
            raise TerminationRefused(identity.pid, because, hint="run CLOS as root", name=identity.name) from refused


def _changed(identity: ProcessIdentity, why: str) -> HolderChanged:
    return HolderChanged(
        f"{identity.name} (pid {identity.pid}) is not what it was: {why}",
        hint="look again: clos conflicts scan",
        pid=identity.pid,
        name=identity.name,
    )


def _end(identity: ProcessIdentity, opened: int, grace_s: float) -> list[str]:
    children = _children(identity.pid)
    did = [f"TERM to {identity.name} (pid {identity.pid})"]
    if not _signal(opened, signal.SIGTERM):
        return [*did, "it had just ended"]
    # One that is stopped takes its TERM only when it goes on.
    _signal(opened, signal.SIGCONT)
    began = time.monotonic()
    if _has_ended(opened, grace_s):
        did.append(f"it ended after {time.monotonic() - began:.1f} s")
        return did + _orphans(children)
    did.append(f"it lived on after {grace_s:g} s: KILL")
    _signal(opened, signal.SIGKILL)
    if not _has_ended(opened, _KILL_LIMIT_S):
        raise TimedOut(f"process {identity.pid} survives KILL; it hangs in the kernel", pid=identity.pid)
    did.append("it was killed")
    return did + _orphans(children)


def _signal(opened: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(opened, number)
    except ProcessLookupError:
        return False
    return True


def _has_ended(opened: int, limit_s: float) -> bool:
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(max(1, int(limit_s * 1000))))


def _children(pid: int) -> list[Process]:
    tree = Tree()
    every = (tree.process(each) for each in processes.pids())
    return [each for each in every if each is not None and each.parent == pid and not each.dead]


def _orphans(children: list[Process]) -> list[str]:
    tree = Tree()
    left = [each for each in children if (now := tree.process(each.pid)) and now.start_ticks == each.start_ticks]
    if not left:
        return []
    return ["its children live on: " + ", ".join(f"{each.name} (pid {each.pid})" for each in left)]
