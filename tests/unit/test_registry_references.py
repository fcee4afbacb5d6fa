"""References where definitions are written, read and compared with what runs, on a record of their own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from cli.definitions import read_group
from domain.errors import UnreachableReference, ValidationFailed
from domain.observation import Binding, Listener, PortFacts
from domain.specs import ServiceSpec
from models import port_facts, registry, registry_groups, registry_views, resolved_specs
from models.base import now
from models.groups import Group
from models.ports import PortClaim
from models.record import Record
from models.registry import ServiceRequired
from models.services import Service
from tests.unit.api_kit import Kit, api, make_record, process

__all__ = ["api"]
OPEN = "0.0.0.0"


@pytest.fixture
def record(tmp_path: Any) -> Iterator[Record]:
    made = make_record(tmp_path)
    yield made
    made.close()


@pytest.fixture
def session(record: Record) -> Iterator[Session]:
    with record.write() as open_session:
        yield open_session


def port(number: int, name: str = "", **more: Any) -> dict[str, Any]:
    return {"host_port": number, "name": name, **more}


def add(session: Session, name: str, group: str = "shop", **more: Any) -> Service:
    return registry.create_service(session, process(name, group=group, **more))


def container(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "group": "shop", "runtime": "docker", "image": "x", **more}


def refers(session: Session, text: str = "${url:api}", name: str = "web", **more: Any) -> Service:
    return add(session, name, environment={"API_URL": text}, **more)


def spec(session: Session, service_id: str) -> ServiceSpec:
    return resolved_specs.specs(session, [registry.get(session, service_id)])[service_id]


def run(session: Session, service_id: str) -> None:
    """Write what a worker writes when it has started it."""
    service, wanted = registry.get(session, service_id), spec(session, service_id)
    service.status, service.observed_hash = "running", wanted.hash()
    service.resolved_references = dict(wanted.references) or None


def move(session: Session, service_id: str, number: int) -> None:
    """Give a service's first port another number, as a migration does: its definition stays as it was written."""
    claim = session.scalars(select(PortClaim).where(PortClaim.service_id == service_id)).one()
    claim.port = number
    session.flush()


def test_a_reference_is_resolved_wherever_one_may_stand(session: Session) -> None:
    add(session, "api", ports=[port(9311)])
    add(
        session, "web", command=["serve", "--api", "${host:api}:${port:api}"], environment={"API": "${url:api}/v1"},
        secrets={"DSN": "pg://u:p@${host:api}"}, labels={"a": "${url:api}"},
        health_check={"type": "http", "url": "${url:api}/up"},
    )  # fmt: skip
    found = spec(session, "shop-web")
    assert found.command == ("serve", "--api", "127.0.0.1:9311")
    assert found.environment == {"API": "http://127.0.0.1:9311/v1", "DSN": "pg://u:p@127.0.0.1"}
    assert found.health_check is not None
    assert (found.health_check.url, found.labels) == ("http://127.0.0.1:9311/up", {"a": "${url:api}"})
    assert found.references == {
        "${host:api}": "127.0.0.1", "${port:api}": "9311", "${url:api}": "http://127.0.0.1:9311"
    }  # fmt: skip


def test_the_services_of_one_request_may_refer_forward_to_each_other_and_to_themselves(session: Session) -> None:
    web = process("web", environment={"API": "${url:api}", "SELF": "${url:web}"}, ports=[port(9400)])
    registry_groups.create_group(
        session, {"name": "shop", "services": [web, process("api", command=["${url:web}"], ports=[port(9311)])]}
    )
    assert spec(session, "shop-web").environment == {"API": "http://127.0.0.1:9311", "SELF": "http://127.0.0.1:9400"}


