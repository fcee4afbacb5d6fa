"""Which port a service gets, what it keeps, and who is named when there is none."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from domain.errors import PortHeld, RangeFull
from models import groups, leases, port_ranges, port_search, ports, registry, registry_groups, registry_ports
from models.base import now
from models.installation import SystemConfig
from models.ports import PortClaim, PortHistory, PortLease, PortRange, SeenListener
from models.record import Record
from models.services import Service
from tests.unit.api_kit import make_record, process


@pytest.fixture
def record(tmp_path: Any) -> Iterator[Record]:
    made = make_record(tmp_path)
    with made.write() as session:
        session.add(PortRange(project="development", start_port=9000, end_port=9004))
    yield made
    made.close()


@pytest.fixture
def session(record: Record) -> Iterator[Session]:
    with record.write() as open_session:
        yield open_session


def add(session: Session, name: str, group: str = "g", **more: Any) -> Service:
    return registry.create_service(session, process(name, group=group, **{"ports": [{}]} | more))


def rested(session: Session, seconds: float = port_search.REST_S) -> None:
    """Let that much time pass for every released port."""
    for row in session.scalars(select(PortHistory)):
        row.released_at -= timedelta(seconds=seconds)
    session.flush()


def give_up(session: Session, held: PortLease) -> None:
    port_ranges.give_back(session, held.id)


def listen(session: Session, port: int, **facts: Any) -> None:
    session.add(SeenListener(**{"host_ip": "0.0.0.0", "port": port, "protocol": "tcp", "observed_at": now()} | facts))
    session.flush()


def system(session: Session, **facts: Any) -> None:
    session.add(SystemConfig(key="listeners.scanned", value={"at": now().isoformat()} | facts))
    session.flush()


def test_a_service_that_is_registered_again_has_its_ports_again(session: Session) -> None:
    both = [{"name": "http"}, {"name": "admin"}]
    before = [each.port for each in add(session, "api", ports=both).claims]
    registry.delete_service(session, "g-api")
    assert before == [9000, 9001]
    assert add(session, "other").port == 9002
    again = add(session, "api", ports=list(reversed(both)))
    assert {each.name: each.port for each in again.claims} == {"http": 9000, "admin": 9001}
    rested(session)
    registry.delete_service(session, "g-api")
    rested(session)
    assert [each.port for each in add(session, "api", ports=both).claims] == before


def test_a_whole_group_that_is_made_again_has_its_ports_again(session: Session) -> None:
    wanted = {"name": "shop", "services": [process(each, ports=[{}]) for each in ("a", "b", "c")]}
    registry_groups.create_group(session, wanted)
    before = dict(session.execute(select(PortLease.service_id, PortLease.port)).all())  # type: ignore[arg-type]
    registry_groups.delete_group(session, "shop")
    turned = wanted | {"services": list(reversed(wanted["services"]))}  # type: ignore[call-overload]
    registry_groups.create_group(session, turned)
    session.expire_all()
    after = dict(session.execute(select(PortLease.service_id, PortLease.port)).all())  # type: ignore[arg-type]
    assert after == before
    assert len(after) == 3


def test_a_last_port_that_somebody_has_by_now_is_not_waited_for(session: Session) -> None:
    add(session, "api")
    registry.delete_service(session, "g-api")
    assert leases.lease(session, "development", preferred=9000).port == 9000
    assert add(session, "api").port == 9001


def test_a_last_port_outside_of_the_project_s_ranges_is_not_taken_again(session: Session) -> None:
    add(session, "api", ports=[{"host_port": 7000}])
    registry.delete_service(session, "g-api")
    assert add(session, "api").port == 9000


def test_a_released_port_rests_two_minutes_for_everybody_but_its_last_holder(session: Session) -> None:
    add(session, "api")
    registry.delete_service(session, "g-api")
    rested(session, 119)
    assert add(session, "web").port == 9001
    rested(session, 1)
    assert add(session, "jobs").port == 9000


@pytest.mark.parametrize("how", ["given back", "changed", "moved", "expired", "deleted"])
def test_every_way_to_release_a_port_lets_it_rest(session: Session, how: str) -> None:
    service = add(session, "api")
    if how == "given back":
        give_up(session, leases.lease(session, "development"))
        assert leases.lease(session, "development").port == 9002
        return
    if how == "changed":
        registry.change_service(session, service, {"ports": []})
    elif how == "moved":
        registry_ports.move(session, service, "tcp", 9000, 9004, "development", frozenset())
    elif how == "expired":
        service.claims = []
        session.scalars(select(PortLease)).one().expires_at = now() - timedelta(seconds=1)
        session.flush()
    else:
        registry.delete_service(session, "g-api")
    assert leases.lease(session, "development").port == 9001
    assert session.scalars(select(PortHistory.port)).all() == [9000]


def test_a_port_that_was_named_is_given_though_it_rests(session: Session) -> None:
    give_up(session, leases.lease(session, "development"))
    assert leases.lease(session, "development", preferred=9000).port == 9000


def test_what_is_leased_claimed_latent_seen_or_reserved_is_skipped(session: Session) -> None:
    system(session, reserved=[[9003, 9003]], ephemeral=[32_768, 60_999])
    leases.lease(session, "development", preferred=9000)
    listen(session, 9001)
    session.add(PortClaim(port=9002, source="container", container_ref="old", latent=True))
    session.flush()
    assert leases.lease(session, "development").port == 9004
    assert leases.lease(session, "development", protocol="udp").port == 9000


def test_a_service_s_own_container_and_process_do_not_stand_in_its_way(session: Session) -> None:
    add(session, "api")
    registry.delete_service(session, "g-api")
    session.add(PortClaim(port=9000, source="container", container_ref="g-api", owner_id="g-api", latent=True))
    listen(session, 9000, service_id="g-api", own=True)
    assert leases.lease(session, "development").port == 9001
    assert add(session, "api").port == 9000


def test_ephemeral_ports_come_last_and_only_where_a_range_has_no_others(session: Session) -> None:
    system(session, ephemeral=[9000, 9002])
    assert [leases.lease(session, "development").port for _ in range(5)] == [9003, 9004, 9000, 9001, 9002]


def test_a_range_admits_as_many_services_as_it_says(session: Session) -> None:
    session.add(PortRange(project="few", start_port=9100, end_port=9110, max_services=2))
    for name in ("a", "b"):
        groups.ensure(session, name).project = "few"
    assert add(session, "one", group="a", ports=[{"name": "x"}, {"name": "y"}]).port == 9100
    assert add(session, "two", group="a").port == 9102
    with pytest.raises(RangeFull) as caught:
        add(session, "three", group="b")
    assert "9100-9110 admits 2 services" in caught.value.message
    with pytest.raises(RangeFull):
        leases.lease(session, "few")
    registry.change_service(session, registry.get(session, "a-two"), {"ports": [{"name": "a"}, {"name": "b"}]})


def test_a_full_range_says_who_has_it_and_until_when_ports_rest(session: Session) -> None:
    add(session, "api")
    give_up(session, leases.lease(session, "development"))
    listen(session, 9002, name="nginx", pid=7)
    listen(session, 9002, name="nginx", pid=7, host_ip="::")
    session.add(PortClaim(port=9003, source="container", container_ref="old", latent=True))
    leases.lease(session, "development", preferred=9004, expires_at=now() + timedelta(hours=1))
    with pytest.raises(RangeFull) as caught:
        leases.lease(session, "development")
    facts = caught.value.facts
    assert [(each["port"], each["service_id"], each["project"]) for each in facts["holders"]] == [
        (9000, "g-api", "development"),
        (9004, None, "development"),
    ]
    assert facts["holders"][1]["expires_at"] is not None
    assert [(each["port"], each["name"]) for each in facts["listening"]] == [(9002, "nginx")]
    assert [(each["port"], each["container"]) for each in facts["claimed"]] == [(9003, "old")]
    assert facts["resting"]["count"] == 1
    for word in ("9000-9004", "g-api (9000)", "nginx (9002)", "old (9003)", "1 at rest until 20"):
        assert word in caught.value.message
    assert leases.lease(session, "development", protocol="udp").port == 9000


def test_a_project_without_a_range_is_told_to_define_one(session: Session) -> None:
    with pytest.raises(RangeFull) as caught:
        leases.lease(session, "nowhere")
    assert "port-ranges" in (caught.value.hint or "")


def test_the_range_is_the_one_of_the_group_s_project_whatever_the_names_are(session: Session) -> None:
    session.add(PortRange(project="core", start_port=9500, end_port=9501))
    assert add(session, "core", group="core").port == 9000
    groups.ensure(session, "plain").project = "core"
    assert add(session, "web", group="plain").port == 9500
    assert port_ranges.allocate(session, {"service_id": "plain-web"}, ()).port == 9501


def test_an_expired_lease_goes_to_the_service_that_claims_its_port(session: Session) -> None:
    lent = leases.lease(session, "x", preferred=9000, expires_at=now() + timedelta(seconds=60))
    add(session, "api", ports=[{"host_port": 9000}])
    lent.expires_at = now() - timedelta(seconds=1)
    session.flush()
    with pytest.raises(PortHeld) as caught:
        port_ranges.allocate(session, {"preferred_port": 9000}, ())
    assert (caught.value.holder or {})["service_id"] == "g-api"
    kept = ports.lease_holder(session, 9000)
    assert kept is not None
    assert (kept.service_id, kept.project, kept.expires_at) == ("g-api", "development", None)


def test_expired_leases_are_ended_a_bounded_number_at_a_time(session: Session) -> None:
    for port in range(7000, 7005):
        leases.grant(session, port, "x", expires_at=now() - timedelta(seconds=1))
    assert [leases.expire(session, 3), leases.expire(session, 3), leases.expire(session, 3)] == [3, 2, 0]
    assert session.scalars(select(PortLease)).all() == []


def test_a_lease_for_a_time_becomes_a_service_s_own_when_its_definition_names_the_port(session: Session) -> None:
    service = add(session, "api", ports=[])
    wish = {"service_id": "g-api", "ttl": 60}
    port = port_ranges.allocate(session, wish, ()).port
    registry.change_service(session, service, {"ports": [{"name": "http", "host_port": port}]})
    kept = ports.lease_holder(session, port)
    assert kept is not None
    assert (kept.service_id, kept.port_name, kept.expires_at) == ("g-api", "http", None)


def test_a_lease_is_granted_once(session: Session) -> None:
    leases.grant(session, 7000, "x")
    with pytest.raises(PortHeld) as caught:
        leases.grant(session, 7000, "y")
    assert (caught.value.holder or {})["name"] == "project x"
    assert leases.grant(session, 7000, "y", "udp").port == 7000


def test_a_candidate_is_the_port_that_would_be_given_and_leases_nothing(record: Record) -> None:
    with record.write() as session:
        add(session, "api", ports=[{"name": "http"}])
    with record.read() as session:
        found = registry_ports.candidate(session, "g-api", "http", "development", "tcp", {9001})
        assert (found, list(session.dirty)) == (9002, [])
        with pytest.raises(RangeFull):
            registry_ports.candidate(session, "g-api", "http", "development", "tcp", set(range(9001, 9005)))
    with record.write() as session:
        moved = registry_ports.move(
            session, registry.get(session, "g-api"), "tcp", 9000, 9004, "development", frozenset()
        )
        registry_ports.restore(session, moved)
        assert registry_ports.candidate(session, "g-api", "http", "development", "tcp", {9000}) == 9004


def crowd(session: Session, project: str, low: int, high: int, full: range) -> None:
    session.add(PortRange(project=project, start_port=low, end_port=high))
    rows = [{"port": port, "project": project, "protocol": "tcp"} for port in full]
    session.execute(insert(PortLease), rows)
    session.flush()


def test_an_allocation_beside_sixteen_thousand_leases_is_as_fast_as_the_first(session: Session) -> None:
    crowd(session, "big", 10_000, 31_999, range(10_000, 26_000))
    assert leases.lease(session, "big").port == 26_000  # finds the place once
    began = time.process_time()
    found = [leases.lease(session, "big").port for _ in range(100)]
    took_s = time.process_time() - began
    assert found == list(range(26_001, 26_101))
    assert took_s / 100 < 0.02
    give_up(session, session.scalars(select(PortLease).where(PortLease.port == 10_007)).one())
    rested(session)
    # The lowest ports are looked at every time, and the search goes on where it was.
    assert [leases.lease(session, "big").port for _ in range(2)] == [10_007, 26_101]


def test_what_lies_before_the_search_is_found_before_the_range_is_called_full(session: Session) -> None:
    crowd(session, "big", 10_000, 11_999, range(10_000, 11_998))
    assert [leases.lease(session, "big").port for _ in range(2)] == [11_998, 11_999]
    give_up(session, session.scalars(select(PortLease).where(PortLease.port == 11_000)).one())
    with pytest.raises(RangeFull) as caught:
        leases.lease(session, "big")
    assert caught.value.facts["leased"] == 1999
    rested(session)
    assert leases.lease(session, "big").port == 11_000


def test_ranges_count_from_what_the_last_scan_found_of_outgoing_connections(session: Session) -> None:
    system(session, ephemeral=[20_000, 25_000])
    made = port_ranges.add(session, {"project": "p", "start_port": 40_000, "end_port": 40_001})
    assert leases.lease(session, "p").port == 40_000
    for start, end in ((19_000, 20_000), (25_000, 25_001), (21_000, 22_000)):
        with pytest.raises(registry.ValidationFailed) as caught:
            port_ranges.change(session, made, {"start_port": start, "end_port": end})
        assert "20000 to 25000" in str(caught.value.errors)
