"""The queue of operations on PostgreSQL, with two real workers of one host: where many processes read and write at
once, and nothing but the record says whose turn it is. On SQLite the same is in `test_fairness.py`."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from sqlalchemy import func, select

from domain.states import FINAL
from models import operation_requests, operations, registry_graph
from models.operation_requests import Each
from models.operations import Operation, OperationLock, OperationWait
from models.record import Record
from models.services import Service
from tests.integration.databases import postgres_database
from tests.integration.rig import Rig, rig
from tests.waiting import wait_until

pytestmark = pytest.mark.postgres
SLOTS = 4


@pytest.fixture(scope="module")
def installation() -> Iterator[Rig]:
    with postgres_database() as url, rig(url) as made:
        for _ in range(2):
            made.worker(CLOS_PERFORMANCE__MAX_CONCURRENT_OPERATIONS=str(SLOTS))
        yield made


@pytest.fixture
def clos(installation: Rig) -> Iterator[Rig]:
    """An installation in which nothing is left to do, before and after."""
    yield installation
    with installation.record.write() as session:
        for left in session.scalars(select(Operation).where(Operation.status.not_in(FINAL))).all():
            if left.status not in FINAL:
                operation_requests.cancel(session, left)
    wait_until(lambda: _count(installation, Operation.status.not_in(FINAL)) == 0, 30, "the end of what was left")


def _count(clos: Rig, *where) -> int:
    with clos.record.read() as session:
        return session.scalar(select(func.count()).select_from(Operation).where(*where)) or 0


def _group(clos: Rig, name: str, seconds: float) -> str:
    """A group whose start takes that long: one service waits until the other has completed."""
    ends = {"name": "job", "runtime": "process", "command": ["sleep", str(seconds)], "restart_policy": "no"}
    after = {**ends, "name": "after", "command": ["sleep", "1"]}
    clos.add_group(name, [ends, {**after, "depends_on": [{"service": "job", "condition": "completed"}]}])
    return name


def _most_at_once(rows: Sequence[Operation]) -> int:
    """How many were worked on at one time, as their own times have it."""
    moments: list[tuple[datetime, int]] = []
    for row in rows:
        # One that was cancelled before its turn was never worked on.
        moments += [(row.start_time, 1), (row.end_time, -1)] if row.start_time else []
    return max(itertools.accumulate(change for _at, change in sorted(moments)), default=0)


def _batch(clos: Rig, names: list[str], at_once: int) -> str:
    with clos.record.write() as session:
        each = [Each("group.start", name) for name in names]
        return operation_requests.ask_each(session, "batch.start", {}, each, at_once=at_once, initiated_by="test").id


def _children(clos: Rig, parent: str) -> list[Operation]:
    with clos.record.read() as session:
        ids = session.scalars(select(Operation.id).where(Operation.parent_id == parent)).all()
    return [clos.operation(each) for each in ids]


def _left(clos: Rig) -> tuple[int, int]:
    """The locks and the waits on record."""
    with clos.record.read() as session:
        return tuple(session.scalar(select(func.count()).select_from(each)) for each in (OperationLock, OperationWait))


def test_a_queue_goes_on_in_its_order_and_each_as_soon_as_the_one_before_it_ends(clos):
    _group(clos, "ordered", 0.5)
    asked = [clos.ask("start", "ordered")]
    asked += [clos.ask(verb, "ordered", wait_for=True) for verb in ("stop", "start", "restart", "stop")]
    assert [clos.operation(each).status for each in asked[1:]] == ["waiting"] * 4
    ended = [clos.ended(each, 40) for each in asked]

    assert [each.status for each in ended] == ["completed"] * 5
    for before, after in itertools.pairwise(ended):
        assert after.start_time >= before.end_time
        # No scheduler runs here: it was told, and not found by the watchdog.
        assert (after.start_time - before.end_time).total_seconds() < 2.0
    assert _left(clos) == (0, 0)


def test_of_many_processes_that_ask_at_once_each_waits_for_those_before_it(clos):
    _group(clos, "rivals", 0.1)

    def ask(number: int) -> str:
        # A record of its own, as another API process has one: the threads of one record wait for each other.
        with contextlib.closing(Record(clos.database_url, pool=1)) as record, record.write() as session:
            targets = registry_graph.targets_for(session, "start" if number % 2 else "stop", group="rivals")
            verb = "group.start" if number % 2 else "group.stop"
            asked = operation_requests.ask(
                session, verb, {"wait_for": True}, targets, group_name="rivals", initiated_by="test"
            )
            found = (asked.id, asked.type, asked.status)
        if found[2] == "pending":
            clos.outbox.operation(*found[:2])
        return found[0]

    with ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(ask, range(16)))
    ended = sorted((clos.ended(each, 60) for each in asked), key=lambda each: (each.created_at, each.id))
    assert {each.status for each in ended} == {"completed"}
    assert _most_at_once(ended) == 1
    assert [each.id for each in sorted(ended, key=lambda each: each.start_time)] == [each.id for each in ended]
    assert _left(clos) == (0, 0)


def test_one_that_depends_on_others_begins_when_all_have_completed_and_fails_with_one_that_did_not(clos):
    for name in ("one", "two", "needs"):
        _group(clos, name, 0.4)
    first, second = clos.ask("start", "one"), clos.ask("start", "two")
    needs = clos.ended(clos.ask("start", "needs", dependencies=[first, second]), 30)
    assert needs.status == "completed"
    assert needs.start_time >= max(clos.operation(each).end_time for each in (first, second))

    _group(clos, "long", 60)
    third = clos.ask("start", "long")
    fourth = clos.ask("stop", "needs", dependencies=[third])
    with clos.record.write() as session:
        operation_requests.cancel(session, operations.get(session, third))
    failed = clos.ended(fourth, 20)
    assert (failed.status, failed.error["code"], failed.error["operation_id"]) == ("failed", "dependency_failed", third)


def test_two_workers_never_work_on_more_than_their_hosts_slots_and_use_all_of_them(clos):
    names = [_group(clos, f"slot{number}", 0.6) for number in range(3 * SLOTS)]
    asked = [clos.ask("start", name) for name in names]
    rows = [clos.ended(each, 60) for each in asked]

    assert {row.status for row in rows} == {"completed"}
    assert _most_at_once(rows) == SLOTS


def test_a_batch_counts_its_children_under_concurrent_workers(clos):
    names = [_group(clos, f"batch{number}", 0.1) for number in range(20)]
    parent = _batch(clos, names, at_once=3)
    ended = clos.ended(parent, 60)
    children = _children(clos, parent)

    assert (ended.status, ended.progress, len(ended.result["operations"]["completed"])) == ("completed", 100, 20)
    assert {each.status for each in children} == {"completed"}
    assert _most_at_once(children) == 3
    told = [each["data"]["progress"] for each in clos.events(parent)]
    assert told == sorted(told)
    assert [each["type"] for each in clos.events(parent)].count("operation.completed") == 1
    assert _left(clos) == (0, 0)


def test_a_cancelled_batch_ends_with_its_last_child_and_what_it_did_not_reach_is_wanted_as_before(clos):
    names = [_group(clos, f"cut{number}", 0.3) for number in range(40)]
    parent = _batch(clos, names, at_once=3)
    done = Operation.parent_id == parent, Operation.status == "completed"
    wait_until(lambda: _count(clos, *done) >= 4, 40, "some of the batch")
    with clos.record.write() as session:
        operation_requests.cancel(session, operations.get(session, parent))
    ended = clos.ended(parent, 30)
    children = _children(clos, parent)

    assert ended.status == "cancelled"
    assert sum(map(len, ended.result["operations"].values())) == 40
    assert all(each.status in FINAL and each.end_time <= ended.end_time for each in children)
    untouched = [each.group_name for each in children if each.start_time is None]
    assert len(untouched) >= 20
    with clos.record.read() as session:
        wanted = session.scalars(select(Service.desired).where(Service.group_name.in_(untouched))).all()
    assert set(wanted) == {"stopped"}
    assert _left(clos) == (0, 0)
