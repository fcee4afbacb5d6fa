import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from models import registry_verdicts
from models.base import now
from models.ports import SeenListener
from tests.integration.api_fixture import DATABASES
from tests.integration.registry_fixture import API_PORT, Asked, asked_api


@pytest.fixture(scope="module", params=DATABASES)
def api(request: pytest.FixtureRequest) -> Iterator[Asked]:
    with asked_api(request.param) as made:
        yield made


_next = iter(range(20_000, 30_000, 10))


@pytest.fixture
def span(api: Asked) -> Any:
    """A range of ten ports for a project of its own."""
    start = next(_next)
    body = {"project": f"p{uuid.uuid4().hex[:8]}", "start_port": start, "end_port": start + 9}
    return api.post("/port-ranges", body)


def listen(api: Asked, port: int, **facts: Any) -> None:
    with api.record.write() as session:
        known = {"host_ip": "127.0.0.1", "protocol": "tcp", "pid": 77, "name": "nc", "command": "nc -l"} | facts
        session.add(SeenListener(port=port, observed_at=now(), **known))
        registry_verdicts.record_scan(session, now())


def entries(verdict: Any) -> dict[tuple[str, str], Any]:
    return {(each["host_ip"], each["protocol"]): each for each in verdict["entries"]}


def test_a_lease_is_given_once_and_given_back(api: Asked, span: dict[str, Any]) -> None:
    lease = api.post("/ports/allocate", {"project": span["project"], "ttl": 60})
    assert lease["port"] == span["start_port"]
    assert lease["expires_at"] is not None
    wish = {"project": span["project"], "preferred_port": lease["port"]}
    problem = api.refused("POST", "/ports/allocate", wish, 409, "port_held")
    assert problem["holder"]["name"] == f"project {span['project']}"
    assert api.get(f"/port-ranges/{span['id']}")["used"] == 1
    assert api.call("DELETE", f"/ports/leases/{lease['id']}").status_code == 204
    api.refused("DELETE", f"/ports/leases/{lease['id']}", None, 404, "lease_not_found")
    assert api.post("/ports/allocate", wish)["port"] == lease["port"]


def test_tcp_and_udp_are_leased_apart(api: Asked, span: dict[str, Any]) -> None:
    wish = {"project": span["project"], "preferred_port": span["start_port"]}
    assert api.post("/ports/allocate", wish)["protocol"] == "tcp"
    assert api.post("/ports/allocate", wish | {"protocol": "udp"})["protocol"] == "udp"


def test_a_port_that_somebody_listens_on_is_not_leased(api: Asked, span: dict[str, Any]) -> None:
    listen(api, span["start_port"])
    wish = {"project": span["project"], "preferred_port": span["start_port"]}
    holder = api.refused("POST", "/ports/allocate", wish, 409, "port_held")["holder"]
    assert (holder["kind"], holder["pid"], holder["command"]) == ("process", 77, "nc -l")
    assert api.post("/ports/allocate", {"project": span["project"]})["port"] == span["start_port"] + 1


def test_closs_own_port_is_not_leased(api: Asked, span: dict[str, Any]) -> None:
    wish = {"project": span["project"], "preferred_port": API_PORT}
    assert api.refused("POST", "/ports/allocate", wish, 409, "port_held")["holder"]["kind"] == "clos"
    assert api.get(f"/ports/{API_PORT}")["allocatable"] is False


@pytest.mark.parametrize(
    "wish",
    [{"preferred_port": 0}, {"preferred_port": "80"}, {"ttl": 0}, {"protocol": "sctp"}, {"service_id": "nobody"}],
)
def test_a_wrong_wish_is_refused_where_it_stands(api: Asked, wish: dict[str, Any]) -> None:
    assert list(api.refused("POST", "/ports/allocate", wish, 422, "validation_failed")["errors"]) == list(wish)


def test_a_project_without_a_range_has_no_port_to_give(api: Asked) -> None:
    api.refused("POST", "/ports/allocate", {"project": "nowhere"}, 409, "port_held")


def test_a_lease_that_a_definition_names_is_not_given_back(api: Asked, span: dict[str, Any]) -> None:
    group = {
        "name": span["project"],
        "project": span["project"],
        "services": [{"name": "web", "image": "x", "port": span["start_port"]}],
    }
    api.post("/groups", group)
    verdict = api.get(f"/ports/{span['start_port']}")
    assert verdict["lease"]["service_id"] == f"{span['project']}-web"
    assert verdict["claims"][0]["source"] == "spec"
    assert verdict["range"]["project"] == span["project"]
    api.refused("DELETE", f"/ports/leases/{verdict['lease']['id']}", None, 409, "lease_in_use")


