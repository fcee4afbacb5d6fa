"""Two real workers of one host: its slots, queues behind it, and a batch of two hundred that holds nobody up."""

import itertools
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from domain.states import FINAL
from models import operation_requests, operations
from models.operation_requests import Each
from models.operations import Operation
from tests.integration.rig import Rig, rig
from tests.waiting import wait_until

SLOTS = 4


@pytest.fixture
def clos() -> Iterator[Rig]:
    with rig() as made:
        for _ in range(2):
            made.worker(CLOS_PERFORMANCE__MAX_CONCURRENT_OPERATIONS=str(SLOTS))
        yield made


def _job(name: str, seconds: float) -> dict:
    """What ends by itself, so that hundreds of them do not stay."""
    return {"name": name, "runtime": "process", "command": ["sleep", str(seconds)], "restart_policy": "no"}


def _waits(name: str, seconds: float) -> list[dict]:
    """A group whose start takes that long: one service waits until the other has completed."""
    needs = [{"service": "job", "condition": "completed"}]
    return [_job("job", seconds), {**_job("after", 30), "depends_on": needs}]


def _count(clos: Rig, *where) -> int:
    with clos.record.read() as session:
        return session.scalar(select(func.count()).select_from(Operation).where(*where)) or 0


def _batch(clos: Rig, names: list[str]) -> str:
    with clos.record.write() as session:
        each = [Each("group.start", name) for name in names]
        return operation_requests.ask_each(session, "batch.start", {}, each, at_once=SLOTS // 2, initiated_by="test").id


def _cancel(clos: Rig, operation_id: str) -> None:
    with clos.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def test_a_batch_of_two_hundred_does_not_hold_up_one_users_start(clos):
    names = [f"g{number}" for number in range(200)]
    for name in names:
        clos.add_group(name, _waits(name, 0.5))
    clos.add_group("mine", [_job("web", 600)])
    parent = _batch(clos, names)
    children = Operation.parent_id == parent
    wait_until(lambda: _count(clos, children, Operation.status == "completed") >= 4, 60, "some of the batch")

    waits = []
    for verb in ("start", "stop", "start"):
        mine = clos.ended(clos.ask(verb, "mine"), 20)
        assert mine.status == "completed", mine.error
        waits.append((mine.start_time - mine.created_at).total_seconds())
        assert _count(clos, children, Operation.status.in_(("in_progress", "cancelling"))) <= SLOTS // 2

    assert max(waits) < 1.0, waits
    assert _count(clos, children, Operation.status.not_in(FINAL)) > 100
    _cancel(clos, parent)
    ended = clos.ended(parent, 30)
    assert ended.status == "cancelled"
    assert sum(map(len, ended.result["operations"].values())) == 200


def test_no_more_than_its_slots_are_worked_on_and_each_free_one_is_used_at_once(clos):
    names = [f"g{number}" for number in range(3 * SLOTS)]
    for name in names:
        clos.add_group(name, _waits(name, 0.6))
    asked = [clos.ask("start", name) for name in names]
    at_once = []

    def all_ended() -> bool:
        at_once.append(_count(clos, Operation.status == "in_progress"))
        return _count(clos, Operation.id.in_(asked), Operation.status == "completed") == len(asked)

    wait_until(all_ended, 60, "the end of all")
    assert max(at_once) == SLOTS
    rows = [clos.operation(each) for each in asked]
    # Without the watchdog (no scheduler runs here), so every hand-over was told at once.
    took = (max(row.end_time for row in rows) - min(row.start_time for row in rows)).total_seconds()
    alone = min((row.end_time - row.start_time).total_seconds() for row in rows)
    assert took < 3 * alone + 6, (took, alone)


def test_what_is_queued_goes_on_in_another_worker_as_soon_as_the_first_ends(clos):
    clos.add_group("shop", _waits("shop", 1.0))
    first = clos.ask("start", "shop")
    stop = clos.ask("stop", "shop", wait_for=True)
    again = clos.ask("start", "shop", wait_for=True)
    assert {clos.operation(each).status for each in (stop, again)} == {"waiting"}
    ended = [clos.ended(each, 30) for each in (first, stop, again)]
    assert [each.status for each in ended] == ["completed"] * 3
    for before, after in itertools.pairwise(ended):
        assert after.start_time >= before.end_time
        assert (after.start_time - before.end_time).total_seconds() < 1.0
