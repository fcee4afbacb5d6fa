import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import (
    DependencyCycle,
    GroupExists,
    OperationInProgress,
    RangeFull,
    ServiceExists,
    UnknownDependency,
    ValidationFailed,
)
from domain.states import Desired
from models import groups, operations, registry, registry_graph, registry_groups, registry_views
from models.ports import PortLease, PortRange
from models.record import Record
from models.services import Service
from tests.integration.api_fixture import DATABASES
from tests.integration.registry_fixture import migrated_record

_ranges = itertools.count(20_000, 20)


@pytest.fixture(scope="module", params=DATABASES)
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    with migrated_record(request.param) as made:
        yield made


@pytest.fixture
def session(record: Record) -> Iterator[Session]:
    with record.write() as open_session:
        yield open_session


@pytest.fixture
def first_port(session: Session) -> int:
    """The first port of a project `p<port>` with a range of five."""
    start = next(_ranges)
    session.add(PortRange(project=f"p{start}", start_port=start, end_port=start + 4))
    session.flush()
    return start


@pytest.fixture
def name() -> str:
    """A group's name that no other test has."""
    return f"g{uuid.uuid4().hex[:8]}"


def service(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "runtime": "process", "command": ["sleep", "1"], **more}


def leases(session: Session, service_id: str) -> list[int]:
    return sorted(session.scalars(select(PortLease.port).where(PortLease.service_id == service_id)))


def test_a_service_makes_its_group_if_there_is_none(session: Session, name: str) -> None:
    made = registry.create_service(session, service("web", group=name))
    assert made.id == f"{name}-web"
    assert groups.get(session, name).project == "development"


def test_where_two_ids_would_be_equal_the_later_one_gets_a_number(session: Session, name: str) -> None:
    first = registry.create_service(session, service("c", group=f"{name}-b"))
    second = registry.create_service(session, service("b-c", group=name))
    assert (first.id, second.id) == (f"{name}-b-c", f"{name}-b-c-2")


def test_a_second_service_of_that_name_is_refused(session: Session, name: str) -> None:
    registry.create_service(session, service("web", group=name))
    with pytest.raises(ServiceExists):
        registry.create_service(session, service("web", group=name))


def test_services_of_one_request_refer_to_each_other_in_any_order(session: Session, name: str) -> None:
    registry_groups.create_group(
        session,
        {
            "name": name,
            "services": [service("web", depends_on=[{"service": "db", "condition": "healthy"}]), service("db")],
        },
    )
    spec = registry.get(session, f"{name}-web").spec()
    assert [(each.service, each.condition) for each in spec.depends_on] == [(f"{name}-db", "healthy")]


def test_another_groups_service_is_named_with_its_group(session: Session, name: str) -> None:
    registry.create_service(session, service("db", group=f"{name}x"))
    made = registry.create_service(session, service("web", group=name, depends_on=[{"service": f"{name}x/db"}]))
    assert made.spec().depends_on[0].service == f"{name}x-db"
    assert registry_views.one(session, made.id).depends_on == [(f"{name}x", "db", "started", True, False)]


def test_an_unknown_dependency_is_refused_and_nothing_is_written(record: Record, name: str) -> None:
    body = {"name": name, "services": [service("db"), service("web", depends_on=[{"service": "cache"}])]}
    with pytest.raises(UnknownDependency), record.write() as session:
        registry_groups.create_group(session, body)
    with record.read() as session:
        assert registry_views.names_of_group(session, name) == {}


def test_a_ring_is_refused_with_its_path(session: Session, name: str) -> None:
    ring = [service("a", depends_on=[{"service": "b"}]), service("b", depends_on=[{"service": "a"}])]
    with pytest.raises(DependencyCycle) as caught:
        registry_groups.create_group(session, {"name": name, "services": ring})
    assert sorted(set(caught.value.cycle)) == [f"{name}-a", f"{name}-b"]
    assert caught.value.cycle[0] == caught.value.cycle[-1]
    session.rollback()