def test_a_verdict_tells_addresses_and_protocols_apart(api: Asked, span: dict[str, Any]) -> None:
    listen(api, span["start_port"])
    listen(api, span["start_port"], host_ip="192.168.7.7", protocol="udp", pid=None, name=None, command=None)
    verdict = api.get(f"/ports/{span['start_port']}")
    found = entries(verdict)
    assert verdict["observed_at"] is not None
    assert not verdict["allocatable"]
    assert found["127.0.0.1", "tcp"]["verdict"] == "held"
    assert found["127.0.0.1", "tcp"]["holders"][0]["pid"] == 77
    assert found["::1", "tcp"]["verdict"] == "free"
    assert found["127.0.0.1", "udp"]["verdict"] == "free"
    assert found["192.168.7.7", "udp"]["holders"][0]["kind"] == "unknown"
    assert api.get(f"/ports/{span['end_port']}")["allocatable"] is True


def test_a_service_is_the_holder_of_what_its_process_listens_on(api: Asked, span: dict[str, Any]) -> None:
    port = span["start_port"]
    body = {"name": "web", "group": span["project"], "runtime": "process", "command": "x", "port": port}
    web = api.post("/services", body)["id"]
    listen(api, port, pid=4242, service_id=web, own=True)
    holder = entries(api.get(f"/ports/{port}"))["127.0.0.1", "tcp"]["holders"][0]
    assert (holder["kind"], holder["service_id"], holder["own"]) == ("service", web, True)


def test_what_is_no_port_is_not_found(api: Asked) -> None:
    for port in ("0", "65536", "99999999999999999999"):
        assert api.call("GET", f"/ports/{port}").status_code == 404
    assert api.call("DELETE", f"/ports/leases/{2**64}").status_code == 404
    assert api.call("GET", f"/port-ranges/{2**64}").status_code == 404


def test_an_equal_pending_check_is_answered_with_the_one_already_there(api: Asked, span: dict[str, Any]) -> None:
    path = f"/ports/{span['start_port']}/check"
    first = api.post(path, None, 202)
    assert (first["type"], first["parameters"]) == ("port.check", {"port": span["start_port"]})
    assert api.post(path, None, 202)["id"] == first["id"]
    assert api.post(f"/ports/{span['end_port']}/check", None, 202)["id"] != first["id"]


def test_everything_known_of_ports_is_narrowed_by_project_and_state(api: Asked, span: dict[str, Any]) -> None:
    api.post("/ports/allocate", {"project": span["project"]})
    listen(api, span["end_port"])
    found = api.get(f"/ports?project={span['project']}")
    assert [each["id"] for each in found["ranges"]] == [span["id"]]
    assert [each["project"] for each in found["leases"]] == [span["project"]]
    assert [each["port"] for each in found["listeners"]] == [span["end_port"]]
    only = api.get(f"/ports?project={span['project']}&state=leased")
    assert (only["ranges"], only["listeners"], len(only["leases"])) == ([], [], 1)
    api.refused("GET", "/ports?state=open", None, 422, "validation_failed")


def test_a_range_shares_no_port_with_another(api: Asked, span: dict[str, Any]) -> None:
    start, end = span["start_port"], span["end_port"]
    for low, high in ((start, end), (start - 5, start), (end, end + 5), (start + 1, end - 1)):
        body = {"project": "x", "start_port": low, "end_port": high}
        assert "overlaps" in str(api.refused("POST", "/port-ranges", body, 422, "validation_failed")["errors"])
    changed = api.call("PATCH", f"/port-ranges/{span['id']}", {"end_port": end - 1, "description": "d"})
    assert (changed.json or {})["end_port"] == end - 1
    api.refused("PATCH", f"/port-ranges/{span['id']}", {"end_port": start - 1}, 422, "validation_failed")
    assert api.call("DELETE", f"/port-ranges/{span['id']}").status_code == 204
    api.refused("GET", f"/port-ranges/{span['id']}", None, 404, "port_range_not_found")


def test_a_range_is_neither_upside_down_nor_among_outgoing_connections(api: Asked) -> None:
    upside_down = {"project": "x", "start_port": 31_010, "end_port": 31_000}
    api.refused("POST", "/port-ranges", upside_down, 422, "validation_failed")
    ephemeral = {"project": "x", "start_port": 40_000, "end_port": 40_009}
    api.refused("POST", "/port-ranges", ephemeral, 422, "validation_failed")
    made = api.post("/port-ranges", ephemeral | {"allow_ephemeral": True})
    assert (made["used"], made["usage_percent"]) == (0, 0)
    assert api.call("DELETE", f"/port-ranges/{made['id']}").status_code == 204


def test_ranges_come_in_pages_with_a_total(api: Asked, span: dict[str, Any]) -> None:
    first = api.get("/port-ranges?limit=2")
    assert first["total"] > 2
    rest = api.get(f"/port-ranges?limit=200&cursor={first['next_cursor']}")
    assert len(first["items"]) + len(rest["items"]) == first["total"]
    assert span in rest["items"]
