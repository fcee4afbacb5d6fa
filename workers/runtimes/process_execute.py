"""Run a command to its end within a limit, with little of its output."""

import contextlib
import os
import select
import signal
import subprocess
import time

from domain.errors import StartFailed, TimedOut
from workers.runtimes.log_text import plain_text
from workers.runtimes.process_command import Command
from workers.runtimes.protocol import ExecResult

OUTPUT_LIMIT = 4096


def run_bounded(command: Command, timeout_s: float) -> ExecResult:
    """Run it in a session of its own; what it started and left behind in its group is killed too.

    Raises:
        StartFailed: the system cannot run it.
        TimedOut: it had not ended after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    try:
        process = subprocess.Popen(
            command.argv,
            cwd=command.folder,
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as refusal:
        raise StartFailed(f"{command.argv[0]} could not be run: {refusal}") from refusal
    with process:
        try:
            output = _read(process, deadline)
        except TimedOut:
            raise TimedOut(f"{command.argv[0]} did not end within {timeout_s:g} s") from None
        finally:
            # Not reaped yet, so the number cannot have become a stranger's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    exit_code = 128 - code if code < 0 else code
    return ExecResult(exit_code, plain_text(output)[:OUTPUT_LIMIT])


def _read(process: "subprocess.Popen[bytes]", deadline: float) -> bytes:
    """Output until the command ends; what its children still write after that is of no interest."""
    if process.stdout is None:
        raise AssertionError("opened with a pipe")
    kept = bytearray()
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while True:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimedOut("output")
            ready = {number for number, _ in poll.poll(int(remaining_s * 1000) + 1)}
            if process.stdout.fileno() in ready:
                piece = os.read(process.stdout.fileno(), 65536)
                kept += piece[: OUTPUT_LIMIT - len(kept)]
                if piece:
                    continue
                poll.unregister(process.stdout)
            if ended in ready:
                return bytes(kept)
    finally:
        os.close(ended)
