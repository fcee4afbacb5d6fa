"""A service's port is moved, and is what it was again."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import PortHeld, ValidationFailed
from models import leases, ports, registry, registry_ports
from models.port_moves import followed
from models.ports import PortLease, PortRange
from models.record import Record
from models.registry_ports import UndoImpossible
from models.services import Service
from tests.unit.api_kit import make_record, process

OWN = frozenset({8081})


@pytest.fixture
def record(tmp_path: Any) -> Iterator[Record]:
    made = make_record(tmp_path)
    with made.write() as session:
        session.add(PortRange(project="development", start_port=9000, end_port=9009))
    yield made
    made.close()


@pytest.fixture
def session(record: Record) -> Iterator[Session]:
    with record.write() as open_session:
        yield open_session


def add(session: Session, name: str = "api", **more: Any) -> Service:
    return registry.create_service(session, process(name, group="g", **more))


def container(session: Session, name: str = "api", **more: Any) -> Service:
    return registry.create_service(session, {"name": name, "group": "g", "image": "x", **more})


def move(session: Session, service: Service, from_port: int, to_port: int, protocol: str = "tcp") -> Any:
    return registry_ports.move(session, service, protocol, from_port, to_port, "development", OWN)


def definition(session: Session, service: Service) -> dict[str, Any]:
    """All that the record says of a service and its ports, its versions apart."""
    session.flush()
    session.expire_all()
    row = {name: getattr(service, name) for name in Service.__table__.columns.keys()}  # noqa: SIM118
    for name in ("spec_version", "updated_at"):
        row.pop(name)
    held = session.execute(
        select(*PortLease.__table__.columns).where(PortLease.service_id == service.id).order_by(PortLease.id)
    )
    return {
        "row": row,
        "claims": [(each.id, each.name, each.host_ip, each.port, each.container_port) for each in service.claims],
        "leases": [tuple(each) for each in held],
    }


def test_claim_lease_port_and_health_url_move_together_and_come_back_byte_for_byte(session: Session) -> None:
    wanted = [{"name": "http"}, {"name": "admin"}]
    service = add(session, ports=wanted, health_url="http://localhost:9000/health?a=9000#9000")
    before, version = definition(session, service), service.spec_version
    undo = move(session, service, 9000, 9005)
    assert [each.port for each in service.claims] == [9005, 9001]
    assert (service.port, service.health_url) == (9005, "http://localhost:9005/health?a=9000#9000")
    assert service.spec_version == version + 1
    assert ports.lease_holder(session, 9000) is None
    kept = ports.lease_holder(session, 9005)
    assert kept is not None
    assert (kept.service_id, kept.port_name) == (service.id, "http")
    registry_ports.restore(session, json.loads(json.dumps(undo)))
    assert definition(session, service) == before
    assert service.spec_version == version + 2


def test_the_second_port_moves_and_the_first_one_stays(session: Session) -> None:
    service = add(session, ports=[{"name": "http"}, {"name": "admin"}])
    move(session, service, 9001, 9005)
    assert ([each.port for each in service.claims], service.port) == ([9000, 9005], 9000)


def test_a_container_s_own_port_stays_unless_it_has_no_network_of_its_own(session: Session) -> None:
    service = container(session, port=9000)
    move(session, service, 9000, 9001)
    assert (service.claims[0].port, service.claims[0].container_port) == (9001, 9000)
    bare = container(session, "bare", port=9005, network_mode="host")
    undo = move(session, bare, 9005, 9006)
    assert (bare.claims[0].port, bare.claims[0].container_port) == (9006, 9006)
    registry_ports.restore(session, undo)
    assert (bare.claims[0].port, bare.claims[0].container_port) == (9005, 9005)


def test_tcp_and_udp_of_one_number_move_apart(session: Session) -> None:
    both = [{"name": "t", "host_port": 9000}, {"name": "u", "host_port": 9000, "protocol": "udp"}]
    service = add(session, ports=both, health_url="http://localhost:9000/")
    undo = move(session, service, 9000, 9001, "udp")
    assert ([each.port for each in service.claims], service.health_url) == ([9000, 9001], "http://localhost:9000/")
    registry_ports.restore(session, undo)
    assert [each.port for each in service.claims] == [9000, 9000]


def test_one_number_on_two_addresses_moves_as_one(session: Session) -> None:
    both = [{"name": "four", "host_port": 9000}, {"name": "six", "host_port": 9000, "host_ip": "::1"}]
    service = add(session, ports=both)
    undo = move(session, service, 9000, 9001)
    assert [each.port for each in service.claims] == [9001, 9001]
    registry_ports.restore(session, undo)
    assert [each.port for each in service.claims] == [9000, 9000]


def test_a_port_that_another_has_is_not_moved_to(session: Session) -> None:
    service = add(session, port=9000)
    other = add(session, "other", port=9001)
    for to_port, kind, name in ((9001, "service", other.id), (8081, "clos", None)):
        before = definition(session, service)
        with pytest.raises(PortHeld) as caught:
            move(session, service, 9000, to_port)
        assert ((caught.value.holder or {})["kind"], (caught.value.holder or {}).get("service_id")) == (kind, name)
        assert definition(session, service) == before
    with pytest.raises(ValidationFailed):
        move(session, service, 9777, 9002)


def test_a_port_that_was_allocated_for_a_service_may_be_moved_to_by_it_alone(session: Session) -> None:
    service, other = add(session, port=9000), add(session, "other", port=9001)
    leases.lease(session, "development", preferred=9005, service_id=service.id)
    with pytest.raises(PortHeld):
        move(session, other, 9001, 9005)
    move(session, service, 9000, 9005)
    assert [each.port for each in registry_ports.leases_of(session, service.id)] == [9005]


def test_who_claimed_the_old_port_in_vain_has_it_and_then_there_is_no_way_back(session: Session) -> None:
    first, second = add(session, port=9000), add(session, "second", port=9000)
    undo = move(session, first, 9000, 9001)
    kept = ports.lease_holder(session, 9000)
    assert kept is not None
    assert kept.service_id == second.id
    before = definition(session, first)
    with pytest.raises(UndoImpossible) as caught:
        registry_ports.restore(session, undo)
    assert caught.value.code == "undo_impossible"
    assert caught.value.facts["holder"]["service_id"] == second.id
    assert definition(session, first) == before


def test_who_had_no_lease_gets_one_by_moving(session: Session) -> None:
    first, second = add(session, port=9000), add(session, "second", port=9000)
    move(session, second, 9000, 9001)
    assert [each.port for each in registry_ports.leases_of(session, second.id)] == [9001]
    assert [each.port for each in registry_ports.leases_of(session, first.id)] == [9000]


@pytest.mark.parametrize("since", ["gone", "made again", "moved on", "renamed", "taken"])
def test_what_was_changed_since_is_not_undone(session: Session, since: str) -> None:
    service = add(session, ports=[{"name": "http", "host_port": 9000}])
    undo = move(session, service, 9000, 9001)
    if since in ("gone", "made again"):
        registry.delete_service(session, service.id)
        session.expunge(service)
    if since == "made again":
        add(session, ports=[{"name": "http", "host_port": 9002}])
    elif since == "moved on":
        move(session, service, 9001, 9002)
    elif since == "renamed":
        registry.change_service(session, service, {"ports": [{"name": "web", "host_port": 9001}]})
    elif since == "taken":
        leases.lease(session, "elsewhere", preferred=9000)
    held = session.execute(select(PortLease.port, PortLease.service_id)).all()
    with pytest.raises(UndoImpossible):
        registry_ports.restore(session, undo)
    assert session.execute(select(PortLease.port, PortLease.service_id)).all() == held


def test_a_health_url_that_was_changed_since_follows_back(session: Session) -> None:
    service = add(session, port=9000, health_url="http://localhost:9000/old")
    undo = move(session, service, 9000, 9001)
    registry.change_service(session, service, {"health_url": "http://localhost:9001/new"})
    registry_ports.restore(session, undo)
    assert service.health_url == "http://localhost:9000/new"


@pytest.mark.parametrize(
    ("url", "after"),
    [
        ("http://localhost:80/x", "http://localhost:81/x"), ("http://127.0.0.1:80", "http://127.0.0.1:81"),
        ("http://[::1]:80/", "http://[::1]:81/"), ("http://127.9.9.9:80/", "http://127.9.9.9:81/"),
        ("http://user:80@localhost:80/80", "http://user:80@localhost:81/80"), ("http://localhost/", "http://localhost:81/"),
        ("http://10.0.0.7:80/", "http://10.0.0.7:81/"), ("HTTP://LOCALHOST:80/", "HTTP://LOCALHOST:81/"),
        ("http://example.com:80/", None), ("http://localhost:8080/", None), ("https://localhost/", None),
        ("/health", None), ("http://${host:api}:80/", None), ("http://localhost:${port:api}/80", None),
        ("http://localhost:99999/", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_only_a_url_of_this_host_with_exactly_the_old_port_follows(url: str | None, after: str | None) -> None:
    assert followed(url, 80, 81, {"10.0.0.7"}) == (url if after is None else after)
