"""Operations that wait for others: behind who holds their targets, and until their dependencies have completed."""

import pytest
from sqlalchemy import delete, select

from domain.errors import OperationInProgress, QueueFull, ValidationFailed
from domain.states import OperationStatus
from models import operation_queue, operation_requests, operations, registry, registry_groups
from models.base import now
from models.operations import Operation, OperationLock, OperationWait
from tests.unit.worker_kit import Kit, plain
from workers import watchdog


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    made.group("shop", plain("db"), plain("web", "db"))
    yield made
    made.close()


def _waits(kit):
    with kit.record.read() as session:
        return {(row.operation_id, row.waits_for) for row in session.scalars(select(OperationWait))}


def _holder(kit, target="group:shop"):
    with kit.record.read() as session:
        found = session.get(OperationLock, target)
        return None if found is None else found.operation_id


def _cancel(kit, operation_id):
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def test_who_comes_second_waits_without_a_lock_or_a_wish_and_goes_on_when_the_first_ends(kit):
    first = kit.ask("start")
    second = kit.ask("stop", wait_for=True)
    waiting = kit.operation(second)
    assert (waiting.status, waiting.dependencies) == ("waiting", [first])
    assert waiting.waiting_for == [
        {"kind": "operation", "ref": first, "text": f"waiting for operation {first} (group.start)"}
    ]
    assert kit.service("web").desired == "running"
    assert kit.service("web").waiting_for[0]["ref"] == first
    assert (_waits(kit), _holder(kit)) == ({(second, first)}, first)
    assert kit.run(second).status == "waiting"  # whoever gets its message takes nothing

    assert kit.run(first).status == "completed"
    released = kit.operation(second)
    assert (released.status, released.waiting_for, _waits(kit), _holder(kit)) == ("pending", None, set(), second)
    assert kit.service("web").desired == "stopped"
    assert [message.args[0] for message in kit.sent()] == [second]
    assert kit.run(second).status == "completed"
    assert kit.service("web").status == "stopped"
    assert kit.locks() == []


def test_a_queue_goes_on_one_by_one_in_its_order_and_who_does_not_wait_is_refused(kit):
    first = kit.ask("start")
    queue = [kit.ask(verb, wait_for=True) for verb in ("stop", "start", "stop")]
    with pytest.raises(OperationInProgress):
        kit.ask("start")
    assert kit.operation(queue[2]).dependencies == sorted([first, *queue[:2]])
    for place, each in enumerate([first, *queue]):
        ready = [one for one in queue if kit.operation(one).status == "pending"]
        assert ready == ([] if place == 0 else [each])
        assert kit.run(each).status == "completed"


def test_a_later_one_waits_behind_an_earlier_one_whose_other_target_is_held(kit):
    kit.group("other", plain("one"))
    held = kit.ask("start", "shop")
    with kit.record.write() as session:
        from models import registry_graph

        both = registry_graph.targets_for(session, "start", groups=["shop", "other"])
        first = operation_requests.ask(
            session, "batch.start", {"wait_for": True, "groups": ["shop", "other"]}, both, initiated_by="test"
        ).id
    second = kit.ask("stop", "other", wait_for=True)
    assert kit.operation(second).dependencies == [first]
    kit.run(held)
    assert (kit.operation(first).status, kit.operation(second).status) == ("pending", "waiting")
    kit.run(first)
    assert kit.operation(second).status == "pending"


def test_a_cancelled_waiter_lets_others_through_and_wanted_nothing(kit):
    first = kit.ask("start")
    stop, last = kit.ask("stop", wait_for=True), kit.ask("restart", wait_for=True)
    _cancel(kit, stop)
    assert kit.operation(stop).status == "cancelled"
    assert _waits(kit) == {(last, first)}
    kit.run(first)
    assert (kit.operation(last).status, kit.service("db").desired) == ("pending", "running")


def test_a_cancel_of_what_held_the_lock_lets_the_next_go_on_and_gives_back_what_it_wanted(kit):
    first = kit.ask("start")
    second = kit.ask("start", wait_for=True)
    _cancel(kit, first)
    assert (kit.operation(second).status, kit.service("web").desired) == ("pending", "running")
    assert [message.args[0] for message in kit.sent()] == [second]
    _cancel(kit, second)
    assert kit.service("web").desired == "stopped"


def test_one_whose_lock_was_taken_before_its_turn_waits_for_that_one(kit):
    kit.group("other", plain("one"))
    needed = kit.ask("start", "other")
    waiter = kit.ask("start", dependencies=[needed])
    quick = kit.ask("stop")
    assert kit.operation(waiter).dependencies == [needed]
    kit.run(needed)
    assert (kit.operation(waiter).status, _waits(kit)) == ("waiting", {(waiter, quick)})
    assert kit.operation(waiter).dependencies == sorted([needed, quick])
    kit.run(quick)
    assert kit.run(waiter).status == "completed"


