"""The states of operations, steps and services, and which may follow which."""

from enum import StrEnum
from typing import TypeVar

from domain.errors import IllegalTransition


class OperationStatus(StrEnum):
    """Where an operation stands."""

    PENDING = "pending"
    WAITING = "waiting"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    """Where one step of an operation stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNDONE = "undone"


class ServiceStatus(StrEnum):
    """What a service was last seen to be."""

    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    STARTING = "starting"
    STOPPING = "stopping"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class HealthStatus(StrEnum):
    """What a service's health check last said."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    STARTING = "starting"
    NONE = "none"


class Desired(StrEnum):
    """What a service is wanted to be."""

    RUNNING = "running"
    STOPPED = "stopped"


class GroupStatus(StrEnum):
    """What a group is, derived from its services."""

    RUNNING = "running"
    STOPPED = "stopped"
    PARTIAL = "partial"
    STARTING = "starting"
    STOPPING = "stopping"
    FAILED = "failed"
    UNKNOWN = "unknown"


_O = OperationStatus
_S = StepStatus

FINAL = frozenset({_O.COMPLETED, _O.FAILED, _O.CANCELLED})
ACTIVE = frozenset(OperationStatus) - FINAL
CLAIMED = frozenset({_O.IN_PROGRESS, _O.CANCELLING})
STEP_FINAL = frozenset({_S.COMPLETED, _S.FAILED, _S.SKIPPED, _S.UNDONE})
UP = frozenset({ServiceStatus.RUNNING, ServiceStatus.UNHEALTHY, ServiceStatus.STARTING})

OPERATION_TRANSITIONS: dict[OperationStatus, frozenset[OperationStatus]] = {
    _O.PENDING: frozenset({_O.IN_PROGRESS, _O.WAITING, _O.CANCELLED, _O.FAILED}),
    _O.WAITING: frozenset({_O.PENDING, _O.IN_PROGRESS, _O.CANCELLED, _O.FAILED}),
    # Back to pending is a graceful hand-back, or a retry with a not_before.
    _O.IN_PROGRESS: frozenset({_O.PENDING, _O.WAITING, _O.CANCELLING, _O.COMPLETED, _O.FAILED, _O.CANCELLED}),
    _O.CANCELLING: frozenset({_O.PENDING, _O.CANCELLED, _O.COMPLETED, _O.FAILED}),
    _O.COMPLETED: frozenset(),
    _O.FAILED: frozenset(),
    _O.CANCELLED: frozenset(),
}
STEP_TRANSITIONS: dict[StepStatus, frozenset[StepStatus]] = {
    _S.PENDING: frozenset({_S.RUNNING, _S.SKIPPED}),
    # Back to pending happens when another worker continues what a dead one had begun.
    _S.RUNNING: frozenset({_S.PENDING, _S.COMPLETED, _S.FAILED, _S.SKIPPED}),
    _S.COMPLETED: frozenset({_S.UNDONE, _S.FAILED}),
    _S.FAILED: frozenset({_S.UNDONE}),
    _S.SKIPPED: frozenset(),
    _S.UNDONE: frozenset(),
}

# Types of operations that only look: they change no service, so they have a queue of their own and take no slot.
LOOKS = ("port.", "conflict.scan")

State = TypeVar("State", OperationStatus, StepStatus)


def advance(current: State, new: State) -> State:
    """Return `new` if it may follow `current`.

    Raises:
        IllegalTransition: it may not.
    """
    if isinstance(current, OperationStatus):
        allowed = new in OPERATION_TRANSITIONS[current]
    else:
        allowed = new in STEP_TRANSITIONS[current]
    if not allowed:
        raise IllegalTransition(type(current).__name__, current.value, new.value)
    return new


def group_status(statuses: list[ServiceStatus]) -> GroupStatus:
    """Derive a group's status from its services', worst news first."""
    seen = set(statuses)
    if not seen or seen == {ServiceStatus.STOPPED}:
        return GroupStatus.STOPPED
    if ServiceStatus.STARTING in seen:
        return GroupStatus.STARTING
    if ServiceStatus.STOPPING in seen:
        return GroupStatus.STOPPING
    if seen == {ServiceStatus.RUNNING}:
        return GroupStatus.RUNNING
    if seen == {ServiceStatus.UNKNOWN}:
        return GroupStatus.UNKNOWN
    if seen & {ServiceStatus.RUNNING, ServiceStatus.UNHEALTHY}:
        return GroupStatus.PARTIAL
    return GroupStatus.FAILED if ServiceStatus.FAILED in seen else GroupStatus.UNKNOWN
