"""What is written at each step of an operation: statements that are built once and need none of the session's
book-keeping, which took half the time of a write."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Integer, String, and_, bindparam, case, or_, update
from sqlalchemy.orm import Session

from domain.errors import ClaimLost
from domain.states import CLAIMED, StepStatus
from models.base import now, table_of, written
from models.operation_rows import Operation, OperationStep

_operations, _steps = table_of(Operation), table_of(OperationStep)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an operation stands, as far as its events and its services' tell of it."""

    id: str
    type: str
    status: str
    group_name: str | None
    service_id: str | None
    parent_id: str | None
    initiated_by: str | None
    progress: int
    current_step: str | None
    waiting_for: list[Any] | None
    error: dict[str, Any] | None
    cancel_requested_at: datetime | None


_goes_on = or_(bindparam("anyway", type_=Boolean), _operations.c.cancel_requested_at.is_(None))
_come, _next = bindparam("come", type_=Integer), bindparam("next", type_=String)
_ADVANCE = (
    update(_operations)
    .where(
        _operations.c.id == bindparam("operation"),
        _operations.c.fence == bindparam("of_fence"),
        _operations.c.status.in_([status.value for status in CLAIMED]),
    )
    .values(
        progress=case((_operations.c.progress < _come, _come), else_=_operations.c.progress),
        current_step=case((and_(_next.is_not(None), _goes_on), _next), else_=_operations.c.current_step),
    )
    .returning(*(_operations.c[name] for name in Standing.__dataclass_fields__))
)
_STEP = update(_steps).where(_steps.c.operation_id == bindparam("operation"), _steps.c.id == bindparam("step"))
_BEGIN = _STEP.values(status=StepStatus.RUNNING.value, started_at=bindparam("at"), ended_at=None)
_BEGIN = _BEGIN.returning(*_steps.c)
_COMPLETE = _STEP.values(status=StepStatus.COMPLETED.value, ended_at=bindparam("at")).returning(*_steps.c)


def advance(
    session: Session, claim: tuple[str, int], come: int = 0, following: str | None = None, anyway: bool = False
) -> Standing:
    """An operation of a claim (id, fence) has come so far, in percent, and `following` is its current step, unless
    somebody has asked for its end (`anyway`: even so). Its progress never falls.

    Raises:
        ClaimLost: another worker has claimed it, or it has ended.
    """
    facts = {"operation": claim[0], "of_fence": claim[1], "come": come, "anyway": anyway, "next": following}
    row = session.connection().execute(_ADVANCE, facts).one_or_none()
    if row is None:
        raise ClaimLost(f"operation {claim[0]} is no longer this worker's")
    return Standing(**row._mapping)


def begin(session: Session, operation_id: str, step_id: str) -> Any:
    """A step runs from now on. Its row."""
    facts = {"operation": operation_id, "step": step_id, "at": now()}
    return session.connection().execute(_BEGIN, facts).one()


def complete(session: Session, operation_id: str, step_id: str) -> Any:
    """A step is done. Its row."""
    facts = {"operation": operation_id, "step": step_id, "at": now()}
    return session.connection().execute(_COMPLETE, facts).one()


def shown(row: Any) -> dict[str, Any]:
    """A step as interface.md has it, of a row or of what the statements above give."""
    return {
        "id": row.id,
        "action": row.action,
        "target": row.target,
        "depends_on": row.depends_on or [],
        "cause": row.cause,
        "status": row.status,
        "started_at": written(row.started_at),
        "ended_at": written(row.ended_at),
        "expected_s": row.expected_s,
        "error": row.error,
    }
