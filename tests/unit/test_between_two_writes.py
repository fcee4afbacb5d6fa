"""What a death or a cancel between two writes of an operation must not change: who runs, and what is told."""

import pytest

from domain.errors import EngineUnreachable, PortHeld
from domain.planning import Action, Plan, Step
from models import operation_requests, operation_takeovers, operations
from models.base import now
from models.operations import Operation, OperationStep
from tests.unit.test_update_operations import _again, change, hash_of, killed_at, runs, seen, up
from tests.unit.worker_kit import Kit, plain
from workers import adopting, adoption_record
from workers.adoption_record import Foreign, Promise
from workers.carrying import read_subject
from workers.claims import Claims
from workers.journal import Journal
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _cancel(kit, operation_id):
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def test_a_kept_update_cancelled_between_a_stop_and_the_start_that_is_on_record_does_that_and_says_so(kit, monkeypatch):
    up(kit, plain("db"))
    change(kit, "db")
    operation_id = kit.ask("update", on_failure="keep")
    completed = Journal.completed

    def ends(journal, step, done, following=None, at_once=None):
        goes_on = completed(journal, step, done, following, at_once)
        if step.id == "stop:shop-db":
            _cancel(kit, operation_id)
            journal._claim.cancelled.set()  # what the heartbeat does within half a second
        return goes_on

    monkeypatch.setattr(Journal, "completed", ends)
    ended = kit.run(operation_id)
    db = seen(kit)["db"]
    assert db.alive
    assert (ended.status, runs(ended)) == ("cancelled", {"db": "new"})
    assert db.spec_hash == hash_of(kit, "db")


def test_a_restart_that_is_taken_over_restarts_nobody_whom_it_would_have_left_alone(kit, monkeypatch):
    cache = plain("cache", depends_on=[{"service": "db", "condition": "started", "restart": True}])
    kit.group("shop", plain("db"), cache, plain("web", "cache", "db"))
    assert kit.does("start").status == "completed"
    kit.memory.lose("shop-db")
    before = seen(kit)["cache"].started_at
    operation_id = kit.ask("restart", only=["shop-web"])
    with killed_at(kit, monkeypatch, "start", 1, after=True):
        kit.run(operation_id)
    ended = _again(kit, operation_id)
    assert ended.status == "completed"
    assert seen(kit)["cache"].started_at == before


def test_a_cancel_of_one_that_waits_for_an_answer_after_it_had_begun_tells_what_it_leaves(kit, monkeypatch):
    container = {"runtime": "docker", "image": "web:1", "command": None}
    kit.group(
        "shop",
        plain("db"),
        plain("web", "db", ports=[{"container_port": 80, "host_port": 23456}], **container),
        plain("late", "web", **container),
    )
    kit.memory.behave("shop-web", Behaviour(fail_on={"start": PortHeld(23456, "tcp", "0.0.0.0")}))
    operation_id = kit.ask("start", on_conflict="ask")
    asked = kit.run(operation_id)
    assert asked.status == "waiting"
    _cancel(kit, operation_id)
    ended = kit.operation(operation_id)
    if ended.status == "pending":
        ended = kit.run(operation_id)
    assert ended.status == "cancelled"
    assert [each["step"] for each in ended.result["undone"]] == ["create:shop-web"]
    assert "start:shop-db" in [each["step"] for each in ended.result["left"]]


def test_one_that_is_to_end_asks_nobody(kit, monkeypatch):
    from tests.unit.test_conflict_work import STRANGER
    from workers.port_guard import PortGuard

    kit.group("shop", plain("db"), plain("web", "db", ports=[{"container_port": 23457, "host_port": 23457}]))
    kit.memory.behave("shop-web", Behaviour(fail_on={"start": PortHeld(23457, "tcp", "0.0.0.0", STRANGER)}))
    operation_id = kit.ask("start", on_conflict="ask")
    again = PortGuard.may_plan_again

    def cancelled_then(guard, *words):
        _cancel(kit, operation_id)
        return again(guard, *words)

    monkeypatch.setattr(PortGuard, "may_plan_again", cancelled_then)
    ended = kit.run(operation_id)
    if ended.status == "pending":
        ended = kit.run(operation_id)
    assert (ended.status, ended.question) == ("cancelled", None)
    assert "start:shop-db" in [each["step"] for each in ended.result["left"]]


def test_what_the_way_back_of_a_take_over_has_started_is_not_stopped_again_by_the_next_attempt(monkeypatch):
    found = [Foreign(ref * 12, ref, ref, running=True) for ref in ("a", "b")]
    monkeypatch.setattr(adoption_record, "find", lambda *_words, **_how: found)
    of_a, of_b = (each.target for each in found)

    class Kept:
        @staticmethod
        def steps():
            rows = [(Action.STOP, of_a, "completed"), (Action.STOP, of_b, "skipped"), (Action.START, of_a, "running")]
            return [
                OperationStep(id=f"{action}:{on}", action=action.value, target=on, status=how, started_at=now())
                for action, on, how in rows
            ]

    promised = Promise("shop", "shop", tuple(found), {}, {"status": "failed"})
    assert adopting._half_stopped(None, Kept, promised) == {of_b}


