"""The state collector: what is, compared with what is recorded. What follows from it is `workers/repair.py`'s."""

import contextlib
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, lazyload

from domain.errors import ClosError
from domain.events import EventType, Severity
from domain.observation import Instance, Phase, Sighting, status_of
from domain.reconciling import Cause, World, cause_of
from domain.specs import RuntimeKind
from domain.states import Desired, HealthStatus, ServiceStatus
from models import events, sightings
from models.base import now
from models.operations import OperationLock, service_target
from models.services import Service
from workers import orphans, repair
from workers.context import Context
from workers.repair import Seen
from workers.runtimes.host_process import HostProcess

log = structlog.get_logger()
# Having run this long, it starts with a clean sheet.
_FORGIVEN_AFTER_S = 60.0
_ELSEWHERE_EVERY_S = 15.0

Look = tuple[Mapping[str, Instance], Sighting]


def note_boot(context: Context) -> None:
    """At a worker's start: what ran under an earlier boot is told from what this worker starts."""
    boot_id = context.runtimes[RuntimeKind.PROCESS.value].sighting().id
    with context.record.write() as session:
        sightings.note_boot(session, boot_id, now())


def collect(context: Context) -> None:
    """Look at every runtime, write down what changed, and bring back what is to be brought back. What an operation
    holds is left to that operation."""
    with context.record.read() as session:
        services = session.execute(select(Service.id, Service.runtime)).all()
        locked_before = _locked(session)
        known = orphans.known(session)
    began_at = now()
    kinds = {runtime for _id, runtime in services if runtime in context.runtimes}
    seen = {kind: _look(context, kind) for kind in sorted(kinds)}
    marked = {kind: look[0] for kind, look in seen.items() if look} | _marked_elsewhere(
        context, kinds, set(known.values())
    )
    strangers = orphans.find(context, marked, {row.id for row in services})
    described = orphans.describe(context, strangers, known)
    boot_id = context.runtimes[RuntimeKind.PROCESS.value].sighting().id
    policy = repair.default_policy(context)
    with context.record.write() as session:
        locked = locked_before | _locked(session)
        host_since = sightings.note_boot(session, boot_id, began_at)
        worlds = {
            kind: sightings.note_engine(session, kind, look[1] if look else None, host_since, began_at)
            for kind, look in seen.items()
        }
        orphans.note(session, marked, strangers, described, locked)
        found = _compare(session, seen, worlds, locked, began_at)
        created = repair.follow_up(session, found, policy, began_at)
        sent = [(operation.id, operation.type) for operation in created]
    for operation_id, type_ in sent:
        context.outbox.operation(operation_id, type_)
    context.feed.wake()
    for runtime in context.runtimes.values():
        if isinstance(runtime, HostProcess):
            runtime.rotate_logs()


def _look(context: Context, kind: str) -> Look | None:
    try:
        instances = context.observer.look(kind)
        # Asked after the look: an engine that is going down still answers old connections, with all it has killed.
        return instances, context.runtimes[kind].sighting()
    except Exception as refusal:
        # Not seen is a fact too: these services are `unknown` until the runtime can be asked again.
        log.warning("state.not_observed", runtime=kind, error=str(refusal))
        return None


def _marked_elsewhere(
    context: Context, kinds: Collection[str], of_orphans: Collection[str]
) -> dict[str, Mapping[str, Instance]]:
    """Where no service is registered something may run all the same: looked at seldom, and in silence."""
    found: dict[str, Mapping[str, Instance]] = {}
    for kind in sorted(set(context.runtimes) - set(kinds)):
        if kind not in of_orphans and context.observer.looked_within(kind, _ELSEWHERE_EVERY_S):
            continue
        with contextlib.suppress(ClosError):
            found[kind] = context.observer.look(kind)
    return found


def _locked(session: Session) -> set[str]:
    return set(session.scalars(select(OperationLock.target)))


def _compare(
    session: Session,
    seen: Mapping[str, Look | None],
    worlds: Mapping[str, World],
    locked: set[str],
    began_at: datetime,
) -> list[Seen]:
    """Write down what was seen. Those that somebody has to look after."""
    found: list[Seen] = []
    # Without their children: a thousand services are looked at while the write lock is held.
    for service in session.scalars(select(Service).options(lazyload("*"))):
        if service.runtime not in seen or service_target(service.id) in locked:
            continue
        if service.observed_at is not None and service.observed_at > began_at:
            continue  # an operation has looked since
        look = seen[service.runtime]
        instance = (
            Instance(service.id, Phase.UNKNOWN) if look is None else look[0].get(service.id) or Instance(service.id)
        )
        one = _note(session, service, instance, worlds[service.runtime], began_at)
        if one.down or one.stray:
            found.append(one)
    return found


