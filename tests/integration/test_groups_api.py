import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.api_fixture import DATABASES
from tests.integration.registry_fixture import Asked, asked_api


@pytest.fixture(scope="module", params=DATABASES)
def api(request: pytest.FixtureRequest) -> Iterator[Asked]:
    with asked_api(request.param) as made:
        yield made


@pytest.fixture
def name() -> str:
    return f"g{uuid.uuid4().hex[:8]}"


def service(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "runtime": "process", "command": ["sleep", "9"], **more}


def shop(api: Asked, name: str, **more: Any) -> dict[str, Any]:
    services = [service("web", depends_on=["db"], ports=[{"name": "http"}], tags=["edge"]), service("db")]
    made: dict[str, Any] = api.post("/groups", {"name": name, "services": services, **more})
    return made


def test_a_group_is_given_back_as_the_contract_says(api: Asked, name: str) -> None:
    made = shop(api, name, description="d", start_order=3, conflicts={"on_start": "ask"})
    assert made["services"] == [f"{name}-db", f"{name}-web"]
    assert (made["status"], made["project"], made["spec_version"]) == ("stopped", "development", 1)
    assert made["counts"] == {"total": 2, "running": 0, "healthy": 0, "failed": 0}
    assert made["conflicts"] == {"on_start": "ask"}
    answer = api.call("GET", f"/groups/{name}")
    assert (answer.json, answer.headers["ETag"]) == (made, '"1"')
    listed = api.get("/groups?limit=200")
    assert made in listed["items"]
    assert listed["total"] == len(listed["items"])


def test_all_of_a_group_is_registered_or_nothing(api: Asked, name: str) -> None:
    body = {"name": name, "services": [service("a"), service("b", depends_on=["missing"])]}
    api.refused("POST", "/groups", body, 422, "unknown_dependency")
    api.refused("GET", f"/groups/{name}", None, 404, "group_not_found")
    assert api.get(f"/services?group={name}")["total"] == 0


def test_a_wrong_service_is_named_by_its_place(api: Asked, name: str) -> None:
    body = {"name": name, "services": [service("a"), {"name": "b", "runtime": "process"}]}
    errors = api.refused("POST", "/groups", body, 422, "validation_failed")["errors"]
    assert list(errors) == ["services.1.command"]
    twice = {"name": name, "services": [service("a"), service("a")]}
    assert list(api.refused("POST", "/groups", twice, 422, "validation_failed")["errors"]) == ["services.1.name"]
    other = {"name": name, "services": [service("a", group="other")]}
    assert list(api.refused("POST", "/groups", other, 422, "validation_failed")["errors"]) == ["services.0.group"]


def test_its_status_and_score_follow_from_its_services(api: Asked, name: str) -> None:
    shop(api, name)
    api.seen(f"{name}-web", status="running", desired="running", health_status="healthy")
    api.seen(f"{name}-db", status="unhealthy", desired="running", health_status="unhealthy")
    found = api.get(f"/groups/{name}")
    assert (found["status"], found["health_score"]) == ("partial", 0.5)
    assert found["counts"] == {"total": 2, "running": 2, "healthy": 1, "failed": 0}


def test_a_change_makes_a_new_version(api: Asked, name: str) -> None:
    shop(api, name)
    changed = api.call("PATCH", f"/groups/{name}", {"project": "core", "restart_policy": None}, If_Match='"1"')
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    assert api.call("PATCH", f"/groups/{name}", {"project": "apis"}, If_Match='"1"').status_code == 412
    errors = api.refused("PATCH", f"/groups/{name}", {"services": [], "name": "x"}, 422, "validation_failed")["errors"]
    assert errors == {"services": ["This field is read-only."], "name": ["This field is read-only."]}
    assert api.refused("PATCH", f"/groups/{name}", {"dependencies": [name]}, 422, "dependency_cycle")["cycle"]


def test_a_start_takes_the_groups_it_depends_on_along(api: Asked, name: str) -> None:
    shop(api, f"{name}i")
    shop(api, name, dependencies=[f"{name}i"])
    started = api.post(f"/groups/{name}/start", {}, 202)
    assert (started["type"], started["group_name"]) == ("group.start", name)
    assert started["parameters"]["named"] == [f"{name}-db", f"{name}-web"]
    assert set(started["parameters"]["services"]) == {
        f"{each}-{s}" for each in (name, f"{name}i") for s in ("db", "web")
    }
    assert api.get(f"/services/{name}i-web")["desired"] == "running"
    problem = api.refused("POST", f"/groups/{name}/stop", {}, 409, "operation_in_progress")
    assert problem["operation_id"] == started["id"]