def test_a_service_that_needs_itself_is_a_ring(session: Session, name: str) -> None:
    with pytest.raises(DependencyCycle):
        registry_groups.create_group(session, {"name": name, "services": [service("a", depends_on=[{"service": "a"}])]})
    session.rollback()


def test_a_ring_through_two_groups_is_found_where_a_group_depends_on_the_other(session: Session, name: str) -> None:
    registry_groups.create_group(session, {"name": f"{name}a", "services": [service("x")]})
    registry_groups.create_group(
        session, {"name": f"{name}b", "services": [service("y", depends_on=[{"service": f"{name}a/x"}])]}
    )
    with pytest.raises(DependencyCycle):
        registry_groups.change_group(session, groups.get(session, f"{name}a"), {"dependencies": [f"{name}b"]})
    session.rollback()


def test_a_change_that_closes_a_ring_is_refused(session: Session, name: str) -> None:
    registry_groups.create_group(
        session, {"name": name, "services": [service("a"), service("b", depends_on=[{"service": "a"}])]}
    )
    with pytest.raises(DependencyCycle):
        registry.change_service(session, registry.get(session, f"{name}-a"), {"depends_on": [{"service": "b"}]})
    session.rollback()


def test_a_group_that_depends_on_an_unknown_one_is_refused(session: Session, name: str) -> None:
    with pytest.raises(UnknownDependency):
        registry_groups.create_group(session, {"name": name, "dependencies": ["nowhere"]})
    session.rollback()


def test_a_group_is_registered_once(session: Session, name: str) -> None:
    registry_groups.create_group(session, {"name": name})
    with pytest.raises(GroupExists):
        registry_groups.create_group(session, {"name": name})


def test_a_port_that_is_left_open_is_leased_from_the_projects_range(
    session: Session, name: str, first_port: int
) -> None:
    registry_groups.create_group(
        session,
        {
            "name": name,
            "project": f"p{first_port}",
            # The explicit port comes later in the list and is nevertheless not leased to the open one.
            "services": [service("open", ports=[{"name": "http"}]), service("named", port=first_port)],
        },
    )
    assert registry.get(session, f"{name}-open").port_requests()[0].host_port == first_port + 1
    assert registry.get(session, f"{name}-open").port == first_port + 1
    assert leases(session, f"{name}-named") == [first_port]


def test_a_docker_service_without_a_container_port_listens_on_the_leased_one(
    session: Session, name: str, first_port: int
) -> None:
    registry_groups.create_group(
        session,
        {
            "name": name,
            "project": f"p{first_port}",
            "services": [{"name": "web", "runtime": "docker", "image": "x", "ports": [{}]}],
        },
    )
    assert registry.get(session, f"{name}-web").spec().ports[0].container_port == first_port


def test_a_duplicate_claim_is_recorded_and_the_lease_passes_on_when_the_first_goes(
    session: Session, name: str, first_port: int
) -> None:
    for each in ("a", "b"):
        registry.create_service(session, service(each, group=name, port=first_port))
    assert (leases(session, f"{name}-a"), leases(session, f"{name}-b")) == ([first_port], [])
    assert registry.get(session, f"{name}-b").port == first_port
    registry.delete_service(session, f"{name}-a")
    assert leases(session, f"{name}-b") == [first_port]


def test_a_full_range_says_who_has_its_ports(session: Session, name: str, first_port: int) -> None:
    services = [service(f"s{number}", ports=[{}]) for number in range(6)]
    with pytest.raises(RangeFull) as caught:
        registry_groups.create_group(session, {"name": name, "project": f"p{first_port}", "services": services})
    assert len(caught.value.facts["holders"]) == 5
    session.rollback()


