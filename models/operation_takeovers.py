"""What the record knows of a take-over: whether it can go back, who is to run again, and which promise was not kept.

`compensation` holds its promise (`workers/adoption_record.py`): the containers that Compose made, and which of them
ran.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, lazyload

from domain.planning import TRACELESS, Action
from domain.states import OperationStatus, StepStatus
from models.operation_rows import Operation

OURS, THEIRS, PART = (
    "the containers that CLOS made",
    "the containers that Compose made",
    "not all that ran before: see not_undone",
)
# How many imports of a group are looked through for its last promise.
_LOOK_BACK = 50


def is_promised(operation: Operation) -> bool:
    """Whether it has written down what it takes over."""
    return "containers" in (operation.compensation or {})


def turn_back(operation: Operation, end: Mapping[str, Any]) -> None:
    """Write down that it goes back, and how it is to end then. What has not begun of the way forward is left out."""
    for row in operation.steps:
        broken_off = row.status == StepStatus.RUNNING.value and row.action in TRACELESS
        if row.status == StepStatus.PENDING.value or broken_off:
            row.leave_out()
    operation.compensation = (operation.compensation or {}) | {"back": dict(end)}


def goes_back(operation: Operation) -> bool:
    """Whether it is on its way back."""
    return bool((operation.compensation or {}).get("back"))


def is_past_return(operation: Operation) -> bool:
    """Whether the removal of an old container has begun: the group's own all ran by then."""
    return not goes_back(operation) and bool(_removed(operation))


def left(operation: Operation, error: Mapping[str, Any]) -> dict[str, Any]:
    """The result of one that nobody could end: which containers stand, or may, for all that the record knows."""
    kept = operation.compensation or {}
    if is_past_return(operation):
        removed = _removed(operation, begun=False)
        there = [each for each in kept["containers"] if each["container_id"][:12] not in removed]
        return dict(kept["result"]) | {"runs": OURS, "left": there}
    not_undone = {each["name"]: dict(error) for each in kept["containers"] if each["running"]}
    return dict(kept["result"]) | {"runs": PART, "not_undone": not_undone}


def ran_before(session: Session, group: str) -> set[str]:
    """The ids of the containers that the group's last take-over found running, if it neither took them over nor had
    all of them run again: what stands still of them stands still because of it, and not because somebody wished so."""
    imports = select(Operation).where(Operation.group_name == group, Operation.type == "group.import")
    latest = imports.order_by(Operation.id.desc()).limit(_LOOK_BACK).options(lazyload(Operation.steps))
    for each in session.scalars(latest):
        if is_promised(each):
            kept = (each.compensation or {})["containers"]
            return set() if _is_kept(each) else {one["container_id"] for one in kept if one["running"]}
    return set()


def _is_kept(operation: Operation) -> bool:
    result = operation.result or {}
    undone = result.get("runs") == THEIRS and not result.get("not_undone")
    return operation.status == OperationStatus.COMPLETED.value or undone


def _removed(operation: Operation, begun: bool = True) -> set[str]:
    """The old containers that were removed, or whose removal was `begun`: whether that was done nobody knows."""
    counts = (StepStatus.COMPLETED.value, *((StepStatus.RUNNING.value,) if begun else ()))
    rows = [row for row in operation.steps if row.action == Action.REMOVE.value and row.status in counts]
    return {row.target.partition(":")[2] for row in rows if row.target.startswith("container:")}
