"""Services over HTTP: every field of the contract, and every way to be refused."""

from datetime import timedelta
from typing import Any

import pytest

from domain.specs import MOST_PORTS
from models.base import now
from models.groups import Group
from models.installation import ServiceMetric
from models.ports import PortClaim
from models.services import Service
from tests.unit.api_kit import PORT, WS_PORT, Kit, api, process

__all__ = ["api"]

FIELDS = {
    "id", "name", "group", "runtime", "desired", "status", "health", "waiting_for", "drift", "drift_detail", "observed",
    "image", "build", "command", "working_dir", "user", "environment", "secrets", "volumes", "networks", "network_mode",
    "dns_servers", "labels", "restart_policy", "restart_by", "cpu_limit", "memory_limit", "stop_timeout", "ports",
    "container", "port", "depends_on", "health_check", "health_url", "tags", "description", "version", "owner",
    "started_at", "stopped_at", "spec_version", "created_at", "updated_at",
}  # fmt: skip
WHOLE: dict[str, Any] = {
    "image": "shop/web:1.2", "build": "/srv/shop", "command": "python -m 'shop web'", "working_dir": "/srv",
    "user": "1000:1000", "environment": {"LEVEL": "info"}, "secrets": {"TOKEN": "hidden value"},
    "volumes": ["/srv/data:/data:ro"], "networks": ["back"], "network_mode": "bridge", "dns_servers": ["10.0.0.1"],
    "labels": {"team": "a"}, "container": {"init": True, "networks": {"back": {"aliases": ["b"]}}},
    "restart_policy": "on-failure", "restart_by": "engine", "cpu_limit": 0.5,
    "memory_limit": 256, "stop_timeout": 2.5, "tags": ["edge", "b"], "description": "d", "version": "1", "owner": "me",
    "ports": [{"name": "http", "host_port": 9100, "container_port": 80}, {"name": "dns", "protocol": "udp"}],
    "depends_on": [{"service": "db", "condition": "healthy", "required": False, "restart": True}],
    "health_check": {"url": "/health", "interval": 5, "timeout": 2, "retries": 4, "start_period": 1,
                     "expected_status": 204},
}  # fmt: skip


def test_a_service_is_given_back_with_every_field_of_the_contract(api: Kit) -> None:
    group = api.group("db")
    answer = api.call("POST", "/services", {"name": "web", "group": group, **WHOLE})
    assert (answer.status_code, answer.headers["ETag"]) == (201, '"1"')
    assert answer.headers["Location"] == f"/api/v2/services/{group}-web"
    body = answer.json
    assert body.keys() == FIELDS
    same = set(WHOLE) - {"build", "command", "secrets", "ports", "health_check", "tags"}
    assert {name: body[name] for name in same} == {name: WHOLE[name] for name in same}
    assert body["build"] == {"context": "/srv/shop"}
    assert body["command"] == ["python", "-m", "shop web"]
    assert (body["secrets"], body["tags"]) == (["TOKEN"], ["b", "edge"])
    assert (body["id"], body["name"], body["group"], body["runtime"]) == (f"{group}-web", "web", group, "docker")
    assert (body["desired"], body["status"], body["drift"], body["waiting_for"]) == ("stopped", "stopped", False, [])
    assert body["health"] == {"status": "none", "last_check": None, "response_time_ms": None, "detail": None}
    nothing = dict.fromkeys(("container_id", "pid", "exit_code", "down_cause", "down_since", "observed_at"))
    assert body["observed"] == nothing | {"restarts": 0}
    first, second = body["ports"]
    assert first == {
        "name": "http", "host_ip": "127.0.0.1", "host_port": 9100, "container_port": 80, "protocol": "tcp",
        "url": "http://127.0.0.1:9100",
    }  # fmt: skip
    assert (second["protocol"], second["url"], second["host_port"] in range(9000, 10_000)) == ("udp", None, True)
    assert body["port"] == 9100
    assert body["health_check"] == {
        "enabled": True, "type": "http", "url": "/health", "port": None, "test": None, "interval": 5.0, "timeout": 2.0,
        "retries": 4, "start_period": 1.0, "expected_status": 204,
    }  # fmt: skip
    assert body["health_url"] == "/health"
    assert (body["spec_version"], body["started_at"], body["stopped_at"]) == (1, None, None)
    assert body["created_at"].endswith("Z")
    assert len(body["created_at"]) == 27
    assert "hidden value" not in answer.text