def test_a_container_in_another_group_joins_the_providers_network(session: Session) -> None:
    registry_groups.create_group(
        session, {"name": "bank", "network_name": "vault", "services": [container("api", ports=[port(9311)])]}
    )
    registry.create_service(session, container("web", environment={"A": "${url:bank/api}"}))
    found = spec(session, "shop-web")
    assert (found.environment["A"], found.joins) == ("http://api.bank:9311", (("bank", "vault"),))


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"environment": {"A": "${url:no}"}}, ("environment", "A"), "no such service; group 'shop' has api, web"),
        ({"environment": {"A": "${url:no/api}"}}, ("environment", "A"), "there is no group 'no'"),
        ({"environment": {"A": "${url:no}"}}, ("environment", "A"), "To mean the text itself, write $${url:no}."),
        ({"secrets": {"B": "${port:api/grpc}"}}, ("secrets", "B"), "no port named 'grpc': it has http"),
        ({"command": ["x", "${port:8080}"]}, ("command", 1), "no such service"),
        ({"health_check": {"url": "${url:no}/"}}, ("health_check", "url"), "no such service"),
    ],
)
def test_a_reference_to_nothing_is_refused_where_it_stands(
    session: Session, fields: dict[str, Any], path: tuple[Any, ...], message: str
) -> None:
    add(session, "api", ports=[port(9311, "http")])
    with pytest.raises(ValidationFailed) as refused:
        add(session, "web", **fields)
    found: Any = refused.value.errors
    for part in path:
        found = found[part]
    assert message in found[0]
    assert refused.value.code == "validation_failed"


def test_what_a_container_cannot_reach_is_refused_and_the_remedy_named(session: Session) -> None:
    add(session, "api", ports=[port(9311)])
    with pytest.raises(UnreachableReference) as refused:
        registry.create_service(session, container("web", environment={"API": "${url:api}"}))
    error = refused.value
    assert (error.code, error.facts["host_ip"], error.facts["service_id"]) == (
        "unreachable_reference", "127.0.0.1", "shop-api",
    )  # fmt: skip
    assert "host_ip 0.0.0.0" in error.errors["environment"]["API"][0]
    assert "host_ip 0.0.0.0" in (error.hint or "")


def test_a_change_that_puts_a_service_out_of_reach_of_what_it_refers_to_is_refused(session: Session) -> None:
    add(session, "api", ports=[port(9311)])
    web = refers(session)
    with pytest.raises(UnreachableReference):
        registry.change_service(session, web, {"runtime": "docker", "image": "x"})


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"ports": [port(9311, "admin", host_ip=OPEN)]}, "ports", "validation_failed"),
        ({"ports": []}, "ports", "validation_failed"),
        ({"ports": [port(9311, "http")]}, "ports", "unreachable_reference"),
        ({"runtime": "docker", "image": "x", "network_mode": "none"}, "runtime", "unreachable_reference"),
    ],
)
def test_a_change_of_a_provider_that_its_consumer_cannot_follow_is_refused_and_names_it(
    session: Session, change: dict[str, Any], field: str, code: str
) -> None:
    api = add(session, "api", ports=[port(9311, "http", host_ip=OPEN)])
    registry.create_service(session, container("web", environment={"API": "${url:api/http}"}))
    with pytest.raises(ValidationFailed) as refused:
        registry.change_service(session, api, change)
    assert refused.value.code == code
    assert refused.value.errors[field][0].startswith("shop-web refers to it in environment.API (${url:api/http}): ")


def test_a_change_that_consumers_can_follow_is_made(session: Session) -> None:
    api = add(session, "api", ports=[port(9311, "http")])
    refers(session, "${url:api/http}")
    assert registry.change_service(session, api, {"ports": [port(9400, "http", host_ip=OPEN)]})
    assert registry.change_service(session, api, {"runtime": "docker", "image": "x"})
    assert spec(session, "shop-web").environment["API_URL"] == "http://127.0.0.1:9400"


