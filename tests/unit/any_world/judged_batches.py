"""A batch is what its children are."""

from collections import defaultdict
from collections.abc import Sequence

from domain.states import FINAL, OperationStatus
from models.operations import Operation
from tests.unit.any_world.people import AT_ONCE

_S = OperationStatus


def wrong(every: Sequence[Operation]) -> list[str]:
    """A parent ends with its last child, as they ended, and counts them; few children of all batches go on at once."""
    children: dict[str, list[Operation]] = defaultdict(list)
    for each in every:
        if each.parent_id is not None:
            children[each.parent_id].append(each)
    found = []
    for parent in every:
        if (parent.parameters or {}).get("together") is False:
            found += _of(parent, children[parent.id])
    going_on = [each for group in children.values() for each in group if each.status not in (*FINAL, _S.WAITING)]
    if len(going_on) > AT_ONCE:
        found.append(f"{len(going_on)} children of batches go on at once")
    return found


def _of(parent: Operation, children: Sequence[Operation]) -> list[str]:
    name = f"{parent.type} {parent.id[-4:]}"
    open_ = [each for each in children if each.status not in FINAL]
    if parent.status not in FINAL:
        return [] if open_ else [f"{name} is {parent.status}, and all of its children have ended"]
    if open_:
        return [f"{name} ended with {len(open_)} children still to go"]
    counted = {key: set(ids) for key, ids in ((parent.result or {}).get("operations") or {}).items()}
    by_status: dict[str, set[str]] = defaultdict(set)
    for each in children:
        by_status[each.status].add(each.id)
    found = [] if counted == by_status else [f"{name} counts {counted}, and its children are {dict(by_status)}"]
    if parent.cancel_requested_at is not None:
        expected = _S.CANCELLED
    else:
        expected = _S.COMPLETED if set(by_status) <= {"completed"} else _S.FAILED
    if parent.status != expected:
        found.append(f"{name} ended {parent.status} with {dict(by_status)}")
    if parent.status == _S.FAILED:
        told = set((parent.error or {}).get("operations") or ())
        if told != by_status["failed"] | by_status["cancelled"]:
            found.append(f"{name} names {told} as not completed")
    return found
