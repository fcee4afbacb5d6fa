"""Clones over HTTP."""

from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.states import OperationStatus
from models import clone_ends, operations
from models.base import now
from models.groups import Group
from models.operations import Operation
from models.ports import PortLease
from models.services import Service, ServiceEnvironment
from tests.unit.api_kit import PORT, WS_PORT, Kit, api, process, together

__all__ = ["api"]


def web(api: Kit, **more: Any) -> str:
    """`api` needs `db`, says its address, and has a fixed port."""
    name = api.name("web")
    port = 9500 + int(name[3:])
    services = [
        process(
            "api",
            depends_on=["db"],
            environment={"DB": "${url:db}", "FIXED": f"127.0.0.1:{port}"},
            secrets={"KEY": "hush"},
            ports=[{"name": "http", "host_port": port}],
            health_check={"url": f"http://127.0.0.1:{port}/health"},
        ),
        process("db", ports=[{"name": "sql"}], tags=["store"]),
    ]
    api.post("/groups", {"name": name, "services": services, **more})
    return name


def leases(api: Kit, group: str) -> set[int]:
    ids = select(Service.id).where(Service.group_name == group)
    return set(
        api.ask(lambda session: session.scalars(select(PortLease.port).where(PortLease.service_id.in_(ids))).all())
    )


def test_a_clone_is_the_same_group_with_ports_of_its_own(api: Kit) -> None:
    name, clone = web(api), api.name("x")
    answer = api.call("POST", f"/groups/{name}/clone", {"as": clone})
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/api/v2/groups/{clone}")
    body = answer.json
    assert body is not None
    assert (body["cloned_from"], body["expires_at"], body["status"]) == (name, None, "stopped")
    assert body["clones"] == {name: clone}
    first, second = (api.get(f"/services/{clone}-{each}") for each in ("api", "db"))
    original = api.get(f"/services/{name}-api")
    assert first["depends_on"] == original["depends_on"]
    assert (first["tags"], second["tags"]) == (["clone"], ["clone", "store"])
    assert first["port"] != original["port"]
    assert first["health_check"]["url"] == f"http://127.0.0.1:{first['port']}/health"
    assert leases(api, clone).isdisjoint(leases(api, name))
    assert len(leases(api, clone)) == 2
    assert {each["field"] for each in body["warnings"]} == {"environment.FIXED"}
    assert first["secrets"] == ["KEY"]
    kept = select(ServiceEnvironment.value).where(
        ServiceEnvironment.service_id == f"{clone}-api", ServiceEnvironment.secret
    )
    assert api.ask(lambda session: session.scalar(kept)) == "hush"
    assert "hush" not in answer.text


def test_five_clones_at_once_do_not_collide(api: Kit) -> None:
    name = web(api)
    names = iter([api.name("agent") for _ in range(5)])
    found = together(5, lambda: api.app.test_client().post(
        f"/api/v2/groups/{name}/clone",
        json={"as": next(names)},
        headers={"X-API-Key": api.key, "Host": f"127.0.0.1:{PORT}"},
    ))  # fmt: skip
    assert [each.status_code for each in found] == [201] * 5
    ports = [port for each in found for port in leases(api, each.json["name"])]
    assert len(ports) == len(set(ports)) == 10
    assert {PORT, WS_PORT}.isdisjoint(ports)


def test_what_cannot_be_cloned_is_refused_by_name(api: Kit) -> None:
    name = web(api)
    path = f"/groups/{name}/clone"
    api.refused("POST", "/groups/nowhere/clone", {"as": "y"}, 404, "group_not_found")
    api.refused("POST", path, {"as": name}, 409, "group_exists")
    api.refused("POST", path, {"as": "y", "with": ["nowhere"]}, 404, "group_not_found")
    for body, field in (
        ({}, "as"),
        ({"as": "a b"}, "as"),
        ({"as": "y", "ttl": 0}, "ttl"),
        ({"as": "y", "with": [name]}, "with"),
        ({"as": "y" * 50, "with": [api.group()]}, "as"),
        ({"as": "y", "directory": "relative"}, "directory"),
        ({"as": "y", "directory": "/trees/y"}, "directory"),
        ({"as": "y", "tll": 5}, "tll"),
    ):
        assert field in api.refused("POST", path, body, 422, "validation_failed")["errors"], body
    api.refused("GET", "/groups/y", None, 404, "group_not_found")


