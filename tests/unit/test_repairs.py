"""What CLOS does of its own accord: one worker, the in-memory runtime, and looks at it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from domain.configuration import Reconcile
from domain.errors import EngineUnreachable
from domain.observation import Phase, Sighting
from domain.states import Desired
from models import registry_graph
from models.base import now
from tests.unit.worker_kit import Kit, checked, inside, plain, status
from workers import state
from workers.carrying import read_subject
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _look(kit: Kit) -> list[str]:
    """One look; the ids of the operations that it asked for."""
    kit.context.observer.changed("process")
    kit.context.observer.changed("docker")
    state.collect(kit.context)
    return [message.args[0] for message in kit.sent()]


def _policy(kit: Kit, **modes) -> None:
    kit.context = replace(kit.context, reconcile=Reconcile(**modes))


def _three(kit: Kit, **more) -> None:
    kit.group("data", container("db", **more))
    kit.group("shop", container("api", "data/db", **more), container("web", "api", **more))


def container(name: str, *needs: str, **more) -> dict:
    return checked(name, *needs, runtime="docker", image="x", **more)


def _start_all(kit: Kit) -> None:
    for group in ("data", "shop"):
        assert kit.does("start", group).status == "completed"
    assert _look(kit) == []


def _engine_restarts(kit: Kit) -> None:
    """It takes all with it, and is there again."""
    for name in ("data-db", "shop-api", "shop-web"):
        kit.memory.end(name, 137, by_hand=True)
    kit.memory.seen_as = Sighting("memory", now())


def _begun(kit: Kit) -> list[str]:
    return [service for call, service in kit.memory.calls if call == "start"]


def test_what_an_engine_took_along_comes_back_in_one_operation_and_in_order(kit):
    _three(kit, restart_policy="no")
    _start_all(kit)
    kit.memory.calls.clear()
    _engine_restarts(kit)

    asked = _look(kit)

    assert len(asked) == 1
    assert {kit.service(name, group).down_cause for group, name in _NAMES} == {"engine"}
    assert {kit.service(name, group).status for group, name in _NAMES} == {"stopped"}
    ended = kit.run(asked[0])
    assert (ended.type, ended.status, ended.initiated_by) == ("batch.start", "completed", "system:reconcile")
    assert ended.parameters["named"] == ["data-db", "shop-api", "shop-web"]
    assert ended.parameters["groups"] == ["data", "shop"]
    assert ended.parameters["reason"] == "its engine was restarted"
    assert _begun(kit) == ["data-db", "shop-api", "shop-web"]
    assert _look(kit) == []
    assert {kit.service(name, group).down_cause for group, name in _NAMES} == {None}
    assert {kit.service(name, group).crash_count for group, name in _NAMES} == {0}


_NAMES = (("data", "db"), ("shop", "api"), ("shop", "web"))


def test_also_when_it_did_not_answer_in_between_and_clos_was_not_there(kit):
    _three(kit)
    _start_all(kit)
    kit.memory.behave("*", Behaviour(fail_on={"observe": EngineUnreachable("down")}))
    assert _look(kit) == []
    assert kit.service("web").status == "unknown"
    kit.memory.behave("*", Behaviour())
    _engine_restarts(kit)
    kit.context = kit.make_context("another")

    asked = _look(kit)

    assert len(asked) == 1
    assert kit.service("web").down_cause == "engine"


def test_a_reboot_of_the_host_brings_everything_back_processes_too(kit):
    kit.memory.seen_as = Sighting("boot-1")
    kit.group("data", plain("db"))
    kit.group("shop", container("api", "data/db"), plain("web", "api", restart_policy="no"))
    _start_all(kit)
    for name in ("data-db", "shop-api", "shop-web"):
        kit.memory.end(name, 137)
    kit.memory.seen_as = Sighting("boot-2")
    state.note_boot(kit.context)
    kit.memory.calls.clear()

    asked = _look(kit)

    assert {kit.service(name, group).down_cause for group, name in _NAMES} == {"host"}
    assert len(asked) == 1
    assert kit.run(asked[0]).status == "completed"
    assert _begun(kit) == ["data-db", "shop-api", "shop-web"]


def test_what_a_person_stopped_is_reported_and_stays_until_it_is_asked_for(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.memory.end("shop-web", 143, by_hand=True)

    assert _look(kit) == []
    assert _look(kit) == []

    web = kit.service("web")
    assert (web.status, web.down_cause, web.exit_code) == ("stopped", "person", 143)
    assert web.waiting_for[0]["text"] == "it was stopped by hand: `clos start shop-web` brings it back"
    told = kit.events("service.down")
    assert [(event["severity"], event["data"]["cause"]) for event in told] == [("warning", "person")]

    assert kit.does("start").status == "completed"
    assert kit.service("web").waiting_for is None
    assert _look(kit) == []


def test_what_a_person_removed_is_reported_too(kit):
    kit.group("shop", container("web"))
    kit.does("start")
    kit.memory.lose("shop-web")

    assert _look(kit) == []

    assert (kit.service("web").status, kit.service("web").down_cause) == ("stopped", "person")
    assert "it was removed by hand" in kit.service("web").waiting_for[0]["text"]


@pytest.mark.parametrize("how", ["installation", "group"])
def test_a_policy_brings_back_what_a_person_stopped(kit, how):
    kit.group("shop", container("web", restart_policy="no"), plain("api"))
    if how == "group":
        _of_group(kit, {"person": "repair"})
    else:
        _policy(kit, person="repair")
    kit.does("start")
    kit.memory.lose("shop-web")
    kit.memory.end("shop-api", 143, by_hand=True)

    asked = _look(kit)

    assert [kit.run(each).status for each in asked] == ["completed"] * 2  # nothing connects them
    assert {kit.service("web").status, kit.service("api").status} == {"running"}


def _of_group(kit: Kit, policy: dict, name: str = "shop") -> None:
    from models.groups import Group

    with kit.record.write() as session:
        session.get(Group, name).reconcile = policy


def test_off_says_and_does_nothing_but_tells_the_truth(kit):
    kit.group("shop", plain("web"))
    _of_group(kit, {"person": "off", "crash": "off", "engine": "off", "host": "off"})
    kit.does("start")
    kit.memory.end("shop-web", 1)

    assert _look(kit) == []

    assert (kit.service("web").status, kit.service("web").down_cause) == ("failed", "crash")
    assert kit.service("web").waiting_for is None
    assert kit.events("service.down") == []


def test_a_policy_that_is_changed_later_holds_from_the_next_look_on(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.memory.end("shop-web", 143, by_hand=True)
    assert _look(kit) == []

    _of_group(kit, {"person": "repair"})

    assert kit.run(_look(kit)[0]).status == "completed"


def test_a_crash_loop_ends_and_says_so_until_a_person_starts_it(kit):
    _policy(kit, crash_loop_limit=3)
    kit.group("shop", plain("web"))
    kit.does("start")
    for _ in range(2):
        kit.memory.end("shop-web", 7)
        asked = _look(kit)
        if not asked:
            kit.seen("web", restart_not_before=now() - timedelta(seconds=1))
            asked = _look(kit)
        assert kit.run(asked[0]).status == "completed"
    kit.memory.end("shop-web", 7)

    assert _look(kit) == []
    assert _look(kit) == []

    web = kit.service("web")
    assert (web.status, web.crash_count, web.restarts) == ("failed", 3, 2)
    assert web.waiting_for[0]["text"].startswith("crash loop: 3 deaths in a row, last exit code 7")
    assert [event["severity"] for event in kit.events("service.down")] == ["error"]

    kit.does("start")
    kit.memory.end("shop-web", 7)
    assert len(_look(kit)) == 1  # a new count


def test_a_repair_that_fails_is_tried_again_later_and_given_up_in_the_end(kit):
    _policy(kit, crash_loop_limit=2)
    _three(kit)
    _start_all(kit)
    _engine_restarts(kit)
    kit.memory.behave("data-db", Behaviour(ends_with=3))
    assert kit.run(_look(kit)[0]).status == "failed"

    assert _look(kit) == []
    db, api = kit.service("db", "data"), kit.service("api")
    assert (db.crash_count, api.crash_count) == (1, 0)  # only what was attempted has failed
    assert api.waiting_for[0]["text"] == "waiting for data-db, which is down"

    kit.seen("db", "data", restart_not_before=now() - timedelta(seconds=1))
    again = _look(kit)
    assert len(again) == 1
    assert kit.run(again[0]).parameters["named"] == ["data-db", "shop-api", "shop-web"]
    assert _look(kit) == []
    assert "given up: 2 starts in a row failed" in kit.service("db", "data").waiting_for[0]["text"]

    kit.memory.behave("data-db", Behaviour())
    assert kit.does("start", "data").status == "completed"
    assert kit.run(_look(kit)[0]).parameters["named"] == ["shop-api", "shop-web"]
    assert _look(kit) == []


def test_nothing_is_started_without_what_it_cannot_do_without(kit):
    _three(kit)
    _start_all(kit)
    with kit.record.write() as session:
        registry_graph.want(session, ["data-db"], Desired.STOPPED)
    kit.memory.end("data-db", 0)
    kit.memory.end("shop-api", 1)

    assert _look(kit) == []

    assert kit.service("api").waiting_for == [
        {"kind": "dependency", "ref": "data-db", "text": "waiting for data-db, which is stopped: `clos start data-db`"}
    ]
    assert kit.does("start", "data").status == "completed"
    assert kit.run(_look(kit)[0]).status == "completed"
    assert kit.service("api").status == "running"


def test_while_an_engine_does_not_answer_nothing_is_done_nor_judged(kit):
    _three(kit)
    _start_all(kit)
    kit.memory.behave("*", Behaviour(fail_on={"observe": EngineUnreachable("down")}))
    for name in ("data-db", "shop-api", "shop-web"):
        kit.memory.end(name, 137)

    assert _look(kit) == []

    assert {(kit.service(name, group).status, kit.service(name, group).down_cause) for group, name in _NAMES} == {
        ("unknown", None)
    }


def test_an_engine_that_is_going_down_is_not_believed(kit):
    _three(kit)
    _start_all(kit)
    kit.memory.end("shop-web", 137, by_hand=True)

    def gone():
        raise EngineUnreachable("it takes no new connection")

    kit.memory.sighting = gone
    with pytest.raises(EngineUnreachable):
        kit.memory.sighting()
    kit.runtimes["process"] = _Boot()
    assert _look(kit) == []
    assert (kit.service("web").status, kit.service("web").down_cause) == ("unknown", None)


class _Boot:
    def sighting(self) -> Sighting:
        return Sighting("boot")


def test_who_cancels_a_repair_has_it_left_alone(kit):
    from models import operation_requests, operations

    kit.group("shop", plain("web"))
    kit.does("start")
    kit.memory.end("shop-web", 1)
    asked = _look(kit)
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, asked[0]))

    assert _look(kit) == []
    assert "it ended with exit code 1" in kit.service("web").waiting_for[0]["text"]
    assert kit.does("start").status == "completed"


def test_what_the_engine_itself_restarts_is_only_observed(kit):
    kit.group("shop", container("web", restart_by="engine"))
    kit.does("start")
    kit.memory.end("shop-web", 1)
    assert _look(kit) == []
    assert (kit.service("web").status, kit.service("web").down_cause) == ("failed", "crash")


def test_a_look_at_what_runs_disturbs_nothing_also_by_a_new_worker(kit):
    _three(kit)
    _start_all(kit)
    kit.memory.calls.clear()
    kit.context = kit.make_context("after a restart of CLOS")
    state.note_boot(kit.context)
    assert _look(kit) == []
    assert kit.memory.calls == []


def test_a_stale_starting_is_settled_by_the_first_look(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.memory.end("shop-web", 137)
    kit.seen("web", status="starting", stopped_at=now(), started_at=None)
    assert _look(kit) == []
    assert kit.service("web").status == "failed"


def test_twelve_services_of_three_groups_come_up_behind_what_they_need(kit):
    for name, services in twelve().items():
        kit.group(name, *services)
    for name in twelve():
        assert kit.does("start", name).status == "completed"
    kit.memory.calls.clear()
    for each in list(kit.memory.observe()):
        kit.memory.end(each, 137)
    kit.memory.seen_as = Sighting("memory", now())
    assert _look(kit) != []
    with kit.record.read() as session:
        from sqlalchemy import select

        from models.operations import Operation

        repair = session.scalars(select(Operation).where(Operation.type == "batch.start")).all()
    assert len(repair) == 1
    ended = kit.run(repair[0].id)
    assert ended.status == "completed", status(ended)
    begun = _begun(kit)
    assert len(begun) == 12
    needs = {f"{group}-{one['name']}": one["depends_on"] for group, all_ in twelve().items() for one in all_}
    for service, wanted in needs.items():
        for need in wanted:
            group, _, name = need["service"].rpartition("/")
            provider = f"{group or service.split('-')[0]}-{name}"
            assert begun.index(provider) < begun.index(service)
    assert all(kit.memory.observe()[each].phase is Phase.RUNNING for each in needs)


def twelve() -> dict[str, list[dict]]:
    """Three groups, twelve services, one graph."""
    return {
        "data": [container("db"), container("cache"), container("queue", "db"), container("search", "db", "cache")],
        "core": [
            container("auth", "data/db"),
            container("api", "auth", "data/cache", "data/queue"),
            container("jobs", "data/queue", "data/search"),
            container("mail", "jobs"),
        ],
        "edge": [
            container("web", "core/api"),
            container("admin", "core/api", "core/jobs"),
            container("proxy", "web", "admin"),
            container("probe", "proxy", "core/mail"),
        ],
    }


def _vpn_and_who_lives_in_it(kit: Kit) -> None:
    """Gluetun's way: one container with the network, others in it."""
    kit.group("shop", container("vpn", restart_policy="always"), inside("side", "vpn"), container("other", "vpn"))
    assert kit.does("start").status == "completed"
    assert _look(kit) == []
    kit.memory.calls.clear()


