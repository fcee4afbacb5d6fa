"""Batches: one plan over several groups, or a parent whose children take turns."""

import pytest
from sqlalchemy import select

from domain.errors import StartFailed
from domain.states import FINAL, OperationStatus
from models import operation_requests, operations, questions, registry_graph, registry_groups
from models.base import now
from models.operation_cancels import PORTION
from models.operation_requests import Each
from models.operations import Operation
from tests.unit.worker_kit import Kit, plain, status
from workers import watchdog
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    made.group("db", plain("one"))
    with made.record.write() as session:
        web = {"name": "web", "dependencies": ["db"], "services": [plain("front"), plain("back")]}
        registry_groups.create_group(session, web)
    made.group("tools", plain("x"), plain("y"))
    yield made
    made.close()


def _together(kit, verb="start", groups=(), services=(), **body):
    with kit.record.write() as session:
        targets = registry_graph.targets_for(session, verb, groups=groups, services=services)
        asked = body | {"groups": list(groups), "chosen": list(services)}
        return operation_requests.ask(session, f"batch.{verb}", asked, targets, initiated_by="test").id


def _each(kit, *names, at_once=2, verb="start", **body):
    with kit.record.write() as session:
        targets = [Each(f"group.{verb}", name) for name in names]
        return operation_requests.ask_each(
            session, f"batch.{verb}", body, targets, at_once=at_once, initiated_by="test"
        ).id


def _children(kit, parent):
    with kit.record.read() as session:
        wanted = operation_requests.Filter(parents=[parent])
        rows = operation_requests.page(session, wanted, edge=None, ascending=True, limit=200)
        return sorted(((row.group_name, row.status, row.id) for row in rows), key=lambda row: row[0])


def _cancel(kit, operation_id):
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def test_one_plan_over_several_groups_takes_along_what_they_depend_on_and_holds_all_of_it(kit):
    made = _together(kit, groups=["web"], services=["tools-x"])
    asked = kit.operation(made).parameters
    assert asked["named"] == ["tools-x", "web-back", "web-front"]
    assert asked["services"] == ["db-one", "tools-x", "web-back", "web-front"]
    assert set(kit.locks()) == {
        "group:web", "service:db-one", "service:tools-x", "service:web-back", "service:web-front",
    }  # fmt: skip
    ended = kit.run(made)
    assert (ended.status, ended.type) == ("completed", "batch.start")
    assert status(ended).keys() >= {"start:db-one", "start:tools-x", "start:web-back", "start:web-front"}
    assert [kit.service(name, group).desired for name, group in (("one", "db"), ("y", "tools"))] == [
        "running", "stopped",
    ]  # fmt: skip
    stopped = kit.run(_together(kit, "stop", groups=["web", "db"]))
    assert status(stopped).keys() == {"stop:db-one", "stop:web-back", "stop:web-front"}
    assert kit.service("x", "tools").status == "running"


def test_children_take_turns_and_the_last_one_ends_the_parent(kit):
    for name in ("a", "b", "c"):
        kit.group(name, plain("one"))
    parent = _each(kit, "a", "b", "c", "tools", at_once=2)
    assert [row[1] for row in _children(kit, parent)] == ["pending", "pending", "waiting", "waiting"]
    assert kit.operation(_children(kit, parent)[2][2]).waiting_for[0]["ref"] == parent
    assert sorted(message.args[0] for message in kit.sent()) == sorted(row[2] for row in _children(kit, parent)[:2])
    assert kit.run(parent).status == "waiting"
    for place, (_name, _status, child) in enumerate(_children(kit, parent)):
        before = kit.operation(parent)
        assert (before.status, before.progress) == ("waiting", 25 * place)
        assert kit.run(child).status == "completed"
        states = [row[1] for row in _children(kit, parent)]
        assert states.count("pending") == min(2, 3 - place)
    ended = kit.operation(parent)
    assert (ended.status, ended.progress, ended.error) == ("completed", 100, None)
    assert sorted(ended.result["operations"]["completed"]) == sorted(row[2] for row in _children(kit, parent))
    assert kit.locks() == []


def test_a_batch_began_with_the_first_of_its_children_that_somebody_worked_on(kit):
    parent = _each(kit, "db", "tools", at_once=1)
    first, second = (row[2] for row in _children(kit, parent))
    assert kit.operation(parent).start_time is None
    kit.run(first)
    began = kit.operation(parent).start_time
    kit.run(second)

    ended = kit.operation(parent)
    assert began is not None
    assert ended.start_time == began == kit.operation(first).start_time
    assert ended.start_time <= ended.end_time


