"""What an operation's steps say of services: their state, health and instance, each with its event.

The writes belong to the transaction of the step (`workers/journal.py`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from domain.events import EventType, Severity
from domain.observation import Instance, Phase
from domain.planning import WAITS, Action, Step
from domain.states import UP, HealthStatus, ServiceStatus
from models import events
from models.base import now
from models.operation_steps import Standing
from models.operations import Operation
from models.service_states import ServiceState, ServiceStates, states_in


@dataclass(frozen=True)
class Done:
    """What a step left behind: what its runtime showed then, and what its references meant."""

    instance: Instance | None = None
    health: HealthStatus | None = None
    references: Mapping[str, str] | None = None


class ServiceRows:
    """The services of one write of an operation. Use `rows_for`."""

    def __init__(self, session: Session, operation: Operation | Standing, states: ServiceStates) -> None:
        self._session = session
        self._operation = operation
        self.of = states.of

    def set_done(self, step: Step, done: Done) -> None:
        """What a step that has ended left: the instance, and the state that follows from it."""
        if done.instance is not None:
            self._set_instance(step, done.instance, done.health)
        if done.references is not None and (service := self.of(step.target)) is not None:
            service.resolved_references = dict(done.references) or None

    def _set_instance(self, step: Step, instance: Instance, health: HealthStatus | None) -> None:
        self.record_instance(step.target, instance, health)
        # Creating and starting only begin what the wait ends: an old exit seen meanwhile is no news.
        if step.action in WAITS:
            up = instance.alive or health is HealthStatus.HEALTHY  # an external one has no instance
            self.set_status(step.target, ServiceStatus.RUNNING if up else ServiceStatus.STOPPED, step.cause, waiting=[])
        elif step.action is Action.RESTORE and instance.alive:
            back = self.of(step.target)
            if back is not None and ServiceStatus(back.status) not in UP:  # what was never stopped runs as it ran
                self.set_status(step.target, ServiceStatus.STARTING, step.cause, waiting=[])
        elif step.action in (Action.STOP, Action.REMOVE, Action.WITHDRAW, Action.RESTORE):
            self.set_status(step.target, ServiceStatus.STOPPED, step.cause, waiting=[])

    def record_instance(self, service_id: str, instance: Instance, health: HealthStatus | None = None) -> None:
        """What was seen of its instance. `health` None: as it was, and none where it does not run."""
        service = self.of(service_id)
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
            self._set_health(service, health)

    def _set_health(self, service: ServiceState, health: HealthStatus) -> None:
        if health is HealthStatus.HEALTHY:
            service.last_health_check = now()
        service.health_failures = 0
        if service.health_status == health.value:
            return
        data = {"from": service.health_status, "to": health.value, "detail": service.health_detail}
        service.health_status = health.value
        severity = Severity.WARNING if health is HealthStatus.UNHEALTHY else Severity.INFO
        self._tell(service, EventType.SERVICE_HEALTH_CHANGED, data, severity)

    def set_status(
        self, service_id: str, status: ServiceStatus, reason: str, waiting: list[dict[str, Any]] | None = None
    ) -> None:
        """Its state, and what it waits for (None: as it was)."""
        service = self.of(service_id)
        if service is None:
            return
        if waiting is not None:
            service.waiting_for = list(waiting) or None
        if service.status == status.value:
            return
        data = {"from": service.status, "to": status.value, "reason": reason}
        service.status = status.value
        severity = Severity.ERROR if status is ServiceStatus.FAILED else Severity.INFO
        self._tell(service, EventType.SERVICE_STATUS_CHANGED, data, severity)

    def _tell(self, service: ServiceState, type_: EventType, data: dict[str, Any], severity: Severity) -> None:
        events.append(
            self._session,
            type_,
            data,
            severity=severity,
            actor=self._operation.initiated_by,
            service_id=service.id,
            group_name=service.group_name,
            operation_id=self._operation.id,
        )


@contextmanager
def rows_for(session: Session, operation: Operation | Standing) -> Iterator[ServiceRows]:
    """The services of one write; what the block changes of them is written at its end."""
    with states_in(session) as states:
        yield ServiceRows(session, operation, states)
