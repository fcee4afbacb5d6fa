import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from models.base import now
from models.installation import ServiceMetric
from tests.integration.api_fixture import DATABASES
from tests.integration.registry_fixture import API_PORT, Asked, asked_api


@pytest.fixture(scope="module", params=DATABASES)
def api(request: pytest.FixtureRequest) -> Iterator[Asked]:
    with asked_api(request.param) as made:
        yield made


@pytest.fixture
def group() -> str:
    return f"g{uuid.uuid4().hex[:8]}"


def body(group: str, name: str = "web", **more: Any) -> dict[str, Any]:
    return {"name": name, "group": group, "runtime": "process", "command": ["sleep", "9"], **more}


def test_a_service_is_given_back_as_the_contract_says(api: Asked, group: str) -> None:
    answer = api.call("POST", "/services", body(group, ports=[{"name": "http"}], secrets={"TOKEN": "hidden-value"}))
    assert answer.status_code == 201
    made: Any = answer.json
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Location"] == f"/api/v2/services/{group}-web"
    assert "hidden-value" not in answer.text
    assert made["secrets"] == ["TOKEN"]
    port = made["ports"][0]
    assert port["url"] == f"http://127.0.0.1:{made['port']}"
    assert port["host_port"] == made["port"]
    assert made["health"] == {"status": "none", "last_check": None, "response_time_ms": None, "detail": None}
    assert made["observed"].keys() == {
        "container_id", "pid", "exit_code", "restarts", "down_cause", "down_since", "observed_at",
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", made["created_at"])
    assert api.get(f"/services/{made['id']}") == made


def test_what_was_given_can_be_sent_back_as_a_change(api: Asked, group: str) -> None:
    api.post("/services", body(group, "db", ports=[{"name": "tcp"}]))
    made = api.post("/services", body(group, depends_on=["db"], health_check={"test": ["true"]}))
    same = {k: made[k] for k in ("command", "environment", "depends_on", "tags", "restart_policy", "health_check")}
    same["ports"] = [{k: v for k, v in each.items() if k != "url"} for each in made["ports"]]
    answer = api.call("PATCH", f"/services/{made['id']}", same)
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')


def test_a_change_makes_a_new_version_and_a_stale_one_is_refused(api: Asked, group: str) -> None:
    made = api.post("/services", body(group))
    path = f"/services/{made['id']}"
    changed = api.call("PATCH", path, {"description": "new"}, If_Match='"1"')
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    stale = api.call("PATCH", path, {"description": "newer"}, If_Match='"1"')
    assert stale.status_code == 412
    assert api.call("DELETE", path, If_Match='"1"').status_code == 412
    assert api.get(path)["description"] == "new"


def test_every_wrong_field_is_named(api: Asked, group: str) -> None:
    wrong = body(group, status="running", comand="x", ports=[{"host_port": 1.9}], environment={"A": 1})
    errors = api.refused("POST", "/services", wrong, 422, "validation_failed")["errors"]
    assert errors["status"] == ["This field is read-only."]
    assert errors["comand"] == ["Unknown field. Did you mean 'command'?"]
    assert any(key.startswith("ports.0.host_port") for key in errors)
    assert any(key.startswith("environment.A") for key in errors)


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"command": None}, 422, "validation_failed"),
        ({"depends_on": ["nobody"]}, 422, "unknown_dependency"),
        ({"port": API_PORT}, 422, "validation_failed"),
        ({"port": 2**63}, 422, "validation_failed"),
        ({"description": "a\x00b"}, 422, "validation_failed"),
    ],
)
def test_a_wrong_service_is_refused(api: Asked, group: str, more: dict[str, Any], status: int, code: str) -> None:
    answer = api.call("POST", "/services", body(group) | more)
    # NUL is refused with the body or with the field.
    assert answer.status_code in (status, 400)
    if answer.status_code == status:
        assert answer.json is not None
        assert answer.json["code"] == code
    assert api.get(f"/services?group={group}")["total"] == 0


def test_a_ring_is_named(api: Asked, group: str) -> None:
    ring = [
        {"name": "a", "image": "x", "depends_on": ["b"]},
        {"name": "b", "image": "x", "depends_on": ["a"]},
    ]
    problem = api.refused("POST", "/groups", {"name": group, "services": ring}, 422, "dependency_cycle")
    assert set(problem["cycle"]) == {f"{group}-a", f"{group}-b"}


