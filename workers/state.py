"""The state collector: what is, compared with what is recorded; and CLOS's own restarts, with back-off."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, lazyload

from domain.errors import OperationInProgress
from domain.events import EventType, Severity
from domain.observation import Instance, Phase, status_of
from domain.specs import RestartPolicy, RuntimeKind
from domain.states import Desired, HealthStatus, ServiceStatus
from models import events, operations
from models.base import now
from models.operations import OperationLock, service_target
from models.services import Service
from workers.context import Context
from workers.runtimes.host_process import HostProcess

log = structlog.get_logger()
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 60.0
# Having run this long, it starts with a clean sheet.
_FORGIVEN_AFTER_S = 60.0


def collect(context: Context) -> None:
    """Look at every runtime and write down what changed. What an operation holds is left to that operation."""
    with context.record.read() as session:
        services = session.execute(select(Service.id, Service.runtime)).all()
        locked_before = _locked(session)
    began_at = now()
    seen: dict[str, Mapping[str, Instance] | None] = {}
    for kind in sorted({runtime for _id, runtime in services if runtime in context.runtimes}):
        seen[kind] = _look(context, kind)
    with context.record.write() as session:
        locked = locked_before | _locked(session)
        due = _compare(session, seen, locked, began_at)
        created = [_ask(session, service, verb, why) for service, verb, why in due]
        sent = [(operation.id, operation.type) for operation in created if operation is not None]
    for operation_id, type_ in sent:
        context.outbox.operation(operation_id, type_)
    context.feed.wake()
    for runtime in context.runtimes.values():
        if isinstance(runtime, HostProcess):
            runtime.rotate_logs()


def _look(context: Context, kind: str) -> Mapping[str, Instance] | None:
    try:
        return context.observer.look(kind)
    except Exception as refusal:
        # Not seen is a fact too: these services are `unknown` until the runtime can be asked again.
        log.warning("state.not_observed", runtime=kind, error=str(refusal))
        return None


def _locked(session: Session) -> set[str]:
    return set(session.scalars(select(OperationLock.target)))


def _compare(
    session: Session, seen: Mapping[str, Mapping[str, Instance] | None], locked: set[str], began_at: datetime
) -> list[tuple[Service, str, str]]:
    """Write down what was seen. What is to be done of CLOS's own accord: service, verb, why."""
    due: list[tuple[Service, str, str]] = []
    # Without their children: a thousand services are looked at while the write lock is held.
    for service in session.scalars(select(Service).options(lazyload("*"))):
        if service.runtime not in seen or service_target(service.id) in locked:
            continue
        if service.observed_at is not None and service.observed_at > began_at:
            continue  # an operation has looked since
        instances = seen[service.runtime]
        instance = (
            Instance(service.id, Phase.UNKNOWN)
            if instances is None
            else instances.get(service.id) or Instance(service.id)
        )
        died = _note(session, service, instance, began_at)
        if _is_stray(service, instance):
            due.append((service, "stop", "it runs although it was stopped: a worker that had lost its claim began it"))
        elif (why := _due_for_restart(service, instance, died, began_at)) is not None:
            due.append((service, "start", why))
    return due


def _is_stray(service: Service, instance: Instance) -> bool:
    """A process with our mark that nobody wants. (A container may have been started by a person, who meant it.)"""
    unwanted = service.desired == Desired.STOPPED.value and service.runtime == RuntimeKind.PROCESS.value
    return unwanted and instance.alive


def _note(session: Session, service: Service, instance: Instance, at: datetime) -> bool:
    """Write down what was seen of one service. Whether it died since the last look."""
    wanted = service.desired == Desired.RUNNING.value
    was_up = service.status in (ServiceStatus.RUNNING.value, ServiceStatus.UNHEALTHY.value, "starting")
    health = HealthStatus(service.health_status)
    new = status_of(instance, wanted, health)
    if instance.phase is Phase.ABSENT and service.status == ServiceStatus.FAILED.value and wanted:
        new = ServiceStatus.FAILED  # a start that failed left nothing behind: still failed, not stopped
    if instance.phase is Phase.EXITED and service.status == ServiceStatus.STOPPED.value:
        new = ServiceStatus.STOPPED  # the end of an earlier run is no news, also if a start was asked for since
    if instance.phase is Phase.UNKNOWN:
        waiting = [{"kind": "engine", "ref": service.runtime, "text": "its runtime does not answer"}]
        service.waiting_for = waiting if wanted else service.waiting_for
    elif instance.phase is Phase.ABSENT and wanted and was_up:
        text = "waiting for a start: its instance was removed"
        service.waiting_for = [{"kind": "operation", "ref": service.id, "text": text}]
    elif instance.alive or not wanted:
        service.waiting_for = None
    replaced = instance.alive and _ref(service, instance) != (service.container_id or service.pid)
    if instance.phase is not Phase.UNKNOWN:
        _fill(service, instance, at, replaced)
    if service.status != new.value:
        _tell(session, service, new, _reason(instance))
    return was_up and instance.phase is Phase.EXITED


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


def _reason(instance: Instance) -> str:
    if instance.phase is Phase.UNKNOWN:
        return "its runtime does not answer"
    if instance.alive:
        return "it was seen running"
    if instance.phase is Phase.EXITED:
        killed = " (out of memory)" if instance.oom_killed else ""
        return f"it ended with exit code {instance.exit_code}{killed}"
    return "it is gone"


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


def _due_for_restart(service: Service, instance: Instance, died: bool, at: datetime) -> str | None:
    """Why a service that ended by itself is to be started again now; None if it is not."""
    if (
        instance.phase is not Phase.EXITED
        or service.desired != Desired.RUNNING.value
        or service.restart_by != "clos"
        or not _policy_wants(RestartPolicy(service.restart_policy), instance.exit_code)
    ):
        return None
    # One that was restarted and did not come up goes on with its back-off; a start that a person asked for and that
    # failed (no death so far) is for that person to look at.
    if died or (service.crash_count and service.restart_not_before is None):
        wait_s = min(_FIRST_BACK_OFF_S * 2 ** min(service.crash_count, 10), _LONGEST_BACK_OFF_S)
        # The first death of a service that ran well is answered at once.
        service.restart_not_before = at + timedelta(seconds=wait_s if service.crash_count else 0)
        service.crash_count += 1
    if service.restart_not_before is None:
        return None
    if service.restart_not_before > at:
        text = f"restarts after a back-off: death {service.crash_count} in a row"
        service.waiting_for = [{"kind": "slot", "ref": "back-off", "text": text}]
        return None
    return f"it ended with exit code {instance.exit_code}, and its restart policy is {service.restart_policy}"


def _policy_wants(policy: RestartPolicy, exit_code: int | None) -> bool:
    if policy is RestartPolicy.ON_FAILURE:
        return exit_code != 0
    return policy in (RestartPolicy.ALWAYS, RestartPolicy.UNLESS_STOPPED)


def _ask(session: Session, service: Service, verb: str, why: str) -> operations.Operation | None:
    try:
        operation = operations.create(
            session,
            f"service.{verb}",
            targets=[service_target(service.id)],
            service_id=service.id,
            group_name=service.group_name,
            parameters={"services": [service.id], "named": [service.id], "no_deps": True, "reason": why},
            initiated_by="system:restart" if verb == "start" else "system:state",
            sent_at=now(),
        )
    except OperationInProgress:
        return None
    if verb == "start":
        service.restarts += 1
        service.restart_not_before = None
    return operation