def test_a_cancel_of_what_was_handed_back_needs_no_slot(kit, monkeypatch):
    kit.group("shop", plain("db"))
    kit.group("other", plain("x"))
    operation_id = kit.ask("start")
    assert kit.context.claims.take(operation_id) is not None
    with kit.record.write() as session:
        operations.hand_back(operations.get(session, operation_id))
    claims = Claims(kit.record, {"host": "here", "pid": 2}, kit.stopping, slots=1)
    assert claims.take(kit.ask("start", group="other")) is not None
    assert claims.take(operation_id) is None
    sent = len(kit.sent())
    _cancel(kit, operation_id)
    assert (len(kit.sent()), kit.operation(operation_id).waiting_for) == (sent + 1, None)
    assert claims.take(operation_id) is not None


def test_an_old_container_whose_removal_was_begun_and_may_not_have_been_done_is_told_as_left():
    containers = [Foreign(ref * 12, ref, ref, running=True).as_dict() for ref in ("a", "b", "c")]
    rows = [
        OperationStep(id=f"remove:{on}", action="remove", target=f"container:{on * 12}", status=how)
        for on, how in (("a", "completed"), ("b", "running"), ("c", "pending"))
    ]
    operation = Operation(steps=rows, compensation={"containers": containers, "result": {}})
    assert operation_takeovers.is_past_return(operation)
    assert [each["name"] for each in operation_takeovers.left(operation, {})["left"]] == ["b", "c"]


@pytest.mark.parametrize("how", ["failed", "skipped"])
def test_what_was_in_vain_in_an_attempt_that_was_killed_and_is_so_by_now_was_done(kit, how):
    kit.group("shop", plain("db"))
    operation_id = kit.ask("start")
    _operation, claim = kit.context.claims.take(operation_id)
    journal, start = Journal(kit.record, kit.context.feed, claim), Step(Action.START, "shop-db", "it is wanted")
    ended_by_force = Step(Action.TERMINATE, "pid:4711", "it has the port")
    journal.begin(Plan((start, ended_by_force)))
    journal.failed(ended_by_force, EngineUnreachable("it is away"))
    if how == "failed":
        journal.failed(start, EngineUnreachable("it is away"))
    else:
        journal.skipped([(start, "wait:shop-other")], set())
    kit.context.claims.drop(claim)
    kit.memory.start(read_subject(kit.record, ["shop-db"]).by_id["shop-db"])  # by hand, meanwhile
    kit.change(operation_id, heartbeat_at=None)

    ended = kit.run(operation_id)

    assert (ended.status, ended.attempt) == ("completed", 2)
    assert {step.id: (step.status, step.error is None) for step in ended.steps} == {
        "start:shop-db": ("completed", True),
        # Whether a stranger was ended no look shows.
        "terminate:pid:4711": ("failed", False),
    }


def _cut_off_at_its_last_start(kit, monkeypatch):
    """Both were started, the worker died before it could write that of the second, and then both ended."""
    kit.group("shop", plain("db"), plain("web", "db"))
    operation_id = kit.ask("start")
    with killed_at(kit, monkeypatch, "start", 2, after=True):
        kit.run(operation_id)
    for service_id in ("shop-db", "shop-web"):
        kit.memory.lose(service_id)
    return operation_id


def test_a_cancelled_step_that_a_killed_worker_had_begun_says_that_it_may_have_been_done(kit, monkeypatch):
    operation_id = _cut_off_at_its_last_start(kit, monkeypatch)
    begin = Journal.begin

    def and_cancelled(journal, *plan, **how):
        begin(journal, *plan, **how)
        _cancel(kit, operation_id)

    monkeypatch.setattr(Journal, "begin", and_cancelled)
    steps = {step.id: step for step in _again(kit, operation_id).steps}
    assert steps["start:shop-web"].status == "skipped"
    assert steps["start:shop-web"].error["code"] == "cut_off"
    assert steps["wait:shop-web"].error is None


def test_a_step_that_a_killed_worker_had_begun_and_that_is_skipped_now_says_so(kit, monkeypatch):
    operation_id = _cut_off_at_its_last_start(kit, monkeypatch)
    kit.memory.behave("shop-db", Behaviour(fail_on={"start": EngineUnreachable("it is away")}))
    (web,) = (step for step in _again(kit, operation_id).steps if step.id == "start:shop-web")
    assert (web.status, web.error["code"]) == ("skipped", "dependency_failed")
    assert "it had begun before, and may have been done" in web.error["message"]
