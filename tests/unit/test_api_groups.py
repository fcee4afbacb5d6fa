"""Groups over HTTP."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from domain.configuration import Conflicts
from models import groups
from tests.unit.api_kit import PORT, Kit, api, process

__all__ = ["api"]
FIELDS = {
    "name", "description", "project", "dependencies", "start_order", "compose_file", "network_name", "restart_policy",
    "conflicts", "reconcile", "networks", "volumes", "directory", "cloned_from", "expires_at", "services", "status",
    "spec_version", "health_score",
    "counts", "created_at", "updated_at",
}  # fmt: skip


def shop(api: Kit, **more: Any) -> str:
    """`web` needs `db`."""
    name = api.name("shop")
    services = [process("web", depends_on=["db"], ports=[{"name": "http"}], tags=["edge"]), process("db")]
    api.post("/groups", {"name": name, "services": services, **more})
    return name


def test_a_group_is_given_back_with_every_field_of_the_contract(api: Kit) -> None:
    other = api.group()
    wanted = {
        "description": "d", "project": "development", "dependencies": [other], "start_order": 3,
        "compose_file": "/c.yml",
        "network_name": "net", "restart_policy": "always", "conflicts": {"on_start": "ask", "max_risk": "high"},
        "reconcile": {"person": "repair", "host": "off"}, "directory": "/srv/shop",
        "networks": {"back": {"internal": True}}, "volumes": {"data": None},
    }  # fmt: skip
    name = api.name()
    answer = api.call("POST", "/groups", {"name": name, "services": [process("a")], **wanted})
    assert (answer.status_code, answer.headers["ETag"]) == (201, '"1"')
    assert answer.headers["Location"] == f"/api/v2/groups/{name}"
    body = answer.json
    assert body.keys() == FIELDS
    assert {field: body[field] for field in wanted} == wanted
    assert (body["name"], body["services"], body["status"]) == (name, [f"{name}-a"], "stopped")
    assert (body["spec_version"], body["health_score"]) == (1, 1.0)
    assert body["counts"] == {"total": 1, "running": 0, "healthy": 0, "failed": 0}
    read = api.call("GET", f"/groups/{name}")
    assert (read.json, read.headers["ETag"]) == (body, '"1"')
    assert body in api.get("/groups?limit=200")["items"]
    assert api.get(f"/services/{name}-a")["restart_policy"] == "always"


def test_an_empty_group_has_the_defaults_of_the_contract(api: Kit) -> None:
    body = api.post("/groups", {"name": api.name()})
    assert (body["project"], body["start_order"], body["dependencies"], body["services"]) == ("development", 0, [], [])
    assert (body["status"], body["conflicts"], body["reconcile"]) == ("stopped", None, None)
    assert (body["networks"], body["volumes"], body["directory"]) == ({}, {}, None)


def test_definitions_of_networks_and_volumes_are_checked_kept_and_exported(api: Kit) -> None:
    wrong = {"networks": {"a": {"drive": "x"}}, "volumes": {"b": {"external": True, "driver": "y"}}, "directory": "a/b"}
    errors = api.refused("POST", "/groups", {"name": api.name(), **wrong}, 422, "validation_failed")["errors"]
    assert errors["networks.a.drive"] == ["unknown; did you mean driver?"]
    assert errors["volumes.b.driver"] == ["cannot be said of what is external: only its name"]
    assert "directory" in errors
    right: dict[str, Any] = {"networks": {"a": {"driver": "bridge"}}, "volumes": {"b": {"name": "x_b"}}}
    name = api.name()
    container = {"networks": {"a": {"aliases": ["z"]}}, "init": True}
    api.post("/groups", {"name": name, "services": [{"name": "s", "image": "x", "container": container}], **right})
    exported = api.get(f"/groups/{name}/export")
    assert {key: exported[key] for key in right} == right
    assert exported["services"][0]["container"] == container
    changed = api.call("PATCH", f"/groups/{name}", {"networks": {}})
    assert (changed.json["networks"], changed.json["spec_version"]) == ({}, 2)


def test_all_of_a_group_is_registered_or_nothing_and_references_may_go_forward(api: Kit) -> None:
    name = api.name()
    body = {"name": name, "services": [process("a", depends_on=["b"]), process("b", depends_on=["missing"])]}
    api.refused("POST", "/groups", body, 422, "unknown_dependency")
    api.refused("GET", f"/groups/{name}", None, 404, "group_not_found")
    assert api.get(f"/services?group={name}")["total"] == 0
    assert api.get(f"/events?group={name}")["items"] == []
    ring = {"name": name, "services": [process("a", depends_on=["b"]), process("b", depends_on=["a"])]}
    cycle = api.refused("POST", "/groups", ring, 422, "dependency_cycle")["cycle"]
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {f"{name}-a", f"{name}-b"}
    body["services"][1] = process("b")
    assert api.post("/groups", body)["services"] == [f"{name}-a", f"{name}-b"]
    assert api.refused("POST", "/groups", body, 409, "group_exists")["group"] == name


@pytest.mark.parametrize(
    ("services", "field"),
    [
        ([process("a"), {"name": "b", "runtime": "process"}], "services.1.command"),
        ([process("a"), process("a")], "services.1.name"),
        ([process("a", group="other")], "services.0.group"),
        ([process("a"), process("b", port=PORT)], "services.1.ports.0.host_port"),
        ([process("a", id="x")], "services.0.id"),
        ([{}], "services.0.name"),
        (["a"], "services.0"),
        ({"a": {}}, "services"),
        ([process(f"s{number}") for number in range(201)], "services"),
    ],
)
def test_a_wrong_service_is_named_by_its_place(api: Kit, services: Any, field: str) -> None:
    body = {"name": api.name(), "services": services}
    assert list(api.refused("POST", "/groups", body, 422, "validation_failed")["errors"]) == [field]


def test_explicit_ports_are_claimed_before_open_ones_are_leased(api: Kit) -> None:
    name = api.name()
    api.post("/port-ranges", {"project": name, "start_port": 22_000, "end_port": 22_001})
    services = [process("open", ports=[{}]), process("set", port=22_000)]
    api.post("/groups", {"name": name, "project": name, "services": services})
    assert [api.get(f"/services/{name}-{each}")["port"] for each in ("open", "set")] == [22_001, 22_000]


@pytest.mark.parametrize(
    ("statuses", "status", "score", "counts"),
    [
        ([("running", "healthy"), ("running", "none")], "running", 1.0, (2, 2, 2, 0)),
        ([("running", "healthy"), ("unhealthy", "unhealthy")], "partial", 0.5, (2, 2, 1, 0)),
        ([("running", "starting"), ("starting", "none")], "starting", 0.0, (2, 2, 0, 0)),
        ([("stopping", "none"), ("running", "none")], "stopping", 0.5, (2, 1, 1, 0)),
        ([("failed", "none"), ("failed", "none")], "failed", 0.0, (2, 0, 0, 2)),
        ([("stopped", "none"), ("stopped", "none")], "stopped", 0.0, (2, 0, 0, 0)),
    ],
)
def test_its_status_and_score_follow_from_its_services(
    api: Kit, statuses: Any, status: str, score: float, counts: Any
) -> None:
    name = api.group("a", "b")
    for each, (seen, health) in zip(("a", "b"), statuses, strict=True):
        api.seen(f"{name}-{each}", status=seen, health_status=health, desired="running")
    body = api.get(f"/groups/{name}")
    assert (body["status"], body["health_score"]) == (status, score)
    assert tuple(body["counts"].values()) == counts
    assert api.call("GET", f"/groups/{name}").headers["ETag"] == '"1"'


def test_a_change_makes_a_new_version_and_a_stale_one_is_refused(api: Kit) -> None:
    path = f"/groups/{api.group()}"
    changed = api.call("PATCH", path, {"project": "core", "restart_policy": None}, If_Match='"1"')
    assert (changed.status_code, changed.headers["ETag"], changed.json["project"]) == (200, '"2"', "core")
    assert api.call("PATCH", path, {"project": "core"}).headers["ETag"] == '"2"'
    for method, body in (("PATCH", {"project": "apis"}), ("DELETE", None)):
        assert api.refused(method, path, body, 412, "stale_version", If_Match='"1"')["current"] == '"2"'
    for gone in ("description", "conflicts"):
        api.call("PATCH", path, {gone: None})
    assert api.get(path)["project"] == "core"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x"}, "name"), ({"services": []}, "services"), ({"status": "running"}, "status"),
        ({"counts": {}}, "counts"), ({"start_order": "1"}, "start_order"), ({"start_order": 1001}, "start_order"),
        ({"project": None}, "project"), ({"restart_policy": "sometimes"}, "restart_policy"),
        ({"conflicts": {"max_risk": "none"}}, "conflicts.max_risk"),
        ({"reconcile": {"person": "maybe"}}, "reconcile.person"),
        ({"reconcile": {"enabled": True}}, "reconcile.enabled"),
        ({"dependencies": ["a/b"]}, "dependencies.0"), ({"netwrok_name": "a"}, "netwrok_name"),
    ],
)  # fmt: skip
def test_a_wrong_change_is_refused_by_field(api: Kit, body: Any, field: str) -> None:
    path = f"/groups/{api.group()}"
    assert list(api.refused("PATCH", path, body, 422, "validation_failed")["errors"]) == [field]
    assert api.get(path)["spec_version"] == 1


def test_a_word_alone_is_a_reconcile_policy_for_every_cause(api: Kit) -> None:
    path = f"/groups/{api.group()}"
    api.call("PATCH", path, {"reconcile": "report"})
    assert api.get(path)["reconcile"] == dict.fromkeys(("person", "engine", "host", "crash"), "report")
    errors = api.refused("PATCH", path, {"reconcile": "maybe"}, 422, "validation_failed")["errors"]
    assert errors["reconcile.crash"] == ["Must be one of: off, report, repair."]


def test_groups_may_need_each_other_but_not_in_a_ring(api: Kit) -> None:
    one = api.group()
    two = api.group(dependencies=[one])
    assert set(api.refused("PATCH", f"/groups/{one}", {"dependencies": [two]}, 422, "dependency_cycle")["cycle"]) >= {
        one,
        two,
    }
    api.refused("PATCH", f"/groups/{one}", {"dependencies": [one]}, 422, "dependency_cycle")
    api.refused("PATCH", f"/groups/{one}", {"dependencies": ["nobody"]}, 422, "unknown_dependency")
    api.refused("POST", "/groups", {"name": api.name(), "dependencies": ["nobody"]}, 422, "unknown_dependency")


def test_a_start_takes_what_is_needed_along_and_holds_it(api: Kit) -> None:
    infra, name = api.group("dns"), shop(api)
    api.call("PATCH", f"/groups/{name}", {"dependencies": [infra]})
    answer = api.call("POST", f"/groups/{name}/start", {"on_conflict": "fail", "timeout": 60})
    assert answer.status_code == 202
    found = answer.json
    assert answer.headers["Location"] == f"/api/v2/operations/{found['id']}"
    assert (found["type"], found["group_name"], found["service_id"]) == ("group.start", name, None)
    assert found["parameters"] == {
        "on_conflict": "fail", "timeout": 60.0, "named": [f"{name}-db", f"{name}-web"],
        "services": sorted([f"{infra}-dns", f"{name}-db", f"{name}-web"]),
    }  # fmt: skip
    for path in (f"/services/{infra}-dns/stop", f"/services/{name}-db/stop", f"/groups/{name}/restart"):
        assert api.refused("POST", path, None, 409, "operation_in_progress")["operation_id"] == found["id"]
    # The other group itself is not named by it.
    api.refused("POST", f"/groups/{infra}/stop", None, 409, "operation_in_progress")
    assert api.get(f"/services/{infra}-dns")["desired"] == "running"


def test_no_deps_leaves_what_is_needed_out(api: Kit) -> None:
    infra = api.group("dns")
    name = shop(api, dependencies=[infra])
    found = api.post(f"/groups/{name}/start", {"no_deps": True}, 202)["parameters"]
    assert found["services"] == [f"{name}-db", f"{name}-web"]
    api.post(f"/groups/{infra}/stop", {}, 202)


def test_some_of_a_group_can_be_meant_by_name_or_id(api: Kit) -> None:
    name = shop(api)
    started = api.post(f"/groups/{name}/start", {"services": ["db"]}, 202)
    assert (started["parameters"]["named"], started["parameters"]["services"]) == ([f"{name}-db"],) * 2
    api.post(f"/operations/{started['id']}/cancel", status=202)
    again = api.post(f"/groups/{name}/restart", {"services": [f"{name}-web"]}, 202)["parameters"]
    assert (again["named"], again["services"]) == ([f"{name}-web"], [f"{name}-db", f"{name}-web"])
    for verb in ("start", "stop", "restart", "update"):
        wrong = api.refused("POST", f"/groups/{name}/{verb}", {"services": ["web", "x"]}, 422, "validation_failed")
        assert list(wrong["errors"]) == ["services.1"]
        api.refused("POST", f"/groups/{name}/{verb}", {"services": []}, 422, "validation_failed")


def test_an_update_wants_nothing_else_and_takes_along_who_runs_and_asks_for_it(api: Kit) -> None:
    name = api.name()
    follows = [{"service": "db", "restart": True}]
    services = [process("db"), process("web", depends_on=follows), process("idle", depends_on=follows)]
    api.post("/groups", {"name": name, "services": services})
    api.seen(f"{name}-web", status="running")

    found = api.post(f"/groups/{name}/update", {"services": ["db"], "on_failure": "keep"}, 202)

    assert (found["type"], found["parameters"]["on_failure"]) == ("group.update", "keep")
    assert found["parameters"]["named"] == [f"{name}-db"]
    assert found["parameters"]["services"] == [f"{name}-db", f"{name}-web"]
    assert {api.get(f"/services/{name}-{each}")["desired"] for each in ("db", "web", "idle")} == {"stopped"}
    busy = api.refused("POST", f"/services/{name}-web/update", {}, 409, "operation_in_progress")
    assert busy["operation_id"] == found["id"]


def test_a_stop_wants_every_service_stopped_and_cascade_reaches_outside(api: Kit) -> None:
    name, outside = shop(api), api.name()
    api.post("/services", process("job", group=outside, depends_on=[f"{name}/db"]))
    for each in (f"{name}-db", f"{name}-web", f"{outside}-job"):
        api.seen(each, status="running", desired="running")
    stopped = api.post(f"/groups/{name}/stop", {"timeout": 1}, 202)
    assert stopped["parameters"]["running_dependents"] == [f"{outside}-job"]
    assert api.get(f"/services/{outside}-job")["desired"] == "running"
    api.post(f"/operations/{stopped['id']}/cancel", status=202)
    found = api.post(f"/groups/{name}/stop", {"cascade": True}, 202)["parameters"]["services"]
    assert found == sorted([f"{name}-db", f"{name}-web", f"{outside}-job"])
    assert {api.get(f"/services/{each}")["desired"] for each in found} == {"stopped"}


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("start", {"cascade": True}, "cascade"), ("start", {"on_conflict": "kill"}, "on_conflict"),
        ("start", {"services": "db"}, "services"), ("start", {"services": [1]}, "services.0"),
        ("stop", {"timeout": "1"}, "timeout"), ("stop", {"no_deps": True}, "no_deps"),
        ("restart", {"timeout": 0}, "timeout"), ("restart", {"dry_run": 1}, "dry_run"),
        ("update", {"on_failure": "hope"}, "on_failure"), ("update", {"no_deps": True}, "no_deps"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_refused_by_field(api: Kit, verb: str, body: Any, field: str) -> None:
    name = api.group()
    errors = api.refused("POST", f"/groups/{name}/{verb}", body, 422, "validation_failed")["errors"]
    assert list(errors) == [field]
    assert api.get(f"/operations?group={name}")["items"] == []


def test_an_unknown_group_is_not_found_on_every_path(api: Kit) -> None:
    for path in ("", "/graph", "/export"):
        api.refused("GET", f"/groups/nobody{path}", None, 404, "group_not_found")
    for verb in ("start", "stop", "restart"):
        for body in ({}, {"services": ["a"]}):
            assert api.refused("POST", f"/groups/nobody/{verb}", body, 404, "group_not_found")["ref"] == "nobody"
    api.refused("PATCH", "/groups/nobody", {}, 404, "group_not_found")
    api.refused("DELETE", "/groups/nobody", None, 404, "group_not_found")


def test_a_group_is_deleted_as_its_services_are(api: Kit) -> None:
    name = shop(api)
    api.seen(f"{name}-db", status="running", desired="running", pid=1)
    assert api.refused("DELETE", f"/groups/{name}", None, 409, "service_running")["services"] == [f"{name}-db"]
    removed = api.call("DELETE", f"/groups/{name}?force=true")
    assert (removed.status_code, removed.json["type"], removed.json["group_name"]) == (202, "group.remove", name)
    api.refused("DELETE", f"/groups/{name}?force=true", None, 409, "operation_in_progress")
    stopped = shop(api)
    api.seen(f"{stopped}-db", container_id="abc")
    assert api.call("DELETE", f"/groups/{stopped}").status_code == 202
    bare = shop(api)
    port = api.get(f"/services/{bare}-web")["port"]
    answer = api.call("DELETE", f"/groups/{bare}")
    assert (answer.status_code, answer.data) == (204, b"")
    api.refused("GET", f"/services/{bare}-web", None, 404, "service_not_found")
    assert api.get(f"/ports/{port}")["lease"] is None


def test_a_group_that_another_needs_stays(api: Kit) -> None:
    name = shop(api)
    job = api.post("/services", process("job", group=api.name(), depends_on=[f"{name}/db"]))
    problem = api.refused("DELETE", f"/groups/{name}", None, 409, "service_required")
    assert problem["required_by"] == [job["id"]]
    api.call("DELETE", f"/services/{job['id']}")
    needing = api.group(dependencies=[name])
    problem = api.refused("DELETE", f"/groups/{name}", None, 409, "service_required")
    assert problem["required_by"] == [f"group {needing}"]


def test_its_graph_has_what_is_needed_elsewhere_and_an_order(api: Kit) -> None:
    name, other = shop(api), api.name()
    api.post("/services", process("job", group=other, depends_on=[{"service": f"{name}/web", "condition": "healthy"}]))
    found = api.get(f"/groups/{other}/graph")
    assert found.keys() == {"nodes", "edges", "groups", "order", "critical_path"}
    assert found["order"] == [f"{name}-db", f"{name}-web", f"{other}-job"]
    assert {
        "source": f"{other}-job", "target": f"{name}-web", "condition": "healthy", "required": True, "restart": False,
    } in found["edges"]  # fmt: skip
    assert next(each for each in found["nodes"] if each["name"] == "db") == {
        "id": f"{name}-db", "name": "db", "group": name, "runtime": "process", "status": "stopped", "health": "none",
        "waits_for": [],
    }  # fmt: skip
    assert api.get(f"/groups/{api.post('/groups', {'name': api.name()})['name']}/graph")["nodes"] == []


def test_an_export_can_be_registered_again_and_holds_no_secret(api: Kit) -> None:
    name = shop(api, description="d")
    api.call("PATCH", f"/services/{name}-db", {"secrets": {"TOKEN": "hidden"}, "health_check": {"test": ["true"]}})
    exported = api.get(f"/groups/{name}/export?format=json")
    assert exported == api.get(f"/groups/{name}/export")
    assert "hidden" not in str(exported)
    before = [api.get(f"/services/{name}-{each}") for each in ("db", "web")]
    api.call("DELETE", f"/groups/{name}")
    again = api.post("/groups", exported)
    assert (again["services"], again["description"]) == ([f"{name}-db", f"{name}-web"], "d")
    for old in before:
        new = api.get(f"/services/{old['id']}")
        different = {key for key in old if old[key] != new[key]} - {"created_at", "updated_at", "spec_version"}
        assert different <= {"secrets"}
    errors = api.refused("GET", f"/groups/{name}/export?format=xml", None, 422, "validation_failed")["errors"]
    assert list(errors) == ["format"]


def test_an_export_says_which_ports_were_asked_for_and_not_which_were_leased(api: Kit) -> None:
    name, fixed = api.name("ten"), 27_811
    ports = [{"container_port": 80}, {"name": "admin", "container_port": 81, "host_port": fixed}]
    task = process("task", ports=[{"name": "http"}])
    api.post("/groups", {"name": name, "services": [{"name": "s0", "image": "x", "ports": ports}, task]})
    leased = api.get(f"/services/{name}-s0")["ports"][0]["host_port"]
    assert leased is not None
    # A change of something else, and of another port, leaves it open.
    api.call("PATCH", f"/services/{name}-s0", {"description": "d"})
    services = {each["name"]: each for each in api.get(f"/groups/{name}/export")["services"]}
    assert [each.get("host_port") for each in services["s0"]["ports"]] == [None, fixed]
    assert "host_port" not in services["task"]["ports"][0]
    model = yaml.safe_load(api.get(f"/groups/{name}/export?format=compose")["compose"])["services"]
    assert [each.get("published") for each in model["s0"]["ports"]] == [None, str(fixed)]
    assert str(leased) not in str(model)
    # Whoever fixes the number asks for it.
    api.call("PATCH", f"/services/{name}-s0", {"ports": [ports[0] | {"host_port": leased}, ports[1]]})
    services = {each["name"]: each for each in api.get(f"/groups/{name}/export")["services"]}
    assert [each.get("host_port") for each in services["s0"]["ports"]] == [leased, fixed]


def test_a_copy_of_an_export_has_leased_ports_of_its_own(api: Kit) -> None:
    name = shop(api)
    copy = api.name("copy")
    api.post("/groups", api.get(f"/groups/{name}/export") | {"name": copy})
    was, now = (api.get(f"/services/{each}-web")["ports"][0]["host_port"] for each in (name, copy))
    assert None not in (was, now)
    assert was != now


def test_an_export_as_a_compose_file_names_its_secrets_and_holds_none(api: Kit) -> None:
    name = shop(api, description="d", start_order=2)
    api.call("PATCH", f"/services/{name}-db", {"secrets": {"TOKEN": "hidden"}, "environment": {"A": "$B"}})
    found = api.get(f"/groups/{name}/export?format=compose")
    assert (found["name"], found["secrets"]) == (name, ["db.TOKEN"])
    assert "hidden" not in found["compose"]
    model = yaml.safe_load(found["compose"])
    assert model["x-clos"] == {"description": "d", "project": "development", "start_order": 2}
    assert model["services"]["db"]["environment"] == {"A": "$$B"}
    assert model["services"]["db"]["x-clos"]["secrets"] == ["TOKEN"]


@pytest.mark.parametrize(
    "path", ["/groups/{}/start", "/groups/{}/restart", "/services/{}-one/start", "/services/{}-one/restart"]
)
def test_what_is_done_about_a_taken_port_is_kept_with_the_operation(api: Kit, path: str) -> None:
    for word in ("migrate", "ask"):
        asked = api.post(path.format(api.group()), {"on_conflict": word}, 202)
        assert asked["parameters"]["on_conflict"] == word


def test_a_groups_policy_is_given_back_as_it_was_given_and_kept_as_policy_reads_it(api: Kit) -> None:
    policy = {"auto_resolve": True, "max_risk": "medium", "on_start": "ask", "dependents": "report",
              "ask_timeout": 60.0, "on_timeout": "migrate"}  # fmt: skip
    name = api.group(conflicts=policy)
    assert api.get(f"/groups/{name}")["conflicts"] == policy
    assert api.get(f"/groups/{name}/export")["conflicts"] == policy
    kept = api.ask(lambda session: groups.get(session, name).conflicts)
    merged = replace(Conflicts(), **kept)
    assert (merged.ask_timeout_s, merged.dependents, merged.on_timeout) == (60.0, "report", "migrate")
    for wrong in ({"ask_timeout": 0}, {"ask_timeout_s": 5}, {"dependents": "kill"}, {"on_timeout": "ask"}):
        problem = api.refused("PATCH", f"/groups/{name}", {"conflicts": wrong}, 422, "validation_failed")
        assert list(problem["errors"]) == [f"conflicts.{next(iter(wrong))}"]
    assert api.call("PATCH", f"/groups/{name}", {"conflicts": None}).json["conflicts"] is None
