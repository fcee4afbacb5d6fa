import threading
from datetime import timedelta

import pytest

from domain.errors import Cancelled, ClaimLost, Stopping
from models import operation_requests, operations
from models.base import now
from tests.unit.worker_kit import Kit, plain
from tests.waiting import wait_until
from workers import claims as claims_module
from workers.claims import Claim


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    made.group("shop", plain("web"))
    yield made
    made.close()


def test_a_claim_says_why_its_work_must_end():
    claim = Claim("x", 1, threading.Event())
    claim.check_waiting()
    claim.cancelled.set()
    claim.check()
    with pytest.raises(Cancelled):
        claim.check_waiting()
    claim.stopping.set()
    with pytest.raises(Stopping):
        claim.check()
    claim.lost.set()
    with pytest.raises(ClaimLost):
        claim.check()


def test_one_of_two_rivals_gets_it(kit):
    operation_id = kit.ask("start")
    assert kit.context.claims.take(operation_id) is not None
    assert kit.make_context("rival").claims.take(operation_id) is None
    assert kit.context.claims.held() == 1


def test_a_beat_keeps_the_claim_and_learns_of_a_cancel_and_of_its_loss(kit):
    operation_id = kit.ask("start")
    _operation, claim = kit.context.claims.take(operation_id)
    kit.change(operation_id, heartbeat_at=now() - timedelta(seconds=5))
    kit.context.claims._beat()
    assert kit.operation(operation_id).heartbeat_at > now() - timedelta(seconds=1)
    assert not claim.cancelled.is_set()

    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))
    kit.context.claims._beat()
    assert claim.cancelled.is_set()

    kit.change(operation_id, fence=99)
    kit.context.claims._beat()
    assert claim.lost.is_set()


def test_a_beat_that_cannot_be_written_is_tried_again(kit, monkeypatch):
    monkeypatch.setattr(claims_module, "HEARTBEAT_S", 0.01)
    operation_id = kit.ask("start")
    kit.context.claims.take(operation_id)
    turn = kit.record._turn
    kit.record.timeout_s = 0.02
    kit.context.claims.start()
    with turn:
        wait_until(kit.context.claims._thread.is_alive, 1)
    kit.change(operation_id, heartbeat_at=now() - timedelta(seconds=60))
    wait_until(lambda: kit.operation(operation_id).heartbeat_at > now() - timedelta(seconds=5), 5)


def test_what_was_dropped_is_beaten_for_no_more(kit):
    operation_id = kit.ask("start")
    _operation, claim = kit.context.claims.take(operation_id)
    kit.context.claims.drop(claim)
    kit.context.claims.drop(claim)
    kit.change(operation_id, heartbeat_at=None)
    kit.context.claims._beat()
    assert kit.operation(operation_id).heartbeat_at is None