def test_who_lives_in_the_container_of_one_that_crashed_is_restarted_after_it(kit):
    _vpn_and_who_lives_in_it(kit)
    kit.memory.end("shop-vpn", 1)

    (repair,) = _look(kit)
    ended = kit.run(repair)

    assert (ended.status, ended.parameters["named"]) == ("completed", ["shop-vpn"])
    done = [call for call in kit.memory.calls if call[0] in ("start", "stop")]
    assert done.index(("stop", "shop-side")) < done.index(("start", "shop-side"))
    assert done.index(("start", "shop-vpn")) < done.index(("start", "shop-side"))
    assert not [each for each in done if each[1] == "shop-other"]
    assert kit.service("side").status == "running"
    assert _look(kit) == []


def test_a_start_restarts_who_runs_and_lives_in_what_it_starts_and_nobody_where_that_runs(kit):
    _vpn_and_who_lives_in_it(kit)
    assert kit.does("start", only=["shop-vpn"]).steps == []
    kit.run(kit.ask("stop", only=["shop-vpn"]))

    ended = kit.run(kit.ask("start", only=["shop-vpn"]))

    assert ended.status == "completed"
    assert {"stop:shop-side", "start:shop-side", "wait:shop-side"} < set(status(ended))
    assert next(each for each in ended.steps if each.id == "stop:shop-side").cause == (
        "it lives in the container of shop-vpn, which is started anew"
    )
    kit.run(kit.ask("stop", only=["shop-side"]))
    kit.run(kit.ask("stop", only=["shop-vpn"]))
    assert not any(each.endswith("shop-side") for each in status(kit.run(kit.ask("start", only=["shop-vpn"]))))


def test_who_lives_in_a_container_that_somebody_has_started_since_is_restarted_by_a_start(kit):
    """Also where that was a worker that was killed before it came to who lives in it."""
    _vpn_and_who_lives_in_it(kit)
    kit.memory.end("shop-vpn", 1)
    kit.memory.start(read_subject(kit.record, ["shop-vpn"]).by_id["shop-vpn"])

    ended = kit.does("start")

    assert [step.id for step in ended.steps] == ["stop:shop-side", "start:shop-side", "wait:shop-side"]
    assert kit.does("start").steps == []