def test_a_batch_that_was_cancelled_before_anybody_worked_on_it_never_began(kit):
    parent = _each(kit, "db", "tools", at_once=1)
    _cancel(kit, parent)

    assert (kit.operation(parent).status, kit.operation(parent).start_time) == ("cancelled", None)


def test_a_batch_with_a_failed_child_goes_on_and_ends_failed_with_its_children_by_state(kit):
    kit.group("bad", plain("one"))
    kit.memory.behave("bad-one", Behaviour(fail_on={"start": StartFailed("no")}))
    parent = _each(kit, "bad", "db", at_once=1)
    bad, good = (row[2] for row in _children(kit, parent))
    assert kit.run(bad).status == "failed"
    assert kit.run(good).status == "completed"
    ended = kit.operation(parent)
    assert (ended.status, ended.error["code"], ended.error["operations"]) == ("failed", "batch_failed", [bad])
    assert ended.result["operations"] == {"failed": [bad], "completed": [good]}


def test_two_batches_share_the_turns_and_a_users_start_waits_for_none_of_them(kit):
    for name in ("a", "b", "c"):
        kit.group(name, plain("one"))
    first, second = _each(kit, "a", "b", at_once=1), _each(kit, "c", at_once=1)
    assert [row[1] for row in _children(kit, first) + _children(kit, second)] == ["pending", "waiting", "waiting"]
    # What a batch has yet to come to holds nobody up.
    assert kit.does("start", "c").status == "completed"
    kit.run(_children(kit, first)[0][2])
    assert [row[1] for row in _children(kit, first) + _children(kit, second)] == ["completed", "pending", "waiting"]


def test_a_child_whose_target_is_held_waits_for_that_one_and_leaves_its_turn_to_the_next(kit):
    held = kit.ask("start", "tools")
    parent = _each(kit, "tools", "db", at_once=1)
    db, tools = _children(kit, parent)
    assert (db[1], tools[1]) == ("pending", "waiting")
    assert kit.operation(tools[2]).dependencies == [held]
    kit.run(held)
    assert kit.operation(tools[2]).status == "waiting"  # it is the other's turn
    kit.run(db[2])
    assert kit.run(tools[2]).status == "completed"
    assert kit.operation(parent).status == "completed"


def test_a_cancel_of_a_batch_cancels_what_is_left_of_it(kit):
    kit.group("a", plain("one"))
    parent = _each(kit, "a", "db", "tools", at_once=2)
    working = _children(kit, parent)[0][2]
    _operation, claim = kit.context.claims.take(working)
    _cancel(kit, parent)
    assert [row[1] for row in _children(kit, parent)] == ["cancelling", "cancelled", "cancelled"]
    assert kit.operation(parent).status == "waiting"
    with kit.record.write() as session:
        operations.finish(session, operations.held(session, working, claim.fence), OperationStatus.CANCELLED)
    ended = kit.operation(parent)
    assert (ended.status, len(ended.result["operations"]["cancelled"])) == ("cancelled", 3)
    assert kit.service("one", "db").desired == "stopped"


def test_a_cancel_before_any_child_was_taken_ends_the_batch_at_once(kit):
    parent = _each(kit, "db", "tools", at_once=1)
    _cancel(kit, parent)
    assert kit.operation(parent).status == "cancelled"
    assert {row[1] for row in _children(kit, parent)} == {"cancelled"}
    assert kit.locks() == []


def _large(kit, portions):
    """A batch of that many portions of children, less one, and two of its children at work."""
    names = [f"g{number:03}" for number in range(portions * PORTION - 1)]
    for name in names:
        kit.group(name, plain("one"))
    parent = _each(kit, *names, at_once=2)
    kit.sent()
    return parent


def _left(kit, parent):
    with kit.record.read() as session:
        states = select(Operation.status).where(Operation.parent_id == parent, Operation.status.not_in(FINAL))
        return session.scalars(states).all()


def test_a_large_batch_is_cancelled_in_portions_of_which_each_has_the_next_one_sent(kit):
    parent = _large(kit, 3)
    _cancel(kit, parent)
    # Those under way first, so that none of them is begun any more.
    assert _left(kit, parent) == ["waiting"] * (2 * PORTION - 1)
    assert kit.operation(parent).status == "waiting"
    for portions in (1, 0):
        (message,) = kit.sent()
        assert message.args[0] == parent
        kit.run(parent)
        assert len(_left(kit, parent)) == max(0, portions * PORTION - 1)
    ended = kit.operation(parent)
    assert (ended.status, len(ended.result["operations"]["cancelled"])) == ("cancelled", 3 * PORTION - 1)
    assert kit.sent() == []
    assert kit.locks() == []


