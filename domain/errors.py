"""Errors named for the fact they state.

Each carries the fact as attributes and a stable `code`. They become HTTP statuses in `api/errors.py`
and exit codes in `cli/errors.py`, nowhere else.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class ClosError(Exception):
    """Base of every fact that CLOS states as an error.

    `code` is a stable slug in snake_case, `hint` says what to do, `facts` are JSON values that go out
    beside them.
    """

    code = "internal_error"

    def __init__(self, message: str, *, hint: str | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts: dict[str, Any] = facts

    def as_dict(self) -> dict[str, Any]:
        """The form in which an operation's or a step's `error` keeps it."""
        shown: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.hint:
            shown["hint"] = self.hint
        return shown | self.facts


class IllegalTransition(ClosError):
    """A state was asked to become one that cannot follow it."""

    code = "illegal_transition"

    def __init__(self, kind: str, current: str, new: str) -> None:
        super().__init__(f"{kind} cannot go from {current} to {new}", current=current, new=new)


class ValidationFailed(ClosError):
    """What was asked for is not well formed; `errors` maps a field to its messages."""

    code = "validation_failed"

    def __init__(self, errors: Mapping[str, Any], message: str = "the request is not valid") -> None:
        super().__init__(message)
        self.errors = dict(errors)


class DependencyCycle(ClosError):
    """Services wait for each other in a ring; `cycle` names it, first and last being the same."""

    code = "dependency_cycle"

    def __init__(self, cycle: Sequence[str]) -> None:
        super().__init__("dependency cycle: " + " -> ".join(cycle), cycle=list(cycle))
        self.cycle = list(cycle)


class UnknownDependency(ClosError):
    """A dependency names a service that is not registered."""

    code = "unknown_dependency"

    def __init__(self, service: str, dependency: str) -> None:
        super().__init__(
            f"{service} depends on {dependency}, which is not registered",
            hint="register it first, or in the same request",
            service=service,
            dependency=dependency,
        )


class NotFound(ClosError):
    """Base of `<noun>_not_found`."""

    noun = "resource"

    def __init__(self, ref: str) -> None:
        super().__init__(f"there is no {self.noun.replace('_', ' ')} {ref!r}", ref=ref)
        self.code = f"{self.noun}_not_found"


class ServiceNotFound(NotFound):
    """No such service."""

    noun = "service"


class GroupNotFound(NotFound):
    """No such group."""

    noun = "group"


class OperationNotFound(NotFound):
    """No such operation."""

    noun = "operation"


class OrphanNotFound(NotFound):
    """No such orphan."""

    noun = "orphan"


class OrphanNotAdoptable(ClosError):
    """No definition can be made of it that would make the same again; `reasons` name what is in the way."""

    code = "orphan_not_adoptable"

    def __init__(self, ref: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"{ref[:20]} cannot be adopted: {'; '.join(reasons)}",
            hint="define a service by hand, and remove this with `clos orphans remove`",
            reasons=list(reasons),
        )


class NotAnOrphan(ClosError):
    """It belongs to a registered service by now, and is left as it is."""

    code = "not_an_orphan"


class LeaseNotFound(NotFound):
    """No such lease."""

    noun = "lease"


class PortRangeNotFound(NotFound):
    """No such port range."""

    noun = "port_range"


class ServiceExists(ClosError):
    """A service of that name is registered in that group."""

    code = "service_exists"


class GroupExists(ClosError):
    """A group of that name is registered."""

    code = "group_exists"


class ServiceRunning(ClosError):
    """It cannot be deleted while it runs."""

    code = "service_running"


class OperationInProgress(ClosError):
    """Another operation holds a target of this one."""

    code = "operation_in_progress"

    def __init__(self, target: str, operation_id: str) -> None:
        super().__init__(
            f"{target} is held by operation {operation_id}",
            hint="wait for it, or cancel it",
            operation_id=operation_id,
            target=target,
        )
        self.operation_id = operation_id


class QueueFull(ClosError):
    """Too many operations wait for one."""

    code = "queue_full"

    def __init__(self, operation_id: str, waiting: int) -> None:
        super().__init__(
            f"{waiting} operations wait for operation {operation_id} already",
            hint="wait for some of them to end, or cancel them",
            operation_id=operation_id,
        )


class OperationFinal(ClosError):
    """The operation has ended; it cannot be changed any more."""

    code = "operation_final"


class StaleVersion(ClosError):
    """`If-Match` names a version that is no longer the current one."""

    code = "stale_version"


class ClaimLost(ClosError):
    """Another worker has claimed this operation since; stop without writing."""

    code = "claim_lost"


class DatabaseBusy(ClosError):
    """The database's write lock was not to be had in time."""

    code = "database_busy"