def test_a_range_that_is_full_leaves_no_half_of_a_clone(api: Kit) -> None:
    project = api.name("small")
    api.post("/port-ranges", {"project": project, "start_port": 7001, "end_port": 7001})
    name = api.name("s")
    api.post("/groups", {"name": name, "project": project, "services": [process("a", ports=[{"host_port": 7100}])]})
    api.post(f"/groups/{name}/clone", {"as": f"{name}-1"})
    answer = api.call("POST", f"/groups/{name}/clone", {"as": f"{name}-2"})
    assert answer.status_code >= 400
    api.refused("GET", f"/groups/{name}-2", None, 404, "group_not_found")


def test_groups_are_cloned_together(api: Kit) -> None:
    shop = web(api)
    name = api.name("front")
    wanted = [process("ui", environment={"API": f"${{url:{shop}/api}}"}, depends_on=[f"{shop}/api"])]
    api.post("/groups", {"name": name, "services": wanted, "dependencies": [shop]})
    made = api.post(f"/groups/{name}/clone", {"as": "f1", "with": [shop]})
    assert made["clones"] == {name: "f1", shop: f"f1-{shop}"}
    assert made["dependencies"] == [f"f1-{shop}"]
    ui = api.get("/services/f1-ui")
    assert ui["environment"] == {"API": f"${{url:f1-{shop}/api}}"}
    assert ui["depends_on"][0]["service"] == f"f1-{shop}/api"
    # What the first one needs goes after it.
    api.refused("DELETE", f"/groups/f1-{shop}", None, 409, "service_required")
    assert api.call("DELETE", "/groups/f1").status_code == 204
    assert api.call("DELETE", f"/groups/f1-{shop}").status_code == 204


def test_a_clone_can_be_started_at_once(api: Kit) -> None:
    name, clone = web(api), api.name("x")
    operation = api.post(f"/groups/{name}/clone", {"as": clone, "start": True}, status=202)
    assert (operation["type"], operation["group_name"]) == ("group.start", clone)
    told = operation["parameters"]["clone"]
    assert told["name"] == clone
    assert [each["field"] for each in told["warnings"]] == ["environment.FIXED"]
    assert api.get(f"/services/{clone}-api")["desired"] == "running"
    scoped = api.user("admin", scopes=["groups:create", "groups:read"])
    api.refused("POST", f"/groups/{name}/clone", {"as": "z", "start": True}, 403, "forbidden", key=scoped["key"])
    viewer = api.user("operator")
    api.refused("POST", f"/groups/{name}/clone", {"as": "z"}, 403, "forbidden", key=viewer["key"])


def test_a_clone_ends_when_it_was_told_to_and_that_can_be_changed(api: Kit) -> None:
    name, clone = web(api), api.name("x")
    made = api.post(f"/groups/{name}/clone", {"as": clone, "ttl": 3600})
    assert made["expires_at"] > made["created_at"]
    path = f"/groups/{clone}"
    assert api.call("PATCH", path, {"ttl": 7200}).json["expires_at"] > made["expires_at"]
    assert api.call("PATCH", path, {"expires_at": "2031-01-01T00:00:00+01:00"}).json["expires_at"] == (
        "2030-12-31T23:00:00.000000Z"
    )
    assert api.call("PATCH", path, {"expires_at": None}).json["expires_at"] is None
    assert api.call("PATCH", path, {"ttl": None}).json["expires_at"] is None
    for body in ({"ttl": 1, "expires_at": None}, {"expires_at": "soon"}, {"expires_at": "2031-01-01T00:00:00"}):
        api.refused("PATCH", path, body, 422, "validation_failed")
    assert "expires_at" in api.refused("PATCH", f"/groups/{name}", {"ttl": 9}, 422, "validation_failed")["errors"]
    api.refused("POST", "/groups", {"name": "q", "ttl": 9}, 422, "validation_failed")