def test_more_ports_than_a_service_may_have_are_refused(api: Kit) -> None:
    many = [{"name": f"p{each}", "host_port": each, "protocol": "udp"} for each in range(20_000, 20_001 + MOST_PORTS)]
    body = {"name": "media", "group": api.name(), "image": "x", "ports": many}
    errors = api.refused("POST", "/services", body, 422, "validation_failed")["errors"]
    assert errors == {"ports": ["Longer than maximum length 1000."]}


def test_what_a_container_cannot_be_is_named_with_its_path(api: Kit) -> None:
    body = {"name": "a", "group": api.name(), "image": "x"}
    wrong = {"cap_ad": ["X"], "restart": "always", "post_start": [], "init": 1}
    answer = api.refused("POST", "/services", body | {"container": wrong}, 422, "validation_failed")
    assert answer["errors"] == {
        "container.cap_ad": ["unknown; did you mean cap_add?"],
        "container.restart": ["the service's own field is meant for it: restart_policy"],
        "container.post_start": [
            "is not carried out: CLOS runs no hooks in containers: make it the command's own work",
        ],
        "container.init": ["must be true or false"],
    }
    assert api.refused("POST", "/services", body | {"container": []}, 422, "validation_failed")["errors"] == {
        "container": ["must be a mapping"]
    }
    process = {"name": "a", "group": api.name(), "runtime": "process", "command": ["x"], "container": {"init": True}}
    errors = api.refused("POST", "/services", process, 422, "validation_failed")["errors"]
    assert errors == {"container": ["Only docker services are containers; this one's runtime is process."]}


def test_a_changed_container_is_a_new_version_and_replaces_the_old_one(api: Kit) -> None:
    group = api.name()
    made = api.post("/services", {"name": "a", "group": group, "image": "x", "container": {"init": True, "tty": True}})
    path = f"/services/{made['id']}"
    same = api.call("PATCH", path, {"container": {"tty": True, "init": True}}).json
    assert same["spec_version"] == 1
    changed = api.call("PATCH", path, {"container": {"init": True}}).json
    assert (changed["container"], changed["spec_version"]) == ({"init": True}, 2)
    assert api.call("PATCH", path, {"container": None}).json["container"] == {}


def test_a_service_waits_for_those_whose_containers_it_joins(api: Kit) -> None:
    group = api.name()
    joining = {"name": "side", "image": "x", "network_mode": "service:main", "container": {"pid": "service:main"}}
    lost = api.refused("POST", "/groups", {"name": group, "services": [joining]}, 422, "unknown_dependency")
    assert lost["dependency"] == "main"
    api.post("/groups", {"name": group, "services": [joining, {"name": "main", "image": "x"}]})
    needs = api.get(f"/services/{group}-side")["depends_on"]
    assert needs == [{"service": "main", "condition": "started", "required": True, "restart": True}]
    turned = {"container": {"ipc": "service:side"}}
    api.refused("PATCH", f"/services/{group}-main", turned, 422, "dependency_cycle")
    api.refused("DELETE", f"/services/{group}-main", None, 409, "service_required")


def test_a_read_gives_the_same_and_its_version(api: Kit) -> None:
    group = api.group("web")
    answer = api.call("GET", f"/services/{group}-web")
    assert answer.headers["ETag"] == '"1"'
    assert answer.json == api.get(f"/services?group={group}")["items"][0]


def test_defaults_are_those_of_the_contract(api: Kit) -> None:
    body = api.post("/services", {"name": "a", "group": api.name(), "image": "x", "health_check": {"url": "http://h/"}})
    assert (body["runtime"], body["network_mode"], body["restart_policy"]) == ("docker", "bridge", "unless-stopped")
    assert (body["stop_timeout"], body["restart_by"], body["ports"], body["port"]) == (30.0, "clos", [], None)
    assert {k: v for k, v in body["health_check"].items() if v is not None} == {
        "enabled": True, "type": "http", "url": "http://h/", "interval": 30.0, "timeout": 10.0, "retries": 3,
        "start_period": 30.0, "expected_status": 200,
    }  # fmt: skip


