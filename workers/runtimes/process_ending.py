"""End all of a session: TERM, then KILL, the wrapper last so that it can record the exit code."""

import os
import select
import signal
import time
from collections.abc import Sequence

from domain.errors import PermissionRefused, TimedOut
from workers.runtimes import process_identity as processes

_WRAPPER_LIMIT_S = 1.0
_KILL_LIMIT_S = 5.0


def end_session(session: int, start_ticks: int, timeout_s: float) -> None:
    """End every process of the session whose leader (dead or not) has this pid and start ticks.

    Raises:
        PermissionRefused: one of them may not be signalled.
        TimedOut: one of them survives KILL.
    """
    if session == os.getsid(0):
        raise PermissionRefused(f"session {session} is CLOS's own; it is not ended")
    with processes.held(session, start_ticks) as wrapper:
        try:
            if not _ask(session, start_ticks, wrapper, timeout_s):
                _kill(session, start_ticks, wrapper)
        except PermissionError as refusal:
            raise PermissionRefused(
                f"session {session} holds a process of another user", hint="run CLOS as root to stop it"
            ) from refusal


def _ask(session: int, start_ticks: int, wrapper: int | None, timeout_s: float) -> bool:
    """TERM everyone but the wrapper, also those who come later, once; True if all have gone in time."""
    deadline = time.monotonic() + timeout_s
    asked: set[tuple[int, int]] = set()
    pause_s = 0.01
    while members := processes.session_members(session, start_ticks):
        for member in _but_wrapper(members, session):
            key = (member.pid, member.start_ticks)
            # One that still shows the wrapper's command line is between fork and exec: sh would eat the TERM.
            if key in asked or processes.marker_of(member.pid):
                continue
            asked.add(key)
            processes.send(*key, signal.SIGTERM)
            if member.state == "T":
                processes.send(*key, signal.SIGCONT)
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            return False
        if _wait(wrapper, min(pause_s, remaining_s)):
            wrapper = None
        pause_s = min(pause_s * 1.5, 0.25)
    return True


def _kill(session: int, start_ticks: int, wrapper: int | None) -> None:
    began = time.monotonic()
    while members := processes.session_members(session, start_ticks):
        elapsed_s = time.monotonic() - began
        if elapsed_s > _KILL_LIMIT_S:
            raise TimedOut(f"process {members[0].pid} survives KILL; it hangs in the kernel")
        spare = session if elapsed_s < _WRAPPER_LIMIT_S else 0
        for member in _but_wrapper(members, spare):
            processes.send(member.pid, member.start_ticks, signal.SIGKILL)
        if _wait(wrapper, 0.01):
            wrapper = None


def _but_wrapper(members: Sequence[processes.Stat], session: int) -> list[processes.Stat]:
    return [member for member in members if member.pid != session]


def _wait(wrapper: int | None, limit_s: float) -> bool:
    """Wait at most `limit_s`; True at once when the wrapper ends."""
    if wrapper is None:
        time.sleep(limit_s)
        return False
    poll = select.poll()
    poll.register(wrapper, select.POLLIN)
    return bool(poll.poll(max(1, int(limit_s * 1000))))