def test_closs_own_ports_are_neither_given_nor_taken(session: Session, name: str, first_port: int) -> None:
    registry_groups.create_group(session, {"name": name, "project": f"p{first_port}"})
    made = registry.create_service(session, service("a", group=name, ports=[{}]), reserved={first_port})
    assert made.port == first_port + 1
    with pytest.raises(ValidationFailed) as caught:
        registry.create_service(session, service("b", group=name, port=first_port), reserved={first_port})
    assert "CLOS's own" in str(caught.value.errors)
    session.rollback()


def test_changing_the_ports_gives_back_what_is_no_longer_wanted(session: Session, name: str, first_port: int) -> None:
    made = registry.create_service(session, service("a", group=name, ports=[{"name": "x", "host_port": first_port}]))
    wanted = [{"name": "x", "host_port": first_port + 1}, {"name": "y", "host_port": first_port + 2}]
    assert registry.change_service(session, made, {"ports": wanted})
    assert leases(session, made.id) == [first_port + 1, first_port + 2]
    registry.change_service(session, made, {"ports": [{"name": "y"}]})  # keeps the one it had
    assert (leases(session, made.id), made.port) == ([first_port + 2], first_port + 2)
    registry.change_service(session, made, {"port": first_port + 3})
    assert (leases(session, made.id), made.claims[0].name) == ([first_port + 3], "y")


def test_only_a_change_of_what_is_wanted_makes_a_new_version(session: Session, name: str) -> None:
    made = registry.create_service(session, service("a", group=name, tags=["x"]))
    assert not registry.change_service(session, made, {"tags": ["x"], "command": ["sleep", "1"]})
    assert made.spec_version == 1
    assert registry.change_service(session, made, {"tags": ["y"], "description": "d"})
    registry_graph.want(session, [made.id], Desired.RUNNING)
    session.refresh(made)
    assert (made.spec_version, made.desired) == (2, "running")


def test_secrets_are_changed_key_by_key_and_stay_apart_from_the_environment(session: Session, name: str) -> None:
    made = registry.create_service(
        session, service("a", group=name, environment={"A": "1"}, secrets={"TOKEN": "t", "OLD": "o"})
    )
    registry.change_service(session, made, {"environment": {"B": "2"}, "secrets": {"OLD": None, "NEW": "n"}})
    session.flush()
    view = registry_views.one(session, made.id)
    assert (view.environment, view.secrets) == ({"B": "2"}, ["NEW", "TOKEN"])
    assert made.spec().environment == {"B": "2", "NEW": "n", "TOKEN": "t"}
    with pytest.raises(ValidationFailed):
        registry.change_service(session, made, {"environment": {"NEW": "again"}})
    session.rollback()


@pytest.mark.parametrize(
    ("fields", "kind", "url"),
    [
        ({"health_url": "http://127.0.0.1/x"}, "http", "http://127.0.0.1/x"),
        ({"health_check": {"url": "http://127.0.0.1/x"}}, "http", "http://127.0.0.1/x"),
        ({"health_check": {"test": ["true"]}}, "exec", None),
    ],
)
def test_a_health_checks_type_follows_from_what_is_given(
    session: Session, name: str, fields: dict[str, Any], kind: str, url: str | None
) -> None:
    check = registry.create_service(session, service("a", group=name, **fields)).health_check()
    assert check is not None
    assert (check.type, check.url) == (kind, url)


