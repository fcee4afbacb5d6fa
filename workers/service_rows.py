"""What an operation's steps say of services: their state, health and instance, each with its event.

The writes belong to the transaction of the step (`workers/journal.py`).
"""

from typing import Any

from sqlalchemy.orm import Session, lazyload

from domain.events import EventType, Severity
from domain.observation import Instance, Phase
from domain.planning import WAITS, Action, Step
from domain.states import UP, HealthStatus, ServiceStatus
from models import events
from models.base import now
from models.operation_steps import Standing
from models.operations import Operation
from models.services import Service


def row_of(session: Session, service_id: str) -> Service | None:
    """A service's row alone: its children are not needed to say how it is."""
    return session.get(Service, service_id, options=[lazyload("*")])


def set_instance(
    session: Session, operation: Operation | Standing, step: Step, instance: Instance, health: HealthStatus | None
) -> None:
    """What a step that has ended left: the instance, and the state that follows from it."""
    record_instance(session, operation, step.target, instance, health)
    # Creating and starting only begin what the wait ends: an old exit seen meanwhile is no news.
    if step.action in WAITS:
        up = instance.alive or health is HealthStatus.HEALTHY  # an external one has no instance
        status = ServiceStatus.RUNNING if up else ServiceStatus.STOPPED
        set_status(session, operation, step.target, status, step.cause, waiting=[])
    elif step.action is Action.RESTORE and instance.alive:
        back = row_of(session, step.target)
        if back is not None and ServiceStatus(back.status) not in UP:  # one that was never stopped runs as it ran
            set_status(session, operation, step.target, ServiceStatus.STARTING, step.cause, waiting=[])
    elif step.action in (Action.STOP, Action.REMOVE, Action.WITHDRAW, Action.RESTORE):
        set_status(session, operation, step.target, ServiceStatus.STOPPED, step.cause, waiting=[])


def record_instance(
    session: Session,
    operation: Operation | Standing,
    service_id: str,
    instance: Instance,
    health: HealthStatus | None = None,
) -> None:
    """What was seen of its instance. `health` None: as it was, and none where it does not run."""
    service = row_of(session, service_id)
    if service is None:
        return
    service.container_id = instance.ref if service.runtime == "docker" else None
    service.pid = instance.pid if instance.alive else None
    service.exit_code = None if instance.alive else instance.exit_code
    service.observed_hash = instance.spec_hash
    service.observed_at = now()
    if instance.alive:
        service.started_at = instance.started_at or service.started_at or now()
        service.stopped_at = service.down_cause = service.down_since = None
    elif instance.phase in (Phase.EXITED, Phase.ABSENT):
        service.stopped_at = instance.ended_at or now()
    if health is None and not instance.alive:
        health = HealthStatus.NONE
    if health is not None:
        _set_health(session, operation, service, health)


def _set_health(session: Session, operation: Operation | Standing, service: Service, health: HealthStatus) -> None:
    if health is HealthStatus.HEALTHY:
        service.last_health_check = now()
    service.health_failures = 0
    if service.health_status == health.value:
        return
    data = {"from": service.health_status, "to": health.value, "detail": service.health_detail}
    service.health_status = health.value
    events.append(
        session,
        EventType.SERVICE_HEALTH_CHANGED,
        data,
        severity=Severity.WARNING if health is HealthStatus.UNHEALTHY else Severity.INFO,
        actor=operation.initiated_by,
        service_id=service.id,
        group_name=service.group_name,
        operation_id=operation.id,
    )


def set_status(
    session: Session,
    operation: Operation | Standing,
    service_id: str,
    status: ServiceStatus,
    reason: str,
    waiting: list[dict[str, Any]] | None = None,
) -> None:
    """Its state, and what it waits for (None: as it was)."""
    service = row_of(session, service_id)
    if service is None:
        return
    if waiting is not None:
        service.waiting_for = list(waiting) or None
    if service.status == status.value:
        return
    data = {"from": service.status, "to": status.value, "reason": reason}
    service.status = status.value
    events.append(
        session,
        EventType.SERVICE_STATUS_CHANGED,
        data,
        severity=Severity.ERROR if status is ServiceStatus.FAILED else Severity.INFO,
        actor=operation.initiated_by,
        service_id=service.id,
        group_name=service.group_name,
        operation_id=operation.id,
    )
