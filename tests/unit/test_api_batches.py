"""Several groups and services at once over HTTP."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from domain.states import OperationStatus
from models import operations
from models.base import now
from models.installation import SILENT_AFTER_S, Heartbeat
from tests.unit.api_kit import Kit, kit, process
from tests.waiting import wait_until


@pytest.fixture
def api(tmp_path: Any) -> Iterator[Kit]:
    with kit(tmp_path) as made:
        for name, services in (("web", ("front", "back")), ("web-tools", ("one",)), ("db", ("main",))):
            tags = {"front": ["edge"], "main": ["edge", "data"]}
            made.post("/groups", {"name": name, "services": [process(s, tags=tags.get(s, [])) for s in services]})
        seen = {"name": "seen", "services": [{"name": "far", "runtime": "external", "tags": ["edge"], "port": 80}]}
        made.post("/groups", seen)
        _hear_of_worker(made, threads=8)
        yield made


def _hear_of_worker(api: Kit, threads: int, number: int = 1, at: datetime | None = None) -> None:
    with api.record.write() as session:
        session.merge(Heartbeat(id=f"worker:{number}", role="worker", facts={"threads": threads}, at=at or now()))


def _ask(api: Kit, **body: Any) -> Any:
    return api.post("/operations", {"action": "start"} | body, 202)


@pytest.mark.parametrize(
    ("asked", "groups", "services"),
    [
        ({"groups": ["web", "db"]}, ["db", "web"], []),
        ({"services": ["web/front", "db-main"]}, [], ["db-main", "web-front"]),
        ({"tags": ["edge"]}, [], ["db-main", "web-front"]),
        ({"tags": ["edge", "data"], "groups": ["db"]}, ["db"], ["web-front"]),
        ({"match": ["web*"]}, ["web", "web-tools"], []),
        ({"match": ["web/*"]}, [], ["web-back", "web-front"]),
        ({"match": ["*/[fm]*"]}, [], ["db-main", "web-front"]),
    ],
)
def test_targets_are_named_tagged_or_matched(api: Kit, asked: Any, groups: Any, services: Any) -> None:
    made = _ask(api, **asked)
    assert (made["type"], made["status"], made["group_name"]) == ("batch.start", "pending", None)
    assert (made["parameters"]["groups"], made["parameters"]["chosen"]) == (groups, services)
    wait_until(lambda: [each.args for each in api.sent("operations")] == [(made["id"],)], 5, "the message")
    for service_id in made["parameters"]["services"]:
        assert api.get(f"/services/{service_id}")["desired"] == "running"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "groups"),
        ({"groups": []}, "groups"),
        ({"groups": ["web", "wbe"]}, "groups.1"),
        ({"services": ["web/none"]}, "services.0"),
        ({"services": ["seen-far"]}, "services.0"),
        ({"tags": ["nobody"]}, "tags.0"),
        ({"match": ["x*"]}, "match.0"),
        ({"match": ["seen/*"]}, "match.0"),
        ({"action": "dance", "groups": ["web"]}, "action"),
        ({"groups": ["web"], "cascade": True}, "cascade"),
        ({"action": "stop", "groups": ["web"], "no_deps": True}, "no_deps"),
        ({"action": "stop", "groups": ["web"], "timeout": 4000}, "timeout"),
        ({"groups": ["web"], "timeout": 0.5}, "timeout"),
        ({"groups": ["web"], "together": False, "dry_run": True}, "dry_run"),
        ({"groups": ["web"], "together": False, "dependencies": ["x"]}, "dependencies"),
        ({"groups": ["web"], "targets": ["x"]}, "targets"),
    ],
)
def test_what_selects_nothing_or_does_not_fit_is_named(api: Kit, asked: Any, field: str) -> None:
    body = {"action": "start"} | asked
    assert list(api.refused("POST", "/operations", body, 422, "validation_failed")["errors"]) == [field]


def test_more_than_five_hundred_targets_are_refused(api: Kit) -> None:
    for number in range(3):
        api.post("/groups", {"name": f"m{number}", "services": [process(f"s{each}") for each in range(200)]})
    body = {"action": "start", "match": ["m*/*"]}
    errors = api.refused("POST", "/operations", body, 422, "validation_failed")["errors"]
    assert errors == {"match": ["At most 500 targets; these are 600."]}
    assert len(_ask(api, match=["m*"])["parameters"]["named"]) == 600


def test_the_rights_of_what_is_meant_are_needed(api: Kit) -> None:
    only_groups = api.user("operator", scopes=["groups:start", "operations:read"])["key"]
    api.post("/operations", {"action": "start", "groups": ["web"]}, 202, key=only_groups)
    for body in ({"action": "start", "services": ["db-main"]}, {"action": "stop", "groups": ["db"]}):
        api.refused("POST", "/operations", body, 403, "forbidden", key=only_groups)
    viewer = api.user("viewer")["key"]
    api.refused("POST", "/operations", {"action": "start", "groups": ["db"]}, 403, "forbidden", key=viewer)


def test_a_rival_is_named_or_waited_for(api: Kit) -> None:
    first = _ask(api, groups=["web"])
    body = {"action": "stop", "match": ["web*"]}
    assert api.refused("POST", "/operations", body, 409, "operation_in_progress")["operation_id"] == first["id"]
    waiting = api.post("/operations", body | {"wait_for": True}, 202)
    assert (waiting["status"], waiting["dependencies"]) == ("waiting", [first["id"]])


def test_one_operation_each_has_a_parent_that_waits_for_them(api: Kit) -> None:
    parent = _ask(api, groups=["web", "db"], services=["web-tools-one"], together=False)
    assert (parent["status"], parent["type"], parent["steps"]) == ("waiting", "batch.start", [])
    children = api.get(f"/operations?parent={parent['id']}")["items"]
    found = {(each["type"], each["service_id"] or each["group_name"], each["status"]) for each in children}
    assert found == {
        ("group.start", "db", "pending"), ("group.start", "web", "pending"),
        ("service.start", "web-tools-one", "pending"),
    }  # fmt: skip
    assert {each["parent_id"] for each in children} == {parent["id"]}
    sent: set[str] = set()
    wait_until(lambda: sent.update(each.args[0] for each in api.sent("operations")) or len(sent) == 3, 5, "messages")
    assert sent == {each["id"] for each in children}
    for each in children:
        api.finish(each["id"], OperationStatus.FAILED if each["group_name"] == "db" else OperationStatus.COMPLETED)
    ended = api.get(f"/operations/{parent['id']}")
    assert (ended["status"], ended["error"]["code"]) == ("failed", "batch_failed")
    assert {state: len(ids) for state, ids in ended["result"]["operations"].items()} == {"completed": 2, "failed": 1}


def test_half_of_the_slots_are_for_children(tmp_path: Any) -> None:
    with kit(tmp_path, CLOS_PERFORMANCE__MAX_CONCURRENT_OPERATIONS="3") as api:
        for name in ("a", "b", "c"):
            api.post("/groups", {"name": name, "services": [process("one")]})
        parent = api.post("/operations", {"action": "start", "match": ["*"], "together": False}, 202)
        children = api.get(f"/operations?parent={parent['id']}")["items"]
        assert sorted(each["status"] for each in children) == ["pending", "waiting", "waiting"]
        waiting = next(each for each in children if each["status"] == "waiting")
        assert waiting["waiting_for"] == [
            {"kind": "slot", "ref": parent["id"], "text": f"waiting for its turn in batch {parent['id']}"}
        ]


def test_without_a_limit_half_of_what_the_workers_that_run_can_do_is_for_children(tmp_path: Any) -> None:
    with kit(tmp_path) as api:
        for name in "abcdef":
            api.post("/groups", {"name": name, "services": [process("one")]})
        _hear_of_worker(api, 4)
        _hear_of_worker(api, 64, number=2, at=now() - timedelta(seconds=SILENT_AFTER_S + 1))
        parent = api.post("/operations", {"action": "start", "match": ["*"], "together": False}, 202)

        def let_go() -> list[str]:
            children = api.get(f"/operations?parent={parent['id']}")["items"]
            return [each["id"] for each in children if each["status"] == "pending"]

        assert len(let_go()) == 2
        # One more is started while the batch is under way.
        _hear_of_worker(api, 4, number=3)
        api.finish(let_go()[0], OperationStatus.COMPLETED)
        assert len(let_go()) == 4


def test_a_cancel_of_the_parent_cancels_its_children(api: Kit) -> None:
    parent = _ask(api, match=["web*"], together=False)
    working = api.get(f"/operations?parent={parent['id']}")["items"][0]["id"]
    with api.record.write() as session:
        operations.claim(session, working, {"pid": 1}, now())
    assert api.post(f"/operations/{parent['id']}/cancel", status=202)["status"] == "waiting"
    assert {each["status"] for each in api.get(f"/operations?parent={parent['id']}")["items"]} == {
        "cancelling", "cancelled",
    }  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
def test_a_retry_asks_for_the_same_targets_with_the_same_rights(api: Kit, together: bool) -> None:
    first = _ask(api, groups=["web"], services=["db-main"], together=together, no_deps=True)
    api.post(f"/operations/{first['id']}/cancel", status=202)
    again = api.post(f"/operations/{first['id']}/retry", status=202)
    assert (again["retry_of"], again["type"]) == (first["id"], "batch.start")
    for name in ("groups", "chosen", "no_deps", "together"):
        assert again["parameters"][name] == first["parameters"][name]
    viewer = api.user("viewer")["key"]
    api.refused("POST", f"/operations/{first['id']}/retry", None, 403, "forbidden", key=viewer)
