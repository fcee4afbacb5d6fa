"""What every runtime can do. One contract suite (`tests/contract`) runs against all of them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from domain.observation import Instance, Sighting
from domain.specs import ServiceSpec

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of output. `stream` is `stdout` or `stderr`; `at` is None where the time is not known."""

    text: str
    at: datetime | None = None
    stream: str = "stdout"


@dataclass(frozen=True, slots=True)
class Stats:
    """Resources of one instance at one moment: CPU in percent of one core, memory in MB, the rest in bytes."""

    cpu_usage: float
    memory_usage: float
    network_rx: int = 0
    network_tx: int = 0
    disk_read: int = 0
    disk_write: int = 0


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command inside an instance ended with. `output` is at most 4 KiB."""

    exit_code: int
    output: str


class Runtime(Protocol):
    """Runs instances of services. Every call is idempotent and bounded in time; none retries by itself.

    Errors are `domain.errors` only: EngineUnreachable, ImageMissing, ImagePullFailed, PortHeld, StartFailed,
    NotOurs, AddressPoolExhausted, PermissionRefused, TimedOut.
    """

    kind: str

    def observe(self) -> Mapping[str, Instance]:
        """Every instance of this CLOS, running or not, by service id, in one look.

        Raises EngineUnreachable if it cannot look.
        """
        ...

    def sighting(self) -> Sighting:
        """Who runs the instances, and since when, asked afresh.

        Raises EngineUnreachable if it does not answer, or is about to end.
        """
        ...

    def beside(self) -> Sequence[Instance]:
        """What the last `observe` found beside the instances that count: second ones of a service."""
        ...

    def describe(self, ref: str) -> Mapping[str, Any]:
        """The fields of a service that would make this instance, as far as they can be read.

        With `unread` (what they do not say), and for containers `container_name` and `group`. Empty if it is gone.
        """
        ...

    def discard(self, ref: str, timeout_s: float) -> None:
        """Stop and take away one instance that carries our mark, whatever service that names. One that is gone is
        success. Raises NotOurs if it does not carry our mark."""
        ...

    def prepare(self, spec: ServiceSpec, progress: Progress) -> None:
        """Have the image: present, or pulled, or built. Nothing to do for other runtimes."""
        ...

    def prepared(self, spec: ServiceSpec) -> bool:
        """Whether `prepare` has nothing to do."""
        ...

    def create(self, spec: ServiceSpec) -> Instance:
        """Make the instance without running it, and the network it needs. Adopts what is there with the same
        spec hash, replaces what is there with another one and does not run. A process runtime does nothing."""
        ...

    def start(self, spec: ServiceSpec, keep: bool = False) -> Instance:
        """Run it. One that runs already is adopted. Leaves nothing behind when it fails.

        `keep`: an instance of another hash that does not run stays beside it, for `restore`.
        """
        ...

    def stop(self, spec: ServiceSpec, timeout_s: float) -> Instance:
        """TERM, then KILL after `timeout_s`, to all of it. One that does not run is success."""
        ...

    def remove(self, spec: ServiceSpec, volumes: bool = False) -> None:
        """Take away what is left of a stopped instance, and the group's network with the last one; with `volumes`, also
        the nameless volumes that were made for it."""
        ...

    def remove_volume(self, name: str, mark: str) -> None:
        """Take away a volume that carries that mark (`domain/clone_storage.py`). One that does not is left as it is.

        Raises VolumeInUse if somebody else's container has it.
        """
        ...

    # A changed spec takes the place of what is there in four calls: `replace`, `stop`, `start(keep=True)`, `settle`;
    # or `restore` at any moment before the last one. Of two instances the running one counts, then the newer.

    def replace(self, spec: ServiceSpec) -> Instance:
        """Make the instance of a changed spec beside the one that is there, which is left as it is, running or not.

        One with this hash that is there already is it. A process runtime makes nothing yet: it checks that the command
        can be run, and keeps what the present instance was launched with. The instance that is returned is the new
        one, or, where nothing is made, the present one.
        """
        ...

    def restore(self, spec: ServiceSpec, ref: str | None, run: bool) -> Instance:
        """Go back to the instance `ref` as it was: its image, name, ports and networks, and running if `run`. A
        process is launched anew as `ref` was launched. `ref` None: there was none.

        Whatever else is there of the service is stopped and taken away. `spec` is the new spec: its stop timeout
        counts. What of the restoration is done already gives nothing to do.

        Raises:
            StartFailed: what was there before is gone. Then nothing was taken away.
        """
        ...

    def settle(self, spec: ServiceSpec) -> None:
        """The instance of this spec stands: what was kept of an earlier one goes, and a container gets its name.

        Where there is no instance of this spec, nothing is taken away.
        """
        ...

    def as_made(self, spec: ServiceSpec) -> ServiceSpec:
        """The spec with the ports that the instance which counts was made with: where a probe has to look after a
        `restore`. The spec itself where that is not known."""
        ...

    def logs(self, service_id: str, tail: int, since: datetime | None = None) -> list[LogLine]:
        """The last `tail` lines (at most 5000, 1 MiB), oldest first."""
        ...

    def keep_logs(self, registered: Callable[[], Collection[str]]) -> None:
        """Keep the lines of instances that ended, and delete those of services that are not registered any more and
        have no instance. `registered` gives the ids of those that are; it is asked after the lines are listed.

        Raises EngineUnreachable if it cannot look.
        """
        ...

    def follow(self, service_id: str, stop: Callable[[], bool]) -> Iterator[LogLine | None]:
        """New lines as they come, until `stop()`; yields None at least every second while there are none."""
        ...

    def stats(self, service_ids: Sequence[str]) -> Mapping[str, Stats]:
        """Resources of those that run; one that cannot be read is left out."""
        ...

    def execute(self, spec: ServiceSpec, argv: Sequence[str], timeout_s: float) -> ExecResult:
        """Run a command beside the service: in its container, or in its working directory and environment."""
        ...

    def own_test(self, spec: ServiceSpec) -> tuple[str, ...]:
        """The argument list of the instance's own health test (`HEALTHCHECK`), empty if it has none."""
        ...

    def close(self) -> None:
        """Let go of connections. Instances go on."""
        ...
