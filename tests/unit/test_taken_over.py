"""What whoever takes over from a dead worker makes of what that one had begun. Found by the worlds of ADR 38."""

import pytest

from domain.errors import ClaimLost, StartFailed
from domain.planning import Action, Plan, Step
from models import operation_requests, operations, registry
from tests.unit.worker_kit import Kit, plain, status
from workers.carrying import read_subject
from workers.journal import Journal
from workers.runtimes.in_memory import Behaviour
from workers.service_rows import Done


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _dies_after(kit, monkeypatch, call, operation_id):
    """Its worker dies when that call has had its effect, before it can write that down."""
    original = getattr(kit.memory, call)

    def dying(*words, **more):
        original(*words, **more)
        raise ClaimLost("killed")

    with monkeypatch.context() as patch:
        patch.setattr(kit.memory, call, dying)
        assert kit.run(operation_id).status == "in_progress"


def _again(kit, operation_id):
    """Another worker finds it silent."""
    with kit.record.write() as session:
        operations.silence(operations.get(session, operation_id))
    kit.context = kit.make_context("there")
    return kit.run(operation_id)


def test_what_was_stopped_to_be_restarted_with_another_is_started_again_though_the_stop_was_not_written_down(
    kit, monkeypatch
):
    follower = plain("web") | {"depends_on": [{"service": "db", "condition": "started", "restart": True}]}
    kit.group("shop", plain("db"), follower)
    assert kit.does("start").status == "completed"
    operation_id = kit.ask("restart", only=["shop-db"])
    _dies_after(kit, monkeypatch, "stop", operation_id)
    assert [each for each in ("db", "web") if not kit.memory.observe()[f"shop-{each}"].alive] == ["web"]

    ended = _again(kit, operation_id)

    assert ended.status == "completed", ended.error
    assert all(kit.memory.observe()[f"shop-{each}"].alive for each in ("db", "web"))
    assert kit.memory.calls.count(("start", "shop-web")) == 2
    assert kit.memory.calls.count(("stop", "shop-web")) == 1


def test_that_a_service_runs_is_not_enough_if_nobody_has_seen_it_ready(kit, monkeypatch):
    kit.group("shop", plain("web"))
    kit.memory.behave("shop-web", Behaviour(unhealthy=True))
    operation_id = kit.ask("start", timeout=1.5)
    _dies_after(kit, monkeypatch, "start", operation_id)

    ended = _again(kit, operation_id)

    assert (ended.status, ended.error["code"]) == ("failed", "timeout")
    assert status(ended) == {"start:shop-web": "completed", "wait:shop-web": "failed"}


def test_a_job_that_was_to_be_run_again_and_was_not_is_run(kit, monkeypatch):
    job = plain("job", restart_policy="no")
    kit.group("shop", job, plain("web") | {"depends_on": [{"service": "job", "condition": "completed"}]})
    kit.memory.behave("shop-job", Behaviour(ends_with=0))
    assert kit.does("start").status == "completed"
    ran = kit.memory.observe()["shop-job"].ref
    operation_id = kit.ask("start", only=["shop-job", "shop-web"])

    def dying(*_words, **_more):
        raise ClaimLost("killed")

    with monkeypatch.context() as patch:
        patch.setattr(kit.memory, "start", dying)
        assert kit.run(operation_id).status == "in_progress"

    ended = _again(kit, operation_id)

    assert ended.status == "completed", ended.error
    assert kit.memory.observe()["shop-job"].ref != ran


def test_a_job_that_was_run_again_is_not_run_once_more(kit, monkeypatch):
    job = plain("job", restart_policy="no")
    kit.group("shop", job, plain("web") | {"depends_on": [{"service": "job", "condition": "completed"}]})
    kit.memory.behave("shop-job", Behaviour(ends_with=0))
    assert kit.does("start").status == "completed"
    operation_id = kit.ask("start", only=["shop-job", "shop-web"])
    _dies_after(kit, monkeypatch, "start", operation_id)
    ran = kit.memory.observe()["shop-job"].ref

    assert _again(kit, operation_id).status == "completed"

    assert kit.memory.observe()["shop-job"].ref == ran


