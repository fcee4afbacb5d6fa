"""Services as plain processes of this host. They outlive the worker that started them.

Each runs under a wrapper of a few lines of `/bin/sh` (`process_command.WRAPPER`) whose command line carries
CLOS's mark, so every instance can be found whatever became of its starter. stdout and stderr share one log
file: lines of both have the stream `stdout`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from domain.errors import EngineUnreachable, ServiceRunning
from domain.observation import Instance, Sighting
from domain.specs import ServiceSpec
from workers.runtimes import process_identity as processes
from workers.runtimes import process_marked
from workers.runtimes.fence import before_effect
from workers.runtimes.listeners import Lookout
from workers.runtimes.process_command import command_of
from workers.runtimes.process_ending import end_session
from workers.runtimes.process_execute import run_bounded
from workers.runtimes.process_launcher import Launcher
from workers.runtimes.process_launches import Launches
from workers.runtimes.process_logs import ProcessLogs
from workers.runtimes.process_observation import Sightings
from workers.runtimes.process_replacing import Replacing
from workers.runtimes.process_state import StateFolder
from workers.runtimes.process_stats import SessionStats
from workers.runtimes.process_tree import Tree
from workers.runtimes.protocol import ExecResult, LogLine, Progress, Stats


class HostProcess:
    """The runtime `process`. Safe to use from several threads, and from several processes on one home."""

    kind = "process"

    def __init__(
        self, home: Path, instance_id: str, base_environment: Mapping[str, str], boot_id: str | None = None
    ) -> None:
        self._instance_id = instance_id
        self._environment = dict(base_environment)
        self._boot_id = boot_id or processes.boot_id()
        self._state = StateFolder(home / "run" / "processes")
        self._launches = Launches(self._state)
        self._sightings = Sightings(self._state, instance_id, self._boot_id)
        self._logs = ProcessLogs(home / "logs" / "services")
        self._stats = SessionStats()
        # Who listens on this host, with what of it is ours.
        self.lookout = Lookout(self.owners, home)
        self._launcher = Launcher(
            instance_id, self._boot_id, self._environment, self._state, self._sightings, self._launches, self._logs,
            self.lookout,
        )  # fmt: skip
        self._replacing = Replacing(self._state, self._sightings, self._launches, self._launcher)

    # What is there

    def observe(self) -> Mapping[str, Instance]:
        """Every instance, running or ended, by service id, in one look at the process table.

        Raises:
            EngineUnreachable: the records or the process table cannot be read.
        """
        self._launcher.reap()
        try:
            seen = self._sightings.all()
        except OSError as refusal:
            raise EngineUnreachable(f"the processes of this host cannot be looked at: {refusal}") from refusal
        self._logs.note_sizes(seen)
        return seen

    def sighting(self) -> Sighting:
        """This boot of the host."""
        return Sighting(self._boot_id)

    # What carries our mark, whoever made it

    def beside(self) -> Sequence[Instance]:
        """Second processes of a service, as the last look found them."""
        return self._sightings.beside

    def describe(self, ref: str) -> Mapping[str, Any]:
        """What a process would be as a service."""
        return process_marked.describe(self._instance_id, ref)

    def discard(self, ref: str, timeout_s: float) -> None:
        """End one process with our mark, and all of its session. One that is gone is success."""
        wrapper = process_marked.find(self._instance_id, ref)
        launch = next((each for each in self._state.identities() if each.ref == ref), None)
        if wrapper is None and (launch is None or launch.boot_id != self._boot_id):
            return
        pid, _, ticks = ref.partition(":")
        before_effect()
        end_session(int(pid), int(ticks), timeout_s)
        self._launcher.reap()
        if launch is not None:
            with self._state.lock(launch.service_id):
                self._state.remove(launch.service_id)

    # Start and stop

    def prepare(self, spec: ServiceSpec, progress: Progress) -> None:
        """Nothing: a process has no image."""

    def prepared(self, spec: ServiceSpec) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def create(self, spec: ServiceSpec) -> Instance:
        """Nothing to make beforehand; says what is there."""
        return self.observe().get(spec.id) or Instance(spec.id)

    def start(self, spec: ServiceSpec, keep: bool = False) -> Instance:
        """Run it, exactly once however many call and whoever of them is killed meanwhile. `keep`: what `replace` has
        remembered stays so.

        Raises:
            StartFailed, PermissionRefused: see `process_command.command_of`.
            PortHeld: one of its host ports cannot be bound.
            TimedOut: another start or stop of it does not end.
        """
        with self._state.lock(spec.id) as lock_fd:
            self._launcher.reap()
            wrappers = self._sightings.wrappers()
            found = self._sightings.one(spec.id, wrappers)
            if found.alive:
                return found
            if not keep:
                self._launches.forget(spec.id)
            return self._launcher.start(spec, lock_fd, wrappers)

    def stop(self, spec: ServiceSpec, timeout_s: float) -> Instance:
        """TERM to every process of its session, KILL to what is left after `timeout_s`.

        Raises:
            PermissionRefused: it runs as somebody whom we may not signal.
            TimedOut: it survives KILL (it hangs in the kernel), or another start or stop does not end.
        """
        with self._state.lock(spec.id, limit_s=timeout_s + 10.0):
            found = self._sightings.one(spec.id)
            before_effect()
            for session, ticks in self._sightings.sessions(spec.id):
                end_session(session, ticks, timeout_s)
            if not found.alive:
                return found
            self._launcher.reap()
            return self._sightings.one(spec.id)

    # In another one's place

    def replace(self, spec: ServiceSpec) -> Instance:
        """Check that the new command can be run, and remember what the present launch was made from."""
        return self._replacing.replace(spec)

    def restore(self, spec: ServiceSpec, ref: str | None, run: bool) -> Instance:
        """Launch again what was launched as `ref`."""
        return self._replacing.restore(spec, ref, run)

    def settle(self, spec: ServiceSpec) -> None:
        """Forget the launch before."""
        self._replacing.settle(spec)

    def as_made(self, spec: ServiceSpec) -> ServiceSpec:
        """The spec with the ports of the latest launch."""
        return self._replacing.as_made(spec)

    def remove(self, spec: ServiceSpec, volumes: bool = False) -> None:  # noqa: ARG002
        """Take its state folder away; the log file stays.

        Raises:
            ServiceRunning: it runs.
        """
        if not self._state.of(spec.id).exists():
            return
        with self._state.lock(spec.id):
            if self._sightings.one(spec.id).alive:
                raise ServiceRunning(f"{spec.id} runs", hint="stop it first")
            before_effect()
            for session, ticks in self._sightings.sessions(spec.id):
                end_session(session, ticks, timeout_s=0.0)
            self._state.remove(spec.id)
        self._stats.forget(spec.id)

    # Beside it

    def remove_volume(self, name: str, mark: str) -> None:
        """Processes have none."""

    def logs(self, service_id: str, tail: int, since: datetime | None = None) -> list[LogLine]:
        """The last lines of its log, across rotations."""
        return self._logs.tail(service_id, tail, since)

    def follow(self, service_id: str, stop: Callable[[], bool]) -> Iterator[LogLine | None]:
        """New lines of its log as they come."""
        return self._logs.follow(service_id, stop)

    def keep_logs(self, registered: Callable[[], Collection[str]]) -> None:
        """Log files are there whether their process runs or not; those of nobody's are deleted."""
        self._logs.forget(registered, lambda: [each.service_id for each in self._state.identities()])

    def rotate_logs(self) -> None:
        """Rotate what has grown too large; the state collector's work."""
        self._logs.rotate()

    def stats(self, service_ids: Sequence[str]) -> Mapping[str, Stats]:
        """Resources of whole sessions, CPU since the last call. Network use of a process is not to be had: 0."""
        sessions = {}
        seen = self.observe()
        for service_id in service_ids:
            instance = seen.get(service_id)
            if instance and instance.alive and instance.ref:
                sessions[service_id] = int(instance.ref.partition(":")[0])
        return self._stats.sample(sessions)

    def owners(self, pids: Iterable[int]) -> Mapping[int, str]:
        """The service to whose session each process belongs; those of no service of ours are left out."""
        tree = Tree()
        launched = {found.pid: found for found in self._state.identities() if found.boot_id == self._boot_id}
        found = {}
        for pid in pids:
            mark, process = tree.mark(pid), tree.process(pid)
            if mark is not None:
                if mark.instance_id == self._instance_id:
                    found[pid] = mark.service_id
                continue
            # Its wrapper was killed: the launch that had this session is known by its pid and time.
            launch = launched.get(process.session) if process is not None else None
            leader = tree.process(launch.pid or 0) if launch is not None else None
            if launch is not None and (leader is None or leader.start_ticks == launch.start_ticks):
                found[pid] = launch.service_id
        return found

    def execute(self, spec: ServiceSpec, argv: Sequence[str], timeout_s: float) -> ExecResult:
        """Run a command in its working directory and environment, as its user, in a session of its own.

        Raises:
            StartFailed: the command is not there.
            TimedOut: it did not end; it was killed with all that it started.
        """
        return run_bounded(command_of(spec, self._environment, argv), timeout_s)

    def own_test(self, spec: ServiceSpec) -> tuple[str, ...]:  # noqa: ARG002
        """None: only images have one."""
        return ()

    def close(self) -> None:
        """Nothing is held. Instances go on."""
