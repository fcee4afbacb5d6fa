"""Who holds what, and who waits for whom."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from domain.states import FINAL, OperationStatus
from models.base import table_of
from models.operations import Operation, OperationLock, OperationWait

_locks, _waits_table = table_of(OperationLock), table_of(OperationWait)
_WAITING = OperationStatus.WAITING.value


def wrong(session: Any, every: Sequence[Operation]) -> list[str]:
    """No two at once on one target, no lock without who holds it; who waits, waits for somebody, and who waited did."""
    by_id = {each.id: each for each in every}
    locks = {row.target: row.operation_id for row in session.execute(select(_locks))}
    found = [
        f"{target} is locked by {holder[-4:]}, which is {by_id[holder].status if holder in by_id else 'gone'}"
        for target, holder in locks.items()
        if holder not in by_id or by_id[holder].status in FINAL or by_id[holder].status == _WAITING
    ]
    at_work: dict[str, str] = {}
    for each in every:
        if each.status in FINAL or each.status == _WAITING:
            continue
        for target in (each.parameters or {}).get("targets") or ():
            if locks.get(target) != each.id:
                found.append(f"{each.type} {each.id[-4:]} is {each.status}, and does not hold {target}")
            if (other := at_work.setdefault(target, each.id)) != each.id:
                found.append(f"{each.id[-4:]} and {other[-4:]} work on {target} at once")
    return found + _waits(session, every, by_id)


def _waits(session: Any, every: Sequence[Operation], by_id: dict[str, Operation]) -> list[str]:
    found = []
    waiting: set[str] = set()
    for row in session.execute(select(_waits_table)):
        waiting.add(row.operation_id)
        if row.waits_for not in by_id or by_id[row.waits_for].status in FINAL:
            found.append(f"{row.operation_id[-4:]} waits for {row.waits_for[-4:]}, which has ended")
    for each in every:
        waits = each.status == _WAITING
        if not waits and each.id in waiting:
            found.append(f"{each.type} {each.id[-4:]} is {each.status} and has somebody that it waits for")
        if waits and each.id not in waiting and each.parent_id is None and not each.type.startswith("batch."):
            found.append(f"{each.type} {each.id[-4:]} waits for nobody")
        if waits and not each.waiting_for and not _is_parent(each):
            found.append(f"{each.type} {each.id[-4:]} waits and does not say for whom")
        if not waits and each.start_time is not None:
            found += _woken_early(each, by_id)
    return found


def _woken_early(operation: Operation, by_id: dict[str, Operation]) -> list[str]:
    found = []
    for other in (by_id[each] for each in operation.dependencies or () if each in by_id):
        if other.end_time is None or (operation.start_time or other.end_time) < other.end_time:
            found.append(
                f"{operation.type} {operation.id[-4:]} began before {other.id[-4:]}, for which it waited, ended"
            )
    return found


def _is_parent(operation: Operation) -> bool:
    return (operation.parameters or {}).get("together") is False
