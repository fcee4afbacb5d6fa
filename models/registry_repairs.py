"""What CLOS brings back of its own accord: which services together, what they take along, and who has to wait."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, lazyload

from domain.errors import OperationInProgress
from domain.reconciling import Need, Repairs, repairs
from domain.specs import Condition, RuntimeKind
from domain.states import UP, Desired, OperationStatus, ServiceStatus
from models import groups, operations, registry_reach
from models.base import now
from models.groups import Group
from models.operations import Operation, service_target
from models.services import Service, ServiceDependency

INITIATED_BY = "system:reconcile"
TYPE = "batch.start"
_UP = {status.value for status in UP}
_CANCELS_READ = 50


@dataclass(frozen=True, slots=True)
class Registry:
    """The services that a repair may touch, by id, and who needs whom."""

    services: Mapping[str, Service]
    needs: Sequence[Need]
    conditions: Mapping[tuple[str, str], str]


def sort(session: Session, due: Collection[str]) -> tuple[Repairs, Registry]:
    """Sort what is due into what is brought back together and what has to wait."""
    known = _around(session, due)
    held = {each for each in known.services if each not in due and _holds_up(each, known)}
    return repairs(due, known.needs, held), known


def _around(session: Session, due: Collection[str]) -> Registry:
    names = {row.group_name for row in session.execute(select(Service.group_name).where(Service.id.in_(due)))}
    by_group = {name: {each.name for each in groups.with_dependencies(session, [name])} - {name} for name in names}
    ids = registry_reach.needed(session, due)
    services = {
        service.id: service
        for service in session.scalars(select(Service).where(Service.id.in_(ids)).options(lazyload("*")))
    }
    rows = session.scalars(select(ServiceDependency).where(ServiceDependency.service_id.in_(ids))).all()
    needs = [Need(row.service_id, row.depends_on, row.required) for row in rows if row.depends_on in services]
    # What a group needs comes along where it is wanted; what somebody stopped there holds nobody up.
    needs += [
        Need(each, other.id, required=False)
        for each in sorted(due)
        for other in services.values()
        if other.group_name in by_group.get(services[each].group_name, ()) and other.desired == Desired.RUNNING.value
    ]
    return Registry(services, needs, {(row.service_id, row.depends_on): row.condition for row in rows})


def _holds_up(service_id: str, known: Registry) -> bool:
    """Whether a service is down and no repair is to start it."""
    service = known.services[service_id]
    if service.runtime == RuntimeKind.EXTERNAL.value or service.status in _UP:
        return False
    if service.status == ServiceStatus.UNKNOWN.value:
        return True
    asked = {condition for (_each, on), condition in known.conditions.items() if on == service_id}
    if asked == {Condition.COMPLETED.value} and service.exit_code == 0:
        return False
    return service.desired != Desired.RUNNING.value or service.down_cause is not None


def why_held_up(holder: Service) -> str:
    """What is told of a service on which another one's repair waits."""
    if holder.status == ServiceStatus.UNKNOWN.value:
        return f"waiting for {holder.id}: it cannot be seen now"
    if holder.desired != Desired.RUNNING.value:
        return f"waiting for {holder.id}, which is stopped: `clos start {holder.id}`"
    return f"waiting for {holder.id}, which is down"


def ask(session: Session, named: Collection[str], services: Collection[str], why: str) -> Operation | None:
    """Write one operation that brings `named` back, with what they need. None while another one holds a target."""
    # Who lives in the container of one that went down runs on without a network, and is restarted after it.
    along = {*services, *registry_reach.running(session, registry_reach.residents(session, services))}
    rows = session.execute(select(Service.id, Service.runtime, Service.group_name).where(Service.id.in_(along)))
    taken = {row.id: row for row in rows}
    locks = [service_target(each) for each in sorted(taken) if taken[each].runtime != RuntimeKind.EXTERNAL.value]
    parameters: dict[str, Any] = {
        "targets": locks,
        "services": sorted(taken),
        "named": sorted(named),
        "groups": sorted({taken[each].group_name for each in named}),
        "reason": why,
    }
    try:
        return operations.create(
            session, TYPE, targets=locks, parameters=parameters, initiated_by=INITIATED_BY, sent_at=now()
        )
    except OperationInProgress:
        return None


def cancelled_since(session: Session, service_id: str, since: datetime) -> bool:
    """Whether somebody cancelled this service's repair since then: they want it left as it is."""
    recent = session.scalars(
        select(Operation)
        .where(
            Operation.type == TYPE,
            Operation.initiated_by == INITIATED_BY,
            Operation.status == OperationStatus.CANCELLED.value,
            Operation.created_at >= since,
        )
        .order_by(Operation.id.desc())
        .options(lazyload("*"))
        .limit(_CANCELS_READ)
    )
    return any(service_id in (operation.parameters or {}).get("named", ()) for operation in recent)


def group_policies(session: Session) -> dict[str, dict[str, Any]]:
    """The policies that groups have of their own."""
    rows = session.execute(select(Group.name, Group.reconcile).where(Group.reconcile.is_not(None)))
    return {row.name: row.reconcile for row in rows}