def test_a_services_post_makes_its_group_if_there_is_none(api: Kit) -> None:
    group = api.name()
    api.post("/services", process("a", group=group))
    found = api.get(f"/groups/{group}")
    assert (found["services"], found["project"]) == ([f"{group}-a"], "development")


def test_a_name_is_given_once_in_a_group_and_equal_ids_get_a_number(api: Kit) -> None:
    group = api.group("a-b")
    problem = api.refused("POST", "/services", process("a-b", group=group), 409, "service_exists")
    assert problem["service_id"] == f"{group}-a-b"
    other = api.post("/services", process("b", group=f"{group}-a"))
    assert other["id"] == f"{group}-a-b-2"


def test_a_port_left_open_is_leased_from_the_projects_range_and_kept(api: Kit) -> None:
    api.post("/port-ranges", {"project": "tiny", "start_port": 21_000, "end_port": 21_001})
    group = api.group("a", project="tiny")
    made = [api.post("/services", process(name, group=group, ports=[{}])) for name in ("b", "c")]
    assert [each["port"] for each in made] == [21_000, 21_001]
    full = api.refused("POST", "/services", process("d", group=group, ports=[{}]), 409, "port_held")
    assert [each["port"] for each in full["holders"]] == [21_000, 21_001]
    assert api.call("DELETE", f"/services/{made[0]['id']}").status_code == 204
    resting = api.refused("POST", "/services", process("e", group=group, ports=[{}]), 409, "port_held")
    assert resting["resting"]["count"] == 1
    assert api.post("/services", process("b", group=group, ports=[{}]))["port"] == 21_000


@pytest.mark.parametrize("port", [PORT, WS_PORT])
def test_closs_own_ports_are_not_taken(api: Kit, port: int) -> None:
    errors = api.refused("POST", "/services", process("a", group=api.name(), port=port), 422, "validation_failed")
    assert list(errors["errors"]) == ["ports.0.host_port"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a"}, "group"), ({"group": "g"}, "name"), ({"name": "a", "group": "g"}, "image"),
        ({"name": "a", "group": "g", "runtime": "process"}, "command"),
        ({"name": "a", "group": "g", "runtime": "external"}, "port"),
        ({"name": "a", "group": "g", "runtime": "external", "ports": [{}]}, "ports"),
        ({"name": "a", "group": "g", "image": "x", "health_url": "/h"}, "health_check"),
        ({"name": "a", "group": "g", "image": "x", "health_check": {"port": "no"}}, "health_check"),
        ({"name": "a", "group": "g", "image": "x", "secrets": {"A": "1"}, "environment": {"A": "2"}}, "secrets.A"),
        ({"name": "a", "group": "g", "image": "x", "ports": [{"name": "x"}, {"name": "x"}]}, "ports.1.name"),
        ({"name": "a", "group": "g", "image": "x", "dns_servers": ["dns.local"]}, "dns_servers.0"),
        ({"name": "a", "group": "g", "image": "x", "command": "x" * 40_000}, "command"),
        ({"name": "a", "group": "g", "image": "x", "command": ["x"] * 300}, "command"),
        ({"name": "a", "group": "g", "image": "x", "health_check": {"test": ["CMD-SHELL"]}}, "health_check.test"),
        ({"name": "a", "group": "g", "image": "x", "health_check": {"test": ["CMD", ""]}}, "health_check.test"),
        ({"name": "a", "group": "g", "image": "x", "health_check": {"test": "curl"}}, "health_check.test"),
        ({"name": "a", "group": "g", "image": "x", "build": {"context": "rel"}}, "build.context"),
        ({"name": "a", "group": "g", "image": "x", "status": "running"}, "status"),
        ({"name": "a", "group": "g", "image": "x", "id": "a"}, "id"),
        ({"name": "a", "group": "g", "image": "x", "ports": [{"url": "http://x"}]}, "ports.0.url"),
    ],
)  # fmt: skip
def test_a_service_that_lacks_or_mixes_something_is_refused_by_field(api: Kit, body: Any, field: str) -> None:
    errors = api.refused("POST", "/services", body, 422, "validation_failed")["errors"]
    assert list(errors) == [field]
    assert api.ask(lambda session: session.get(Group, "g")) is None


