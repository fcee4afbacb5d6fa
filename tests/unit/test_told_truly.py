"""What an operation that was broken off, or that failed, says of its services and of its steps."""

import pytest

from domain.errors import ClaimLost, PortHeld, StartFailed
from models import operation_requests, operations
from tests.unit.test_conflict_work import OURS, STRANGER
from tests.unit.test_conflict_work import kit as kit_with_ranges
from tests.unit.test_update_operations import _again
from tests.unit.worker_kit import checked, inside, plain, status
from workers import steps
from workers.carrying import read_subject
from workers.journal import Journal
from workers.port_guard import PortGuard
from workers.runtimes.in_memory import Behaviour
from workers.steps import Steps

kit = kit_with_ranges
CONTAINER = {"runtime": "docker", "image": "x:1", "command": None}


def _cancel(kit, operation_id):
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def _ended(kit, operation_id):
    """Its end, also where the first who has it gives it back."""
    ended = kit.run(operation_id)
    return kit.run(operation_id) if ended.status == "pending" else ended


def _codes(operation):
    return {step.id: (step.error or {}).get("code") for step in operation.steps}


def test_what_ended_by_itself_is_not_said_to_be_left_running(kit, monkeypatch):
    needs = {"depends_on": [{"service": "job", "condition": "completed"}]}
    kit.group("shop", plain("dies"), plain("job", restart_policy="no"), checked("slow") | needs, plain("db"))
    kit.memory.behave("shop-dies", Behaviour(ends_with=3))
    kit.memory.behave("shop-job", Behaviour(ends_with=0))
    kit.memory.behave("shop-slow", Behaviour(unhealthy=True))
    operation_id = kit.ask("start")
    failed = Journal.failed

    def cancelled_then(journal, *words):
        failed(journal, *words)
        _cancel(kit, operation_id)

    monkeypatch.setattr(Journal, "failed", cancelled_then)
    ended = kit.run(operation_id)

    assert ended.status == "cancelled"
    left = {each["step"]: each["text"] for each in ended.result["left"]}
    assert left["start:shop-dies"] == "it was started, and has ended since with exit code 3"
    assert left["start:shop-job"] == "it was started, and has ended since with exit code 0"
    assert left["start:shop-db"].startswith("it was started and is left running")


@pytest.mark.parametrize("when", ["before it is planned again", "when it is planned again"])
def test_a_process_that_had_to_go_because_a_stranger_has_its_port_is_neither_left_running_nor_cut_off(
    kit, monkeypatch, when
):
    kit.group("shop", plain("web", ports=[{"container_port": OURS, "host_port": OURS}]))

    def stranger(_steps, spec, runtime, _instance=None):
        runtime.stop(spec, 1.0)
        return PortHeld(OURS, "tcp", "127.0.0.1", STRANGER)

    # As with processes of the host: none is ready before it is known that its port is its own.
    monkeypatch.setattr(steps, "_may_meet_strangers", lambda *_words: True)
    monkeypatch.setattr(Steps, "_stranger", stranger)
    operation_id = kit.ask("start", on_conflict="migrate")
    again, begin, plans = PortGuard.may_plan_again, Journal.begin, []

    def asked(guard, *words):
        if when.startswith("before"):
            _cancel(kit, operation_id)
        return again(guard, *words)

    def begun(journal, *plan, **how):
        begin(journal, *plan, **how)
        plans.append(plan)
        if len(plans) == 2 and when.startswith("when"):
            _cancel(kit, operation_id)

    monkeypatch.setattr(PortGuard, "may_plan_again", asked)
    monkeypatch.setattr(Journal, "begin", begun)
    ended = _ended(kit, operation_id)

    assert ended.status == "cancelled"
    assert not kit.memory.observe()["shop-web"].alive
    assert not [each for each in ended.result["left"] if "left running" in each["text"]]
    assert "cut_off" not in _codes(ended).values()


def test_a_step_that_failed_for_certain_before_its_worker_died_was_not_cut_off(kit, monkeypatch):
    kit.group("shop", plain("a"), checked("b"))
    kit.memory.behave("shop-a", Behaviour(fail_on={"start": StartFailed("no such binary")}))
    kit.memory.behave("shop-b", Behaviour(unhealthy=True))
    operation_id = kit.ask("start")
    failed, begin = Journal.failed, Journal.begin

    def then_dies(journal, *words):
        failed(journal, *words)
        raise ClaimLost("killed")

    def then_cancelled(journal, *plan, **how):
        begin(journal, *plan, **how)
        _cancel(kit, operation_id)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "failed", then_dies)
        assert kit.run(operation_id).status == "in_progress"
    monkeypatch.setattr(Journal, "begin", then_cancelled)
    ended = _again(kit, operation_id)

    assert ended.status == "cancelled"
    assert _codes(ended)["start:shop-a"] is None
    assert status(ended)["start:shop-a"] == "skipped"