def test_what_a_cancelled_start_had_done_is_in_its_list_whoever_ends_it(kit):
    kit.group("shop", plain("job", restart_policy="no"))
    kit.memory.behave("shop-job", Behaviour(ends_with=0))
    operation_id = kit.ask("start")
    taken = kit.context.claims.take(operation_id)
    assert taken is not None
    journal = Journal(kit.record, kit.context.feed, taken[1])
    start = Step(Action.START, "shop-job", "it is wanted")
    journal.begin(Plan((start,)))
    journal.started([start])
    journal.completed(start, Done(kit.memory.start(read_subject(kit.record, ["shop-job"]).by_id["shop-job"])))
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))

    ended = _again(kit, operation_id)

    assert ended.status == "cancelled"
    assert status(ended)["start:shop-job"] == "completed"


def test_what_an_earlier_attempt_made_for_an_update_is_taken_away_on_the_way_back(kit, monkeypatch):
    kit.group("shop", plain("db"))
    assert kit.does("start").status == "completed"
    with kit.record.write() as session:
        service = registry.get(session, "shop-db")
        registry.change_service(session, service, {"environment": {"VERSION": "2"}})
    operation_id = kit.ask("update")
    _dies_after(kit, monkeypatch, "replace", operation_id)
    assert set(kit.memory.aside()) == {"shop-db"}
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))

    ended = _again(kit, operation_id)

    assert ended.status == "cancelled"
    assert kit.memory.aside() == {}


def test_what_a_kept_update_takes_away_again_is_undone_in_its_list(kit):
    kit.group("shop", plain("db"), plain("web", "db"))
    assert kit.does("start").status == "completed"
    with kit.record.write() as session:
        for name in ("db", "web"):
            service = registry.get(session, f"shop-{name}")
            registry.change_service(session, service, {"environment": {"VERSION": "2"}})
    kit.memory.behave("shop-db", Behaviour(fail_on={"stop": StartFailed("it does not end")}))

    ended = kit.does("update", on_failure="keep")

    assert ended.status == "failed"
    assert kit.memory.aside() == {}
    assert {status(ended)[f"create:shop-{name}"] for name in ("db", "web")} == {"undone"}


def test_a_cancel_of_what_was_handed_back_halfway_takes_it_back(kit, monkeypatch):
    kit.group("shop", plain("db"))
    assert kit.does("start").status == "completed"
    before = kit.memory.observe()["shop-db"]
    with kit.record.write() as session:
        service = registry.get(session, "shop-db")
        registry.change_service(session, service, {"environment": {"VERSION": "2"}})
    operation_id = kit.ask("update")
    stop = kit.memory.stop

    def leaving(*words):
        kit.stopping.set()
        return stop(*words)

    with monkeypatch.context() as patch:
        patch.setattr(kit.memory, "stop", leaving)
        assert kit.run(operation_id).status == "pending"
    assert not kit.memory.observe()["shop-db"].alive
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))
    assert kit.operation(operation_id).status == "pending"
    kit.stopping.clear()

    ended = kit.run(operation_id)

    assert ended.status == "cancelled"
    assert (kit.memory.observe()["shop-db"].ref, kit.memory.observe()["shop-db"].alive) == (before.ref, True)
    assert kit.locks() == []


def test_what_a_cancelled_start_had_done_is_in_its_list_though_its_worker_could_not_write_it(kit, monkeypatch):
    kit.group("shop", plain("job", restart_policy="no"))
    kit.memory.behave("shop-job", Behaviour(ends_with=0))
    operation_id = kit.ask("start")
    _dies_after(kit, monkeypatch, "start", operation_id)
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))

    ended = _again(kit, operation_id)

    assert ended.status == "cancelled"
    assert status(ended)["start:shop-job"] == "completed"
    assert kit.memory.calls.count(("start", "shop-job")) == 1


def test_what_nobody_had_begun_and_the_next_attempt_finds_done_has_not_begun_then(kit):
    """Else a cancelled operation would look as if it had begun something after somebody asked for its end."""
    kit.group("shop", plain("db"))
    operation_id = kit.ask("start")
    taken = kit.context.claims.take(operation_id)
    assert taken is not None
    journal = Journal(kit.record, kit.context.feed, taken[1])
    journal.begin(Plan((Step(Action.WAIT, "shop-db", "it is wanted"),)))
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))
    journal.begin(Plan(()))

    (wait,) = journal.steps()

    assert (wait.status, wait.started_at) == ("completed", None)
