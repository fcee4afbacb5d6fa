"""Operations over HTTP: lists, waiting, cancel, retry, answer."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from domain.states import OperationStatus
from models import operation_requests, operations
from models.base import now
from models.operations import OperationStep
from tests.unit.api_kit import Kit, api, kit, process
from tests.waiting import wait_until

__all__ = ["api"]
FIELDS = {
    "id", "type", "status", "group_name", "service_id", "parent_id", "parameters", "dependencies",
    "waiting_for", "progress", "remaining_s", "critical_path",
    "current_step", "steps", "result", "error", "question", "initiated_by", "attempt", "retry_of", "failed_steps",
    "created_at", "start_time", "end_time",
}  # fmt: skip
STEP = {
    "id", "action", "target", "depends_on", "cause", "status", "started_at", "ended_at", "duration_s",
    "expected_s", "error",
}  # fmt: skip


def claim(api: Kit, operation_id: str) -> None:
    with api.record.write() as session:
        assert operations.claim(session, operation_id, {"pid": 1}, now()) is not None


def ask_question(api: Kit, operation_id: str) -> None:
    with api.record.write() as session:
        found = operations.get(session, operation_id)
        found.status = OperationStatus.WAITING.value
        choices = [{"choice": each, "description": "d", "risk_level": "low"} for each in ("yes", "no")]
        found.question = {"text": "?", "choices": choices, "expires_at": None}


def test_an_operation_is_given_back_with_every_field_of_the_contract(api: Kit) -> None:
    made = api.operation()
    assert made.keys() == FIELDS
    assert (made["status"], made["progress"], made["attempt"], made["steps"]) == ("pending", 0, 0, [])
    nothing = ("result", "error", "question", "retry_of", "start_time", "end_time", "parent_id", "current_step")
    assert all(made[name] is None for name in nothing)
    assert (made["dependencies"], made["waiting_for"], made["failed_steps"]) == ([], [], [])
    assert made["initiated_by"].startswith("admin-")
    assert api.get(f"/operations/{made['id']}") == made
    assert "targets" not in made["parameters"]


def test_steps_and_their_failures_are_shown_in_order(api: Kit) -> None:
    made = api.operation()
    claim(api, made["id"])
    with api.record.write() as session:
        operation = operations.get(session, made["id"])
        error = {"code": "start_failed", "message": "m", "exit_code": 1, "hint": "h"}
        operation.steps = [
            OperationStep(
                id="2", position=1, action="start", target="g-a", depends_on=["1"], cause="c", status="pending"
            ),
            OperationStep(
                id="1", position=0, action="create", target="g-a", status="failed", error=error, ended_at=now()
            ),
        ]
    running = api.get(f"/operations/{made['id']}")
    assert (running["status"], running["attempt"], running["start_time"][-1]) == ("in_progress", 1, "Z")
    api.finish(made["id"], OperationStatus.FAILED, error=error)
    ended = api.get(f"/operations/{made['id']}")
    assert [each["id"] for each in ended["steps"]] == ["1", "2"]
    assert all(each.keys() == STEP for each in ended["steps"])
    assert ended["steps"][0]["error"] == ended["error"] == error
    assert (ended["steps"][0]["depends_on"], ended["steps"][1]["depends_on"]) == ([], ["1"])
    assert (ended["steps"][1]["status"], ended["failed_steps"]) == ("skipped", ["1"])
    assert (ended["status"], ended["end_time"][-1]) == ("failed", "Z")


def test_the_list_is_narrowed_by_every_filter_and_a_comma_means_or(api: Kit) -> None:
    one, two = api.group("a"), api.group("a")
    first, second = api.operation(one), api.operation(two)
    third = api.post(f"/services/{two}-a/start", {"dry_run": True}, 202)
    api.post(f"/operations/{first['id']}/cancel", status=202)

    def found(query: str) -> list[str]:
        return [each["id"] for each in api.get(f"/operations?limit=200&{query}")["items"]]

    mine = {first["id"], second["id"], third["id"]}
    assert [each for each in found("") if each in mine] == [third["id"], second["id"], first["id"]]
    assert found(f"group={one}") == [first["id"]]
    assert set(found(f"group={one},{two}")) >= {first["id"], second["id"]}
    assert found(f"group={one},{two}&status=cancelled,failed") == [first["id"]]
    assert found(f"service={two}-a,nobody") == [third["id"]]
    assert found(f"type=service.start&service={two}-a") == [third["id"]]
    assert set(found(f"type=group.start,group.stop&group={one},{two}")) == {first["id"], second["id"]}
    assert found(f"group={one}&since=1h") == [first["id"]]
    assert found(f"group={one}&since=2030-01-01T00:00:00Z") == []


def test_one_that_nobody_works_on_is_cancelled_at_once_and_lets_go(api: Kit) -> None:
    made = api.operation()
    group = made["group_name"]
    rival = api.refused("POST", f"/groups/{group}/stop", None, 409, "operation_in_progress")
    assert (rival["operation_id"], rival["target"]) == (made["id"], f"group:{group}")
    answer = api.call("POST", f"/operations/{made['id']}/cancel")
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v2/operations/{made['id']}")
    assert (answer.json["status"], answer.json["error"]["code"]) == ("cancelled", "cancelled")
    final = api.refused("POST", f"/operations/{made['id']}/cancel", None, 409, "operation_final")
    assert final["operation_id"] == made["id"]
    api.post(f"/groups/{group}/stop", {}, 202)


def test_one_that_runs_is_asked_to_end_and_asking_twice_changes_nothing(api: Kit) -> None:
    made = api.operation()
    claim(api, made["id"])
    for _ in range(2):
        assert api.post(f"/operations/{made['id']}/cancel", status=202)["status"] == "cancelling"
    told = api.get(f"/events?group={made['group_name']}")["items"]
    assert [each["data"]["status"] for each in told] == ["cancelling", "in_progress", "pending"]
    api.refused("POST", f"/groups/{made['group_name']}/stop", None, 409, "operation_in_progress")


def test_a_retry_is_a_new_operation_on_what_is_needed_now(api: Kit) -> None:
    group = api.group("db")
    api.post("/services", process("web", group=group, depends_on=["db"]))
    first = api.post(f"/services/{group}-web/start", {"timeout": 60}, 202)
    problem = api.refused("POST", f"/operations/{first['id']}/retry", None, 409, "operation_in_progress")
    assert problem["operation_id"] == first["id"]
    api.post(f"/operations/{first['id']}/cancel", status=202)
    api.post("/services", process("cache", group=group))
    api.call("PATCH", f"/services/{group}-web", {"depends_on": ["db", "cache"]})
    answer = api.call("POST", f"/operations/{first['id']}/retry")
    again = answer.json
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v2/operations/{again['id']}")
    assert (again["retry_of"], again["type"], again["status"]) == (first["id"], "service.start", "pending")
    assert again["parameters"] == {
        "timeout": 60.0, "named": [f"{group}-web"], "services": sorted(f"{group}-{each}" for each in ("db", "cache",
        "web")),
    }  # fmt: skip
    api.refused("POST", f"/services/{group}-cache/stop", None, 409, "operation_in_progress")


def test_a_retry_keeps_what_was_asked_for(api: Kit) -> None:
    group = api.group("a", "b")
    first = api.post(f"/groups/{group}/start", {"services": ["b"]}, 202)
    api.post(f"/operations/{first['id']}/cancel", status=202)
    assert api.post(f"/operations/{first['id']}/retry", {}, 202)["parameters"]["services"] == [f"{group}-b"]
    dry = api.post(f"/groups/{group}/stop", {"dry_run": True}, 202)
    api.finish(dry["id"])
    again = api.post(f"/operations/{dry['id']}/retry", {}, 202)
    assert again["parameters"]["dry_run"] is True
    check = api.post("/ports/9/check", {}, 202)
    api.finish(check["id"])
    assert api.post(f"/operations/{check['id']}/retry", {}, 202)["parameters"] == {"port": 9}


def test_a_retry_of_what_is_gone_is_not_found(api: Kit) -> None:
    group = api.group("a")
    first = api.post(f"/services/{group}-a/start", {}, 202)
    of_group = api.post(f"/groups/{group}/start", {"dry_run": True}, 202)
    for each in (first, of_group):
        api.post(f"/operations/{each['id']}/cancel", status=202)
    api.call("DELETE", f"/groups/{group}")
    api.refused("POST", f"/operations/{first['id']}/retry", None, 404, "service_not_found")
    api.refused("POST", f"/operations/{of_group['id']}/retry", None, 404, "group_not_found")


def removal(api: Kit, group: str) -> Any:
    api.seen(f"{group}-one", pid=7)
    return api.call("DELETE", f"/groups/{group}").json


@pytest.mark.parametrize(
    ("make", "permission"),
    [
        (lambda api, group: api.post(f"/groups/{group}/start", {}, 202), "groups:start"),
        (lambda api, group: api.post(f"/services/{group}-one/stop", {}, 202), "services:stop"),
        (lambda api, group: api.post("/ports/9/check", {}, 202), "ports:read"),
        (removal, "groups:delete"),
    ],
)
def test_a_retry_needs_the_right_that_the_first_one_did(api: Kit, make: Any, permission: str) -> None:
    first = make(api, api.group())
    api.post(f"/operations/{first['id']}/cancel", status=202)
    without = api.user("admin", scopes=["operations:read", "metrics:read"])["key"]
    needed = api.refused("POST", f"/operations/{first['id']}/retry", None, 403, "forbidden", key=without)
    assert needed["permission"] == permission
    enough = api.user("admin", scopes=["operations:read", permission])["key"]
    assert api.call("POST", f"/operations/{first['id']}/retry", key=enough).status_code == 202


def test_a_retry_of_what_nobody_knows_needs_every_right(api: Kit) -> None:
    with api.record.write() as session:
        made = operations.create(session, "system.dance").id
    api.finish(made)
    key = api.user("operator")["key"]
    assert api.refused("POST", f"/operations/{made}/retry", None, 403, "forbidden", key=key)["permission"] == "*"
    assert api.post(f"/operations/{made}/retry", {}, 202)["retry_of"] == made


def test_a_row_without_named_targets_is_retried_on_its_group_and_service(api: Kit) -> None:
    with api.record.write() as session:
        first = operations.create(session, "x.y", group_name="g", service_id="g-a")
        operations.finish(session, first, OperationStatus.FAILED)
        again = operation_requests.retry(session, first, initiated_by="me")
        assert again.initiated_by == "me"
        locks = session.query(operations.OperationLock).filter_by(operation_id=again.id).all()
        assert sorted(each.target for each in locks) == ["group:g", "service:g-a"]
        operations.finish(session, again, OperationStatus.CANCELLED)


def test_only_a_waiting_operation_can_be_answered_and_only_with_a_choice(api: Kit) -> None:
    made = api.operation()
    path = f"/operations/{made['id']}/answer"
    api.refused("POST", path, {"choice": "yes"}, 409, "operation_not_waiting")
    ask_question(api, made["id"])
    shown = api.get(f"/operations/{made['id']}")["question"]
    assert shown.keys() == {"text", "choices", "expires_at"}
    for body in ({"choice": "perhaps"}, {}, {"choice": 1}, {"choice": ""}):
        assert list(api.refused("POST", path, body, 422, "validation_failed")["errors"]) == ["choice"]
    answered = api.post(path, {"choice": "yes"}, 202)
    assert (answered["status"], answered["question"], answered["parameters"]["answer"]) == ("pending", None, "yes")
    api.finish(made["id"])
    assert api.refused("POST", path, {"choice": "yes"}, 409, "operation_final")["operation_id"] == made["id"]


def test_an_unknown_operation_is_not_found_on_every_path(api: Kit) -> None:
    assert api.refused("GET", "/operations/none", None, 404, "operation_not_found")["ref"] == "none"
    for verb, body in (("cancel", {}), ("retry", {}), ("answer", {"choice": "x"})):
        api.refused("POST", f"/operations/none/{verb}", body, 404, "operation_not_found")


@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5", ""])
def test_a_wrong_wait_is_refused(api: Kit, wait: str) -> None:
    errors = api.refused("GET", f"/operations/{api.operation()['id']}?wait={wait}", None, 422, "validation_failed")
    assert list(errors["errors"]) == ["wait"]


def test_a_wait_is_answered_when_the_operation_ends(api: Kit) -> None:
    made = api.operation()
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(api.get(f"/operations/{made['id']}?wait=30")))
    began = time.monotonic()
    waiter.start()
    wait_until(lambda: made["id"] in api.shared.reader._ends, 5)
    api.finish(made["id"])
    waiter.join(10)
    assert answers[0]["status"] == "completed"
    assert answers[0]["progress"] == 100
    assert time.monotonic() - began < 5
    assert made["id"] not in api.shared.reader._ends


def test_a_wait_for_what_has_ended_or_for_nothing_is_answered_at_once(api: Kit) -> None:
    made = api.operation()
    began = time.monotonic()
    assert api.get(f"/operations/{made['id']}?wait=0")["status"] == "pending"
    api.finish(made["id"])
    assert api.get(f"/operations/{made['id']}?wait=60")["status"] == "completed"
    assert time.monotonic() - began < 5


def test_a_wait_that_is_over_gives_what_is_there(api: Kit) -> None:
    assert api.get(f"/operations/{api.operation()['id']}?wait=1")["status"] == "pending"


def test_what_ends_between_the_first_look_and_the_wait_is_not_waited_for(
    api: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = api.operation()
    reader = api.shared.reader
    real = reader.end_of

    def end_of(operation_id: str) -> Any:
        api.finish(operation_id)
        return real(operation_id)

    monkeypatch.setattr(reader, "end_of", end_of)
    began = time.monotonic()
    assert api.get(f"/operations/{made['id']}?wait=60")["status"] == "completed"
    assert time.monotonic() - began < 5


def test_where_too_many_wait_the_answer_comes_at_once(api: Kit) -> None:
    made = api.operation()
    slots = api.shared.wait_slots
    taken = 0
    while slots.acquire(blocking=False):
        taken += 1
    try:
        assert taken == 16  # half of the threads
        answer = api.call("GET", f"/operations/{made['id']}?wait=60")
        assert (answer.status_code, answer.headers["Retry-After"]) == (200, "1")
        assert answer.json["status"] == "pending"
    finally:
        slots.release(taken)


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with kit(tmp_path_factory.mktemp("ending")) as made:
        yield made


def test_who_waits_is_answered_when_the_process_ends(ending: Kit) -> None:
    made = ending.operation()
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(ending.get(f"/operations/{made['id']}?wait=30")))
    waiter.start()
    reader = ending.shared.reader
    wait_until(lambda: made["id"] in reader._ends, 5)
    reader.close()
    waiter.join(10)
    assert answers[0]["status"] == "pending"
    assert reader.closed
    began = time.monotonic()
    ending.get(f"/operations/{made['id']}?wait=30")
    assert time.monotonic() - began < 5


def test_without_redis_an_operation_is_accepted_and_reads_work(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with kit(tmp_path, redis=False) as api:
        made = api.operation()
        api.finish(made["id"])
        assert api.get(f"/operations/{made['id']}?wait=5")["status"] == "completed"


def test_wait_for_queues_behind_the_first_and_its_cancel_sends_the_second(api: Kit) -> None:
    name = api.group()
    first = api.operation(name)
    api.refused("POST", f"/groups/{name}/stop", {}, 409, "operation_in_progress")
    second = api.post(f"/groups/{name}/stop", {"wait_for": True}, 202)
    assert (second["status"], second["dependencies"]) == ("waiting", [first["id"]])
    assert second["waiting_for"][0].keys() == {"kind", "ref", "text"}
    [service] = api.get(f"/services?group={name}")["items"]
    assert (service["desired"], service["waiting_for"]) == ("running", second["waiting_for"])

    api.post(f"/operations/{first['id']}/cancel", status=202)
    assert api.get(f"/operations/{second['id']}")["status"] == "pending"
    wait_until(lambda: second["id"] in [each.args[0] for each in api.sent("operations")], 5, "the message")


def test_dependencies_are_existing_operations_at_most_fifty(api: Kit) -> None:
    name, first = api.group(), api.operation()
    wrong = {"dependencies": [first["id"], "nobody"]}
    errors = api.refused("POST", f"/groups/{name}/start", wrong, 422, "validation_failed")["errors"]
    assert list(errors) == ["dependencies.1"]
    for many in (["x"] * 51, "x", [""], [1]):
        api.refused("POST", f"/groups/{name}/start", {"dependencies": many}, 422, "validation_failed")
    made = api.post(f"/services/{name}-one/start", {"dependencies": [first["id"]]}, 202)
    assert (made["status"], made["dependencies"]) == ("waiting", [first["id"]])
    assert "dependencies" not in made["parameters"]
    api.finish(first["id"], OperationStatus.FAILED)
    ended = api.get(f"/operations/{made['id']}")
    assert (ended["status"], ended["error"]["code"]) == ("failed", "dependency_failed")


def test_a_running_operation_says_how_long_the_rest_may_take_and_on_what_it_hangs(api: Kit) -> None:
    made = api.operation()
    assert (made["remaining_s"], made["critical_path"]) == (None, [])
    claim(api, made["id"])
    with api.record.write() as session:
        operations.get(session, made["id"]).steps = [
            OperationStep(id=name, position=place, action="start", target="g-a", depends_on=needs, status=status,
                          expected_s=seconds, started_at=now() if status == "running" else None)
            for place, (name, needs, status, seconds) in enumerate(
                [("a", [], "running", 50.0), ("b", ["a"], "pending", 100.0), ("c", ["a"], "pending", 10.0)])
        ]  # fmt: skip
    found = api.get(f"/operations/{made['id']}")
    assert 140 < found["remaining_s"] <= 150
    assert found["critical_path"] == ["a", "b"]
    assert [each["expected_s"] for each in found["steps"]] == [50.0, 100.0, 10.0]
    assert found["steps"][0]["duration_s"] is None
    api.finish(made["id"])
    assert api.get(f"/operations/{made['id']}")["remaining_s"] is None
