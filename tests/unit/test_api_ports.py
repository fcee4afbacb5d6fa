"""Ports, ranges and leases over HTTP."""

from typing import Any

import pytest

from models import registry_verdicts
from models.base import now
from models.ports import PortClaim, SeenListener
from tests.unit.api_kit import PORT, WS_PORT, Kit, api, process

__all__ = ["api"]
LEASE = {"id", "port", "host_ip", "protocol", "project", "service_id", "port_name", "created_at", "expires_at"}
RANGE = {"id", "project", "start_port", "end_port", "description", "priority", "max_services", "used", "usage_percent"}
HOLDER = {
    "kind", "running", "name", "container_id", "service_id", "pid", "command", "user", "started_at", "own",
}  # fmt: skip
VERDICT = {"port", "observed_at", "allocatable", "entries", "lease", "claims", "range"}
ALWAYS = ["127.0.0.1", "0.0.0.0", "::1", "::"]
_spans = iter(range(20_000, 30_000, 10))


@pytest.fixture
def span(api: Kit) -> Any:
    """A range of ten ports for a project of its own."""
    start = next(_spans)
    return api.post("/port-ranges", {"project": api.name("p"), "start_port": start, "end_port": start + 9})


def listen(api: Kit, port: int, **facts: Any) -> None:
    with api.record.write() as session:
        known = {"host_ip": "127.0.0.1", "protocol": "tcp", "pid": 77, "name": "nc", "command": "nc -l"} | facts
        session.add(SeenListener(port=port, observed_at=now(), **known))
        registry_verdicts.record_scan(session, now())


def entries(verdict: Any) -> dict[tuple[str, str], Any]:
    return {(each["host_ip"], each["protocol"]): each for each in verdict["entries"]}


def test_a_range_is_given_back_with_every_field_of_the_contract(api: Kit) -> None:
    start = next(_spans)
    body = {
        "project": "p",
        "start_port": start,
        "end_port": start + 9,
        "description": "d",
        "priority": 5,
        "max_services": 3,
    }
    answer = api.call("POST", "/port-ranges", body)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v2/port-ranges/{answer.json['id']}"
    assert answer.json.keys() == RANGE
    assert {name: answer.json[name] for name in body} == body
    assert (answer.json["used"], answer.json["usage_percent"]) == (0, 0.0)
    assert api.get(f"/port-ranges/{answer.json['id']}") == answer.json
    assert answer.json in api.get("/port-ranges?limit=200")["items"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"start_port": 0}, "start_port"), ({"end_port": 65_536}, "end_port"), ({"start_port": "1"}, "start_port"),
        ({"start_port": 31_009, "end_port": 31_000}, "end_port"), ({"end_port": 40_000}, "end_port"),
        ({"start_port": 9500, "end_port": 9501}, "start_port"), ({"project": None}, "project"), ({"used": 1}, "used"),
        ({"priority": 1.5}, "priority"), ({"max_services": 0}, "max_services"), ({"node": "x"}, "node"),
    ],
)  # fmt: skip
def test_a_wrong_range_is_refused_by_field(api: Kit, change: Any, field: str) -> None:
    body = {"project": "p", "start_port": 31_000, "end_port": 31_009} | change
    errors = api.refused("POST", "/port-ranges", body, 422, "validation_failed")["errors"]
    assert list(errors) == [field]


def test_ephemeral_ports_are_taken_only_where_that_is_said(api: Kit) -> None:
    body = {"project": "high", "start_port": 40_000, "end_port": 40_009}
    assert "32768" in str(api.refused("POST", "/port-ranges", body, 422, "validation_failed")["errors"])
    made = api.post("/port-ranges", body | {"allow_ephemeral": True})
    assert api.call("PATCH", f"/port-ranges/{made['id']}", {"description": "stays"}).status_code == 200
    api.refused("PATCH", f"/port-ranges/{made['id']}", {"end_port": 40_019}, 422, "validation_failed")


def test_a_range_is_changed_and_deleted_and_its_leases_stay(api: Kit, span: Any) -> None:
    lease = api.post("/ports/allocate", {"project": span["project"]})
    path = f"/port-ranges/{span['id']}"
    used = api.get(path)
    assert (used["used"], used["usage_percent"]) == (1, 10.0)
    changed = api.call("PATCH", path, {"start_port": span["start_port"] + 5, "priority": 7})
    assert (changed.status_code, changed.json["used"], changed.json["priority"]) == (200, 0, 7)
    errors = api.refused("PATCH", path, {"end_port": span["start_port"]}, 422, "validation_failed")["errors"]
    assert list(errors) == ["end_port"]
    assert api.call("DELETE", path).status_code == 204
    for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        api.refused(method, path, body, 404, "port_range_not_found")
    assert api.get(f"/ports/{lease['port']}")["lease"] == lease