def test_lists_come_in_pages_with_a_total(api: Asked, group: str) -> None:
    for name in "abcde":
        api.post("/services", body(group, name, tags=["odd" if name in "ace" else "even"]))
    seen: list[str] = []
    path = f"/services?group={group}&limit=2"
    for _ in range(4):
        found = api.get(path)
        assert found["total"] == 5
        seen += [each["name"] for each in found["items"]]
        if found["next_cursor"] is None:
            break
        path = f"/services?group={group}&limit=2&cursor={found['next_cursor']}"
    assert seen == list("abcde")
    assert api.get(f"/services?group={group}&tag=odd")["total"] == 3
    assert api.get(f"/services?group={group}&status=running,failed")["total"] == 0
    api.refused("GET", "/services?status=walking", None, 422, "validation_failed")
    api.refused("GET", "/services?cursor=nonsense", None, 400, "invalid_cursor")


def test_an_unknown_service_is_not_found_on_every_path(api: Asked) -> None:
    for path in ("", "/health", "/metrics", "/logs"):
        api.refused("GET", f"/services/nobody{path}", None, 404, "service_not_found")
    for verb in ("start", "stop", "restart"):
        api.refused("POST", f"/services/nobody/{verb}", {}, 404, "service_not_found")
    api.refused("PATCH", "/services/nobody", {}, 404, "service_not_found")
    api.refused("DELETE", "/services/nobody", None, 404, "service_not_found")


def test_a_start_holds_its_services_and_wants_them_to_run(api: Asked, group: str) -> None:
    api.post("/services", body(group, "db"))
    web = api.post("/services", body(group, depends_on=["db"]))["id"]
    answer = api.call("POST", f"/services/{web}/start", {"timeout": 30})
    assert answer.status_code == 202
    operation: Any = answer.json
    assert answer.headers["Location"] == f"/api/v2/operations/{operation['id']}"
    assert (operation["type"], operation["service_id"]) == ("service.start", web)
    assert operation["parameters"]["services"] == [f"{group}-db", web]
    assert operation["parameters"]["named"] == [web]
    assert operation["parameters"]["timeout"] == 30
    assert api.get(f"/services/{group}-db")["desired"] == "running"
    problem = api.refused("POST", f"/services/{group}-db/stop", {}, 409, "operation_in_progress")
    assert problem["operation_id"] == operation["id"]
    api.refused("DELETE", f"/services/{web}", None, 409, "operation_in_progress")
    api.refused("POST", f"/groups/{group}/restart", {}, 409, "operation_in_progress")


def test_no_deps_leaves_dependencies_alone(api: Asked, group: str) -> None:
    api.post("/services", body(group, "db"))
    web = api.post("/services", body(group, depends_on=["db"]))["id"]
    assert api.post(f"/services/{web}/start", {"no_deps": True}, 202)["parameters"]["services"] == [web]
    assert api.get(f"/services/{group}-db")["desired"] == "stopped"


def test_a_dry_run_holds_and_wants_nothing(api: Asked, group: str) -> None:
    web = api.post("/services", body(group))["id"]
    for _ in range(2):
        api.post(f"/services/{web}/start", {"dry_run": True}, 202)
    assert api.get(f"/services/{web}")["desired"] == "stopped"


def test_a_stop_names_running_dependents_and_cascade_takes_them_along(api: Asked, group: str) -> None:
    db = api.post("/services", body(group, "db"))["id"]
    web = api.post("/services", body(group, depends_on=["db"]))["id"]
    api.seen(web, status="running", desired="running")
    stopped = api.post(f"/services/{db}/stop", {}, 202)
    assert stopped["parameters"]["running_dependents"] == [web]
    assert api.get(f"/services/{web}")["desired"] == "running"
    api.post(f"/operations/{stopped['id']}/cancel", {}, 202)
    cascading = api.post(f"/services/{db}/stop", {"cascade": True, "timeout": 2}, 202)
    assert cascading["parameters"]["services"] == [db, web]
    assert api.get(f"/services/{web}")["desired"] == "stopped"


@pytest.mark.parametrize("wish", [{"on_conflict": "kill"}, {"wait_for": "yes"}, {"tiemout": 3}, {"timeout": "3"}])
def test_what_a_start_cannot_mean_is_refused_where_it_stands(api: Asked, group: str, wish: dict[str, Any]) -> None:
    web = api.post("/services", body(group))["id"]
    problem = api.refused("POST", f"/services/{web}/start", wish, 422, "validation_failed")
    assert list(problem["errors"]) == list(wish)
    assert api.get(f"/services/{web}")["desired"] == "stopped"


