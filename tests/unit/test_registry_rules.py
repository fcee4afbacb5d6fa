"""Defining services and groups, ports and leases, without HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from domain.errors import (
    DatabaseBusy,
    DependencyCycle,
    GroupNotFound,
    OperationInProgress,
    ServiceExists,
    ServiceNotFound,
    UnknownDependency,
    ValidationFailed,
)
from domain.states import Desired, OperationStatus
from models import (
    access,
    groups,
    installation,
    leases,
    operations,
    port_ranges,
    ports,
    registry,
    registry_drift,
    registry_graph,
    registry_groups,
    registry_reach,
    registry_verdicts,
    registry_views,
    rules,
)
from models.base import UtcDateTime, now
from models.groups import Group
from models.ports import PortClaim, PortLease, PortRange, SeenListener
from models.record import Record, outside_transaction
from models.services import Service, ServiceDependency
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
    return registry.create_service(session, process(name, group=group, **more))


def test_a_row_becomes_a_whole_spec(session: Session) -> None:
    add(session, "db")
    made = add(
        session, "web", environment={"B": "2", "A": "1"}, secrets={"T": "s"}, volumes=["/b:/b", "/a:/a"],
        networks=["z", "a"], ports=[{"name": "http", "container_port": 80}], labels={"x": "y"}, cpu_limit=0.5,
        depends_on=[{"service": "db", "condition": "healthy", "required": False}], health_check={"test": ["true"]},
    )  # fmt: skip
    spec = made.spec("net")
    assert (spec.id, spec.name, spec.group, spec.runtime.value) == ("g-web", "web", "g", "process")
    assert spec.environment == {"A": "1", "B": "2", "T": "s"}
    assert (spec.volumes, spec.networks) == (("/b:/b", "/a:/a"), ("a", "z"))
    assert (spec.depends_on[0].service, spec.depends_on[0].condition.value) == ("g-db", "healthy")
    assert (spec.first_port(), spec.ports[0].container_port, spec.network_name) == (9000, 80, "net")
    assert spec.health_check is not None
    assert spec.health_check.test == ("true",)
    group = groups.get(session, "g")
    group.network_name, group.dependencies = "net", ["infra"]
    assert (group.spec().network_name, group.spec().dependencies) == ("net", ("infra",))


def test_a_row_that_v1_wrote_has_a_port_and_a_check(session: Session) -> None:
    session.execute(
        text("INSERT INTO services (id, name, group_name, port, health_url) VALUES ('a-b', 'b', 'a', 81, '/')")
    )
    row = registry.get(session, "a-b")
    assert (row.port_requests()[0].host_port, row.port_requests()[0].container_port) == (81, 81)
    check = row.health_check()
    assert check is not None
    assert (check.type.value, row.status, row.runtime, row.desired) == ("http", "stopped", "docker", "stopped")
    row.health_check_enabled = False
    assert row.health_check() is None


@pytest.mark.parametrize(
    ("columns", "running", "instance"),
    [
        ({}, False, False), ({"status": "running"}, True, True), ({"status": "unhealthy"}, True, True),
        ({"status": "starting"}, True, True), ({"status": "stopping"}, True, True), ({"pid": 1}, False, True),
        ({"container_id": "c"}, False, True), ({"status": "unknown"}, False, False),
        ({"status": "unknown", "desired": "running"}, True, True), ({"status": "failed"}, False, False),
        ({"runtime": "external", "status": "running", "pid": 1}, False, False),
    ],
)  # fmt: skip
def test_whether_it_runs_or_may_is_decided_from_what_was_seen(
    session: Session, columns: dict[str, Any], running: bool, instance: bool
) -> None:
    service = add(session, "a")
    for name, value in columns.items():
        setattr(service, name, value)
    assert (registry.is_running(service), registry.has_instance(service)) == (running, instance)


def test_a_runtime_is_not_changed_under_an_instance(session: Session) -> None:
    service = add(session, "a")
    service.status = "running"
    with pytest.raises(ValidationFailed) as caught:
        registry.change_service(session, service, {"runtime": "docker", "image": "x"})
    assert list(caught.value.errors) == ["runtime"]
    service.status = "stopped"
    assert registry.change_service(session, service, {"runtime": "docker", "image": "x"})


def test_ports_are_changed_by_name_and_given_back(session: Session) -> None:
    service = add(session, "a", ports=[{"name": "x", "host_port": 9500}])

    def leased() -> list[int]:
        return sorted(each.port for each in registry_ports_of(session, service.id))

    registry.change_service(session, service, {"ports": [{"name": "x", "host_port": 9501}, {"name": "y"}]})
    assert (leased(), service.port) == ([9000, 9501], 9501)
    registry.change_service(session, service, {"ports": [{"name": "y"}]})
    assert (leased(), service.port) == ([9000], 9000)
    registry.change_service(session, service, {"port": 9502})
    assert (leased(), service.claims[0].name) == ([9502], "y")
    registry.change_service(session, service, {"port": None})
    assert (leased(), service.port, service.claims) == ([], None, [])
    registry.change_service(session, service, {"port": 9503})
    assert leased() == [9503]


def registry_ports_of(session: Session, service_id: str) -> Any:
    return session.scalars(select(PortLease).where(PortLease.service_id == service_id)).all()


def test_the_same_port_twice_is_refused_where_it_stands(session: Session) -> None:
    for requests, field in (
        ([{"name": "a", "host_port": 9500}, {"name": "b", "host_port": 9500}], "host_port"),
        ([{"name": "a"}, {"name": "a"}], "name"),
    ):
        with pytest.raises(ValidationFailed) as caught:
            add(session, "a", group=f"by-{field}", ports=requests)
        assert list(caught.value.errors["ports"]) == [1]
        assert list(caught.value.errors["ports"][1]) == [field]
    both = [{"name": "t", "host_port": 9500}, {"name": "u", "host_port": 9500, "protocol": "udp"}]
    assert len(add(session, "b", ports=both).leases or registry_ports_of(session, "g-b")) == 2


def test_a_health_check_is_changed_key_by_key_and_taken_away_by_null(session: Session) -> None:
    service = add(session, "a", health_check={"test": ["true"], "retries": 7})
    registry.change_service(session, service, {"health_check": {"interval": 5.0, "retries": None}})
    check = service.health_check()
    assert check is not None
    assert (check.test, check.retries, check.interval_s) == (("true",), 3, 5.0)
    registry.change_service(session, service, {"health_check": None})
    assert service.health_check() is None
    registry.change_service(session, service, {"health_url": "http://h/"})
    assert service.health_check() is not None
    registry.change_service(session, service, {"health_url": None})
    assert (service.health_check(), service.health_check_type) == (None, None)


@pytest.mark.parametrize(
    "check",
    [{"type": "http"}, {"type": "exec"}, {"type": "tcp"}, {"url": "/path"}, {"port": "grpc"}, {"type": "docker"}],
)
def test_a_check_that_cannot_be_made_is_refused(session: Session, check: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed) as caught:
        add(session, "a", health_check=check)
    assert list(caught.value.errors) == ["health_check"]


def test_what_stands_in_environment_is_no_secret_too(session: Session) -> None:
    service = add(session, "a", environment={"A": "1"}, secrets={"T": "t", "OLD": "o"})
    registry.change_service(session, service, {"secrets": {"OLD": None, "NEW": "n"}})
    session.flush()
    assert registry_views.one(session, "g-a").secrets == ["NEW", "T"]
    with pytest.raises(ValidationFailed):
        registry.change_service(session, service, {"environment": {"NEW": "again"}})
    registry.change_service(session, service, {"secrets": None, "environment": None})
    assert service.environment == []


def test_names_ids_and_references(session: Session) -> None:
    add(session, "b-c", group="a")
    assert add(session, "c", group="a-b").id == "a-b-c-2"
    with pytest.raises(ServiceExists):
        add(session, "b-c", group="a")
    with pytest.raises(UnknownDependency):
        add(session, "x", depends_on=[{"service": "nobody"}])
    for missing in (lambda: registry.get(session, "no"), lambda: registry_views.one(session, "no"),
                    lambda: registry_views.runtime_of(session, "no"), lambda: registry.delete_service(session,
                    "no")):  # fmt: skip
        with pytest.raises(ServiceNotFound):
            missing()
    for gone in (lambda: groups.get(session, "no"), lambda: registry_groups.delete_group(session, "no")):
        with pytest.raises(GroupNotFound):
            gone()


def test_what_is_optional_goes_without_it_and_what_is_needed_stays(session: Session) -> None:
    add(session, "db")
    add(session, "web", depends_on=[{"service": "db"}])
    add(session, "job", depends_on=[{"service": "web", "required": False}])
    with pytest.raises(registry.ServiceRequired) as caught:
        registry.delete_service(session, "g-db")
    assert caught.value.facts["required_by"] == ["g-web"]
    registry.delete_service(session, "g-web")
    session.expire_all()
    assert registry.get(session, "g-job").spec().depends_on == ()
    assert session.scalars(select(ServiceDependency)).all() == []


def test_a_ring_of_groups_is_found_through_their_services(session: Session) -> None:
    registry_groups.create_group(session, {"name": "a", "services": [process("x")]})
    registry_groups.create_group(session, {"name": "b", "dependencies": ["a"], "services": [process("y")]})
    with pytest.raises(DependencyCycle) as caught:
        registry.change_service(session, registry.get(session, "a-x"), {"depends_on": [{"service": "b/y"}]})
    assert all(not each.startswith("group:") for each in caught.value.cycle)
    assert {"a-x", "b-y"} <= set(caught.value.cycle)


def test_what_an_operation_takes_along(session: Session) -> None:
    registry_groups.create_group(session, {"name": "i", "services": [process("redis")]})
    external = {"name": "dns", "group": "i", "runtime": "external", "health_url": "http://h/"}
    registry.create_service(session, external)
    services = [process("web", depends_on=[{"service": "db"}]), process("db")]
    registry_groups.create_group(session, {"name": "w", "dependencies": ["i"], "services": services})
    found = registry_graph.targets_for(session, "start", group="w")
    assert (found.named, found.services) == (("w-db", "w-web"), ("i-dns", "i-redis", "w-db", "w-web"))
    assert found.locks == ("group:w", "service:i-redis", "service:w-db", "service:w-web")
    assert registry_graph.targets_for(session, "stop", group="w").services == ("w-db", "w-web")
    assert registry_graph.targets_for(session, "start", group="w", only=["w-db"]).named == ("w-db",)
    assert registry_graph.targets_for(session, "remove", service="w-db").services == ("w-db",)
    assert registry_reach.needed(session, []) == {}
    assert registry_reach.dependents(session, ["w-db"]) == {"w-web"}
    registry_graph.want(session, [], Desired.RUNNING)
    registry_graph.want(session, ["w-db", "i-dns"], Desired.RUNNING)
    wanted = dict(session.execute(select(Service.id, Service.desired)).all())  # type: ignore[arg-type]
    assert (wanted["w-db"], wanted["i-dns"], wanted["w-web"]) == ("running", "stopped", "stopped")


def test_a_start_begins_a_new_count_of_crashes_and_a_stop_does_not(session: Session) -> None:
    service = add(session, "a")
    service.crash_count, service.restart_not_before = 5, now()
    session.flush()
    registry_graph.want(session, ["g-a"], Desired.STOPPED)
    session.refresh(service)
    assert service.crash_count == 5
    registry_graph.want(session, ["g-a"], Desired.RUNNING)
    session.refresh(service)
    assert (service.crash_count, service.restart_not_before, service.desired) == (0, None, "running")


def test_a_service_that_a_v1_tool_left_dangling_breaks_nothing(session: Session) -> None:
    add(session, "a")
    session.add(ServiceDependency(service_id="g-a", depends_on="gone"))
    session.flush()
    assert list(registry_reach.needed(session, ["g-a"])) == ["g-a"]
    assert registry_views.one(session, "g-a").depends_on == [(None, "gone", "started", True, False)]
    registry_graph.refuse_cycles(session)


def test_what_is_held_is_not_deleted(session: Session) -> None:
    add(session, "a")
    made = operations.create(session, "service.start", targets=["service:g-a"])
    with pytest.raises(OperationInProgress) as caught:
        registry.refuse_if_held(session, ["service:g-a"])
    assert caught.value.operation_id == made.id
    with pytest.raises(OperationInProgress):
        operations.create(session, "service.stop", targets=["service:g-a"])
    operations.finish(session, made, OperationStatus.COMPLETED)
    registry.refuse_if_held(session, ["service:g-a"])


def test_a_lease_is_unique_by_rule_of_the_database(session: Session) -> None:
    session.add(PortLease(port=9000, project="p"))
    session.flush()
    session.add(PortLease(port=9000, project="q"))
    with pytest.raises(IntegrityError):
        session.flush()
    session.rollback()


def test_the_preferred_range_comes_first_and_what_is_taken_is_skipped(session: Session) -> None:
    session.add(PortRange(project="development", start_port=9100, end_port=9101, priority=5))
    session.add(SeenListener(host_ip="0.0.0.0", port=9100, protocol="tcp", observed_at=now()))
    session.add(PortClaim(port=9101, protocol="udp"))
    session.flush()
    assert leases.lease(session, "development").port == 9101
    assert leases.lease(session, "development", avoid=frozenset({9000})).port == 9001
    assert leases.lease(session, "development", preferred=9101).port == 9000
    assert leases.lease(session, "x", preferred=9101, protocol="udp").port == 9101


def test_ranges_do_not_overlap_and_are_read_in_pages(session: Session) -> None:
    with pytest.raises(ValidationFailed) as caught:
        port_ranges.add(session, {"project": "p", "start_port": 8999, "end_port": 9000})
    assert "development's range 9000-9004" in str(caught.value.errors)
    with pytest.raises(ValidationFailed):
        port_ranges.add(session, {"project": "p", "start_port": 9200, "end_port": 9100})
    made = port_ranges.add(session, {"project": "p", "start_port": 40_000, "end_port": 40_001}, ephemeral_start=50_000)
    total, rows = port_ranges.page(session, made.id - 1, 5)
    assert (total, [each.id for each in rows]) == (2, [made.id])


def test_the_verdict_of_a_service_that_holds_its_port(session: Session) -> None:
    add(session, "a", port=9500)
    for host_ip in ("::", "0.0.0.0"):
        session.add(
            SeenListener(
                host_ip=host_ip, port=9500, protocol="tcp", pid=7, name="nc", service_id="g-a", own=True,
                observed_at=now(),
            )
        )  # fmt: skip
    session.flush()
    found = registry_verdicts.verdict(session, 9500)
    held = {(each["host_ip"], each["protocol"]) for each in found["entries"] if each["verdict"] == "held"}
    assert held == {(ip, "tcp") for ip in ("127.0.0.1", "0.0.0.0", "::1", "::")}
    assert found["entries"][0]["holders"][0]["service_id"] == "g-a"
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(2):
        registry_verdicts.record_scan(session, at)
        session.flush()
    assert registry_verdicts.scanned_at(session) == at
    assert registry_verdicts.verdict(session, 9500, own_ports={9500})["allocatable"] is False


def test_drift_is_remembered_only_outside_of_a_write(record: Record) -> None:
    with record.write() as session:
        service = add(session, "a")
        service.status, service.observed_hash = "running", service.spec().hash()
    for _ in range(2):
        with record.read() as session:
            assert not registry_views.one(session, "g-a").drift
    with record.write() as session:
        registry.change_service(session, registry.get(session, "g-a"), {"command": ["other"]})
        assert registry_views.one(session, "g-a").drift
    with record.read() as session:
        assert registry_views.of_group(session, "g")[0].drift
        assert registry_views.page(session, registry_views.Filter(group=["g"]), "g-a", 5) == []


def test_the_hashes_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_drift, "_HASHES_KEPT", 3)
    kept = registry_drift._Hashes()
    for number in range(10):
        kept.keep((number,), str(number))
    assert len(kept._known) <= 3
    assert kept.get((9,)) == "9"


def test_a_tick_is_worked_on_once_per_slot(session: Session) -> None:
    assert [installation.take_slot(session, "t", slot) for slot in (1, 1, 2)] == [True, False, True]


def test_one_users_keys_are_told_apart(session: Session) -> None:
    session.add_all([access.User(username="a", role="viewer"), access.User(username="b", role="viewer")])
    session.flush()
    ids = [user.id for user in access.users_page(session, None, 9)]
    for number, user_id in enumerate(ids):
        session.add(access.ApiKey(id=f"k{number}", user_id=user_id, name="n", key_hash=str(number)))
    session.flush()
    assert [key.id for key, _ in access.keys_page(session, ids[0], None, 9)] == ["k0"]
    assert [name for _, name in access.keys_page(session, None, "k0", 9)] == ["b"]


def test_a_time_without_a_zone_is_not_recorded(record: Record) -> None:
    dialect = record.engine.dialect
    with pytest.raises(ValueError, match="time zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), dialect)  # noqa: DTZ001 - that is the point
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert UtcDateTime().process_result_value(at.replace(tzinfo=None), dialect) == at
    assert UtcDateTime().process_result_value(None, dialect) is None


def test_a_write_that_waits_too_long_is_told_that_the_record_is_busy(tmp_path: Any) -> None:
    make_record(tmp_path).close()
    url = f"sqlite:///{tmp_path}/registry.db"
    one, two = Record(url, timeout_s=0.1), Record(url, timeout_s=0.1)
    with one.write() as session:
        with pytest.raises(AssertionError, match="inside a write"):
            outside_transaction()
        session.add(Group(name="x"))
        session.flush()
        with pytest.raises(DatabaseBusy), two.write():
            pass  # pragma: no cover
        with pytest.raises(DatabaseBusy), one.write():
            pass  # pragma: no cover
        with two.read() as reading:
            assert reading.get(Group, "x") is None
    outside_transaction()
    one.close(), two.close()


def test_triggers_are_taken_away_and_put_back(record: Record) -> None:
    def present() -> set[str]:
        with record.read() as session:
            return set(session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")))

    assert present() == set(rules.APPEND_ONLY)
    with record.engine.begin() as connection:
        rules.drop_triggers(connection)
    assert present() == set()
    with record.engine.begin() as connection:
        rules.create_triggers(connection)
    assert present() == set(rules.APPEND_ONLY)


def test_an_expired_lease_makes_room(session: Session) -> None:
    old = leases.lease(session, "p", preferred=9900, expires_at=now() - timedelta(seconds=1))
    assert old.port == 9900
    assert ports.lease_holder(session, 9900) is None
    assert leases.lease(session, "q", preferred=9900).project == "q"
