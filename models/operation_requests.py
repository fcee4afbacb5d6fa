"""What people ask of operations: to be listed, cancelled, tried again, answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import Cancelled, OperationFinal, ValidationFailed
from domain.states import FINAL, OperationStatus
from models import operation_batches, operation_cancels, operation_queue, operation_targets, registry_graph
from models.base import now
from models.operations import Operation, create, finish, group_target, service_target, settle
from models.registry_graph import Targets


@dataclass(frozen=True)
class Filter:
    """What a list of operations is narrowed to; None narrows nothing."""

    statuses: Sequence[str] | None = None
    types: Sequence[str] | None = None
    service_ids: Sequence[str] | None = None
    group_names: Sequence[str] | None = None
    parents: Sequence[str] | None = None
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
    if wanted.parents is not None:
        query = query.where(Operation.parent_id.in_(wanted.parents))
    if wanted.since is not None:
        query = query.where(Operation.created_at >= wanted.since)
    return session.scalars(query).all()


def cancel(session: Session, operation: Operation) -> None:
    """Ask for an operation's end. One that nobody has worked on ends at once, a large batch portion by portion; asking
    twice changes nothing.

    One that a worker has handed back is taken once more: there may be something to undo, and what was done to tell.

    Raises:
        OperationFinal: it has ended already.
    """
    status = OperationStatus(operation.status)
    if status in FINAL:
        raise OperationFinal(f"operation {operation.id} has ended", operation_id=operation.id)
    if operation_batches.is_parent(operation):
        operation_cancels.cancel_batch(session, operation)
    elif operation_cancels.was_begun(operation):
        operation_cancels.ask_its_worker(session, operation)
    else:
        reason = Cancelled("it was cancelled before anybody worked on it")
        finish(session, operation, OperationStatus.CANCELLED, error=reason.as_dict())


def ask(
    session: Session, type_: str, body: Mapping[str, Any], targets: Targets, *, initiated_by: str, **fields: Any
) -> Operation:
    """Write an operation on services, and what they are wanted to be; or let it wait, if it says so.

    `body` is the request: with `wait_for` it waits for who holds its targets, with `dependencies` until those have
    completed. A dry run holds nothing, wants nothing, and waits for nobody.

    Raises:
        OperationInProgress: another operation holds one of its targets, and it is not to wait for it.
        ValidationFailed: it is to wait for an operation that does not exist.
        QueueFull: too many wait already.
    """
    needed = _dependencies(session, body)
    asked = {name: value for name, value in body.items() if name != "dependencies"}
    asked |= operation_targets.parameters(targets)
    fields |= {"initiated_by": initiated_by, "dependencies": sorted(needed) or None}
    if body.get("dry_run"):
        return create(session, type_, parameters=asked | {"targets": []}, sent_at=now(), **fields)
    unfinished = [each for each, status in needed.items() if status != OperationStatus.COMPLETED.value]
    behind = operation_queue.ahead_of(session, targets.locks) if body.get("wait_for") else []
    if unfinished or behind:
        return _queue(session, type_, asked, behind, unfinished, fields)
    verb = type_.rpartition(".")[2]
    asked["before"] = operation_targets.before(targets, verb)
    made = create(session, type_, targets=targets.locks, parameters=asked, sent_at=now(), **fields)
    if (desired := operation_targets.DESIRED.get(verb)) is not None:
        registry_graph.want(session, targets.services, desired)
    return made


@dataclass(frozen=True)
class Each:
    """One target of a batch."""

    type_: str
    group_name: str | None
    service_id: str | None = None


def ask_each(
    session: Session,
    type_: str,
    body: Mapping[str, Any],
    targets: Sequence[Each],
    *,
    at_once: int | None,
    initiated_by: str,
) -> Operation:
    """Write a batch: a parent and one operation per target, of which `at_once` are let go on at a time (None: half
    of what the workers that run can work on).

    What each works on is found when its turn comes; where that is held by another operation, it waits for that one.
    """
    shared: dict[str, Any] = {"status": OperationStatus.WAITING.value, "initiated_by": initiated_by}
    parent = create(session, type_, parameters=dict(body) | {"together": False}, **shared)
    asked = {name: value for name, value in body.items() if name not in ("groups", "chosen", "together")}
    asked |= {"at_once": at_once} if at_once is not None else {}
    shared |= {"parent_id": parent.id, "waiting_for": operation_batches.turn_in(parent)}
    for each in targets:
        child = create(
            session,
            each.type_,
            parameters=dict(asked),
            group_name=each.group_name,
            service_id=each.service_id,
            **shared,
        )
    session.flush()
    settle(session, operation_queue.turns(session, child))
    return parent


def _queue(
    session: Session,
    type_: str,
    asked: dict[str, Any],
    behind: Sequence[str],
    unfinished: Sequence[str],
    fields: dict[str, Any],
) -> Operation:
    operation_queue.refuse_long(session, {*behind, *unfinished})
    made = create(session, type_, status=OperationStatus.WAITING.value, parameters=asked, **fields)
    operation_queue.wait(session, made, behind, unfinished)
    # One of them may have failed already.
    settle(session, operation_queue.mend(session))
    return made


def _dependencies(session: Session, body: Mapping[str, Any]) -> dict[str, str]:
    """The status of each operation that is to be waited for."""
    wanted: Sequence[str] = body.get("dependencies") or ()
    if not wanted:
        return {}
    if body.get("dry_run"):
        raise ValidationFailed({"dependencies": ["A dry run changes nothing, so it waits for nothing."]})
    found = {row.id: row.status for row in session.execute(select(Operation.id, Operation.status).where(
        Operation.id.in_(wanted)))}  # fmt: skip
    errors = {place: [f"There is no operation {each!r}."] for place, each in enumerate(wanted) if each not in found}
    if errors:
        raise ValidationFailed({"dependencies": errors})
    return found


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