def test_an_external_service_is_never_started(api: Asked, group: str) -> None:
    db = api.post("/services", {"name": "db", "group": group, "runtime": "external", "port": 5432})["id"]
    api.refused("POST", f"/services/{db}/start", {}, 422, "validation_failed")
    api.seen(db, status="running")
    assert api.call("DELETE", f"/services/{db}").status_code == 204


def test_one_without_an_instance_is_deleted_at_once(api: Asked, group: str) -> None:
    web = api.post("/services", body(group, ports=[{}]))
    lease = web["port"]
    assert api.call("DELETE", f"/services/{web['id']}").status_code == 204
    api.refused("GET", f"/services/{web['id']}", None, 404, "service_not_found")
    assert lease not in [each["port"] for each in api.get("/ports?state=leased")["leases"]]


def test_a_stopped_instance_is_removed_by_an_operation_and_a_running_one_only_by_force(api: Asked, group: str) -> None:
    stopped = api.post("/services", body(group, "a"))["id"]
    running = api.post("/services", body(group, "b"))["id"]
    api.seen(stopped, status="stopped", container_id="abc")
    api.seen(running, status="running", desired="running", pid=4711)
    answer = api.call("DELETE", f"/services/{stopped}")
    assert (answer.status_code, (answer.json or {})["type"]) == (202, "service.remove")
    api.refused("DELETE", f"/services/{running}", None, 409, "service_running")
    assert api.call("DELETE", f"/services/{running}?force=true").status_code == 202
    assert api.get(f"/services/{running}")["desired"] == "stopped"


def test_what_another_needs_is_not_deleted(api: Asked, group: str) -> None:
    db = api.post("/services", body(group, "db"))["id"]
    web = api.post("/services", body(group, depends_on=["db"]))["id"]
    assert api.refused("DELETE", f"/services/{db}", None, 409, "service_required")["required_by"] == [web]


def test_the_same_key_registers_once(api: Asked, group: str) -> None:
    first = api.call("POST", "/services", body(group), Idempotency_Key=group)
    again = api.call("POST", "/services", body(group), Idempotency_Key=group)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json == first.json
    api.refused("POST", "/services", body(group), 409, "service_exists")


def test_samples_are_averaged_over_the_period(api: Asked, group: str) -> None:
    web = api.post("/services", body(group))["id"]
    at = now()
    with api.record.write() as session:
        session.add_all(ServiceMetric(service_id=web, timestamp=at, cpu_usage=value, disk_read=7) for value in (1, 3))
    found = api.get(f"/services/{web}/metrics?period=15m")
    assert (found["period"], found["resolution"]) == ("15m", 10)
    assert [(each["cpu_usage"], each["disk_read"]) for each in found["points"]] == [(2, 7)]
    listed = api.get(f"/services?group={group}&include_metrics=true")["items"][0]
    assert listed["metrics"]["disk_read"] == 7
    api.refused("GET", f"/services/{web}/metrics?period=2h", None, 422, "validation_failed")


def test_its_health_is_what_the_last_check_said(api: Asked, group: str) -> None:
    web = api.post("/services", body(group))["id"]
    api.seen(web, status="unhealthy", health_status="unhealthy", health_detail="503", health_response_time=1.5)
    assert api.get(f"/services/{web}/health") == {
        "status": "unhealthy",
        "last_check": None,
        "response_time_ms": 1.5,
        "detail": "503",
    }


def test_logs_come_from_a_worker_or_in_time_not_at_all(api: Asked, group: str, monkeypatch: Any) -> None:
    web = api.post("/services", body(group))["id"]
    shared = api.app.extensions["clos"]
    asked: list[Any] = []
    send = shared.sender.read_logs

    def answered(request_id: str, *rest: Any) -> None:
        asked.append(rest)
        send(request_id, *rest)
        line = {"text": "ready", "at": None, "stream": "stdout"}
        shared.replies.answer(request_id, {"lines": [line]})

    monkeypatch.setattr(shared.sender, "read_logs", answered)
    found = api.get(f"/services/{web}/logs?lines=5&since=2026-05-04T10:00:00Z&q=rea")
    assert found == {"service_id": web, "lines": [{"text": "ready", "at": None, "stream": "stdout"}]}
    assert asked == [(web, 5, "2026-05-04T10:00:00.000000Z", "rea")]

    monkeypatch.undo()
    monkeypatch.setattr("api.v2.logs.WAIT_S", 0.2)
    api.refused("GET", f"/services/{web}/logs", None, 504, "logs_timeout")
    api.refused("GET", f"/services/{web}/logs?lines=0", None, 422, "validation_failed")