def test_a_dependency_must_be_there_and_must_not_lead_back(api: Kit) -> None:
    group = api.group("a", "b")
    body = process("c", group=group, depends_on=["nobody"])
    problem = api.refused("POST", "/services", body, 422, "unknown_dependency")
    assert (problem["service"], problem["dependency"]) == (f"{group}/c", "nobody")
    api.call("PATCH", f"/services/{group}-a", {"depends_on": ["b"]})
    ring = api.refused("PATCH", f"/services/{group}-b", {"depends_on": [f"{group}/a"]}, 422, "dependency_cycle")
    assert ring["cycle"][0] == ring["cycle"][-1]
    assert set(ring["cycle"]) == {f"{group}-a", f"{group}-b"}
    api.refused("PATCH", f"/services/{group}-a", {"depends_on": ["a"]}, 422, "dependency_cycle")
    twice = {"depends_on": ["b", {"service": "b"}]}
    api.refused("PATCH", f"/services/{group}-a", twice, 422, "validation_failed")
    assert api.get(f"/services/{group}-b")["depends_on"] == []


def test_a_change_of_what_is_wanted_makes_a_new_version_and_others_do_not(api: Kit) -> None:
    path = f"/services/{api.group('web')}-web"
    for change, version in (({"description": "d"}, 2), ({"description": "d"}, 2), ({}, 2), ({"description": None}, 3)):
        answer = api.call("PATCH", path, change)
        assert (answer.status_code, answer.headers["ETag"]) == (200, f'"{version}"')
        assert answer.json["spec_version"] == version
    api.seen(path.rpartition("/")[2], status="running", health_status="healthy")
    assert api.call("GET", path).headers["ETag"] == '"3"'


@pytest.mark.parametrize("given", ['"1"', '"9"', '"0"', '"x"', 'W/"2"', '""'])
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_stale_version_is_refused(api: Kit, method: str, given: str) -> None:
    path = f"/services/{api.group('web')}-web"
    api.call("PATCH", path, {"description": "newer"})
    body = {"description": "x"} if method == "PATCH" else None
    assert api.refused(method, path, body, 412, "stale_version", If_Match=given)["current"] == '"2"'


@pytest.mark.parametrize("given", ['"1"', "*", '"7", "1"'])
def test_the_current_version_or_any_is_accepted(api: Kit, given: str) -> None:
    path = f"/services/{api.group('web')}-web"
    assert api.call("PATCH", path, {"description": "x"}, If_Match=given).status_code == 200


def test_name_and_group_are_fixed_at_creation(api: Kit) -> None:
    path = f"/services/{api.group('web')}-web"
    errors = api.refused("PATCH", path, {"name": "x", "group": "y", "desired": "running"}, 422, "validation_failed")
    assert set(errors["errors"]) == {"name", "group", "desired"}


def test_what_runs_and_is_not_what_is_wanted_drifts(api: Kit) -> None:
    group = api.group("web")
    service_id = f"{group}-web"
    wanted = api.ask(lambda session: session.get(Service, service_id).spec().hash())
    api.seen(service_id, status="running", observed_hash=wanted)
    assert api.get(f"/services/{service_id}")["drift"] is False
    changed = api.call("PATCH", f"/services/{service_id}", {"environment": {"A": "1"}}).json
    assert (changed["drift"], changed["status"]) == (True, "running")
    api.call("PATCH", f"/services/{service_id}", {"environment": {}})
    assert api.get(f"/services/{service_id}")["drift"] is False


@pytest.mark.parametrize(
    ("columns", "plain", "forced"),
    [
        ({}, 204, 204),
        ({"status": "failed", "exit_code": 1}, 204, 204),
        ({"container_id": "abc"}, 202, 202),
        ({"pid": 7, "status": "failed"}, 202, 202),
        ({"status": "running", "pid": 7}, 409, 202),
        ({"status": "unhealthy"}, 409, 202),
        ({"status": "starting"}, 409, 202),
        ({"status": "stopping"}, 409, 202),
        ({"status": "unknown", "desired": "running"}, 409, 202),
        ({"status": "unknown", "desired": "stopped"}, 204, 204),
    ],
)
def test_a_delete_removes_what_is_there_first(api: Kit, columns: dict[str, Any], plain: int, forced: int) -> None:
    for query, status in (("", plain), ("?force=true", forced)):
        service_id = f"{api.group('web')}-web"
        api.seen(service_id, **columns)
        answer = api.call("DELETE", f"/services/{service_id}{query}")
        assert answer.status_code == status, answer.text
        if status == 202:
            assert (answer.json["type"], answer.json["service_id"]) == ("service.remove", service_id)
            assert answer.headers["Location"] == f"/api/v2/operations/{answer.json['id']}"
            assert api.get(f"/services/{service_id}")["desired"] == "stopped"
        elif status == 409:
            assert (answer.json["code"], answer.json["service_id"]) == ("service_running", service_id)
        else:
            api.refused("GET", f"/services/{service_id}", None, 404, "service_not_found")