def test_a_lease_is_given_once_and_given_back(api: Kit, span: Any) -> None:
    answer = api.call("POST", "/ports/allocate", {"project": span["project"], "ttl": 60})
    lease = answer.json
    assert (answer.status_code, lease.keys(), lease["port"]) == (201, LEASE, span["start_port"])
    assert (lease["host_ip"], lease["protocol"], lease["service_id"]) == ("127.0.0.1", "tcp", None)
    assert lease["expires_at"] > lease["created_at"]
    wish = {"project": span["project"], "preferred_port": lease["port"]}
    problem = api.refused("POST", "/ports/allocate", wish, 409, "port_held")
    assert problem["holder"].keys() >= HOLDER
    assert problem["holder"]["name"] == f"project {span['project']}"
    assert api.call("DELETE", f"/ports/leases/{lease['id']}").status_code == 204
    api.refused("DELETE", f"/ports/leases/{lease['id']}", None, 404, "lease_not_found")
    assert api.post("/ports/allocate", wish)["expires_at"] is None


def test_tcp_and_udp_are_leased_apart(api: Kit, span: Any) -> None:
    wish = {"project": span["project"], "preferred_port": span["start_port"]}
    assert api.post("/ports/allocate", wish)["protocol"] == "tcp"
    assert api.post("/ports/allocate", wish | {"protocol": "udp"})["protocol"] == "udp"
    api.refused("POST", "/ports/allocate", wish | {"protocol": "udp"}, 409, "port_held")


def test_an_expired_lease_is_nobodys(api: Kit, span: Any) -> None:
    wish = {"project": span["project"], "preferred_port": span["start_port"], "ttl": 1}
    lease = api.post("/ports/allocate", wish)
    with api.record.write() as session:
        from models.ports import PortLease

        row = session.get(PortLease, lease["id"])
        assert row is not None
        row.expires_at = now()
    assert api.get(f"/ports/{lease['port']}")["lease"] is None
    assert api.get(f"/port-ranges/{span['id']}")["used"] == 0
    assert api.post("/ports/allocate", wish)["port"] == lease["port"]


def test_a_full_range_says_who_has_it(api: Kit, span: Any) -> None:
    for _ in range(10):
        api.post("/ports/allocate", {"project": span["project"]})
    problem = api.refused("POST", "/ports/allocate", {"project": span["project"]}, 409, "port_held")
    assert len(problem["holders"]) == 10
    assert api.refused("POST", "/ports/allocate", {"project": "nowhere"}, 409, "port_held")["hint"]


def test_a_port_that_somebody_listens_on_is_not_leased(api: Kit, span: Any) -> None:
    listen(api, span["start_port"])
    wish = {"project": span["project"], "preferred_port": span["start_port"]}
    holder = api.refused("POST", "/ports/allocate", wish, 409, "port_held")["holder"]
    assert (holder["kind"], holder["pid"], holder["command"], holder["own"]) == ("process", 77, "nc -l", False)
    assert api.post("/ports/allocate", {"project": span["project"]})["port"] == span["start_port"] + 1
    assert api.post("/ports/allocate", wish | {"protocol": "udp"})["port"] == span["start_port"]


def test_a_port_outside_of_the_projects_ranges_is_refused_by_name(api: Kit, span: Any) -> None:
    for port in (80, span["end_port"] + 1, 40_000):
        wish = {"project": span["project"], "preferred_port": port}
        (said,) = api.refused("POST", "/ports/allocate", wish, 422, "validation_failed")["errors"]["preferred_port"]
        assert f"{span['start_port']}-{span['end_port']}" in said
    wish = {"project": "without", "preferred_port": 8000}
    assert "it has none" in str(api.refused("POST", "/ports/allocate", wish, 422, "validation_failed")["errors"])


