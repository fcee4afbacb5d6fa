"""The end of a clone: when it is due, who is told before, and the operation that takes it away."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import OperationInProgress, ValidationFailed
from domain.events import EventType, Severity
from domain.states import Desired
from models import events, operations, registry_graph, registry_groups
from models.base import now, written
from models.groups import Group
from models.operations import Operation
from models.registry import ServiceRequired

REMOVE = "group.remove"
BY = "system:ttl"
TOLD_BEFORE = timedelta(minutes=10)
# A removal that failed is asked for again, but not at every tick.
RETRY_AFTER = timedelta(minutes=5)


def keep_until(group: Group, expires_at: datetime | None) -> None:
    """Say until when a clone is kept; None: until somebody deletes it.

    Raises:
        ValidationFailed: it is no clone, so nothing may take it away by itself.
    """
    if group.cloned_from is None and expires_at is not None:
        raise ValidationFailed({"expires_at": [f"Group {group.name!r} is no clone: only clones expire."]})
    if group.expires_at != expires_at:
        group.expires_at, group.expiry_told_at = expires_at, None


def tell(session: Session) -> int:
    """Write an event for each clone that ends soon, once. How many these were."""
    at = now()
    ending = select(Group).where(Group.expires_at <= at + TOLD_BEFORE, Group.expiry_told_at.is_(None))
    rows = session.scalars(ending.order_by(Group.expires_at)).all()
    for group in rows:
        group.expiry_told_at = at
        facts = {"expires_at": written(group.expires_at), "cloned_from": group.cloned_from}
        events.append(
            session, EventType.GROUP_EXPIRING, facts, severity=Severity.WARNING, actor=BY, group_name=group.name
        )
    return len(rows)


@dataclass(slots=True)
class Ended:
    """What was asked for, and of which clones it could not be (name, why)."""

    asked: list[Operation] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)


def end(session: Session) -> Ended:
    """Ask for the removal of every clone whose time is over. One that is held or needed is tried again later."""
    ended = Ended()
    for group in _over(session):
        if _tried_lately(session, group.name):
            continue
        try:
            registry_groups.refuse_if_required(session, group.name)
            ended.asked.append(_ask(session, group.name))
        except (OperationInProgress, ServiceRequired) as refusal:
            ended.kept.append((group.name, refusal.message))
    return ended


def _over(session: Session) -> Sequence[Group]:
    over = select(Group).where(Group.expires_at <= now(), Group.cloned_from.is_not(None))
    return session.scalars(over.order_by(Group.expires_at, Group.name)).all()


def _tried_lately(session: Session, name: str) -> bool:
    ended = select(Operation.end_time).where(
        Operation.group_name == name, Operation.type == REMOVE, Operation.initiated_by == BY
    )
    last = session.scalar(ended.order_by(Operation.id.desc()).limit(1))
    return last is not None and last > now() - RETRY_AFTER


def _ask(session: Session, name: str) -> Operation:
    targets = registry_graph.targets_for(session, "remove", group=name)
    operation = operations.create(
        session,
        REMOVE,
        targets=targets.locks,
        group_name=name,
        parameters={
            "force": True,
            "targets": list(targets.locks),
            "services": list(targets.services),
            "named": list(targets.named),
        },
        initiated_by=BY,
        sent_at=now(),
    )
    registry_graph.want(session, targets.services, Desired.STOPPED)
    return operation