def test_a_cancel_that_broke_off_between_two_portions_is_finished_by_the_watchdog(kit):
    parent = _large(kit, 3)
    _cancel(kit, parent)
    assert len(kit.sent()) == 1  # who was to go on has died
    watchdog.send_overdue(kit.context, True)
    assert len(_left(kit, parent)) == PORTION - 1
    assert [message.args[0] for message in kit.sent()] == [parent]
    watchdog.send_overdue(kit.context, True)
    assert kit.operation(parent).status == "cancelled"
    watchdog.send_overdue(kit.context, True)
    assert kit.sent() == []


def test_a_message_of_a_batch_that_nobody_cancelled_cancels_nothing(kit):
    parent = _large(kit, 2)
    kit.run(parent)
    watchdog.send_overdue(kit.context, False)
    assert sorted(_left(kit, parent)) == sorted(["pending"] * 2 + ["waiting"] * (2 * PORTION - 3))


def test_between_two_portions_no_child_begins_not_even_one_whose_target_has_become_free(kit):
    held = kit.ask("start", "tools")
    names = [f"h{number:03}" for number in range(2 * PORTION)]
    for name in names:
        kit.group(name, plain("one"))
    parent = _each(kit, "tools", *names, at_once=1)
    with kit.record.read() as session:
        behind = session.scalars(
            select(Operation.id).where(Operation.group_name == "tools", Operation.parent_id == parent)
        ).one()
    assert kit.operation(behind).dependencies == [held]
    with kit.record.write() as session:  # the oldest comes with the first portion: this one is to come later
        session.get_one(Operation, behind).created_at = now()
    _cancel(kit, parent)
    assert kit.run(held).status == "completed"
    assert (kit.operation(behind).status, "pending" in _left(kit, parent)) == ("waiting", False)


def test_a_child_that_is_worked_on_is_asked_once_and_the_rest_ends_without_it(kit):
    parent = _large(kit, 3)
    with kit.record.read() as session:
        working = session.scalars(
            select(Operation.id).where(Operation.parent_id == parent, Operation.status == "pending").limit(1)
        ).one()
    _operation, claim = kit.context.claims.take(working)
    _cancel(kit, parent)
    for _ in range(3):
        watchdog.send_overdue(kit.context, False)
    assert _left(kit, parent) == ["cancelling"]
    assert [each["data"]["status"] for each in kit.events() if each["operation_id"] == working].count("cancelling") == 1
    with kit.record.write() as session:
        operations.finish(session, operations.held(session, working, claim.fence), OperationStatus.CANCELLED)
    assert kit.operation(parent).status == "cancelled"


def test_a_group_that_was_deleted_before_its_turn_fails_its_child_alone(kit):
    parent = _each(kit, "db", "tools", at_once=1)
    with kit.record.write() as session:
        registry_groups.delete_group(session, "tools")
    db, tools = _children(kit, parent)
    kit.run(db[2])
    assert kit.operation(tools[2]).error["code"] == "group_not_found"
    assert kit.operation(parent).status == "failed"


def test_a_child_that_asks_a_person_leaves_its_turn_to_the_next(kit):
    parent = _each(kit, "db", "tools", at_once=1)
    db, tools = _children(kit, parent)
    _operation, claim = kit.context.claims.take(db[2])
    with kit.record.write() as session:
        asking = operations.held(session, db[2], claim.fence)
        questions.ask(session, asking, {"text": "?", "choices": [], "expires_at": None, "key": "k"})
    assert [row[1] for row in _children(kit, parent)] == ["waiting", "pending"]
    watchdog.send_overdue(kit.context, False)
    kit.run(tools[2])
    assert [row[1] for row in _children(kit, parent)] == ["waiting", "completed"]


def test_the_watchdog_gives_a_turn_that_nobody_gave(kit):
    parent = _each(kit, "db", "tools", at_once=1)
    db, tools = _children(kit, parent)
    kit.change(db[2], status="completed")
    watchdog.send_overdue(kit.context, False)
    assert kit.operation(tools[2]).status == "pending"
    kit.run(tools[2])
    assert kit.operation(parent).status == "completed"
