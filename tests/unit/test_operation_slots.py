"""How many operations a host works on at once, and who comes first."""

from datetime import timedelta

import pytest

from models import operation_requests, operations, questions
from models.base import now
from models.operation_requests import Each
from tests.unit.worker_kit import Kit, plain
from workers import runner, watchdog
from workers.claims import Claims

GROUPS = ("a", "b", "c", "d")


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    for name in GROUPS:
        made.group(name, plain("one"))
    yield made
    made.close()


def _host(kit, slots, name="here"):
    """A worker process of a host with that many slots."""
    return Claims(kit.record, {"host": name, "pid": 1}, kit.stopping, slots)


def _system(kit, group):
    operation_id = kit.ask("start", group)
    kit.change(operation_id, initiated_by="system:restart")
    return operation_id


def _end(kit, taken, status="completed"):
    operation, claim = taken
    with kit.record.write() as session:
        held = operations.held(session, operation.id, claim.fence)
        operations.finish(session, held, operations.OperationStatus(status))


def test_two_workers_of_a_host_share_its_slots_and_the_next_is_sent_as_one_is_free(kit):
    one, two = _host(kit, 2), _host(kit, 2)
    asked = [kit.ask("start", name) for name in GROUPS]
    first, second = one.take(asked[0]), two.take(asked[1])
    assert one.take(asked[2]) is None
    assert two.take(asked[3]) is None
    waiting = kit.operation(asked[2])
    assert waiting.status == "pending"
    assert waiting.waiting_for == [{"kind": "slot", "ref": "here", "text": "waiting for one of the 2 slots of here"}]
    assert kit.service("one", "c").waiting_for == waiting.waiting_for
    assert _host(kit, 2, "elsewhere").take(asked[3]) is not None

    kit.sent()
    _end(kit, first)
    assert [message.args[0] for message in kit.sent()] == [asked[2]]
    taken = two.take(asked[2])
    assert taken is not None
    assert (kit.operation(asked[2]).waiting_for, kit.service("one", "c").waiting_for) == (None, None)
    _end(kit, second)
    assert kit.sent() == []


def test_it_is_said_once_and_the_watchdog_does_not_send_it_at_every_tick(kit):
    worker = _host(kit, 1)
    first, second = kit.ask("start", "a"), kit.ask("start", "b")
    worker.take(first)
    for _ in range(3):
        assert worker.take(second) is None
    told = [event["type"] for event in kit.events() if event["operation_id"] == second]
    assert told == ["operation.created", "operation.waiting"]
    kit.change(second, sent_at=now() - timedelta(seconds=3))
    assert watchdog.send_overdue(kit.context, True) == []
    kit.change(second, sent_at=now() - timedelta(seconds=11))
    assert watchdog.send_overdue(kit.context, True) == [second]


def test_a_silent_worker_takes_no_slot_and_its_operation_needs_one_to_go_on(kit):
    worker = _host(kit, 1)
    first, second = kit.ask("start", "a"), kit.ask("start", "b")
    worker.take(first)
    kit.change(first, heartbeat_at=now() - timedelta(seconds=7))
    taken = worker.take(second)
    assert taken is not None
    assert worker.take(first) is None
    _end(kit, taken)
    assert worker.take(first) is not None


def test_looks_take_no_slot(kit):
    worker = _host(kit, 1)
    worker.take(kit.ask("start", "a"))
    with kit.record.write() as session:
        looks = [operations.create(session, each).id for each in ("port.check", "conflict.scan")]
    assert all(worker.take(each) is not None for each in looks)
    assert worker.take(kit.ask("start", "b")) is None


def test_what_a_person_asked_for_is_taken_before_a_batch_and_both_before_the_system(kit):
    worker = _host(kit, 10)
    system = _system(kit, "a")
    with kit.record.write() as session:
        operation_requests.ask_each(
            session, "batch.start", {}, [Each("group.start", "b")], at_once=1, initiated_by="test"
        )
    child = kit.sent()[0].args[0]
    person = kit.ask("start", "c")
    assert worker.take(system)[0].id == person
    assert [message.args[0] for message in kit.sent()] == [system]
    assert worker.take(system)[0].id == child
    assert worker.take(system)[0].id == system
    assert worker.take(person) is None


def test_a_free_slot_goes_to_who_comes_first(kit):
    worker = _host(kit, 1)
    taken = worker.take(kit.ask("start", "a"))
    system, person = _system(kit, "b"), kit.ask("start", "c")
    assert (worker.take(system), worker.take(person)) == (None, None)
    kit.sent()
    _end(kit, taken)
    assert [message.args[0] for message in kit.sent()] == [person]
    _end(kit, worker.take(person))
    assert [message.args[0] for message in kit.sent()] == [system]


def test_the_worker_does_what_comes_first_to_its_end(kit):
    system, person = _system(kit, "a"), kit.ask("start", "b")
    kit.context.claims._slots = 5
    runner.run(kit.context, system)
    assert (kit.operation(person).status, kit.operation(system).status) == ("completed", "pending")
    for message in kit.sent():
        runner.run(kit.context, message.args[0])
    assert kit.operation(system).status == "completed"


def test_one_that_asks_a_person_gives_its_slot_away(kit):
    worker = _host(kit, 1)
    operation, claim = worker.take(kit.ask("start", "a"))
    second = kit.ask("start", "b")
    assert worker.take(second) is None
    kit.sent()
    with kit.record.write() as session:
        asking = operations.held(session, operation.id, claim.fence)
        questions.ask(session, asking, {"text": "?", "choices": [], "expires_at": None, "key": "k"})
    assert [message.args[0] for message in kit.sent()] == [second]
    taken = worker.take(second)
    assert taken is not None
    asked = kit.operation(operation.id)
    assert asked.waiting_for == [{"kind": "answer", "ref": asked.id, "text": "waiting for an answer: ?"}]
    assert kit.service("one", "a").waiting_for == asked.waiting_for
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation.id))
    assert kit.service("one", "a").waiting_for is None
