"""A cancel at every step: it ends in time, the world is as the operation says, and nothing is brought up later."""

import threading
import time

import pytest

from cli.aftermath import lines_of
from domain.errors import EngineUnreachable
from domain.observation import Phase
from domain.planning import Action, Plan, Step
from models import operation_requests, operations
from tests.unit.worker_kit import Kit, checked, every, plain, status
from tests.waiting import wait_until
from workers import claims, runner
from workers.carrying import read_subject
from workers.journal import Journal
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path, parallel=1)
    yield made
    made.close()


_CONTAINER = {"runtime": "docker", "command": None, "image": "x"}


def _container(name, *needs):
    return plain(name, *needs) | _CONTAINER


def _checked_container(name, *needs):
    return checked(name, *needs) | _CONTAINER


def _cancel(kit, operation_id):
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def _cancel_at(kit, monkeypatch, operation_id, when, place):
    """Ask for the end when the step of that place has `started`, or as it is `completed`."""
    started, completed, seen = Journal.started, Journal.completed, []

    def note(step):
        seen.append(step.id)
        if len(seen) == place + 1:
            _cancel(kit, operation_id)

    def begins(journal, steps, anyway=False):
        goes_on = started(journal, steps, anyway)
        for step in steps if when == "started" and goes_on else ():
            note(step)
        return goes_on

    def ends(journal, step, done, following=None, at_once=None):
        if when == "completed":
            note(step)
        goes_on = completed(journal, step, done, following, at_once)
        if when == "started" and goes_on:
            note(following)
        return goes_on

    monkeypatch.setattr(Journal, "started", begins)
    monkeypatch.setattr(Journal, "completed", ends)
    return seen


def _judge(kit, ended, group):
    """What the operation says is what there is."""
    assert ended.status == "cancelled"
    assert kit.locks() == []
    steps, world = status(ended), kit.memory.observe()
    undone = {each["step"] for each in ended.result["undone"]}
    left = {each["step"]: each for each in ended.result["left"]}
    assert undone == {step for step, how in steps.items() if how == "undone"}
    assert all(step.startswith("create:") for step in undone)
    for name in ("db", "api", "web"):
        service, instance = kit.service(name, group), world.get(f"{group}-{name}")
        started = f"start:{group}-{name}" in left
        assert (instance is not None and instance.alive) == started
        assert service.desired == service.status == ("running" if started else "stopped")
        # Nothing that was only made stays behind.
        assert instance is None or instance.phase is not Phase.CREATED
        waited = steps.get(f"wait:{group}-{name}") == "completed"
        assert not started or ("nobody waited" in left[f"start:{group}-{name}"]["text"]) == (not waited)


def test_a_removal_that_finds_nothing_to_do_takes_the_networks_along_though_it_is_cancelled(kit, monkeypatch):
    kit.group("shop", _container("db"))
    operation_id = kit.ask("remove", "shop")
    begin = Journal.begin

    def begun(journal, plan, **more):
        begin(journal, plan, **more)
        _cancel(kit, operation_id)
        begin(journal, plan, **more)  # it learns of a cancel as it writes

    monkeypatch.setattr(Journal, "begin", begun)
    ended = kit.run(operation_id)

    assert (ended.status, list(ended.steps)) == ("completed", [])
    assert ("remove", "shop-db") in kit.memory.calls


@pytest.mark.parametrize("when", ["started", "completed"])
@pytest.mark.parametrize(
    ("make", "count", "writes"),
    [(plain, 6, 3), (checked, 6, 6), (_container, 12, 9), (_checked_container, 12, 12)],
    ids=["process", "checked", "container", "checked-container"],
)
def test_a_start_that_is_cancelled_at_any_step(kit, monkeypatch, make, count, writes, when):
    """What needs no wait is waited for in the write that ends its start."""
    count = writes if when == "completed" else count
    for place in range(count):
        name = f"at{place}"
        kit.group(name, make("db"), make("api", "db"), make("web", "api"))
        operation_id = kit.ask("start", name)
        with monkeypatch.context() as patch:
            seen = _cancel_at(kit, patch, operation_id, when, place)
            runner.run(kit.context, operation_id)
        ended = kit.operation(operation_id)
        if ended.status == "completed":
            assert place == count - 1  # all of it was done
            continue
        assert len(seen) <= place + 3  # one beside it, and waits, may have been begun already
        _judge(kit, ended, name)


def test_a_container_that_was_made_and_not_started_is_taken_away_by_whoever_takes_over(kit):
    kit.group("shop", _container("db"))
    operation_id = kit.ask("start")
    _operation, claim = kit.context.claims.take(operation_id)
    create = Step(Action.CREATE, "shop-db", "it is wanted")
    journal = Journal(kit.record, kit.context.feed, claim)
    journal.begin(Plan((create,)))
    journal.started([create])
    kit.memory.create(_spec(kit, "shop-db"))
    _cancel(kit, operation_id)
    kit.change(operation_id, heartbeat_at=None)
    ended = kit.run(operation_id)
    assert (ended.status, ended.attempt, status(ended)["create:shop-db"]) == ("cancelled", 2, "undone")
    assert kit.memory.observe() == {}
    assert (kit.service("db").desired, kit.service("db").container_id) == ("stopped", None)