def test_a_consumer_that_was_broken_before_keeps_nobody_from_changing(session: Session) -> None:
    api = add(session, "api", ports=[port(9311, "http")])
    web = refers(session)
    web.environment[0].value = "${url:api/gone}"  # as a tool of v1 could leave it
    session.flush()
    assert registry.change_service(session, api, {"ports": [port(9400, "http")]})
    assert spec(session, "shop-web").unresolved == {"${url:api/gone}": "shop-api has no port named 'gone': it has http"}


def test_what_others_refer_to_is_not_deleted_under_them(session: Session) -> None:
    add(session, "api", ports=[port(9311)])
    add(session, "probe", group="watch", health_check={"type": "http", "url": "${url:shop/api}/up"})
    for refuse in (
        lambda: registry.delete_service(session, "shop-api"),
        lambda: registry_groups.delete_group(session, "shop"),
    ):
        with pytest.raises(ServiceRequired) as refused:
            refuse()
        assert refused.value.facts["required_by"] == ["watch-probe"]
    registry.delete_service(session, "watch-probe")
    registry_groups.delete_group(session, "shop")


def test_a_group_whose_services_refer_only_to_each_other_is_deleted(session: Session) -> None:
    add(session, "api", ports=[port(9311)])
    refers(session)
    registry_groups.delete_group(session, "shop")
    assert session.scalars(select(Service)).all() == []


def test_a_new_service_does_not_change_what_its_neighbours_mean(session: Session) -> None:
    add(session, "api", group="bank", ports=[port(9311)])
    refers(session, "${url:bank/api}")
    with pytest.raises(ValidationFailed) as refused:
        add(session, "bank", ports=[port(9400)])
    assert "shop-web refers to it in environment.API_URL" in refused.value.errors["name"][0]


def test_who_refers_to_whom_is_told_by_what_instances_are_made_of(session: Session) -> None:
    for name, number in (("api", 9311), ("store", 9312)):
        add(session, name, ports=[port(number)], environment={"SELF": f"${{url:{name}}}"})
    add(session, "a", command=["${url:api}", "${port:store}"])
    add(session, "b", group="other", secrets={"S": "${url:shop/api}"})
    add(session, "c", health_check={"type": "http", "url": "${url:api}"})
    add(session, "d", command=["$${url:api} ${port:-1}"])
    assert resolved_specs.referencing(session, ["shop-api", "shop-store"]) == {
        "shop-a": {"shop-api", "shop-store"}, "other-b": {"shop-api"}
    }  # fmt: skip
    assert resolved_specs.referencing(session, ["shop-a"]) == {}
    assert resolved_specs.referencing(session, []) == {}


def test_another_host_port_matters_only_to_those_who_use_it(session: Session) -> None:
    registry.create_service(session, container("api", ports=[port(9311)]))
    registry.create_service(session, container("inside", environment={"A": "${url:api}"}))
    add(session, "outside", environment={"A": "${url:api}"})
    add(session, "named", environment={"A": "${host:api}"})
    assert set(resolved_specs.referencing(session, ["shop-api"])) == {"shop-inside", "shop-outside", "shop-named"}
    assert set(resolved_specs.referencing(session, ["shop-api"], by_host_port=True)) == {"shop-outside"}


def test_a_providers_move_is_the_running_dependents_drift_and_says_so(record: Record) -> None:
    with record.write() as session:
        add(session, "api", ports=[port(9311)])
        add(session, "web", secrets={"API_URL": "${url:api}"})
        run(session, "shop-web")
    for _ in range(2):  # the second look finds the hash that the first one kept
        with record.read() as session:
            view = registry_views.one(session, "shop-web")
            assert (view.drift, view.drift_detail) == (False, [])
    with record.write() as session:
        move(session, "shop-api", 9312)
    for _ in range(2):
        with record.read() as session:
            view = registry_views.one(session, "shop-web")
            assert view.drift
            assert view.drift_detail == ["${url:api} was http://127.0.0.1:9311 and is http://127.0.0.1:9312"]
    with record.write() as session:
        move(session, "shop-api", 9311)
    with record.read() as session:
        assert registry_views.one(session, "shop-web").drift is False