def test_one_that_is_to_end_when_it_is_taken_over_still_says_what_failed_before(kit, monkeypatch):
    kit.group("shop", plain("a"), checked("b"))
    kit.memory.behave("shop-a", Behaviour(fail_on={"start": StartFailed("no such binary")}))
    kit.memory.behave("shop-b", Behaviour(unhealthy=True))
    operation_id = kit.ask("start")
    failed = Journal.failed

    def then_dies(journal, *words):
        failed(journal, *words)
        raise ClaimLost("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "failed", then_dies)
        assert kit.run(operation_id).status == "in_progress"
    _cancel(kit, operation_id)
    ended = _again(kit, operation_id)

    assert (ended.status, status(ended)["start:shop-a"]) == ("cancelled", "failed")
    assert _codes(ended)["start:shop-a"] == "start_failed"


def test_a_restart_that_cannot_stop_a_service_leaves_it_recorded_as_running_and_waiting_for_nobody(kit):
    kit.group("shop", plain("a"), plain("b", "a"))
    assert kit.does("start").status == "completed"
    kit.memory.behave("shop-a", Behaviour(fail_on={"stop": StartFailed("it does not die")}))

    ended = kit.does("restart")

    assert (ended.status, status(ended)["start:shop-a"]) == ("failed", "skipped")
    assert kit.memory.observe()["shop-a"].alive
    assert (kit.service("a").status, kit.service("a").waiting_for) == ("running", None)
    assert (kit.service("b").status, kit.service("b").waiting_for[0]["ref"]) == ("stopped", "shop-a")


def test_who_lives_in_the_container_of_one_that_fails_and_runs_is_recorded_as_running(kit):
    kit.group("shop", checked("host") | CONTAINER, inside("guest", "host"))
    assert kit.does("start").status == "completed"
    kit.memory.end("shop-host", 1)
    kit.memory.behave("shop-host", Behaviour(unhealthy=True))

    ended = kit.does("start", step_timeout=0.5)

    assert (ended.status, status(ended)["start:shop-guest"]) == ("failed", "skipped")
    assert kit.memory.observe()["shop-guest"].alive
    assert kit.service("guest").status == "running"


def test_a_cancel_right_before_a_question_takes_away_what_was_only_made(kit, monkeypatch):
    kit.group("shop", plain("web", ports=[{"container_port": OURS, "host_port": OURS}]) | CONTAINER)
    kit.memory.behave("shop-web", Behaviour(fail_on={"start": PortHeld(OURS, "tcp", "0.0.0.0", STRANGER)}))
    operation_id = kit.ask("start", on_conflict="ask")
    ask = Journal.ask

    def cancelled_then(journal, question):
        _cancel(kit, operation_id)
        return ask(journal, question)

    monkeypatch.setattr(Journal, "ask", cancelled_then)
    ended = _ended(kit, operation_id)

    assert (ended.status, ended.question) == ("cancelled", None)
    assert [each["step"] for each in ended.result["undone"]] == ["create:shop-web"]
    assert "shop-web" not in kit.memory.observe()


def test_what_died_unseen_is_recorded_as_stopped_where_its_start_is_skipped(kit):
    kit.group("shop", plain("db"), plain("api", "db"))
    assert kit.does("start").status == "completed"
    kit.memory.end("shop-db", 1)
    kit.memory.end("shop-api", 137)
    kit.memory.behave("shop-db", Behaviour(fail_on={"start": StartFailed("no")}))

    ended = kit.does("start")

    assert (ended.status, status(ended)["start:shop-api"]) == ("failed", "skipped")
    assert (kit.service("api").status, kit.service("api").waiting_for[0]["ref"]) == ("stopped", "shop-db")


def test_a_container_that_an_earlier_attempt_had_made_goes_where_the_next_one_only_came_to_write_its_plan(
    kit, monkeypatch
):
    kit.group("shop", plain("web") | CONTAINER)
    operation_id = kit.ask("start")
    begin = Journal.begin

    def dies(*_words, **_more):
        raise ClaimLost("killed")

    def then_cancelled(journal, *plan, **how):
        begin(journal, *plan, **how)
        _cancel(kit, operation_id)

    with monkeypatch.context() as patch:
        patch.setattr(kit.memory, "start", dies)
        assert kit.run(operation_id).status == "in_progress"
    kit.memory.lose("shop-web")
    kit.memory.create(read_subject(kit.record, ["shop-web"]).by_id["shop-web"])
    monkeypatch.setattr(Journal, "begin", then_cancelled)
    ended = _again(kit, operation_id)

    assert (ended.status, "shop-web" in kit.memory.observe()) == ("cancelled", False)
    assert "create:shop-web" in [each["step"] for each in ended.result["undone"]]