def test_what_was_deleted_meanwhile_ends_the_waiter_with_its_name(kit):
    kit.group("other", plain("one"))
    needed = kit.ask("start", "other")
    whole, part = kit.ask("start", dependencies=[needed]), kit.ask("start", "shop", dependencies=[needed])
    with kit.record.write() as session:
        found = operations.get(session, part)
        found.parameters = found.parameters | {"narrowed": True, "named": ["shop-web"]}
        registry.delete_service(session, "shop-web")
    kit.run(needed)
    error = kit.operation(part).error
    assert (kit.operation(part).status, error["code"]) == ("failed", "service_not_found")
    assert "shop-web" in error["message"]
    # Of a whole group what is there now is started.
    assert (kit.operation(whole).status, kit.operation(whole).parameters["named"]) == ("pending", ["shop-db"])
    _cancel(kit, whole)

    again = kit.ask("start", "other")
    late = kit.ask("start", dependencies=[again])
    with kit.record.write() as session:
        registry_groups.delete_group(session, "shop")
    kit.run(again)
    assert (kit.operation(late).status, kit.operation(late).error["code"]) == ("failed", "group_not_found")


def test_dependencies_must_complete_and_a_failed_one_takes_along_who_waits_for_it(kit):
    kit.group("other", plain("one"))
    needed = kit.ask("start", "other")
    first = kit.ask("start", dependencies=[needed])
    second = kit.ask("stop", dependencies=[first])
    _cancel(kit, needed)
    for each, because in ((first, needed), (second, first)):
        ended = kit.operation(each)
        assert (ended.status, ended.error["code"], ended.error["operation_id"]) == (
            "failed", "dependency_failed", because,
        )  # fmt: skip
    assert kit.service("web").waiting_for is None
    after = kit.operation(kit.ask("start", dependencies=[needed]))
    assert (after.status, after.error["operation_id"]) == ("failed", needed)


def test_a_dependency_that_has_completed_is_not_waited_for(kit):
    kit.group("other", plain("one"))
    done = kit.does("start", "other")
    made = kit.operation(kit.ask("start", dependencies=[done.id]))
    assert (made.status, made.dependencies) == ("pending", [done.id])


def test_a_dependency_must_exist_and_a_dry_run_waits_for_nothing(kit):
    for body in ({"dependencies": ["nobody"]}, {"dependencies": [kit.ask("start")], "dry_run": True}):
        with pytest.raises(ValidationFailed) as refusal:
            kit.ask("stop", **body)
        assert list(refusal.value.errors) == ["dependencies"]
    assert kit.operation(kit.ask("stop", dry_run=True, wait_for=True)).status == "pending"


def test_a_queue_is_bounded(kit, monkeypatch):
    monkeypatch.setattr(operation_queue, "MOST_BEHIND", 2)
    first = kit.ask("start")
    for _ in range(2):
        kit.ask("stop", wait_for=True)
    with pytest.raises(QueueFull) as refusal:
        kit.ask("stop", wait_for=True)
    assert refusal.value.facts["operation_id"] == first


def test_a_poisoned_operation_lets_the_next_go_on(kit):
    first = kit.ask("start")
    second = kit.ask("stop", wait_for=True)
    kit.change(first, attempt=3)
    assert kit.context.claims.take(first) is None
    assert (kit.operation(first).status, kit.operation(second).status) == ("failed", "pending")


def test_the_watchdog_lets_go_on_what_nobody_told(kit):
    gone, ended = kit.ask("start"), None
    waiter = kit.ask("stop", wait_for=True)
    with kit.record.write() as session:  # retention, or a person with a tool
        session.execute(delete(OperationLock))
        session.execute(delete(Operation).where(Operation.id == gone))
    watchdog.send_overdue(kit.context, False)
    assert kit.operation(waiter).status == "pending"
    kit.run(waiter)

    ended = kit.ask("start")
    waiter, needing = kit.ask("stop", wait_for=True), kit.ask("stop", dependencies=[ended])
    with kit.record.write() as session:
        session.execute(delete(OperationLock))
        session.get(Operation, ended).status = OperationStatus.FAILED.value
        session.get(Operation, ended).end_time = now()
    watchdog.send_overdue(kit.context, False)
    assert (kit.operation(waiter).status, kit.operation(needing).status) == ("pending", "failed")


def test_the_events_tell_that_it_waits_and_that_it_goes_on(kit):
    first = kit.ask("start")
    second = kit.ask("stop", wait_for=True)
    _cancel(kit, first)
    told = [event["type"] for event in kit.events() if event["operation_id"] == second]
    assert told == ["operation.created", "operation.waiting", "operation.progress"]