def test_a_changed_definition_is_drift_of_its_own_beside_a_moved_provider(session: Session) -> None:
    add(session, "api", ports=[port(9311)])
    web = refers(session)
    run(session, "shop-web")
    registry.change_service(session, web, {"environment": {"API_URL": "${url:api}/v2"}})
    assert registry_views.one(session, "shop-web").drift_detail == ["its definition was changed since it was started"]
    registry.change_service(session, web, {"environment": {"API_URL": "${url:api}", "PORT_OF": "${port:api}"}})
    move(session, "shop-api", 9312)
    assert registry_views.one(session, "shop-web").drift_detail == [
        "${url:api} was http://127.0.0.1:9311 and is http://127.0.0.1:9312",
        "its definition was changed since it was started",
    ]


def test_a_providers_new_address_or_network_is_drift_of_its_consumers(session: Session) -> None:
    for group in ("bank", "shop"):
        registry_groups.create_group(session, {"name": group})
    registry.create_service(session, container("api") | {"group": "bank", "ports": [port(9311, host_ip="10.0.0.1")]})
    refers(session, "${host:bank/api}", "outside")
    registry.create_service(session, container("inside", environment={"A": "${host:bank/api}"}))
    for name in ("shop-outside", "shop-inside"):
        run(session, name)
    api = registry.get(session, "bank-api")
    registry.change_service(session, api, {"ports": [port(9311, host_ip="10.0.0.2")]})
    assert [view.drift for view in registry_views.of_group(session, "shop")] == [False, True]
    session.get_one(Group, "bank").network_name = "vault"
    session.flush()
    assert [view.drift for view in registry_views.of_group(session, "shop")] == [True, True]


def test_a_list_asks_for_providers_once_and_only_where_somebody_refers(record: Record) -> None:
    with record.write() as session:
        add(session, "api", ports=[port(9311)])
        for number in range(5):
            add(session, f"w{number}", environment={"PLAIN": "${HOME}"})
            run(session, f"shop-w{number}")

    def statements() -> list[str]:
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        event.listen(record.engine, "before_cursor_execute", note)
        with record.read() as session:
            registry_views.of_group(session, "shop")
        event.remove(record.engine, "before_cursor_execute", note)
        return seen

    statements()
    without = len(statements())
    with record.write() as session:
        for number in range(5):
            web = registry.get(session, f"shop-w{number}")
            registry.change_service(session, web, {"environment": {"A": "${url:api}", "B": "${port:api}"}})
            run(session, f"shop-w{number}")
    statements()
    assert len(statements()) == without + 1


# Over HTTP


def test_the_api_names_the_field_and_what_there_is(api: Kit) -> None:
    group = api.name()
    services = [process("api", ports=[{"name": "http"}]), process("web", environment={"API_URL": "${url:ap}"})]
    body = api.refused("POST", "/groups", {"name": group, "services": services}, 422, "validation_failed")
    assert f"group '{group}' has api, web" in body["errors"]["services.1.environment.API_URL"][0]
    services[1] = {"name": "web", "image": "x", "environment": {"API_URL": "${url:api}"}}
    body = api.refused("POST", "/groups", {"name": group, "services": services}, 422, "unreachable_reference")
    assert "host_ip 0.0.0.0" in body["errors"]["services.1.environment.API_URL"][0]
    assert (body["host_ip"], "host_ip" in body["hint"]) == ("127.0.0.1", True)


def test_the_api_refuses_what_would_break_a_consumer(api: Kit) -> None:
    group = api.name()
    services = [process("api", ports=[{"name": "http"}]), process("web", environment={"API_URL": "${url:api/http}"})]
    api.post("/groups", {"name": group, "services": services})
    path = f"/services/{group}-api"
    body = api.refused("PATCH", path, {"ports": [{"name": "rpc"}]}, 422, "validation_failed")
    assert (list(body["errors"]), body["detail"].split()[0]) == (["ports"], f"{group}-web")
    body = api.refused("DELETE", path, None, 409, "service_required")
    assert body["required_by"] == [f"{group}-web"]
    assert api.get(path)["ports"][0]["name"] == "http"


