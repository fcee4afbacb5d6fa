"""Operations over groups that depend on groups, one-shots, and what asks to be restarted along."""

import pytest

from domain.states import Desired
from models import registry_graph, registry_reach
from models.services import Service
from tests.unit.worker_kit import Kit, checked, plain, status
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def shops(kit):
    """Three groups, one of them without services: shop -> all -> data."""
    kit.group("data", checked("db"), checked("cache"))
    kit.group("all", dependencies=["data"])
    kit.group("shop", checked("web", "api"), checked("api"), dependencies=["all"])


def order(kit, call):
    return [service for verb, service in kit.memory.calls if verb == call]


def test_what_a_group_depends_on_is_up_first_and_goes_last(kit):
    shops(kit)

    started = kit.does("start")
    assert started.status == "completed", started.error
    first, last = order(kit, "start")[:2], order(kit, "start")[2:]
    assert (set(first), last) == ({"data-db", "data-cache"}, ["shop-api", "shop-web"])

    assert kit.run(kit.ask_all("stop", "shop", "all", "data")).status == "completed"
    assert order(kit, "stop")[:2] == ["shop-web", "shop-api"]
    assert set(order(kit, "stop")[2:]) == {"data-db", "data-cache"}


def test_one_service_takes_along_what_its_group_depends_on(kit):
    shops(kit)
    with kit.record.read() as session:
        targets = registry_graph.targets_for(session, "start", service="shop-api")

    assert targets.named == ("shop-api",)
    assert targets.services == ("data-cache", "data-db", "shop-api")


def test_a_need_of_a_need_takes_along_what_that_ones_group_depends_on(kit):
    kit.group("deep", plain("disk"))
    kit.group("data", plain("db"), dependencies=["deep"])
    kit.group("shop", plain("web", "data/db"))

    with kit.record.read() as session:
        assert set(registry_reach.needed(session, ["shop-web"])) == {"shop-web", "data-db", "deep-disk"}
        assert registry_reach.dependents(session, ["deep-disk"]) == {"data-db", "shop-web"}


def test_all_of_a_group_is_needed_where_one_of_its_services_is_needed_by_name_as_well(kit):
    kit.group("core", plain("api"), plain("mail"))
    kit.group("edge", plain("web", "core/api"), plain("proxy"), dependencies=["core"])

    with kit.record.read() as session:
        targets = registry_graph.targets_for(session, "start", group="edge")
        assert targets.services == ("core-api", "core-mail", "edge-proxy", "edge-web")
        assert registry_reach.dependents(session, ["core-api"]) == {"edge-web", "edge-proxy"}


def test_who_needs_a_whole_group_still_needs_each_of_its_services_when_one_is_stopped(kit):
    shops(kit)
    kit.does("start")

    with kit.record.read() as session:
        targets = registry_graph.targets_for(session, "stop", service="data-db")

    assert targets.running_dependents == ("shop-api", "shop-web")


def test_a_need_that_fails_in_another_group_skips_and_is_named_with_its_state(kit):
    shops(kit)
    kit.memory.behave("data-db", Behaviour(unhealthy=True))

    failed = kit.does("start")

    assert failed.status == "failed"
    assert status(failed)["start:shop-api"] == "skipped"
    assert kit.service("api").waiting_for[0]["ref"] == "data-db"


def test_a_one_shot_runs_once_and_again_when_it_is_named(kit):
    kit.group(
        "shop",
        plain("migrate", restart_policy="no"),
        plain("web", depends_on=[{"service": "migrate", "condition": "completed"}]),
    )
    kit.memory.behave("shop-migrate", Behaviour(ends_with=0))

    assert kit.does("start").status == "completed"
    assert kit.does("restart").status == "completed"
    assert order(kit, "start") == ["shop-migrate", "shop-web", "shop-web"]

    named = kit.run(kit.ask("start", only=["shop-migrate"]))
    assert named.status == "completed", named.error
    assert order(kit, "start")[-1] == "shop-migrate"


def test_one_that_ends_well_and_is_not_brought_back_has_started(kit):
    kit.group("shop", plain("job", restart_policy="no"))
    kit.memory.behave("shop-job", Behaviour(ends_with=0))

    ended = kit.does("start")

    assert ended.status == "completed", ended.error
    assert kit.service("job").status == "stopped"


def test_one_that_is_to_run_on_has_not_started_when_it_ends_well(kit):
    kit.group("shop", plain("web"))
    kit.memory.behave("shop-web", Behaviour(ends_with=0))

    assert kit.does("start").error["exit_code"] == 0


def test_a_need_whose_row_vanished_fails_the_start_by_name_before_anything_starts(kit):
    kit.group("shop", plain("web", "db"), plain("db"), plain("other"))
    with kit.record.write() as session:
        session.delete(session.get(Service, "shop-db"))

    failed = kit.does("start")

    assert (failed.status, failed.error["code"]) == ("failed", "unknown_dependency")
    assert failed.error["dependency"] == "shop-db"
    assert order(kit, "start") == []


def test_a_restart_takes_along_what_runs_and_asks_for_it_and_wants_nothing_else(kit):
    follows = [{"service": "db", "condition": "started", "restart": True}]
    kit.group("shop", plain("db"), plain("api", depends_on=follows), plain("idle", depends_on=follows),
              plain("web", "db"))  # fmt: skip
    for name in ("db", "api", "web"):
        kit.run(kit.ask("start", only=[f"shop-{name}"]))
    kit.memory.calls.clear()

    ended = kit.run(kit.ask("restart", only=["shop-db"]))

    assert ended.status == "completed", ended.error
    assert order(kit, "stop") == ["shop-api", "shop-db"]
    assert order(kit, "start") == ["shop-db", "shop-api"]
    assert kit.service("idle").desired == Desired.STOPPED.value