def test_some_of_a_group_can_be_meant_by_name_or_id(api: Asked, name: str) -> None:
    shop(api, name)
    started = api.post(f"/groups/{name}/start", {"services": ["db"]}, 202)
    assert started["parameters"]["services"] == [f"{name}-db"]
    api.post(f"/operations/{started['id']}/cancel", {}, 202)
    started = api.post(f"/groups/{name}/restart", {"services": [f"{name}-web"]}, 202)
    assert started["parameters"]["named"] == [f"{name}-web"]
    assert started["parameters"]["services"] == [f"{name}-db", f"{name}-web"]
    wrong = api.refused("POST", f"/groups/{name}/stop", {"services": ["web", "nobody"]}, 422, "validation_failed")
    assert list(wrong["errors"]) == ["services.1"]


def test_a_stop_wants_every_service_stopped(api: Asked, name: str) -> None:
    shop(api, name)
    for each in ("db", "web"):
        api.seen(f"{name}-{each}", status="running", desired="running")
    stopped = api.post(f"/groups/{name}/stop", {"timeout": 1}, 202)
    assert stopped["parameters"]["services"] == [f"{name}-db", f"{name}-web"]
    assert {api.get(f"/services/{name}-{each}")["desired"] for each in ("db", "web")} == {"stopped"}


def test_an_unknown_group_is_not_found_on_every_path(api: Asked) -> None:
    for path in ("", "/graph", "/export"):
        api.refused("GET", f"/groups/nobody{path}", None, 404, "group_not_found")
    for verb in ("start", "stop", "restart"):
        api.refused("POST", f"/groups/nobody/{verb}", {"services": ["a"]}, 404, "group_not_found")
        api.refused("POST", f"/groups/nobody/{verb}", {}, 404, "group_not_found")
    api.refused("PATCH", "/groups/nobody", {}, 404, "group_not_found")
    api.refused("DELETE", "/groups/nobody", None, 404, "group_not_found")


def test_a_group_is_deleted_as_its_services_are(api: Asked, name: str) -> None:
    shop(api, name)
    api.seen(f"{name}-db", status="running", desired="running", pid=1)
    assert api.refused("DELETE", f"/groups/{name}", None, 409, "service_running")["services"] == [f"{name}-db"]
    removed = api.call("DELETE", f"/groups/{name}?force=true")
    assert (removed.status_code, (removed.json or {})["type"]) == (202, "group.remove")

    shop(api, f"{name}x")
    assert api.call("DELETE", f"/groups/{name}x").status_code == 204
    assert api.get(f"/services?group={name}x")["total"] == 0


def test_a_group_that_another_needs_stays(api: Asked, name: str) -> None:
    shop(api, name)
    api.post("/groups", {"name": f"{name}x", "services": [service("job", depends_on=[f"{name}/db"])]})
    problem = api.refused("DELETE", f"/groups/{name}", None, 409, "service_required")
    assert problem["required_by"] == [f"{name}x-job"]


def test_its_graph_gives_an_order_in_which_it_can_be_started(api: Asked, name: str) -> None:
    shop(api, name)
    api.post("/groups", {"name": f"{name}x", "services": [service("job", depends_on=[f"{name}/web"])]})
    found = api.get(f"/groups/{name}x/graph")
    assert found["order"] == [f"{name}-db", f"{name}-web", f"{name}x-job"]
    assert {
        "source": f"{name}x-job",
        "target": f"{name}-web",
        "condition": "started",
        "required": True,
        "restart": False,
    } in found["edges"]
    assert {node["group"] for node in found["nodes"]} == {name, f"{name}x"}


def test_an_export_can_be_registered_again(api: Asked, name: str) -> None:
    made = shop(api, name, description="d")
    exported = api.get(f"/groups/{name}/export?format=json")
    assert api.call("DELETE", f"/groups/{name}").status_code == 204
    again = api.post("/groups", exported)
    assert {k: again[k] for k in ("services", "description")} == {k: made[k] for k in ("services", "description")}
    assert api.get(f"/services/{name}-web")["tags"] == ["edge"]
    assert api.get(f"/groups/{name}/export?format=compose")["compose"].startswith(f"name: {name}")
