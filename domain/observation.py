"""What was seen, when and by whom: facts, without a judgement."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from domain.states import HealthStatus, ServiceStatus


class Phase(StrEnum):
    """What a runtime says of one instance."""

    ABSENT = "absent"
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    # The runtime cannot be asked now (engine down): never guessed.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Instance:
    """One service's instance as its runtime sees it. `ref` is a container's id, or `pid:start_ticks`."""

    service_id: str
    phase: Phase = Phase.ABSENT
    ref: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    spec_hash: str | None = None
    # The engine's own health verdict, where the image or container has one.
    health: HealthStatus = HealthStatus.NONE
    oom_killed: bool = False
    # What a container was made from, under the name that it was given.
    image: str | None = None
    # A container's own in its first network: what runs on the engine's machine reaches it there.
    address: str | None = None
    # It ended, but processes that it had started live on.
    leftovers: bool = False
    # It was stopped or killed from outside; only to be relied on where no operation of ours did so.
    by_hand: bool = False
    detail: str | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.phase is Phase.RUNNING


@dataclass(frozen=True, slots=True)
class Sighting:
    """Who runs a runtime's instances: the engine's id (the boot's, for processes), and its present start.

    `since` is None where it cannot be told, by the engine's own clock. `local`: a restart of this host is one of it.
    """

    id: str | None = None
    since: datetime | None = None
    local: bool = True


@dataclass(frozen=True, slots=True)
class Listener:
    """One socket that is bound on this host. `pid` and what follows are None where they cannot be seen.

    `parents` are its process's ancestors, nearest first, as (pid, name). `service_id` and `container_*` say to what
    of ours, or to which container, the process belongs; `own` that it is this installation's.
    """

    host_ip: str
    port: int
    protocol: str
    pid: int | None = None
    name: str | None = None
    command: str | None = None
    user: str | None = None
    start_ticks: int | None = None
    parents: tuple[tuple[int, str], ...] = ()
    service_id: str | None = None
    container_id: str | None = None
    container_name: str | None = None
    own: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """One port that a container publishes on this host; a stopped one's (`running` false) is a latent claim.

    `service_id` is the service of ours whose container it is (`own`), None for a foreign one.
    """

    host_ip: str
    port: int
    protocol: str
    container_id: str
    container_name: str
    running: bool
    own: bool = False
    service_id: str | None = None


@dataclass(frozen=True, slots=True)
class PortFacts:
    """One look at the host's ports.

    `unseen` are the sources that could not be read (`sockets`, `containers`), each with its reason: what they would
    have shown is unknown, never free. `reserved` are the system's reserved ranges (`ip_local_reserved_ports`),
    `ephemeral` the first and last port that it gives to outgoing connections.
    """

    observed_at: datetime
    listeners: tuple[Listener, ...] = ()
    bindings: tuple[Binding, ...] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)
    reserved: tuple[tuple[int, int], ...] = ()
    ephemeral: tuple[int, int] = (32768, 60999)


@dataclass(frozen=True, slots=True)
class ObservedState:
    """One snapshot of the world. A service without an entry is absent; `unseen` are the runtimes that failed."""

    observed_at: datetime
    instances: Mapping[str, Instance] = field(default_factory=dict)
    health: Mapping[str, HealthStatus] = field(default_factory=dict)
    unseen: Mapping[str, str] = field(default_factory=dict)

    def of(self, service_id: str) -> Instance:
        """The instance of a service; an absent one if none was seen."""
        return self.instances.get(service_id) or Instance(service_id)


def status_of(instance: Instance, desired_running: bool, health: HealthStatus) -> ServiceStatus:
    """What a service's status is, from its instance and its health alone.

    An exit with code 0, or one that was asked for, is `stopped`; any other is `failed`.
    """
    if instance.phase is Phase.UNKNOWN:
        return ServiceStatus.UNKNOWN
    if instance.phase is Phase.RUNNING:
        return ServiceStatus.UNHEALTHY if health is HealthStatus.UNHEALTHY else ServiceStatus.RUNNING
    if instance.phase is Phase.EXITED and desired_running and instance.exit_code != 0:
        return ServiceStatus.FAILED
    return ServiceStatus.STOPPED