def test_a_directory_that_policy_forbids_is_refused(api: Kit) -> None:
    name = api.name("p")
    service = {"name": "db", "image": "busybox", "volumes": ["/srv/web/conf:/etc/db:ro"]}
    api.post("/groups", {"name": name, "directory": "/srv/web", "services": [service]})
    home = str(api.settings.home)
    api.refused("POST", f"/groups/{name}/clone", {"as": f"{name}-x", "directory": home}, 422, "policy_denied")
    api.refused("GET", f"/groups/{name}-x", None, 404, "group_not_found")
    moved = api.post(f"/groups/{name}/clone", {"as": f"{name}-y", "directory": "/srv/y"})
    assert (moved["directory"], moved["warnings"]) == ("/srv/y", [])
    assert api.get(f"/services/{name}-y-db")["volumes"] == ["/srv/y/conf:/etc/db:ro"]


def test_a_clone_with_volumes_is_taken_away_by_a_worker(api: Kit) -> None:
    name = api.name("v")
    service = {"name": "db", "image": "busybox", "volumes": ["data:/d"]}
    api.post("/groups", {"name": name, "services": [service]})
    api.post(f"/groups/{name}/clone", {"as": f"{name}-x"})
    volumes = api.ask(lambda session: session.get(Group, f"{name}-x").volumes)
    assert volumes["data"]["name"] == f"{name}-x_data"
    answer = api.call("DELETE", f"/groups/{name}-x")
    assert (answer.status_code, answer.json["type"]) == (202, "group.remove")
    assert api.call("DELETE", f"/groups/{name}").status_code == 204


def _end(api: Kit, look: Any) -> Any:
    with api.record.write() as session:
        return look(session)


def test_clones_whose_time_is_over_are_removed_and_told_of_before(api: Kit) -> None:
    name = web(api)
    soon, later, over, needed = (api.name("x") for _ in range(4))
    for each, ttl in ((soon, 300), (later, 7200), (over, 1), (needed, 1)):
        api.post(f"/groups/{name}/clone", {"as": each, "ttl": ttl})
    api.post("/groups", {"name": api.name("user"), "dependencies": [needed]})

    def pass_time(session: Session) -> None:
        for each in (over, needed):
            session.get(Group, each).expires_at = now() - timedelta(seconds=1)

    _end(api, pass_time)
    assert _end(api, clone_ends.tell) >= 3
    assert _end(api, clone_ends.tell) == 0
    ended = _end(api, lambda session: [(o.type, o.group_name, o.initiated_by) for o in clone_ends.end(session).asked])
    assert ended == [("group.remove", over, "system:ttl")]
    # The rival that holds it is its own removal; the one that is needed is kept, and says why.
    kept = _end(api, lambda session: dict(clone_ends.end(session).kept))
    assert kept.keys() == {over, needed}
    events = api.get(f"/events?type=group.expiring&group={soon}")["items"]
    assert [(each["severity"], each["data"]["cloned_from"]) for each in events] == [("warning", name)]
    assert api.get(f"/events?type=group.expiring&group={later}")["items"] == []
    # A failed removal is not asked for again at once.
    with api.record.write() as session:
        found = session.scalars(select(Operation).where(Operation.group_name == over)).one()
        operations.finish(session, found, OperationStatus.FAILED)
    assert _end(api, lambda session: len(clone_ends.end(session).asked)) == 0
    # Told to stay, it is told of anew.
    assert api.call("PATCH", f"/groups/{soon}", {"ttl": 60}).status_code == 200
    assert _end(api, clone_ends.tell) == 1