def _note(session: Session, service: Service, instance: Instance, world: World, at: datetime) -> Seen:
    """Write down what was seen of one service."""
    wanted = service.desired == Desired.RUNNING.value
    failed_before = service.status == ServiceStatus.FAILED.value
    known = instance.phase is not Phase.UNKNOWN
    # A process with our mark that nobody wants. (A container may have been started by a person, who meant it.)
    stray = not wanted and instance.alive and service.runtime == RuntimeKind.PROCESS.value
    fresh = wanted and known and not instance.alive and _was_up(service)
    if fresh:
        _judge(service, instance, world, at)
    elif instance.alive or not wanted:
        service.down_cause = service.down_since = None
    new = _status(service, instance, wanted, fresh)
    if not known:
        waiting = [{"kind": "engine", "ref": service.runtime, "text": "its runtime does not answer"}]
        service.waiting_for = waiting if wanted else service.waiting_for
    elif instance.alive or not wanted:
        service.waiting_for = None
    replaced = instance.alive and _ref(service, instance) != (service.container_id or service.pid)
    if known:
        _fill(service, instance, at, replaced)
    if service.status != new.value:
        _tell(session, service, new, _reason(service, instance))
    down = wanted and known and not instance.alive and service.down_cause is not None
    return Seen(service, instance, fresh, failed_before and not fresh, down, stray)


def _was_up(service: Service) -> bool:
    """Whether it ran when it was last seen, however long ago that is."""
    return service.started_at is not None and service.stopped_at is None


def _judge(service: Service, instance: Instance, world: World, at: datetime) -> None:
    cause = cause_of(RuntimeKind(service.runtime), instance, service.started_at or at, world)
    service.down_since = instance.ended_at or at
    # One that has done its work and is not to be restarted is down for no cause.
    finished = cause is Cause.CRASH and instance.exit_code == 0 and service.restart_policy in ("no", "on-failure")
    service.down_cause = None if finished else cause.value


def _status(service: Service, instance: Instance, wanted: bool, fresh: bool) -> ServiceStatus:
    new = status_of(instance, wanted, HealthStatus(service.health_status))
    if instance.phase is Phase.ABSENT and service.status == ServiceStatus.FAILED.value and wanted:
        return ServiceStatus.FAILED  # a start that failed left nothing behind: still failed, not stopped
    if instance.phase is not Phase.EXITED:
        return new
    if fresh:
        # What was stopped from outside did not fail, whatever it ended with.
        return new if service.down_cause in (None, Cause.CRASH.value) else ServiceStatus.STOPPED
    if service.status == ServiceStatus.STOPPED.value:
        return ServiceStatus.STOPPED  # the end of an earlier run is no news, also if a start was asked for since
    if service.status == ServiceStatus.UNKNOWN.value and service.down_cause not in (None, Cause.CRASH.value):
        return ServiceStatus.STOPPED
    return new


def _ref(service: Service, instance: Instance) -> str | int | None:
    return instance.ref if service.runtime == RuntimeKind.DOCKER.value else instance.pid


def _fill(service: Service, instance: Instance, at: datetime, replaced: bool) -> None:
    """Only what differs is assigned, so that an unchanged service costs no write."""
    values: dict[str, Any] = {
        "container_id": instance.ref if service.runtime == RuntimeKind.DOCKER.value else None,
        "pid": instance.pid if instance.alive else None,
        "exit_code": None if instance.alive else instance.exit_code,
        "observed_hash": instance.spec_hash,
    }
    if instance.alive:
        values["started_at"] = instance.started_at or service.started_at
        values["stopped_at"] = None
        if replaced and service.health_check() is not None:
            values["health_status"] = HealthStatus.STARTING.value
        if instance.started_at and (at - instance.started_at).total_seconds() > _FORGIVEN_AFTER_S:
            values["crash_count"] = 0
    else:
        values["stopped_at"] = service.stopped_at or instance.ended_at or (at if service.started_at else None)
        values["health_status"] = HealthStatus.NONE.value
    changed = {key: value for key, value in values.items() if getattr(service, key) != value}
    for key, value in changed.items():
        setattr(service, key, value)
    if changed:
        service.observed_at = at


_WHY = {
    Cause.PERSON.value: "it was stopped from outside",
    Cause.ENGINE.value: "its engine was restarted",
    Cause.HOST.value: "this host was restarted",
}


def _reason(service: Service, instance: Instance) -> str:
    if instance.phase is Phase.UNKNOWN:
        return "its runtime does not answer"
    if instance.alive:
        return "it was seen running"
    why = _WHY.get(service.down_cause or "")
    if instance.phase is Phase.EXITED:
        killed = " (out of memory)" if instance.oom_killed else ""
        ended = f"it ended with exit code {instance.exit_code}{killed}"
        return f"{why}: {ended}" if why else ended
    return f"{why}: it is gone" if why and service.down_cause != Cause.PERSON.value else "it is gone"


def _tell(session: Session, service: Service, status: ServiceStatus, reason: str) -> None:
    data = {"from": service.status, "to": status.value, "reason": reason}
    service.status = status.value
    events.append(
        session,
        EventType.SERVICE_STATUS_CHANGED,
        data,
        severity=Severity.ERROR if status is ServiceStatus.FAILED else Severity.INFO,
        actor="system:state",
        service_id=service.id,
        group_name=service.group_name,
    )
