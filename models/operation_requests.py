"""What people ask of operations: to be listed, cancelled, tried again, answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import Cancelled, OperationFinal
from domain.states import CLAIMED, FINAL, OperationStatus
from models.base import now
from models.operations import Operation, create, finish, group_target, progress, service_target


@dataclass(frozen=True)
class Filter:
    """What a list of operations is narrowed to; None narrows nothing."""

    statuses: Sequence[str] | None = None
    types: Sequence[str] | None = None
    service_ids: Sequence[str] | None = None
    group_names: Sequence[str] | None = None
    since: datetime | None = None


def page(session: Session, wanted: Filter, *, edge: str | None, ascending: bool, limit: int) -> Sequence[Operation]:
    """Operations by id from behind `edge`: newest first, or oldest first if `ascending`."""
    query = select(Operation).order_by(Operation.id if ascending else Operation.id.desc()).limit(limit)
    if edge is not None:
        query = query.where(Operation.id > edge if ascending else Operation.id < edge)
    if wanted.statuses is not None:
        query = query.where(Operation.status.in_(wanted.statuses))
    if wanted.types is not None:
        query = query.where(Operation.type.in_(wanted.types))
    if wanted.service_ids is not None:
        query = query.where(Operation.service_id.in_(wanted.service_ids))
    if wanted.group_names is not None:
        query = query.where(Operation.group_name.in_(wanted.group_names))
    if wanted.since is not None:
        query = query.where(Operation.created_at >= wanted.since)
    return session.scalars(query).all()


def cancel(session: Session, operation: Operation) -> None:
    """Ask for an operation's end. One that nobody works on ends at once; asking twice changes nothing.

    Raises:
        OperationFinal: it has ended already.
    """
    status = OperationStatus(operation.status)
    if status in FINAL:
        raise OperationFinal(f"operation {operation.id} has ended", operation_id=operation.id)
    if status not in CLAIMED:
        reason = Cancelled("it was cancelled before anybody worked on it")
        finish(session, operation, OperationStatus.CANCELLED, error=reason.as_dict())
    elif operation.cancel_requested_at is None:
        operation.cancel_requested_at = now()
        operation.status = OperationStatus.CANCELLING.value
        session.flush()
        progress(session, operation)


def retry(session: Session, first: Operation, *, initiated_by: str) -> Operation:
    """Ask again for what `first` was to do, on the same targets.

    Raises:
        OperationInProgress: another operation holds one of its targets.
    """
    # A dry run has written down that it holds nothing.
    targets = (first.parameters or {}).get("targets")
    return create(
        session,
        first.type,
        targets=_named_targets(first) if targets is None else targets,
        group_name=first.group_name,
        service_id=first.service_id,
        parameters=first.parameters,
        initiated_by=initiated_by,
        retry_of=first.id,
    )


def _named_targets(operation: Operation) -> list[str]:
    named = [group_target(operation.group_name)] if operation.group_name else []
    return named + ([service_target(operation.service_id)] if operation.service_id else [])
