"""The executor under what may happen between a step and its follower."""

import threading

import pytest

from models import operation_requests, operations
from tests.unit.worker_kit import Kit, every, plain, status
from workers.journal import Journal
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path, parallel=2)
    yield made
    made.close()


def box(name, *needs, **more):
    return plain(name, *needs, runtime="docker", image=f"{name}:1", command=None, **more)


def chain(kit):
    """Three containers: what comes last is done as soon as it is started, the others are waited for."""
    more = {"health_check": every(0.02)}
    kit.group("shop", box("db", **more), box("api", "db", **more), box("web", "api"))


def _after(monkeypatch, place, act):
    """Do something right after the write that ends the step of that place, and may begin the next."""
    completed, count = Journal.completed, [0]

    def ends(journal, step, done, following=None, at_once=None):
        goes_on = completed(journal, step, done, following, at_once)
        count[0] += 1
        if count[0] == place + 1:
            act(journal)
        return goes_on

    monkeypatch.setattr(Journal, "completed", ends)


def test_never_more_than_the_limit_act_at_once(kit, monkeypatch):
    kit.group("shop", *(box(f"s{n}") for n in range(12)))
    acting, most, lock = [0], [0], threading.Lock()
    for number in range(12):
        kit.memory.behave(f"shop-s{number}", Behaviour(delay_s=0.01))
    for call in ("prepare", "create", "start", "stop"):
        original = getattr(kit.memory, call)

        def counted(*a, _original=original, **k):
            with lock:
                acting[0] += 1
                most[0] = max(most[0], acting[0])
            try:
                return _original(*a, **k)
            finally:
                with lock:
                    acting[0] -= 1

        monkeypatch.setattr(kit.memory, call, counted)
    for verb in ("start", "restart", "stop"):
        most[0] = 0
        assert kit.does(verb).status == "completed"
        assert most[0] == 2, verb


@pytest.mark.parametrize("place", range(11))
def test_stopping_between_two_steps_hands_back_and_the_next_one_ends_it(kit, monkeypatch, place):
    chain(kit)
    operation_id = kit.ask("start")
    with monkeypatch.context() as patch:
        _after(patch, place, lambda _journal: kit.stopping.set())
        first = kit.run(operation_id)
    kit.stopping.clear()
    if first.status != "completed":
        assert first.status == "pending", first.status
        kit.context = kit.make_context("there")
        first = kit.run(operation_id)
    assert first.status == "completed", first.error
    assert set(status(first).values()) == {"completed"}
    assert all(each.alive for each in kit.memory.observe().values())
    assert kit.memory.calls.count(("start", "shop-db")) == 1
    assert all(s.started_at and s.ended_at and s.started_at <= s.ended_at for s in first.steps)


@pytest.mark.parametrize("place", range(11))
def test_a_cancel_after_the_write_that_began_a_follower_leaves_what_its_list_says(kit, monkeypatch, place):
    chain(kit)
    operation_id = kit.ask("start")

    def cancel(journal):
        with kit.record.write() as session:
            operation = operations.get(session, operation_id)
            if operation.status == "in_progress":
                operation_requests.cancel(session, operation)
        journal._claim.cancelled.set()

    _after(monkeypatch, place, cancel)
    ended = kit.run(operation_id)
    assert ended.status in ("cancelled", "completed")
    if ended.status == "completed":
        return
    there = kit.memory.observe()
    assert not [each for each, i in there.items() if i.phase.value == "created"], (status(ended), there)
    told = {each["step"] for each in ended.result["left"]}
    for name in ("db", "api", "web"):
        i = there.get(f"shop-{name}")
        assert (f"start:shop-{name}" in told) == bool(i and i.alive), (name, told, i)
        assert kit.service(name).status not in ("starting", "stopping"), (name, kit.service(name).status)


def test_what_can_begin_together_is_put_on_record_in_one_write_and_nothing_of_it_once_the_end_is_asked_for(
    kit, monkeypatch
):
    kit.group("shop", *(box(name) for name in ("a", "b", "c")), box("web", "a", "b", "c"))
    operation_id = kit.ask("start")
    started, together = Journal.started, []

    def begins(journal, steps, anyway=False):
        if together:
            with kit.record.write() as session:
                operation_requests.cancel(session, operations.get(session, operation_id))
        together.append({step.id for step in steps})
        return started(journal, steps, anyway)

    monkeypatch.setattr(Journal, "started", begins)
    ended = kit.run(operation_id)

    assert together[0] == {"pull:shop-a", "pull:shop-b"}  # two at a time
    assert ended.status == "cancelled"
    assert not [step.id for step in ended.steps if step.target in ("shop-c", "shop-web") and step.started_at]


def test_what_is_on_record_as_begun_when_a_cancel_comes_is_done_and_told(kit, monkeypatch):
    kit.group("shop", *(plain(name) for name in ("a", "b")), plain("web", "a", "b"))
    operation_id = kit.ask("start")
    started = Journal.started

    def then_cancelled(journal, steps, anyway=False):
        goes_on = started(journal, steps, anyway)
        with kit.record.write() as session:
            operation_requests.cancel(session, operations.get(session, operation_id))
        journal._claim.cancelled.set()
        return goes_on

    monkeypatch.setattr(Journal, "started", then_cancelled)
    ended = kit.run(operation_id)

    assert ended.status == "cancelled"
    assert [each["step"] for each in ended.result["left"]] == ["start:shop-a", "start:shop-b"]
    assert all(step.error is None for step in ended.steps)


def test_a_start_after_which_nothing_is_left_to_wait_for_and_its_wait_end_in_one_write(kit, monkeypatch):
    kit.group("shop", box("db"), box("web", health_check=every(0.02)))
    ended, completed = [], Journal.completed

    def ends(journal, step, done, following=None, at_once=None):
        ended.append((step.id, at_once is not None))
        return completed(journal, step, done, following, at_once)

    monkeypatch.setattr(Journal, "completed", ends)
    operation = kit.does("start")

    assert (operation.status, set(status(operation).values())) == ("completed", {"completed"})
    assert sorted(step for step, at_once in ended if at_once) == ["start:shop-db"]
    assert "wait:shop-db" not in dict(ended)
    assert "wait:shop-web" in dict(ended)
    assert all(step.started_at and step.ended_at and step.started_at <= step.ended_at for step in operation.steps)
    told = kit.events("operation.progress")
    waits = [
        each["data"]["step"]["status"] for each in told if (each["data"].get("step") or {}).get("id") == "wait:shop-db"
    ]
    assert waits == ["running", "completed"]
    assert (kit.service("db").status, kit.service("web").status) == ("running", "running")
