"""How many operations one host works on at once, over all its workers, and who comes first when there is no room.

Enforced in the claim. One that finds no slot stays `pending` and says so; it is sent again when one is free. What a
person asked for comes before the children of batches, those before what CLOS asks of itself.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, case, func, or_, select, text
from sqlalchemy.orm import Session

from domain.events import EventType
from domain.states import CLAIMED, LOOKS, OperationStatus
from models import operation_waiting
from models.base import table_of
from models.operation_events import tell
from models.operation_rows import ACTIVE_SQL, Operation
from models.record import send_after_commit

_operations = table_of(Operation)
_looks = or_(*(_operations.c.type.startswith(kind) for kind in LOOKS))
_rank = case((_operations.c.initiated_by.like("system:%"), 2), (_operations.c.parent_id.is_not(None), 1), else_=0)
_BUSY = (
    select(func.count())
    .select_from(_operations)
    .where(
        text(ACTIVE_SQL),
        _operations.c.status.in_([status.value for status in CLAIMED]),
        # A worker that fell silent works on nothing.
        _operations.c.heartbeat_at >= bindparam("silent_since"),
        _operations.c.claimed_by["host"].as_string() == bindparam("host"),
        ~_looks,
    )
)
_pending = select(_operations.c.id, _operations.c.type).where(
    text(ACTIVE_SQL), _operations.c.status == OperationStatus.PENDING.value, ~_looks
)
_BEFORE = (
    _pending.where(
        or_(_operations.c.not_before.is_(None), _operations.c.not_before <= bindparam("at")),
        _rank < bindparam("rank"),
    )
    .order_by(_rank, _operations.c.created_at)
    .limit(1)
)
# Of what is pending, only what found no slot says that it waits.
_WITHOUT = _pending.where(_operations.c.waiting_for.is_not(None)).order_by(_rank, _operations.c.created_at).limit(1)


def takes_one(operation: Operation) -> bool:
    """Whether it changes services, and so takes a slot."""
    return not operation.type.startswith(LOOKS)


def is_free(session: Session, host: str, slots: int, silent_since: datetime) -> bool:
    """Whether that host may work on one more operation."""
    return (session.scalar(_BUSY, {"host": host, "silent_since": silent_since}) or 0) < slots


def rank(operation: Operation) -> int:
    """What comes first: 0 what a person asked for, 1 a batch's child, 2 what CLOS asks of itself."""
    if (operation.initiated_by or "").startswith("system:"):
        return 2
    return 1 if operation.parent_id is not None else 0


def before(session: Session, operation: Operation, at: datetime) -> str | None:
    """The id of a pending operation that comes before this one. This one is sent again then."""
    if not (own := rank(operation)):
        return None
    first = session.execute(_BEFORE, {"at": at, "rank": own}).first()
    if first is None:
        return None
    send_after_commit(session, operation.id, operation.type)
    return str(first.id)


def go_without(session: Session, operation: Operation, host: str, slots: int) -> None:
    """An operation found no slot: it says so, and is sent when one is free."""
    reason: dict[str, Any] = {"kind": "slot", "ref": host, "text": f"waiting for one of the {slots} slots of {host}"}
    if operation.status == OperationStatus.PENDING.value and operation.waiting_for != [reason]:
        operation_waiting.say(session, operation, [reason])
        session.flush()
        tell(session, operation, EventType.OPERATION_WAITING)


def freed(session: Session) -> None:
    """A slot is free: the first of those that found none is sent once this is committed."""
    if (first := session.execute(_WITHOUT).first()) is not None:
        send_after_commit(session, first.id, first.type)