@pytest.mark.parametrize("port", [PORT, WS_PORT])
def test_closs_own_ports_are_not_leased(api: Kit, port: int) -> None:
    problem = api.refused("POST", "/ports/allocate", {"project": "p", "preferred_port": port}, 409, "port_held")
    assert (problem["holder"]["kind"], problem["holder"]["own"], problem["port"]) == ("clos", True, port)
    assert api.get(f"/ports/{port}")["allocatable"] is False


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"preferred_port": 0}, "preferred_port"), ({"preferred_port": "80"}, "preferred_port"),
        ({"preferred_port": 65_536}, "preferred_port"), ({"ttl": 0}, "ttl"), ({"ttl": "60"}, "ttl"),
        ({"protocol": "sctp"}, "protocol"), ({"service_id": "nobody"}, "service_id"), ({"project": "a/b"}, "project"),
        ({"port": 9000}, "port"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_refused_by_field(api: Kit, wish: Any, field: str) -> None:
    assert list(api.refused("POST", "/ports/allocate", wish, 422, "validation_failed")["errors"]) == [field]


def test_a_lease_that_a_definition_names_is_not_given_back(api: Kit, span: Any) -> None:
    name = span["project"]
    services = [{"name": "web", "image": "x", "port": span["start_port"]}]
    api.post("/groups", {"name": name, "project": name, "services": services})
    verdict = api.get(f"/ports/{span['start_port']}")
    assert (verdict["lease"]["service_id"], verdict["range"]["project"]) == (f"{name}-web", name)
    (claim,) = verdict["claims"]
    assert (claim["service_id"], claim["container"], claim["latent"], claim["source"]) == (
        f"{name}-web",
        None,
        False,
        "spec",
    )
    path = f"/ports/leases/{verdict['lease']['id']}"
    assert api.refused("DELETE", path, None, 409, "lease_in_use")["service_id"] == f"{name}-web"
    wish = {"preferred_port": span["start_port"]}
    holder = api.refused("POST", "/ports/allocate", wish, 409, "port_held")["holder"]
    assert (holder["kind"], holder["service_id"]) == ("service", f"{name}-web")
    extra = api.post("/ports/allocate", {"project": name, "service_id": f"{name}-web"})
    assert api.call("DELETE", f"/ports/leases/{extra['id']}").status_code == 204


def test_a_port_that_two_want_goes_to_the_second_when_the_first_goes(api: Kit) -> None:
    port = next(_spans)
    first = api.post("/services", process("a", group=api.name(), port=port))
    second = api.post("/services", process("b", group=api.name(), port=port))
    assert api.get(f"/ports/{port}")["lease"]["service_id"] == first["id"]
    assert len(api.get(f"/ports/{port}")["claims"]) == 2
    api.call("DELETE", f"/services/{first['id']}")
    assert api.get(f"/ports/{port}")["lease"]["service_id"] == second["id"]


def test_a_verdict_has_every_address_and_protocol(api: Kit, span: Any) -> None:
    port = span["start_port"]
    listen(api, port)
    listen(api, port, host_ip="192.168.7.7", protocol="udp", pid=None, name=None, command=None)
    verdict = api.get(f"/ports/{port}")
    assert verdict.keys() == VERDICT
    order = [(each["host_ip"], each["protocol"]) for each in verdict["entries"]]
    assert order == [(ip, protocol) for ip in [*ALWAYS, "192.168.7.7"] for protocol in ("tcp", "udp")]
    assert all(each.keys() == {"host_ip", "protocol", "verdict", "reason", "holders"} for each in verdict["entries"])
    found = entries(verdict)
    held = found["127.0.0.1", "tcp"]
    assert (held["verdict"], held["reason"]) == ("held", "listening")
    assert held["holders"][0].keys() == HOLDER | {"start_ticks", "parents"}
    assert (found["::1", "tcp"]["verdict"], found["::1", "tcp"]["holders"]) == ("free", [])
    assert found["192.168.7.7", "udp"]["holders"][0]["kind"] == "unknown"
    assert (verdict["allocatable"], verdict["port"], verdict["observed_at"][-1]) == (False, port, "Z")
    assert api.get(f"/ports/{span['end_port']}")["allocatable"] is True


def test_a_lease_or_a_latent_claim_does_not_make_a_port_held(api: Kit, span: Any) -> None:
    listen(api, span["end_port"])
    port = api.post("/ports/allocate", {"project": span["project"]})["port"]
    with api.record.write() as session:
        session.add(PortClaim(port=port, source="container", container_ref="old", latent=True))
    verdict = api.get(f"/ports/{port}")
    assert {each["verdict"] for each in verdict["entries"]} == {"free"}
    assert verdict["allocatable"] is False
    assert (verdict["claims"][0]["container"], verdict["claims"][0]["latent"]) == ("old", True)


def test_a_port_that_was_never_looked_at_is_unknown(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from tests.unit.api_kit import kit

    with kit(tmp_path) as api:
        verdict = api.get("/ports/20000")
        assert verdict["observed_at"] is None
        assert {(each["verdict"], each["reason"]) for each in verdict["entries"]} == {("unknown", "not_observed")}
        assert len(verdict["entries"]) == 8
        assert (verdict["lease"], verdict["claims"], verdict["range"]) == (None, [], None)
        with api.record.write() as session:
            session.add(SeenListener(host_ip="::", port=1, protocol="tcp", observed_at=now()))
        assert api.get("/ports/20000")["observed_at"] is not None


def test_a_service_is_the_holder_of_what_its_process_listens_on(api: Kit) -> None:
    port = next(_spans)
    web = api.post("/services", process("web", group=api.name(), port=port))["id"]
    listen(api, port, service_id=web, own=True)
    holder = entries(api.get(f"/ports/{port}"))["127.0.0.1", "tcp"]["holders"][0]
    assert (holder["kind"], holder["service_id"], holder["name"], holder["own"]) == ("service", web, "web", True)


def test_a_stranger_on_a_services_port_is_not_taken_for_the_service(api: Kit) -> None:
    port = next(_spans)
    web = api.post("/services", process("web", group=api.name(), port=port))["id"]
    api.seen(web, status="running", pid=4242, started_at=now())
    listen(api, port, pid=4243)
    holder = entries(api.get(f"/ports/{port}"))["127.0.0.1", "tcp"]["holders"][0]
    assert (holder["kind"], holder["service_id"], holder["own"]) == ("process", None, False)


def test_the_engines_proxy_is_listed_as_the_container_that_it_stands_for(api: Kit) -> None:
    port = next(_spans)
    listen(
        api, port, name="docker-proxy", command="docker-proxy -proto tcp", container_id="c" * 64, container_name="db"
    )
    (listed,) = [each for each in api.get("/ports?state=listening")["listeners"] if each["port"] == port]
    assert (listed["pid"], listed["name"], listed["command"]) == (None, "db", None)
    assert (listed["holder"]["kind"], listed["holder"]["container_id"]) == ("container", "c" * 64)
    assert "docker-proxy" not in str(api.get(f"/ports/{port}"))


@pytest.mark.parametrize("port", ["0", "65536", "99999999999999999999"])
def test_what_is_no_port_is_not_found(api: Kit, port: str) -> None:
    api.refused("GET", f"/ports/{port}", None, 404, "port_not_found")
    api.refused("POST", f"/ports/{port}/check", None, 404, "port_not_found")


@pytest.mark.parametrize(
    "path", ["/ports/-1", "/ports/x", f"/ports/leases/{2**64}", f"/port-ranges/{2**64}", "/ports/1.5"]
)
def test_what_is_no_number_is_no_path(api: Kit, path: str) -> None:
    assert api.call("GET" if "leases" not in path else "DELETE", path).status_code == 404


def test_an_equal_pending_check_is_answered_with_the_one_already_there(api: Kit, span: Any) -> None:
    path = f"/ports/{span['start_port']}/check"
    answer = api.call("POST", path)
    first = answer.json
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v2/operations/{first['id']}")
    assert (first["type"], first["parameters"]) == ("port.check", {"port": span["start_port"]})
    assert api.post(path, {}, 202)["id"] == first["id"]
    assert api.post(f"/ports/{span['end_port']}/check", None, 202)["id"] != first["id"]
    api.finish(first["id"])
    assert api.post(path, {}, 202)["id"] != first["id"]
    api.refused("POST", path, {"port": 1}, 422, "validation_failed")
    assert {each.actor_name for each in api.sent("ports")} <= {"run_port_operation"}


def test_everything_known_of_ports_is_narrowed_by_project_and_state(api: Kit, span: Any) -> None:
    lease = api.post("/ports/allocate", {"project": span["project"]})
    listen(api, span["end_port"])
    listen(api, 31_999)
    with api.record.write() as session:
        session.add(PortClaim(port=span["end_port"], source="container", container_ref="old", latent=True))
    found = api.get(f"/ports?project={span['project']}")
    assert found.keys() == {"observed_at", "ranges", "leases", "listeners", "claims"}
    assert ([each["id"] for each in found["ranges"]], found["leases"]) == ([span["id"]], [lease])
    assert found["ranges"][0]["used"] == 1
    assert [each["port"] for each in found["listeners"]] == [span["end_port"]]
    assert found["listeners"][0].keys() == {
        "host_ip", "port", "protocol", "pid", "name", "command", "user", "holder", "observed_at",
    }  # fmt: skip
    assert [each["container"] for each in found["claims"]] == ["old"]
    every = api.get("/ports")
    assert lease in every["leases"]
    assert 31_999 in [each["port"] for each in every["listeners"]]
    for state, section in (
        ("ranged", "ranges"),
        ("leased", "leases"),
        ("listening", "listeners"),
        ("latent", "claims"),
    ):
        only = api.get(f"/ports?state={state}&project={span['project']},nobody")
        assert [name for name in ("ranges", "leases", "listeners", "claims") if only[name]] == [section]