def _spec(kit, service_id):
    return read_subject(kit.record, [service_id]).by_id[service_id]


def test_what_ran_before_is_not_taken_away(kit):
    kit.group("shop", _container("db"), _container("api", "db"))
    kit.does("start")
    kit.does("stop")
    operation_id = kit.ask("start")
    _operation, claim = kit.context.claims.take(operation_id)
    _cancel(kit, operation_id)
    kit.context.claims.drop(claim)
    kit.change(operation_id, heartbeat_at=None)
    ended = kit.run(operation_id)
    assert (ended.status, ended.result["undone"], ended.result["left"]) == ("cancelled", [], [])
    assert set(kit.memory.observe()) == {"shop-api", "shop-db"}


def test_what_cannot_be_undone_is_told_as_left(kit, monkeypatch):
    kit.group("shop", _container("db"))
    kit.memory.behave("shop-db", Behaviour(fail_on={"remove": EngineUnreachable("it is away")}))
    operation_id = kit.ask("start")
    _cancel_at(kit, monkeypatch, operation_id, "completed", 1)
    ended = kit.run(operation_id)
    assert ended.result["undone"] == []
    assert [each["step"] for each in ended.result["left"]] == ["pull:shop-db", "create:shop-db"]


def test_a_cancelled_stop_says_what_is_stopped_and_what_was_not_reached_is_wanted_as_before(kit, monkeypatch):
    kit.group("shop", plain("db"), plain("api", "db"))
    kit.does("start")
    operation_id = kit.ask("stop")
    _cancel_at(kit, monkeypatch, operation_id, "completed", 0)
    ended = kit.run(operation_id)
    assert [each["step"] for each in ended.result["left"]] == ["stop:shop-api"]
    # And that is what people are told.
    assert lines_of({"result": ended.result}) == ["left as it is: shop-api: it was stopped and is left stopped"]
    assert (kit.service("api").desired, kit.service("db").desired) == ("stopped", "running")
    assert kit.service("db").status == "running"


def test_a_cancelled_restart_says_what_is_down(kit, monkeypatch):
    kit.group("shop", plain("db"))
    kit.does("start")
    operation_id = kit.ask("restart")
    _cancel_at(kit, monkeypatch, operation_id, "completed", 0)
    ended = kit.run(operation_id)
    assert ended.result["left"][0]["text"] == "it was stopped and is left stopped; it was to be started again"


def test_a_cancel_is_learnt_of_well_before_the_next_beat(kit, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 60.0)
    kit.group("shop", checked("web", health_check=every(30)))
    kit.memory.behave("shop-web", Behaviour(unhealthy=True))
    kit.context.claims.start()
    operation_id = kit.ask("start")
    work = threading.Thread(target=runner.run, args=(kit.context, operation_id))
    work.start()
    wait_until(lambda: status(kit.operation(operation_id)).get("wait:shop-web") == "running", 5)
    _cancel(kit, operation_id)
    asked = time.monotonic()
    work.join(12)
    assert time.monotonic() - asked < 10  # long before the next beat
    assert kit.operation(operation_id).status == "cancelled"


def test_a_cancel_does_not_undo_what_another_operation_had_left(kit):
    kit.group("shop", _container("web"))
    kit.memory.create(_spec(kit, "shop-web"))
    operation_id = kit.ask("start")
    assert kit.context.claims.take(operation_id) is not None
    _cancel(kit, operation_id)
    with kit.record.write() as session:
        operations.silence(operations.get(session, operation_id))

    ended = kit.run(operation_id)

    assert (ended.status, ended.result["undone"]) == ("cancelled", [])
    assert status(ended)["create:shop-web"] == "skipped"
    assert kit.memory.observe()["shop-web"].phase is Phase.CREATED


def test_what_waits_only_for_its_services_own_step_is_on_record_as_begun_when_that_one_ends(kit, monkeypatch):
    kit.group("shop", _container("db"), _container("api", "db"))
    started, alone = Journal.started, []

    def begins(journal, steps, anyway=False):
        alone.extend(step.id for step in steps)
        return started(journal, steps, anyway)

    monkeypatch.setattr(Journal, "started", begins)
    ended = kit.does("start")

    assert ended.status == "completed"
    # The rest was begun in the write that ended the one before: it is never seen that nothing of a service goes on.
    assert sorted(alone) == ["create:shop-api", "pull:shop-api", "pull:shop-db"]
    by_id = {step.id: step for step in ended.steps}
    for before, after in (("pull", "create"), ("create", "start"), ("start", "wait")):
        assert by_id[f"{after}:shop-db"].started_at >= by_id[f"{before}:shop-db"].ended_at