def test_an_external_service_is_deleted_at_once_and_never_started(api: Kit) -> None:
    body = {"name": "dns", "group": api.name(), "runtime": "external", "port": 9053}
    service_id = api.post("/services", body)["id"]
    api.seen(service_id, status="running")
    for verb in ("start", "stop", "restart"):
        errors = api.refused("POST", f"/services/{service_id}/{verb}", None, 422, "validation_failed")["errors"]
        assert list(errors) == ["runtime"]
    assert api.call("DELETE", f"/services/{service_id}").status_code == 204


def test_what_another_needs_or_an_operation_holds_is_not_deleted(api: Kit) -> None:
    group = api.group("db")
    api.post("/services", process("web", group=group, depends_on=["db"]))
    problem = api.refused("DELETE", f"/services/{group}-db", None, 409, "service_required")
    assert problem["required_by"] == [f"{group}-web"]
    operation = api.post(f"/services/{group}-web/start", status=202)
    problem = api.refused("DELETE", f"/services/{group}-web?force=true", None, 409, "operation_in_progress")
    assert problem["operation_id"] == operation["id"]
    api.refused("DELETE", f"/services/{group}-web?force=yes", None, 422, "validation_failed")


@pytest.mark.parametrize(
    ("verb", "body", "services", "desired"),
    [
        ("start", {}, {"db", "web"}, "running"), ("start", {"no_deps": True, "timeout": 60}, {"web"}, "running"),
        ("restart", {}, {"db", "web"}, "running"), ("restart", {"no_deps": True}, {"web"}, "running"),
        ("stop", {"timeout": 0}, {"web"}, "stopped"),
    ],
)  # fmt: skip
def test_an_operation_is_accepted_with_what_it_takes_along(
    api: Kit, verb: str, body: Any, services: set[str], desired: str
) -> None:
    group = api.group("db")
    api.post("/services", process("web", group=group, depends_on=["db"]))
    api.sent("operations")
    answer = api.call("POST", f"/services/{group}-web/{verb}", body)
    assert answer.status_code == 202
    found = answer.json
    assert answer.headers["Location"] == f"/api/v2/operations/{found['id']}"
    assert (found["type"], found["status"], found["service_id"]) == (f"service.{verb}", "pending", f"{group}-web")
    assert (found["group_name"], found["progress"], found["attempt"]) == (group, 0, 0)
    ids = sorted(f"{group}-{each}" for each in services)
    assert found["parameters"] == body | {"services": ids, "named": [f"{group}-web"]}
    assert {api.get(f"/services/{each}")["desired"] for each in ids} == {desired}
    api.shared.courier.close()
    assert [each.args for each in api.sent("operations")] == [(found["id"],)]
    api.shared.courier._thread = None


def test_a_stop_names_running_dependents_and_cascade_stops_them_first(api: Kit) -> None:
    group = api.group("db")
    api.post("/services", process("web", group=group, depends_on=["db"]))
    api.seen(f"{group}-web", status="running", desired="running")
    found = api.post(f"/services/{group}-db/stop", {}, 202)["parameters"]
    assert found["running_dependents"] == [f"{group}-web"]
    api.post(f"/operations/{api.get(f'/operations?service={group}-db')['items'][0]['id']}/cancel", status=202)
    found = api.post(f"/services/{group}-db/stop", {"cascade": True}, 202)["parameters"]
    assert found["services"] == [f"{group}-db", f"{group}-web"]
    assert "running_dependents" not in found


