"""Updates on the in-memory runtime: what runs in the end, whatever happens at whichever step."""

import re
import socket
import threading
from contextlib import contextmanager

import pytest

from domain.errors import ClaimLost, EngineUnreachable, ImageMissing, StartFailed
from models import operation_requests, operations, registry
from tests.unit.worker_kit import Kit, checked, every, inside, plain, status
from tests.waiting import wait_until
from workers import runner, update_steps, updating
from workers.carrying import read_subject
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


NAMES = ("web", "api", "db")


def up(kit, *services):
    kit.group("shop", *(services or (checked("web", "api"), checked("api", "db"), plain("db"))))
    assert kit.does("start").status == "completed"
    return seen(kit)


def seen(kit):
    return {each.removeprefix("shop-"): found for each, found in kit.memory.observe().items()}


def change(kit, *names, **fields):
    with kit.record.write() as session:
        for name in names:
            registry.change_service(
                session, registry.get(session, f"shop-{name}"), fields or {"environment": {"VERSION": "2"}}
            )


def hash_of(kit, name):
    """The hash that a service is wanted to have."""
    return read_subject(kit.record, [f"shop-{name}"]).by_id[f"shop-{name}"].hash()


def runs(operation):
    return {each["service_id"].removeprefix("shop-"): each["runs"] for each in operation.result["services"]}


def told(operation, name):
    """What its result says of one service."""
    return next(each for each in operation.result["services"] if each["service_id"] == f"shop-{name}")


def new_one(kit, name, **behaviour):
    kit.memory.behave(f"shop-{name}", Behaviour(**behaviour), version=hash_of(kit, name))


def test_nothing_that_drifted_is_nothing_to_do(kit):
    before = up(kit)

    ended = kit.does("update")

    assert (ended.status, ended.result) == ("completed", {"changed": 0, "steps": 0, "services": []})
    assert seen(kit) == before