# What a step can end with. These stand in an operation's `error`.


class PortHeld(ClosError):
    """A port that is needed is held by somebody; `holder` says by whom (interface.md, Holder)."""

    code = "port_held"

    def __init__(
        self, port: int, protocol: str = "tcp", host_ip: str = "", holder: Mapping[str, Any] | None = None
    ) -> None:
        name = describe_holder(holder)
        super().__init__(
            f"port {port}/{protocol} is held by {name}",
            hint=f"stop {name}, or give the service another port",
            port=port,
            protocol=protocol,
            host_ip=host_ip,
            holder=dict(holder) if holder else None,
        )
        self.port = port
        self.protocol = protocol
        self.host_ip = host_ip
        self.holder = holder


def describe_holder(holder: Mapping[str, Any] | None) -> str:
    """Name a holder for a sentence: `postgres (pid 812)`."""
    if not holder:
        return "an unknown holder"
    name = holder.get("name") or holder.get("command") or holder.get("kind") or "an unknown holder"
    pid = holder.get("pid")
    return f"{name} (pid {pid})" if pid else str(name)


class RangeFull(ClosError):
    """Every port of a project's ranges is taken; `holders` says by whom. `service` is the one that wanted another,
    `crowded` are the ids of the ranges that admit no further service."""

    code = "port_held"
    service: str | None = None
    crowded: tuple[int, ...] = ()


class ImageMissing(ClosError):
    """The image is neither present nor to be had."""

    code = "image_missing"


class ImagePullFailed(ClosError):
    """The registry refused or broke the pull."""

    code = "image_pull_failed"


class EngineUnreachable(ClosError):
    """Docker's engine does not answer."""

    code = "engine_unreachable"


class EngineUnsupported(EngineUnreachable):
    """Docker's engine answers, but no version of its API is one that CLOS speaks."""

    code = "engine_unsupported"


class AddressPoolExhausted(ClosError):
    """The engine has no subnet left for another network."""

    code = "address_pool_exhausted"


class StartFailed(ClosError):
    """The instance could not be started, or ended at once."""

    code = "start_failed"


class NotOurs(ClosError):
    """Something of that name exists and belongs to somebody else; it is not touched."""

    code = "start_failed"


class Unhealthy(ClosError):
    """Its health check failed after its start period and retries."""

    code = "unhealthy"


class DependencyFailed(ClosError):
    """It was not attempted, because something it needs failed."""

    code = "dependency_failed"


class TimedOut(ClosError):
    """It did not end within its limit."""

    code = "timeout"


class PermissionRefused(ClosError):
    """The operating system or the engine forbids it."""

    code = "permission_denied"


class UnknownOperation(ClosError):
    """An operation of a type that this version does not know."""

    code = "unknown_operation"


class Poison(ClosError):
    """Three workers in a row fell silent over it."""

    code = "poison"


class Cancelled(ClosError):
    """Somebody asked for it to end."""

    code = "cancelled"


class Stopping(ClosError):
    """This worker is asked to stop; the work goes back and another worker continues it."""

    code = "stopping"


class CutOff(ClosError):
    """A step had begun before, is not done again, and nobody knows how far it came: who did it was cut off."""

    code = "cut_off"


class UnreachableReference(ValidationFailed):
    """A reference to something that its consumer cannot reach from where it runs; `errors` names its field."""

    code = "unreachable_reference"

    def __init__(self, errors: Mapping[str, Any], message: str, *, hint: str | None = None, **facts: Any) -> None:
        super().__init__(errors, message)
        self.hint = hint
        self.facts = facts


class UnresolvedConflict(ClosError):
    """A conflict stands in the way, and nobody who may decide has; `conflict_id` says which."""

    code = "unresolved_conflict"


class TerminationRefused(ClosError):
    """A process that is not ended, whoever asks; `reason` says why."""

    code = "termination_refused"

    def __init__(self, pid: int, reason: str, *, hint: str | None = None, **facts: Any) -> None:
        super().__init__(f"process {pid} is not ended: {reason}", hint=hint, pid=pid, reason=reason, **facts)
        self.pid = pid
        self.reason = reason


class HolderChanged(ClosError):
    """The process that was to be ended has ended, or its pid is another's by now; nobody was signalled."""

    code = "holder_changed"


class VolumeInUse(ClosError):
    """A volume cannot be removed: containers that are not its clone's have it."""

    code = "volume_in_use"

    def __init__(self, name: str, containers: Sequence[str], why: str = "") -> None:
        holders = ", ".join(containers) or why
        super().__init__(
            f"the volume {name} is in use by {holders}",
            hint="remove these containers, then try again",
            volume=name,
            containers=list(containers),
        )