def test_a_file_and_an_export_keep_references_and_escapes_as_they_are_written(api: Kit, tmp_path: Path) -> None:
    group = api.name()
    written = tmp_path / "group.yaml"
    written.write_text(f"""
name: {group}
services:
  - name: api
    runtime: process
    command: [serve]
    ports: [{{name: http}}]
  - name: web
    runtime: process
    command: run --api ${{host:api}} '$${{port:api}}'
    environment: {{A: "${{url:api}}", B: "$${{url:api}}", C: "${{port:-8080}}"}}
    health_check: {{url: "${{url:api/http}}/up"}}
""")
    api.post("/groups", read_group(str(written)))
    exported = api.get(f"/groups/{group}/export")
    web = next(each for each in exported["services"] if each["name"] == "web")
    assert web["environment"] == {"A": "${url:api}", "B": "$${url:api}", "C": "${port:-8080}"}
    assert web["command"] == ["run", "--api", "${host:api}", "$${port:api}"]
    assert web["health_check"]["url"] == "${url:api/http}/up"
    assert api.call("DELETE", f"/groups/{group}").status_code == 204
    again = tmp_path / "group.json"
    again.write_text(json.dumps(exported))
    api.post("/groups", read_group(str(again)))
    assert api.get(f"/groups/{group}/export") == exported


@pytest.mark.parametrize("url", ["url:api}", "${url:}", "${host:api}:80/", "${url:api}x", "ftp://${host:api}"])
def test_a_health_url_is_a_url_a_path_or_begins_with_a_reference_to_one(api: Kit, url: str) -> None:
    body = process("web", group=api.name(), health_check={"type": "http", "url": url})
    assert "health_check.url" in api.refused("POST", "/services", body, 422, "validation_failed")["errors"]


def test_one_that_listens_elsewhere_than_it_is_wanted_to_says_where(session: Session) -> None:
    api = add(session, "api", ports=[port(9311)])
    run(session, "shop-api")
    seen = Listener("127.0.0.1", 9311, "tcp", service_id="shop-api", own=True)
    port_facts.record_facts(session, PortFacts(now(), (seen,)))
    registry.change_service(session, api, {"ports": [port(9312)]})

    assert registry_views.one(session, "shop-api").drift_detail == [
        "its definition was changed since it was started",
        "it listens on 9311/tcp, and is to listen on 9312/tcp",
    ]


def test_a_container_that_publishes_elsewhere_than_it_is_wanted_to_says_where(session: Session) -> None:
    api = registry.create_service(session, container("api", ports=[port(9311, container_port=80)]))
    run(session, "shop-api")
    seen = Binding("127.0.0.1", 9311, "tcp", "c" * 64, "shop-api", running=True, own=True, service_id="shop-api")
    port_facts.record_facts(session, PortFacts(now(), bindings=(seen,)))
    registry.change_service(session, api, {"ports": [port(9312, container_port=80)]})

    assert registry_views.one(session, "shop-api").drift_detail[1:] == [
        "it listens on 9311/tcp, and is to listen on 9312/tcp"
    ]


def test_one_that_listens_where_it_is_wanted_to_says_nothing_of_ports(session: Session) -> None:
    api = add(session, "api", ports=[port(9311)])
    run(session, "shop-api")
    seen = Listener("127.0.0.1", 9311, "tcp", service_id="shop-api", own=True)
    port_facts.record_facts(session, PortFacts(now(), (seen,)))
    registry.change_service(session, api, {"environment": {"A": "1"}})

    assert registry_views.one(session, "shop-api").drift_detail == ["its definition was changed since it was started"]
