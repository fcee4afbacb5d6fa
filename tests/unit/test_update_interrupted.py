"""Updates that a death or a cancel meets where something was stopped or has ended, and nothing runs in its place."""

import pytest

from domain.errors import ClaimLost, EngineUnreachable, PortHeld
from models import operation_requests, operations
from tests.unit.test_update_operations import _again, change, hash_of, killed_at, new_one, runs, seen, up
from tests.unit.worker_kit import Kit, plain, status
from workers.journal import Journal
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _after(monkeypatch, step_id, act):
    """Do something right before the write that ends that step."""
    completed = Journal.completed

    def ends(journal, step, done, following=None, at_once=None):
        if step.id == step_id:
            act()
            completed(journal, step, done)
            journal._claim.check()
        return completed(journal, step, done, following, at_once) if step.id != step_id else False

    monkeypatch.setattr(Journal, "completed", ends)


def _dies():
    raise ClaimLost("killed")


@pytest.mark.parametrize("written", [False, True], ids=["not-written", "written"])
def test_a_job_of_an_update_runs_once_though_its_worker_died_when_it_had_ended(kit, monkeypatch, written):
    kit.memory.behave("shop-job", Behaviour(ends_with=0))
    needs_it = plain("web") | {"depends_on": [{"service": "job", "condition": "completed"}]}
    up(kit, plain("job", restart_policy="no"), needs_it)
    change(kit, "job")
    ran = kit.memory.calls.count(("start", "shop-job"))
    operation_id = kit.ask("update")
    with monkeypatch.context() as patch:
        if written:
            _after(patch, "wait:shop-job", _dies)
        with killed_at(kit, patch, "start", 0 if written else 1, after=True):
            kit.run(operation_id)
    assert seen(kit)["job"].exit_code == 0

    ended = _again(kit, operation_id)

    assert (ended.status, set(status(ended).values())) == ("completed", {"completed"})
    assert kit.memory.calls.count(("start", "shop-job")) == ran + 1


@pytest.mark.parametrize("verb", ["cancelled", "killed thrice"])
def test_a_kept_update_broken_off_when_the_old_one_was_stopped_lets_that_run_again_and_says_so(kit, monkeypatch, verb):
    follower = plain("web", depends_on=[{"service": "api", "condition": "started", "restart": True}])
    up(kit, plain("api"), follower)
    old = seen(kit)["api"].spec_hash
    change(kit, "api")
    operation_id = kit.ask("update", on_failure="keep")

    def cancel():
        with kit.record.write() as session:
            operation_requests.cancel(session, operations.get(session, operation_id))

    with monkeypatch.context() as patch:
        _after(patch, "stop:shop-api", cancel if verb == "cancelled" else lambda: None)
        if verb == "killed thrice":
            patch.setattr(kit.memory, "start", lambda *_words, **_more: _dies())
        ended = kit.run(operation_id)
        for _ in range(2 if verb == "killed thrice" else 0):
            _again(kit, operation_id)
    if verb == "killed thrice":
        ended = _again(kit, operation_id)

    assert ended.status == ("cancelled" if verb == "cancelled" else "failed")
    assert all(each.alive for each in seen(kit).values())
    assert seen(kit)["api"].spec_hash == old != hash_of(kit, "api")
    assert runs(ended) == {"api": "old", "web": "old"}
    assert ended.result["undone"] == ["shop-api"]
    steps = status(ended)
    assert (steps["stop:shop-api"], steps["restore:shop-api"]) == ("undone", "completed")
    assert kit.memory.aside() == {}
    assert (kit.service("api").status, kit.service("api").desired) == ("running", "running")


def test_who_was_stopped_to_be_restarted_along_runs_again_where_the_update_is_kept_and_broken_off(kit, monkeypatch):
    follower = plain("web", depends_on=[{"service": "api", "condition": "started", "restart": True}])
    up(kit, plain("api"), follower)
    change(kit, "api")
    operation_id = kit.ask("update", on_failure="keep")

    def cancel():
        with kit.record.write() as session:
            operation_requests.cancel(session, operations.get(session, operation_id))

    _after(monkeypatch, "stop:shop-web", cancel)
    ended = kit.run(operation_id)

    assert ended.status == "cancelled"
    assert all(each.alive for each in seen(kit).values())
    assert runs(ended)["web"] == "old"
    assert "shop-web" in ended.result["undone"]


CONTAINER = {"runtime": "docker", "image": "x:1", "command": None}


def test_who_was_not_started_again_before_a_worker_was_killed_runs_again_where_the_update_is_kept(kit, monkeypatch):
    follower = plain("web", depends_on=[{"service": "api", "condition": "started", "restart": True}])
    up(kit, plain("api"), follower)
    change(kit, "api")
    operation_id = kit.ask("update", on_failure="keep")
    start = kit.memory.start

    def dies_before(spec, *words, **more):
        return _dies() if spec.id == "shop-web" else start(spec, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(kit.memory, "start", dies_before)
        assert kit.run(operation_id).status == "in_progress"
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))
    ended = _again(kit, operation_id)

    assert ended.status == "cancelled"
    assert all(each.alive for each in seen(kit).values())
    assert (runs(ended)["api"], ended.result["undone"]) == ("new", ["shop-web"])


@pytest.mark.parametrize("refusal", [EngineUnreachable("it does not answer"), PortHeld(4711, "tcp", "0.0.0.0")])
def test_a_kept_update_whose_new_one_could_not_be_started_lets_the_old_one_run_again(kit, refusal):
    up(kit, plain("api", **CONTAINER))
    old = seen(kit)["api"].ref
    change(kit, "api")
    new_one(kit, "api", fail_on={"start": refusal})

    ended = kit.does("update", on_failure="keep")

    assert (ended.status, ended.error["code"], runs(ended)) == ("failed", refusal.code, {"api": "old"})
    assert (seen(kit)["api"].ref, seen(kit)["api"].alive) == (old, True)
    assert kit.memory.aside() == {}


@pytest.mark.parametrize("on_failure", ["rollback", "keep"])
@pytest.mark.parametrize("how", ["cancelled", "killed, then cancelled"])
def test_what_an_earlier_attempt_had_made_goes_also_where_the_next_one_only_came_to_write_its_plan(
    kit, monkeypatch, on_failure, how
):
    up(kit, plain("api", **CONTAINER))
    change(kit, "api")
    operation_id = kit.ask("update", on_failure=on_failure)
    begin = Journal.begin

    def cancel():
        with kit.record.write() as session:
            operation_requests.cancel(session, operations.get(session, operation_id))

    def then(journal, *plan, **more):
        begin(journal, *plan, **more)
        if kit.operation(operation_id).cancel_requested_at is None:
            cancel() if how == "cancelled" else _dies()

    completed = Journal.completed

    def dies_when_it_is_made(journal, step, done, _following=None, _at_once=None):
        completed(journal, step, done)
        _dies()

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "completed", dies_when_it_is_made)
        assert kit.run(operation_id).status == "in_progress"
    assert set(kit.memory.aside()) == {"shop-api"}
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "begin", then)
        ended = _again(kit, operation_id)
    if how != "cancelled":
        cancel()
        ended = _again(kit, operation_id)

    assert (ended.status, runs(ended)) == ("cancelled", {"api": "old"})
    assert kit.memory.aside() == {}
    assert ended.result["undone"] == ["shop-api"]
