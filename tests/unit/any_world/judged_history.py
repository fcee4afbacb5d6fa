"""The history (I5): the event log is only added to, states follow one another as they may, and what has ended stays."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import func, select

from domain.states import FINAL, OPERATION_TRANSITIONS, OperationStatus
from models.base import table_of
from models.events import Event
from models.operations import Operation, OperationStep
from models.record import Record

_FINAL_STEPS = ("completed", "failed", "skipped", "undone")
_events, _operations, _steps = table_of(Event), table_of(Operation), table_of(OperationStep)


class History:
    """What was seen of it so far."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._log: list[tuple[Any, ...]] = []
        # By operation: its status and progress; and by (operation, step) the status that was told last.
        self._status: dict[str, str] = {}
        self._progress: dict[str, int] = {}
        self._step: dict[tuple[str, str], str] = {}
        self._ended: dict[str, str] = {}

    def goes_on(self) -> list[str]:
        """What is wrong with what came since the last look."""
        last = self._log[-1][0] if self._log else 0
        with self._record.read() as session:
            kept = session.scalar(select(func.count()).select_from(_events).where(_events.c.id <= last))
            new = session.execute(
                select(_events.c.id, _events.c.type, _events.c.operation_id, _events.c.data)
                .where(_events.c.id > last)
                .order_by(_events.c.id)
            ).all()
            self._ended |= _as_they_ended(session, self._ended)
        wrong = ["I5: events are gone"] if kept != len(self._log) else []
        for row in new:
            wrong += self._follows(row.type, row.operation_id, row.data or {})
        self._log += [tuple(row) for row in new]
        return wrong

    def whole(self) -> list[str]:
        """Whether the log is still what was read of it, and what has ended still as it ended."""
        with self._record.read() as session:
            rows = session.execute(
                select(_events.c.id, _events.c.type, _events.c.operation_id, _events.c.data).order_by(_events.c.id)
            )
            wrong = [] if [tuple(row) for row in rows] == self._log else ["I5: the event log was changed"]
            now = _as_they_ended(session)
        return wrong + [
            f"I5: {each} had ended ({was}), and was changed since ({now.get(each)})"
            for each, was in self._ended.items()
            if now.get(each) != was
        ]

    def _follows(self, type_: str, operation_id: str | None, data: dict[str, Any]) -> list[str]:
        if operation_id is None or "status" not in data:
            return []
        wrong = []
        name = f"{data['type']} {operation_id[-4:]}"
        was, status = self._status.get(operation_id), data["status"]
        if was in FINAL and type_ != "group.operation_completed":
            wrong.append(f"I5: {name} had ended {was}, and {type_} came after")
        elif was not in (None, status) and not _may_follow(OperationStatus(was), OperationStatus(status), data["type"]):
            wrong.append(f"I5: {name} went from {was} to {status}")
        self._status[operation_id] = status
        progress = data.get("progress") or 0
        if progress < self._progress.get(operation_id, 0):
            wrong.append(f"the progress of {name} fell to {progress}")
        self._progress[operation_id] = progress
        return wrong + self._step_follows(name, operation_id, data.get("step"))

    def _step_follows(self, name: str, operation_id: str, step: dict[str, Any] | None) -> list[str]:
        if step is None:
            return []
        key = operation_id, step["id"]
        was, status = self._step.get(key), step["status"]
        self._step[key] = status
        told = f"I5: {name} told of {step['id']}: {was}, then {status}"
        # Another attempt may begin a step anew. One whose operation's time is up fails before it has begun, one whose
        # service died before the end fails after it was completed.
        before = {"completed": ("running",), "failed": ("running", "completed")}
        late = status == "failed" and step["started_at"] is None
        if was not in before.get(status, (was,)) and not late:
            return [told]
        if status == "undone" and was not in ("completed", "failed", "running", "undone"):
            return [told]
        if status in _FINAL_STEPS and step["ended_at"] is None:
            return [f"{told}, which has no end"]
        return []


def _as_they_ended(session: Any, known: Collection[str] = ()) -> dict[str, str]:
    """What is on record of operations that have ended, but for those that are known, with their steps."""
    final = [status.value for status in FINAL]
    new = select(_operations).where(_operations.c.status.in_(final), _operations.c.id.not_in(list(known)))
    found = {
        row.id: f"{row.status} {row.end_time} {row.result} {row.error} {row.attempt} {row.fence}"
        for row in session.execute(new)
    }
    if found:
        steps = select(_steps).where(_steps.c.operation_id.in_(list(found)))
        for row in session.execute(steps.order_by(_steps.c.operation_id, _steps.c.position)):
            found[row.operation_id] += f"; {row.id} {row.status} {row.started_at} {row.ended_at}"
    return found


def _may_follow(was: OperationStatus, status: OperationStatus, type_: str) -> bool:
    # A batch waits for its children, and ends with them.
    ends = type_.startswith("batch.") and was == OperationStatus.WAITING and status == OperationStatus.COMPLETED
    return ends or status in OPERATION_TRANSITIONS[was]
