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
    # It ended, but processes that it had started live on.
    leftovers: bool = False
    detail: str | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.phase is Phase.RUNNING


@dataclass(frozen=True, slots=True)
class Listener:
    """One socket that is bound on this host. `pid` and what follows are None where they cannot be seen."""

    host_ip: str
    port: int
    protocol: str
    pid: int | None = None
    name: str | None = None
    command: str | None = None
    user: str | None = None
    start_ticks: int | None = None


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