def test_a_dry_run_holds_and_wants_nothing(api: Kit) -> None:
    service_id = f"{api.group('web')}-web"
    for _ in range(2):
        assert api.post(f"/services/{service_id}/start", {"dry_run": True}, 202)["parameters"]["dry_run"] is True
    assert api.get(f"/services/{service_id}")["desired"] == "stopped"
    api.post(f"/services/{service_id}/start", status=202)
    api.refused("POST", f"/services/{service_id}/stop", None, 409, "operation_in_progress")
    api.post(f"/services/{service_id}/stop", {"dry_run": True}, 202)


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("start", {"no_deps": 1}, "no_deps"), ("start", {"cascade": True}, "cascade"),
        ("start", {"timeout": 0}, "timeout"), ("start", {"timeout": "30s"}, "timeout"),
        ("start", {"on_conflict": "kill"}, "on_conflict"),
        ("stop", {"timeout": -1}, "timeout"), ("stop", {"timeout": 3601}, "timeout"),
        ("stop", {"force": True}, "force"), ("restart", {"dry_run": "yes"}, "dry_run"),
        ("start", {"wait_for": "x"}, "wait_for"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_refused_by_field_and_changes_nothing(api: Kit, verb: str, body: Any, field: str) -> None:
    service_id = f"{api.group('web')}-web"
    errors = api.refused("POST", f"/services/{service_id}/{verb}", body, 422, "validation_failed")["errors"]
    assert list(errors) == [field]
    assert api.get(f"/operations?service={service_id}")["items"] == []


def test_an_unknown_service_is_not_found_on_every_path(api: Kit) -> None:
    for path in ("", "/health", "/metrics", "/logs"):
        api.refused("GET", f"/services/nobody{path}", None, 404, "service_not_found")
    for verb in ("start", "stop", "restart"):
        api.refused("POST", f"/services/nobody/{verb}", None, 404, "service_not_found")
    api.refused("PATCH", "/services/nobody", {}, 404, "service_not_found")
    assert api.refused("DELETE", "/services/nobody", None, 404, "service_not_found")["ref"] == "nobody"


def test_what_was_seen_is_shown(api: Kit) -> None:
    service_id = f"{api.group('web')}-web"
    at = now()
    waiting = [{"kind": "port", "ref": "9000/tcp", "text": "held by nc"}]
    api.seen(
        service_id, status="unhealthy", health_status="unhealthy", health_detail="503", health_response_time=12.5,
        last_health_check=at, observed_at=at, pid=7, restarts=2, exit_code=1, waiting_for=waiting, started_at=at,
    )  # fmt: skip
    body = api.get(f"/services/{service_id}")
    shown = body["observed"]["observed_at"]
    assert body["health"] == api.get(f"/services/{service_id}/health") == {
        "status": "unhealthy", "last_check": shown, "response_time_ms": 12.5, "detail": "503",
    }  # fmt: skip
    assert (body["observed"]["pid"], body["observed"]["restarts"], body["observed"]["exit_code"]) == (7, 2, 1)
    assert (body["waiting_for"], body["started_at"], body["status"]) == (waiting, shown, "unhealthy")


def test_the_list_is_narrowed_by_every_filter_and_a_comma_means_or(api: Kit) -> None:
    group = api.group("a", "b", "c")
    api.call("PATCH", f"/services/{group}-a", {"tags": ["x"], "description": "100%_sure"})
    api.call("PATCH", f"/services/{group}-b", {"tags": ["y"]})
    api.seen(f"{group}-c", status="running", health_status="healthy")
    external = {"name": "d", "group": group, "runtime": "external", "port": 9060}
    api.post("/services", external)

    def found(query: str) -> str:
        body = api.get(f"/services?group={group},nobody&{query}")
        assert body["total"] == len(body["items"])
        return "".join(each["name"] for each in body["items"])

    assert found("") == "abcd"
    assert found("status=running,failed") == "c"
    assert found("health=healthy") == "c"
    assert found("tag=x,y") == "ab"
    assert found("runtime=external") == "d"
    assert found("q=100%25_SURE") == "a"
    assert found("q=%25%25") == ""
    assert found(f"q={group}-B") == "b"
    assert found("tag=x&status=running") == ""


def sample(api: Kit, service_id: str, ago_s: float, **facts: Any) -> None:
    with api.record.write() as session:
        session.add(ServiceMetric(service_id=service_id, timestamp=now() - timedelta(seconds=ago_s), **facts))


POINT = {
    "timestamp", "cpu_usage", "memory_usage", "memory_percent", "network_rx", "network_tx", "disk_read", "disk_write",
    "response_time",
}  # fmt: skip


def test_samples_are_averaged_into_points_and_counters_take_the_last(api: Kit) -> None:
    service_id = f"{api.group('web')}-web"
    assert api.get(f"/services/{service_id}/metrics") == {"period": "1h", "resolution": 15, "points": []}
    for cpu, rx in ((10.0, 100), (30.0, 200)):
        sample(api, service_id, 86_400 * 2.5, cpu_usage=cpu, network_rx=rx)
    sample(api, service_id, 5, memory_usage=64.0)
    old, fresh = api.get(f"/services/{service_id}/metrics?period=7d")["points"]
    assert old.keys() == POINT
    assert (old["cpu_usage"], old["network_rx"], old["memory_usage"]) == (20.0, 200, None)
    assert (fresh["memory_usage"], fresh["cpu_usage"]) == (64.0, None)
    (only,) = api.get(f"/services/{service_id}/metrics?period=1m")["points"]
    assert only["memory_usage"] == 64.0


@pytest.mark.parametrize(
    ("period", "resolution"),
    [("1m", 10), ("5m", 10), ("15m", 10), ("1h", 15), ("6h", 90), ("24h", 360), ("7d", 2520), ("30d", 10_800)],
)
def test_a_period_has_at_most_a_few_hundred_points(api: Kit, period: str, resolution: int) -> None:
    service_id = f"{api.group('web')}-web"
    assert api.get(f"/services/{service_id}/metrics?period={period}")["resolution"] == resolution
    api.refused("GET", f"/services/{service_id}/metrics?period=2h", None, 422, "validation_failed")


def test_a_list_with_metrics_has_each_services_newest_sample(api: Kit) -> None:
    group = api.group("a", "b")
    sample(api, f"{group}-a", 60, cpu_usage=1.0)
    sample(api, f"{group}-a", 1, cpu_usage=2.0)
    one, two = api.get(f"/services?group={group}&include_metrics=true")["items"]
    assert (one["metrics"].keys(), one["metrics"]["cpu_usage"]) == (POINT, 2.0)
    assert two["metrics"] is None
    assert "metrics" not in api.get(f"/services?group={group}&include_metrics=false")["items"][0]


def test_a_row_that_v1_wrote_is_shown_whole(api: Kit) -> None:
    service_id = f"{api.group('old')}-old"
    with api.record.write() as session:
        session.query(PortClaim).filter(PortClaim.service_id == service_id).delete()
        row = session.get(Service, service_id)
        assert row is not None
        row.port, row.health_url, row.health_check_type = 5432, "http://127.0.0.1:5432/", None
    body = api.get(f"/services/{service_id}")
    assert (body["ports"][0]["host_port"], body["health_check"]["type"], body.keys()) == (5432, "http", FIELDS)


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({"status": "stopped"}, "stopped"),
        ({"status": "running", "health_status": "starting"}, "starting"),
        ({"status": "unhealthy", "health_status": "unhealthy"}, "unhealthy"),
    ],
)
def test_what_is_waited_for_is_said_with_its_state_of_now(api: Kit, columns: dict[str, str], state: str) -> None:
    group = api.group("db", "web")
    needed = f"{group}-db"
    failed = {"kind": "dependency", "ref": needed, "text": f"waiting for {needed}: it failed"}
    port = {"kind": "port", "ref": "port:9", "text": "waiting for port 9"}
    bare = {"kind": "dependency", "ref": needed, "text": f"waiting for {needed}"}
    gone = {"kind": "dependency", "ref": "x", "text": "waiting for x"}
    api.seen(needed, **columns)
    api.seen(f"{group}-web", waiting_for=[bare, failed, port, gone])

    shown = api.get(f"/services/{group}-web")["waiting_for"]

    assert shown == [bare | {"text": f"waiting for {needed}: {state}"}, failed, port,
                     gone | {"text": "waiting for x: not registered"}]  # fmt: skip