def test_what_drifted_is_exchanged_and_nothing_else(kit):
    before = up(kit)
    change(kit, "api")

    ended = kit.does("update")

    assert ended.status == "completed", ended.error
    assert runs(ended) == {"api": "new"}
    assert seen(kit)["api"].spec_hash == hash_of(kit, "api")
    assert {name: seen(kit)[name].ref for name in ("web", "db")} == {n: before[n].ref for n in ("web", "db")}
    window = [told(ended, "api")[each] for each in ("unavailable_from", "unavailable_until")]
    assert told(ended, "api")["unavailable_s"] >= 0
    assert window == sorted(window)
    assert [each for each in window if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", each)] == []
    assert kit.service("api").status == "running"
    assert kit.service("api").observed_hash == hash_of(kit, "api")
    assert kit.locks() == []


def test_a_dry_run_shows_the_plan_and_changes_nothing(kit):
    before = up(kit)
    change(kit, "api")

    ended = kit.does("update", dry_run=True)

    assert [step["id"] for step in ended.result["plan"]["steps"]] == [
        "create:shop-api", "stop:shop-api", "start:shop-api", "wait:shop-api", "remove:shop-api"]  # fmt: skip
    assert seen(kit) == before
    assert ended.compensation is None


@pytest.mark.parametrize(
    "behaviour",
    [
        {"unhealthy": True},
        {"ends_with": 3},
        {"fail_on": {"start": StartFailed("no such program")}},
        {"fail_on": {"replace": ImageMissing("the image was deleted")}},
    ],
    ids=["never healthy", "ends at once", "does not start", "image deleted"],
)
def test_an_update_that_fails_ends_with_everything_as_it_was(kit, behaviour):
    before = up(kit)
    change(kit, "db", "api")
    new_one(kit, "api", **behaviour)

    ended = kit.does("update")

    assert ended.status == "failed"
    assert set(runs(ended).values()) == {"old"}
    assert {name: found.ref for name, found in seen(kit).items()} == {n: found.ref for n, found in before.items()}
    assert all(found.alive for found in seen(kit).values())
    assert {kit.service(name).status for name in NAMES} == {"running"}
    # What is wanted is wanted still: the registry shows drift, and nothing else.
    assert kit.service("api").observed_hash != hash_of(kit, "api")
    assert kit.locks() == []


def test_a_new_port_that_somebody_else_has_fails_the_update_before_anything_is_stopped(kit):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        up(kit)
        change(kit, "api", ports=[{"host_port": stranger.getsockname()[1]}])
        kit.memory.calls.clear()

        ended = kit.does("update")

    assert (ended.status, ended.error["code"]) == ("failed", "port_held")
    assert ended.error["holder"]["own"] is not None
    assert [call for call in kit.memory.calls if call[0] in ("stop", "replace")] == []
    assert runs(ended) == {"api": "old"}
    assert ended.result["services"][0]["unavailable_s"] == 0


def test_the_way_back_is_in_the_operations_steps(kit):
    up(kit)
    change(kit, "db", "api")
    new_one(kit, "api", unhealthy=True)

    steps = status(kit.does("update"))

    assert steps["wait:shop-api"] == "failed"
    assert {steps[f"{verb}:shop-db"] for verb in ("create", "stop", "start", "wait")} == {"undone"}
    assert (steps["restore:shop-db"], steps["restore:shop-api"]) == ("completed", "completed")
    assert (steps["remove:shop-db"], steps["remove:shop-api"]) == ("skipped", "skipped")


def test_what_is_not_to_be_taken_back_stays_and_says_so(kit):
    up(kit)
    change(kit, "api", "web")
    new_one(kit, "api", unhealthy=True)

    ended = kit.does("update", on_failure="keep")

    assert ended.status == "failed"
    assert runs(ended) == {"api": "new", "web": "old"}
    assert seen(kit)["api"].spec_hash == hash_of(kit, "api")
    assert seen(kit)["web"].alive
    assert told(ended, "api")["unavailable_s"] is None
    assert kit.memory.aside() == {}


def test_what_was_stopped_stays_stopped(kit):
    container = {"name": "web", "runtime": "docker", "image": "web:1"}
    up(kit, container, checked("db"))
    assert kit.does("stop").status == "completed"
    change(kit, "web", image="web:2")
    change(kit, "db")

    ended = kit.does("update")

    assert ended.status == "completed", ended.error
    assert runs(ended) == {"web": "none"}
    assert not any(found.alive for found in seen(kit).values())
    assert seen(kit)["web"].spec_hash == hash_of(kit, "web")
    assert (kit.service("web").status, kit.service("web").desired) == ("stopped", "stopped")


def test_what_was_never_started_stays_so(kit):
    kit.group("shop", checked("web"))
    change(kit, "web")

    assert kit.does("update").steps == []
    assert seen(kit) == {}


def test_who_asks_for_it_is_restarted_along_and_again_on_the_way_back(kit):
    needs = [{"service": "db", "condition": "started", "restart": True}]
    up(kit, checked("web", depends_on=needs), checked("db"))
    change(kit, "db")
    kit.memory.calls.clear()

    assert kit.run(kit.ask("update", only=["shop-db"])).status == "completed"
    assert [call for call in kit.memory.calls if call[0] in ("stop", "start")] == [
        ("stop", "shop-db"), ("start", "shop-db"), ("stop", "shop-web"), ("start", "shop-web")]  # fmt: skip


def _cancel(kit, operation_id):
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def _cancelled_while(kit, operation_id, step):
    """How it ends if somebody cancels it while that step runs."""
    thread = threading.Thread(target=runner.run, args=(kit.context, operation_id))
    thread.start()
    wait_until(lambda: status(kit.operation(operation_id)).get(step) == "running", 5)
    _cancel(kit, operation_id)
    # The heartbeat would tell; here there is none.
    with kit.context.claims._guard:
        for claim in kit.context.claims._held.values():
            claim.cancelled.set()
    thread.join(10)
    return kit.operation(operation_id)


def test_a_cancel_takes_everything_back(kit):
    before = up(kit)
    change(kit, "db", "api")
    kit.seen("api", health_check_start_period=30.0)
    new_one(kit, "api", unhealthy=True)

    ended = _cancelled_while(kit, kit.ask("update"), "wait:shop-api")

    assert (ended.status, ended.error["code"]) == ("cancelled", "cancelled")
    assert set(runs(ended).values()) == {"old"}
    assert ended.result["undone"] == ["shop-api", "shop-db"]
    assert {name: found.ref for name, found in seen(kit).items()} == {n: found.ref for n, found in before.items()}


def test_a_way_back_that_cannot_be_gone_says_what_runs(kit):
    up(kit)
    change(kit, "db", "api")
    new_one(kit, "api", unhealthy=True, fail_on={"restore": StartFailed("its container is gone")})

    ended = kit.does("update")

    assert ended.status == "failed"
    assert ended.error["code"] == "unhealthy"
    assert ended.result["not_undone"]["shop-api"]["message"] == "its container is gone"
    assert runs(ended) == {"api": "new", "db": "old"}


def test_an_engine_that_is_restarted_meanwhile_is_waited_for_on_the_way_back(kit, monkeypatch):
    up(kit)
    change(kit, "api")
    new_one(kit, "api", unhealthy=True)
    restore, refusals = kit.memory.restore, [EngineUnreachable("it is being restarted")]

    def unreachable_once(*args, **kwargs):
        if refusals:
            raise refusals.pop()
        return restore(*args, **kwargs)

    monkeypatch.setattr(kit.memory, "restore", unreachable_once)

    assert runs(kit.does("update")) == {"api": "old"}


@contextmanager
def killed_at(kit, monkeypatch, call, nth, after):
    """The worker dies before, or right after, the nth effect of that kind: it writes nothing more."""
    original, count = getattr(kit.memory, call), [0]

    def dying(*args, **kwargs):
        count[0] += 1
        if count[0] != nth:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise ClaimLost("killed")

    with monkeypatch.context() as patch:
        patch.setattr(kit.memory, call, dying)
        yield count


def _again(kit, operation_id):
    """Another worker finds it silent."""
    with kit.record.write() as session:
        operations.silence(operations.get(session, operation_id))
    kit.context = kit.make_context("there")
    return kit.run(operation_id)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("call", ["replace", "stop", "start", "settle"])
def test_a_worker_that_is_killed_at_any_step_leaves_an_update_that_another_one_ends(kit, monkeypatch, call, nth, after):
    up(kit)
    change(kit, "db", "api")
    made = kit.memory._made
    with killed_at(kit, monkeypatch, call, nth, after) as count:
        operation_id = kit.ask("update")
        assert kit.run(operation_id).status == "in_progress"
    assert count[0] >= nth

    ended = _again(kit, operation_id)

    assert ended.status == "completed", ended.error
    assert runs(ended) == {"db": "new", "api": "new"}
    assert {seen(kit)[name].spec_hash for name in ("db", "api")} == {hash_of(kit, "db"), hash_of(kit, "api")}
    assert all(found.alive for found in seen(kit).values())
    assert kit.memory.aside() == {}
    assert kit.memory._made == made + 2  # each new one was made once


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_worker_that_is_killed_on_the_way_back_leaves_one_that_another_one_goes_on_with(kit, monkeypatch, nth, after):
    before = up(kit)
    change(kit, "db", "api")
    new_one(kit, "api", unhealthy=True)
    with killed_at(kit, monkeypatch, "restore", nth, after):
        operation_id = kit.ask("update")
        assert kit.run(operation_id).status == "in_progress"
    # It goes on back, even though the new one would be well by now.
    new_one(kit, "api")

    ended = _again(kit, operation_id)

    assert (ended.status, ended.error["code"]) == ("failed", "unhealthy")
    assert {name: found.ref for name, found in seen(kit).items()} == {n: found.ref for n, found in before.items()}
    assert set(runs(ended).values()) == {"old"}
    assert kit.memory.aside() == {}


def _kills(kit, monkeypatch, operation_id, call, workers):
    """So many workers die as they are about to do that for the first time."""
    for _ in range(workers):
        with killed_at(kit, monkeypatch, call, 1, False):
            _again(kit, operation_id)


@pytest.mark.parametrize("call", ["replace", "stop", "start"])
def test_an_update_that_kills_three_workers_goes_back_and_says_what_runs(kit, monkeypatch, call):
    before = up(kit)
    change(kit, "db", "api")
    operation_id = kit.ask("update")
    _kills(kit, monkeypatch, operation_id, call, 3)
    assert kit.operation(operation_id).status == "in_progress"

    ended = _again(kit, operation_id)

    assert (ended.status, ended.error["code"], ended.error["attempts"]) == ("failed", "poison", 3)
    assert set(runs(ended).values()) == {"old"}
    assert "not_undone" not in ended.result
    assert {name: found.ref for name, found in seen(kit).items()} == {n: found.ref for n, found in before.items()}
    assert all(found.alive for found in seen(kit).values())
    assert {kit.service(name).status for name in NAMES} == {"running"}
    assert (kit.locks(), kit.memory.aside()) == ([], {})


def test_one_that_a_killed_worker_had_stopped_is_back_even_if_the_way_back_kills_its_worker_too(kit, monkeypatch):
    needs = [{"service": "db", "condition": "started", "restart": True}]
    up(kit, checked("web", depends_on=needs), checked("db"))
    change(kit, "db")
    operation_id = kit.ask("update")
    with killed_at(kit, monkeypatch, "stop", 2, True):
        assert kit.run(operation_id).status == "in_progress"
    assert not seen(kit)["web"].alive
    for _ in range(2):
        kit.change(operation_id, heartbeat_at=None)
        assert kit.make_context("dying").claims.take(operation_id) is not None
    _kills(kit, monkeypatch, operation_id, "stop", 1)

    ended = _again(kit, operation_id)

    assert (ended.status, ended.error["code"]) == ("failed", "poison")
    assert ended.result["undone"] == ["shop-db", "shop-web"]
    assert all(found.alive for found in seen(kit).values())


def test_an_update_that_kills_six_workers_ends_and_says_what_was_last_seen(kit, monkeypatch):
    up(kit)
    change(kit, "db", "api")
    operation_id = kit.ask("update")
    _kills(kit, monkeypatch, operation_id, "stop", 3)
    _kills(kit, monkeypatch, operation_id, "restore", 3)

    ended = _again(kit, operation_id)

    assert (ended.status, ended.error["code"], ended.error["attempts"]) == ("failed", "poison", 6)
    assert runs(ended) == {each: "old" if kit.service(each).status == "running" else "none" for each in ("db", "api")}
    assert set(ended.result["not_undone"]) == {"shop-db", "shop-api"}
    assert kit.locks() == []


@pytest.mark.parametrize("runs_by_then", [False, True])
def test_an_update_that_is_to_be_kept_and_kills_three_workers_is_kept_as_far_as_it_came(kit, monkeypatch, runs_by_then):
    up(kit)
    old = seen(kit)["db"].spec_hash
    change(kit, "db", "api")
    operation_id = kit.ask("update", on_failure="keep")
    _kills(kit, monkeypatch, operation_id, "start", 2)
    with killed_at(kit, monkeypatch, "start", 1, after=runs_by_then):
        _again(kit, operation_id)

    ended = _again(kit, operation_id)

    assert (ended.status, ended.error["code"]) == ("failed", "poison")
    assert all(each.alive for each in seen(kit).values())
    assert seen(kit)["db"].spec_hash == (hash_of(kit, "db") if runs_by_then else old)
    assert runs(ended) == {"db": "new" if runs_by_then else "old", "api": "old"}
    assert kit.memory.aside() == {}


def test_an_update_that_was_not_armed_yet_and_kills_three_workers_ends_at_once(kit):
    up(kit)
    change(kit, "api")
    operation_id = kit.ask("update")
    for _ in range(3):
        assert kit.make_context("dying").claims.take(operation_id) is not None
        kit.change(operation_id, heartbeat_at=None)

    ended = kit.run(operation_id)

    assert (ended.status, ended.error["code"], ended.result) == ("failed", "poison", None)


def test_two_that_swap_their_ports_have_each_others(kit):
    up(kit, checked("a", ports=[{"host_port": 8001}]), checked("b", "a", ports=[{"host_port": 8002}]))
    swap(kit)

    ended = kit.does("update")

    assert ended.status == "completed", ended.error
    assert runs(ended) == {"a": "new", "b": "new"}
    assert all(found.alive for found in seen(kit).values())


def test_two_that_were_to_swap_their_ports_go_back_to_their_own(kit):
    before = up(kit, checked("a", ports=[{"host_port": 8001}]), checked("b", "a", ports=[{"host_port": 8002}]))
    swap(kit)
    new_one(kit, "b", unhealthy=True)

    ended = kit.does("update")

    assert ended.status == "failed"
    assert "not_undone" not in ended.result
    assert {name: (found.ref, found.alive) for name, found in seen(kit).items()} == {
        name: (found.ref, True) for name, found in before.items()}  # fmt: skip


def swap(kit):
    """By way of a third one, since no two may have the same at any time."""
    change(kit, "a", ports=[{"host_port": 8003}])
    change(kit, "b", ports=[{"host_port": 8001}])
    change(kit, "a", ports=[{"host_port": 8002}])


def test_several_groups_are_updated_as_one_and_go_back_as_one(kit):
    kit.group("data", checked("db"))
    up(kit, checked("web"))
    with kit.record.write() as session:
        for service_id in ("data-db", "shop-web"):
            registry.change_service(session, registry.get(session, service_id), {"environment": {"VERSION": "2"}})
    assert kit.does("start", "data").status == "completed"
    with kit.record.write() as session:
        registry.change_service(session, registry.get(session, "data-db"), {"environment": {"VERSION": "3"}})
    new_one(kit, "web", unhealthy=True)
    before = {each: found.ref for each, found in kit.memory.observe().items()}

    ended = kit.run(kit.ask_all("update", "data", "shop"))

    assert ended.status == "failed"
    assert {each["service_id"]: each["runs"] for each in ended.result["services"]} == {
        "data-db": "old", "shop-web": "old"}  # fmt: skip
    assert {each: found.ref for each, found in kit.memory.observe().items()} == before


def test_what_cannot_be_seen_at_the_end_is_not_said_to_be_down(kit, monkeypatch):
    up(kit)
    change(kit, "api")
    new_one(kit, "api", unhealthy=True)
    restore, observe, gone = kit.memory.restore, kit.memory.observe, [False]

    def then_away(*words):
        gone[0] = True
        return restore(*words)

    def away():
        if gone[0]:
            raise EngineUnreachable("the engine does not answer", hint="start it")
        return observe()

    monkeypatch.setattr(update_steps, "_ENGINE_BACK_S", 0.1)
    monkeypatch.setattr(kit.memory, "restore", then_away)
    monkeypatch.setattr(kit.memory, "observe", away)
    operation_id = kit.ask("update", step_timeout=0.5)
    monkeypatch.setattr(updating, "_BACK_S", 0.5)

    assert runs(kit.run(operation_id)) == {"api": "unknown"}


def test_what_an_update_that_is_kept_could_not_take_away_is_told(kit):
    up(kit)
    change(kit, "api")
    away = EngineUnreachable("the engine does not answer", hint="start it")
    kit.memory.behave("shop-api", Behaviour(fail_on={"stop": away, "restore": away}))

    ended = kit.does("update", on_failure="keep")

    assert (ended.status, runs(ended)) == ("failed", {"api": "old"})
    assert ended.result["not_undone"]["shop-api"]["code"] == "engine_unreachable"


def test_an_update_that_is_kept_says_what_runs_also_if_its_engine_is_gone_in_the_end(kit, monkeypatch):
    up(kit)
    change(kit, "api")
    away = EngineUnreachable("the engine does not answer", hint="start it")

    def stop(*_words):
        kit.memory.behave("*", Behaviour(fail_on={"observe": away, "restore": away}))
        raise away

    monkeypatch.setattr(updating, "_LOOK_S", 0.1)
    monkeypatch.setattr(update_steps, "_ENGINE_BACK_S", 0.1)
    monkeypatch.setattr(update_steps, "_ASK_AGAIN_S", 0.02)
    monkeypatch.setattr(kit.memory, "stop", stop)

    ended = kit.does("update", on_failure="keep")

    assert (ended.status, runs(ended)) == ("failed", {"api": "unknown"})
    assert ended.result["not_undone"]["shop-api"]["code"] == "engine_unreachable"


@pytest.mark.parametrize("well", [True, False], ids=["forward", "back"])
def test_one_that_is_restarted_with_what_changed_and_has_drifted_itself_is_exchanged_and_has_a_way_back(kit, well):
    follower = plain("web") | {"depends_on": [{"service": "db", "condition": "started", "restart": True}]}
    before = up(kit, checked("db"), follower)
    change(kit, "db", "web")
    new_one(kit, "web", fail_on={} if well else {"start": StartFailed("no such program")})

    ended = kit.does("update", only=["shop-db"])

    assert ended.status == ("completed" if well else "failed")
    assert set(runs(ended).values()) == {"new" if well else "old"}
    assert kit.memory.aside() == {}
    assert {each: seen(kit)[each].ref == before[each].ref for each in ("db", "web")} == dict.fromkeys(
        ("db", "web"), not well
    )


def test_one_that_is_only_restarted_leaves_nothing_beside_it_even_if_it_was_defined_anew_meanwhile(kit, monkeypatch):
    up(kit, checked("db"), plain("web") | {"depends_on": [{"service": "db", "condition": "started", "restart": True}]})
    change(kit, "db")
    with killed_at(kit, monkeypatch, "start", 1, after=True):
        operation_id = kit.ask("update")
        assert kit.run(operation_id).status == "in_progress"
    change(kit, "web")

    assert _again(kit, operation_id).status == "completed"

    assert kit.memory.aside() == {}


def test_what_an_update_brought_is_new_also_if_it_was_defined_anew_since(kit, monkeypatch):
    up(kit)
    change(kit, "api")
    with killed_at(kit, monkeypatch, "settle", 1, after=False):
        operation_id = kit.ask("update")
        assert kit.run(operation_id).status == "in_progress"
    change(kit, "api", environment={"VERSION": "3"})

    ended = _again(kit, operation_id)

    assert (ended.status, runs(ended)) == ("completed", {"api": "new"})


def test_what_a_kept_update_takes_away_is_not_taken_away_by_who_has_lost_it(kit, monkeypatch):
    up(kit)
    change(kit, "api")
    kit.memory.behave("shop-api", Behaviour(fail_on={"stop": StartFailed("it does not end")}))
    restore = kit.memory.restore

    def late(*words):
        with kit.record.write() as session:  # somebody else has taken over by now
            operations.get(session, operation_id).fence += 1
        return restore(*words)

    monkeypatch.setattr(kit.memory, "restore", late)
    operation_id = kit.ask("update", on_failure="keep")

    assert kit.run(operation_id).status == "in_progress"
    assert set(kit.memory.aside()) == {"shop-api"}


WEB = {"name": "web", "runtime": "docker", "image": "web:1", "health_check": every(0.02)}


def _follower(name, of):
    return checked(name, depends_on=[{"service": of, "condition": "healthy", "restart": True}])


def test_who_was_to_be_restarted_along_and_never_was_is_the_old_one_and_was_never_away(kit):
    before = up(kit, _follower("web", "db"), checked("db"))
    change(kit, "db")
    new_one(kit, "db", unhealthy=True)

    for on_failure, of_db in (("rollback", "old"), ("keep", "new")):
        ended = kit.run(kit.ask("update", only=["shop-db"], on_failure=on_failure))

        assert (ended.status, runs(ended)) == ("failed", {"db": of_db, "web": "old"})
        assert (told(ended, "web")["unavailable_s"], told(ended, "web")["unavailable_from"]) == (0.0, None)
        assert seen(kit)["web"] == before["web"]


def test_who_was_restarted_along_is_new_where_that_stands_and_old_where_it_was_taken_back(kit):
    last = plain("last", "web") | {"depends_on": [{"service": "web", "condition": "healthy", "restart": True}]}
    up(kit, last, _follower("web", "db"), checked("db"))
    change(kit, "db")
    kit.memory.behave("shop-last", Behaviour(fail_on={"stop": StartFailed("it does not end")}))

    back = kit.run(kit.ask("update", only=["shop-db"]))
    kit.memory.behave("shop-last", Behaviour())
    forward = kit.run(kit.ask("update", only=["shop-db"]))

    assert runs(back) == {"db": "old", "web": "old", "last": "old"}
    assert told(back, "web")["unavailable_s"] > 0
    assert (forward.status, runs(forward)) == ("completed", {"db": "new", "web": "new", "last": "new"})


def test_who_lives_in_anothers_container_is_away_from_when_that_one_is_stopped_until_it_serves_itself(kit):
    up(kit, WEB, inside("side", "web"))
    change(kit, "web", image="web:2")

    ended = kit.run(kit.ask("update", only=["shop-web"]))

    assert (ended.status, runs(ended)) == ("completed", {"web": "new", "side": "new"})
    web, side = told(ended, "web"), told(ended, "side")
    assert side["unavailable_from"] == web["unavailable_from"]
    assert side["unavailable_until"] > web["unavailable_until"]
    assert side["unavailable_s"] > web["unavailable_s"]


def test_who_lives_in_anothers_container_is_restarted_with_it_also_where_it_does_not_ask_for_it(kit):
    needs = [{"service": "web", "condition": "healthy"}]
    last = plain("last") | {"depends_on": [{"service": "side", "condition": "started", "restart": True}]}
    before = up(kit, WEB, inside("side", "web", depends_on=needs), last, plain("other", "web"))
    change(kit, "web", image="web:2")

    ended = kit.run(kit.ask("update", only=["shop-web"]))

    assert (ended.status, runs(ended)) == ("completed", {"web": "new", "side": "new", "last": "new"})
    since = seen(kit)
    assert [name for name in before if since[name].started_at == before[name].started_at] == ["other"]


def test_a_cancel_tells_how_long_who_lives_in_what_went_back_was_away(kit):
    before = up(kit, WEB, inside("side", "web"))
    change(kit, "web", image="web:2")
    kit.seen("web", health_check_start_period=30.0)
    new_one(kit, "web", unhealthy=True)

    ended = _cancelled_while(kit, kit.ask("update", only=["shop-web"]), "wait:shop-web")

    assert (ended.status, runs(ended)) == ("cancelled", {"web": "old", "side": "old"})
    assert seen(kit)["side"].started_at > before["side"].started_at
    assert told(ended, "side")["unavailable_from"] == told(ended, "web")["unavailable_from"]
    assert told(ended, "side")["unavailable_until"] > told(ended, "web")["unavailable_until"]


def test_who_lives_in_what_is_kept_though_it_failed_is_cut_off_since(kit):
    up(kit, WEB, inside("side", "web"))
    change(kit, "web", image="web:2")
    new_one(kit, "web", unhealthy=True)

    ended = kit.run(kit.ask("update", only=["shop-web"], on_failure="keep"))

    assert (ended.status, runs(ended)) == ("failed", {"web": "new", "side": "old"})
    assert (told(ended, "side")["unavailable_s"], told(ended, "side")["unavailable_until"]) == (None, None)
    assert told(ended, "side")["unavailable_from"] == told(ended, "web")["unavailable_from"]


def test_one_that_served_and_could_not_be_taken_back_is_away_since(kit):
    up(kit)
    change(kit, "db", "api")
    new_one(kit, "api", unhealthy=True)
    new_one(kit, "db", fail_on={"restore": StartFailed("its container is gone")})
    start, begun = kit.memory.start, []

    def once(spec, keep=False):
        if spec.id == "shop-db" and begun:
            raise StartFailed("no such program")
        begun.extend([spec.id] if spec.id == "shop-db" else [])
        return start(spec, keep)

    kit.memory.start = once

    ended = kit.does("update")

    assert runs(ended)["db"] == "none"
    assert (told(ended, "db")["unavailable_s"], told(ended, "db")["unavailable_until"]) == (None, None)
