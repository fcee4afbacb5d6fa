"""Launching a process service: the record first, then the process, then its mark."""

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from secrets import token_hex

from domain.errors import StartFailed
from domain.observation import Instance
from domain.specs import ServiceSpec
from workers.runtimes import process_identity as processes
from workers.runtimes.fence import before_effect
from workers.runtimes.listeners import Lookout, refuse_held
from workers.runtimes.process_command import Command, command_of, spawn
from workers.runtimes.process_ending import end_session
from workers.runtimes.process_launches import Launches
from workers.runtimes.process_logs import ProcessLogs
from workers.runtimes.process_observation import Sightings, Wrappers, running
from workers.runtimes.process_state import Identity, StateFolder

_MARK_LIMIT_S = 0.5


class Launcher:
    """Launches for one home. Everything only under the service's lock."""

    def __init__(
        self,
        instance_id: str,
        boot_id: str,
        environment: Mapping[str, str],
        state: StateFolder,
        sightings: Sightings,
        launches: Launches,
        logs: ProcessLogs,
        lookout: Lookout,
    ) -> None:
        self._instance_id = instance_id
        self._boot_id = boot_id
        self._environment = environment
        self._state = state
        self._sightings = sightings
        self._launches = launches
        self._logs = logs
        self._lookout = lookout
        self._guard = threading.Lock()
        # Wrappers that this process spawned and must reap; a zombie counts as dead for everybody else.
        self._children: set[int] = set()

    def command_of(self, spec: ServiceSpec) -> Command:
        """What to run. Raises: StartFailed, PermissionRefused: see `process_command.command_of`."""
        return command_of(spec, self._environment)

    def start(self, spec: ServiceSpec, lock_fd: int, running_now: Wrappers | None = None) -> Instance:
        """Launch it; what an earlier launch left behind is ended first. `running_now`: what was seen under this lock.

        Raises:
            StartFailed, PermissionRefused, PortHeld: as `HostProcess.start`.
        """
        command = self.command_of(spec)
        for session, ticks in self._sightings.sessions(spec.id, running_now):
            end_session(session, ticks, timeout_s=0.0)
        refuse_held(spec.ports, self._lookout)
        try:
            return self._launch(spec, command, lock_fd)
        except (OSError, ValueError) as refusal:
            self._state.forget(spec.id)
            raise StartFailed(
                f"{spec.id} could not be started: {refusal}",
                hint="see the length of its command and environment, the disk, and this user's limits",
            ) from refusal

    def _launch(self, spec: ServiceSpec, command: Command, lock_fd: int) -> Instance:
        identity = Identity(spec.id, token_hex(8), spec.hash(), self._boot_id, datetime.now(UTC).isoformat())
        log_path = self._logs.prepare(spec.id)
        before_effect()
        # First the record, then the process: no kill can leave a launch that nobody knows of.
        self._launches.keep(identity, spec)
        self._state.write(identity)
        self._state.clear_endings(spec.id, keep=identity.launch)
        self._launches.clear(identity)
        mark = (self._instance_id, spec.id, identity.spec_hash, identity.launch)
        pid = spawn(command, mark, self._state.exit_path(identity), log_path, lock_fd)
        with self._guard:
            self._children.add(pid)
        # Not reaped yet, so the number is surely its own.
        stat = processes.read_stat(pid)
        _wait_for_mark(pid)
        identity = identity.running_as(pid, stat.start_ticks if stat else 0)
        with contextlib.suppress(OSError):
            # It runs: a disk that is full now only means that its mark has to be looked for.
            self._state.write(identity)
        return running(identity)

    def reap(self) -> None:
        """Take notice of those that have ended."""
        with self._guard:
            for pid in list(self._children):
                try:
                    done = os.waitpid(pid, os.WNOHANG)[0]
                except ChildProcessError:
                    done = pid
                if done:
                    self._children.discard(pid)


def _wait_for_mark(pid: int) -> None:
    """A spawn returns some microseconds before the new command line can be read."""
    deadline = time.monotonic() + _MARK_LIMIT_S
    while processes.marker_of(pid) is None and time.monotonic() < deadline:
        stat = processes.read_stat(pid)
        if stat is None or stat.dead:
            return
        time.sleep(0.0002)
