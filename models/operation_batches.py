"""A batch is a parent with one child per target. The parent is `waiting` on its children, with no worker; the children
take turns: few of all batches' children are at work at once, so that a batch of hundreds leaves room for others.

A child that waits for its turn has no rows in `operation_waits`.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, case, exists, func, select
from sqlalchemy.orm import Session, lazyload

from domain.errors import ClosError
from domain.events import EventType
from domain.states import FINAL, OperationStatus
from models.base import table_of
from models.installation import worker_threads
from models.operation_events import tell
from models.operation_rows import Operation, OperationWait
from models.operation_steps import Standing

_children, _waits = table_of(Operation), table_of(OperationWait)
_parents = _children.alias("parents")
_UNDER_WAY = ("pending", "in_progress", "cancelling")
_AT_WORK = (
    select(func.count())
    .select_from(_children)
    .where(_children.c.parent_id.is_not(None), _children.c.status.in_(_UNDER_WAY))
)
# Whose turn is next: the oldest, and none of a batch that is to end.
_NEXT = (
    select(_children.c.id)
    .join(_parents, _parents.c.id == _children.c.parent_id)
    .where(
        _children.c.status == OperationStatus.WAITING.value,
        _children.c.question.is_(None),
        _parents.c.cancel_requested_at.is_(None),
        ~exists().where(_waits.c.operation_id == _children.c.id),
    )
    .order_by(_children.c.created_at, _children.c.id)
    .limit(bindparam("most"))
)
_final = _children.c.status.in_([status.value for status in FINAL])
_COME = select(
    func.count(),
    func.sum(case((_final, 100), else_=_children.c.progress)),
    func.sum(case((_final, 0), else_=1)),
    func.min(_children.c.start_time),
).where(_children.c.parent_id == bindparam("parent"))
_BY_STATUS = (
    select(_children.c.id, _children.c.status)
    .where(_children.c.parent_id == bindparam("parent"))
    .order_by(_children.c.created_at, _children.c.id)
)


class BatchFailed(ClosError):
    """Not every operation of a batch completed."""

    code = "batch_failed"


def at_once(operations: int) -> int:
    """How many children of batches are let go on at once: half of what is worked on at once."""
    return max(1, operations // 2)


def is_parent(operation: Operation) -> bool:
    """Whether it has one child per target, rather than one plan over all."""
    return operation.type.startswith("batch.") and (operation.parameters or {}).get("together") is False


def has_turn(session: Session, child: Operation) -> bool:
    """Whether one more child may be at work, and this one's batch is not to end."""
    parent = parent_of(session, child)
    to_end = parent is not None and parent.cancel_requested_at is not None
    return not to_end and free_turns(session, child) > 0


def free_turns(session: Session, child: Operation) -> int:
    """How many more children may be at work."""
    limit = (child.parameters or {}).get("at_once")
    # Without a limit it is the workers that there are now: more may be started while a batch is under way.
    most = int(limit) if limit else at_once(worker_threads(session))
    return most - (session.scalar(_AT_WORK) or 0)


def next_children(session: Session, most: int) -> list[str]:
    """The ids of the children whose turn it is."""
    return list(session.scalars(_NEXT, {"most": most})) if most > 0 else []


def some_waiting(session: Session) -> Operation | None:
    """Any child that waits for its turn."""
    found = next_children(session, 1)
    return session.get(Operation, found[0], options=[lazyload(Operation.steps)]) if found else None


def turn_in(parent: Operation) -> list[dict[str, Any]]:
    """Why a child of a batch is not at work."""
    return [{"kind": "slot", "ref": parent.id, "text": f"waiting for its turn in batch {parent.id}"}]


def to_cancel(session: Session, parent: Operation, most: int) -> Sequence[Operation]:
    """A batch's children that have not ended and are not asked to: first those under way, then the oldest."""
    left = select(Operation).where(
        Operation.parent_id == parent.id,
        Operation.cancel_requested_at.is_(None),
        Operation.status.not_in([status.value for status in FINAL]),
    )
    begun = case((Operation.status.in_(_UNDER_WAY), 0), else_=1)
    return session.scalars(left.order_by(begun, Operation.created_at, Operation.id).limit(most)).all()


def parent_of(session: Session, child: Operation | Standing) -> Operation | None:
    """The active parent of a child."""
    parent = session.get(Operation, child.parent_id, options=[lazyload(Operation.steps)])
    return parent if parent is not None and OperationStatus(parent.status) not in FINAL else None


def progress(session: Session, child: Operation | Standing) -> int:
    """Bring the parent's progress up to its children's; it began when the first of them did. How many of them have not
    ended; 0 too without a parent."""
    parent = parent_of(session, child)
    if parent is None:
        return 0
    session.flush()
    whole, come, left, began = session.execute(_COME, {"parent": parent.id}).one()
    parent.start_time = parent.start_time or began
    reached = max(parent.progress, min(99, int(come or 0) // max(1, whole)))
    if reached != parent.progress:
        parent.progress = reached
        session.flush()
        tell(session, parent, EventType.OPERATION_PROGRESS)
    return int(left or 0)


def end_of(
    session: Session, child: Operation
) -> tuple[Operation, OperationStatus, dict[str, Any], dict[str, Any] | None] | None:
    """How the parent of a child that has ended is to end: parent, status, result, error. None while others go on."""
    left = progress(session, child)
    parent = parent_of(session, child)
    if parent is None or left:
        return None
    by_status: dict[str, list[str]] = defaultdict(list)
    for row in session.execute(_BY_STATUS, {"parent": parent.id}):
        by_status[row.status].append(row.id)
    result = {"operations": dict(by_status)}
    if parent.cancel_requested_at is not None:
        return parent, OperationStatus.CANCELLED, result, None
    failed = [*by_status.get("failed", ()), *by_status.get("cancelled", ())]
    if not failed:
        return parent, OperationStatus.COMPLETED, result, None
    error = BatchFailed(
        f"{len(failed)} of {sum(map(len, by_status.values()))} operations did not complete",
        hint=f"clos ops show {parent.id} lists them",
        operations=failed,
    )
    return parent, OperationStatus.FAILED, result, error.as_dict()
