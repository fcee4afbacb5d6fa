from datetime import timedelta

import pytest

from domain.errors import DatabaseBusy
from models.base import now
from models.installation import Heartbeat
from tests.unit.worker_kit import Kit, plain
from workers import collectors, watchdog


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    made.group("shop", plain("web"))
    yield made
    made.close()


def _ago(seconds: float):
    return now() - timedelta(seconds=seconds)


def test_what_was_just_sent_is_left_alone_and_what_is_overdue_is_sent_again(kit):
    operation_id = kit.ask("start")
    kit.change(operation_id, sent_at=now())
    assert watchdog.send_overdue(kit.context, False) == []

    kit.change(operation_id, sent_at=_ago(11))
    assert watchdog.send_overdue(kit.context, False) == [operation_id]
    assert [message.args[0] for message in kit.sent()] == [operation_id]
    assert kit.operation(operation_id).sends == 1

    kit.change(operation_id, sent_at=_ago(11))
    assert watchdog.send_overdue(kit.context, False) == []  # the second wait is twice as long


def test_with_an_empty_queue_it_is_sent_at_once(kit):
    kit.change(operation_id := kit.ask("start"), sent_at=_ago(2))
    assert watchdog.send_overdue(kit.context, True) == [operation_id]


def test_a_silent_claim_is_sent_and_a_beating_one_is_not(kit):
    operation_id = kit.ask("start")
    kit.change(operation_id, sent_at=_ago(30))
    kit.context.claims.take(operation_id)
    assert watchdog.send_overdue(kit.context, False) == []
    kit.change(operation_id, heartbeat_at=_ago(7))
    assert watchdog.send_overdue(kit.context, False) == [operation_id]


def test_what_is_not_yet_due_waits(kit):
    operation_id = kit.ask("start")
    kit.change(operation_id, sent_at=_ago(60), not_before=now() + timedelta(seconds=60))
    assert watchdog.send_overdue(kit.context, True) == []
    assert kit.run(operation_id).status == "pending"


def test_a_starting_worker_takes_over_from_the_dead_of_its_host_only(kit):
    import socket

    operation_id = kit.ask("start")
    rival = kit.make_context(socket.gethostname())
    rival.claims.take(operation_id)
    assert watchdog.take_over(kit.context, lambda _worker: True) == []
    assert watchdog.take_over(kit.context, lambda _worker: False) == [operation_id]

    ended = kit.run(operation_id)
    assert (ended.status, ended.attempt) == ("completed", 2)


def test_a_starting_worker_leaves_another_hosts_claims_and_sends_what_waits(kit):
    kit.group("other", plain("web"))
    held, waiting = kit.ask("start"), kit.ask("start", "other")
    kit.make_context("elsewhere").claims.take(held)
    assert watchdog.take_over(kit.context, lambda _worker: False) == [waiting]


def test_a_tick_is_worked_on_once_per_slot_and_is_the_schedulers_sign_of_life(kit):
    done = []
    for slot in (7, 7, 8):
        collectors.Ticks(kit.context, {"x": lambda: done.append(1)}).run("x", slot)
    assert len(done) == 2
    with kit.record.read() as session:
        assert session.get(Heartbeat, "scheduler") is not None


def test_an_unknown_tick_and_one_that_fails_kill_nobody(kit):
    def busy():
        raise DatabaseBusy("busy")

    collectors.Ticks(kit.context, {}).run("x", 1)
    collectors.Ticks(kit.context, {"x": busy}).run("x", 1)


def test_a_stopping_worker_begins_no_tick(kit):
    done = []
    kit.stopping.set()
    collectors.Ticks(kit.context, {"x": lambda: done.append(1)}).run("x", 1)
    assert done == []