def test_a_health_check_is_changed_key_by_key_and_taken_away_by_null(session: Session, name: str) -> None:
    made = registry.create_service(session, service("a", group=name, health_check={"test": ["true"], "retries": 7}))
    registry.change_service(session, made, {"health_check": {"interval": 5.0}})
    check = made.health_check()
    assert check is not None
    assert (check.test, check.retries, check.interval_s) == (("true",), 7, 5.0)
    registry.change_service(session, made, {"health_check": None})
    assert made.health_check() is None
    assert made.health_check_retries == 3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"runtime": "docker", "command": None}, "image"),
        ({"command": None}, "command"),
        ({"runtime": "external", "command": None}, "port"),
        ({"runtime": "external", "command": None, "ports": [{}]}, "ports"),
        ({"health_url": "/health"}, "health_check"),
        ({"health_check": {"type": "http"}}, "health_check"),
        ({"health_check": {"type": "docker"}}, "health_check"),
        ({"health_check": {"port": "grpc"}}, "health_check"),
        ({"ports": [{"host_port": 39999}, {"host_port": 39998}]}, "ports"),
        ({"ports": [{"name": "a", "host_port": 39999}, {"name": "b", "host_port": 39999}]}, "ports"),
    ],
)
def test_what_its_runtime_or_its_check_needs_must_be_there(
    session: Session, name: str, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        registry.create_service(session, service("a", group=name) | fields)
    assert field in caught.value.errors
    session.rollback()


def test_an_error_inside_a_group_names_the_services_place(session: Session, name: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        registry_groups.create_group(session, {"name": name, "services": [service("a"), {"name": "b"}]})
    assert list(caught.value.errors["services"]) == [1]
    session.rollback()


def test_an_external_service_needs_no_command(session: Session, name: str, first_port: int) -> None:
    made = registry.create_service(session, {"name": "db", "group": name, "runtime": "external", "port": first_port})
    assert not registry.has_instance(made)


def test_a_runtime_is_not_changed_under_an_instance(session: Session, name: str) -> None:
    made = registry.create_service(session, service("a", group=name))
    made.status = "running"
    with pytest.raises(ValidationFailed):
        registry.change_service(session, made, {"runtime": "docker", "image": "x"})
    made.status = "stopped"
    registry.change_service(session, made, {"runtime": "docker", "image": "x"})
    assert made.runtime == "docker"


def test_what_another_needs_is_not_deleted(session: Session, name: str) -> None:
    registry_groups.create_group(
        session,
        {
            "name": name,
            "services": [
                service("db"),
                service("web", depends_on=[{"service": "db"}]),
                service("job", depends_on=[{"service": "web", "required": False}]),
            ],
        },
    )
    with pytest.raises(registry.ServiceRequired) as caught:
        registry.delete_service(session, f"{name}-db")
    assert caught.value.facts["required_by"] == [f"{name}-web"]
    registry.delete_service(session, f"{name}-web")  # what is only optional goes without it
    assert registry.get(session, f"{name}-job").spec().depends_on == ()


def test_a_group_goes_with_its_services_and_their_leases(session: Session, name: str, first_port: int) -> None:
    registry_groups.create_group(
        session,
        {
            "name": name,
            "services": [service("db", port=first_port), service("web", depends_on=[{"service": "db"}])],
        },
    )
    registry_groups.delete_group(session, name)
    assert session.scalars(select(Service).where(Service.group_name == name)).all() == []
    assert session.scalar(select(PortLease).where(PortLease.port == first_port)) is None


def test_a_group_that_another_depends_on_stays(session: Session, name: str) -> None:
    registry_groups.create_group(session, {"name": name})
    registry_groups.create_group(session, {"name": f"{name}x", "dependencies": [name]})
    with pytest.raises(registry.ServiceRequired):
        registry_groups.delete_group(session, name)


def shop(session: Session, name: str) -> None:
    """`web` needs `db` of another group; `<name>i` is a group that the whole group depends on."""
    registry_groups.create_group(session, {"name": f"{name}d", "services": [service("db"), service("other")]})
    registry_groups.create_group(
        session,
        {
            "name": f"{name}i",
            "services": [service("redis"), {"name": "dns", "runtime": "external", "health_url": "http://127.0.0.1/"}],
        },
    )
    registry_groups.create_group(
        session,
        {
            "name": name,
            "dependencies": [f"{name}i"],
            "services": [service("web", depends_on=[{"service": f"{name}d/db"}]), service("job")],
        },
    )


def test_a_start_takes_dependencies_and_the_groups_it_depends_on_along(session: Session, name: str) -> None:
    shop(session, name)
    found = registry_graph.targets_for(session, "start", group=name)
    assert found.named == (f"{name}-job", f"{name}-web")
    assert set(found.services) == {*found.named, f"{name}d-db", f"{name}i-redis", f"{name}i-dns"}
    # What is only watched is not held.
    assert found.locks[0] == f"group:{name}"
    assert set(found.locks[1:]) == {f"service:{each}" for each in found.services if each != f"{name}i-dns"}


def test_no_deps_leaves_dependencies_out(session: Session, name: str) -> None:
    shop(session, name)
    found = registry_graph.targets_for(session, "start", service=f"{name}-web", with_dependencies=False)
    assert found.services == found.named == (f"{name}-web",)
    assert found.locks == (f"service:{name}-web",)


def test_a_stop_takes_only_its_target_and_names_running_dependents(session: Session, name: str) -> None:
    shop(session, name)
    registry.get(session, f"{name}-web").status = "running"
    session.flush()
    found = registry_graph.targets_for(session, "stop", service=f"{name}d-db")
    assert (found.services, found.running_dependents) == ((f"{name}d-db",), (f"{name}-web",))
    cascading = registry_graph.targets_for(session, "stop", service=f"{name}d-db", cascade=True)
    assert (cascading.services, cascading.running_dependents) == ((f"{name}-web", f"{name}d-db"), ())
    assert f"service:{name}-web" in cascading.locks


def test_what_an_operation_works_on_is_held_against_deletion(session: Session, name: str) -> None:
    registry.create_service(session, service("a", group=name))
    target = operations.service_target(f"{name}-a")
    operations.create(session, "service.start", targets=[target])
    with pytest.raises(OperationInProgress):
        registry.refuse_if_held(session, [target])


def test_a_running_service_that_is_not_what_is_wanted_drifts(session: Session, name: str) -> None:
    made = registry.create_service(session, service("a", group=name))
    made.status, made.observed_hash = "running", made.spec().hash()
    session.flush()
    assert not registry_views.one(session, made.id).drift
    registry.change_service(session, made, {"command": ["sleep", "2"]})
    session.flush()
    assert registry_views.one(session, made.id).drift
    made.status = "stopped"
    session.flush()
    assert not registry_views.one(session, made.id).drift


def test_lists_are_narrowed_by_every_filter(session: Session, name: str) -> None:
    registry_groups.create_group(
        session,
        {
            "name": name,
            "services": [service("a", tags=["x"], description="100%_sure"), service("b", tags=["y"]), service("c")],
        },
    )

    def found(**narrow: Any) -> list[str]:
        wanted = registry_views.Filter(group=[name], **narrow)
        rows = registry_views.page(session, wanted, None, 10)
        assert registry_views.count(session, wanted) == len(rows)
        return [view.row.name for view in rows]

    assert found() == ["a", "b", "c"]
    assert found(tag=["x", "y"]) == ["a", "b"]
    assert found(q="100%_SURE") == ["a"]
    assert found(q="0_s") == []
    assert found(status=["running"]) == []
    assert found(runtime=["process"], health=["none"], status=["stopped", "failed"]) == ["a", "b", "c"]


def test_a_change_that_was_undone_leaves_no_trace_in_what_counts_as_drift(record: Record, name: str) -> None:
    with record.write() as session:
        made = registry.create_service(session, service("a", group=name))
        made.status, made.observed_hash = "running", made.spec().hash()
    with record.write() as session:
        registry.change_service(session, registry.get(session, f"{name}-a"), {"command": ["other"]})
        assert registry_views.one(session, f"{name}-a").drift
        session.rollback()
    with record.write() as session:
        changed = registry.get(session, f"{name}-a")
        registry.change_service(session, changed, {"description": "same instance, same version number"})
        assert changed.spec_version == 2
    for _ in range(2):
        with record.read() as session:
            assert not registry_views.one(session, f"{name}-a").drift
