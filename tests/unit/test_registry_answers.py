from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from api.v2.graph_answers import graph_shown
from api.v2.group_answers import export, health_score
from api.v2.group_answers import shown as group_shown
from api.v2.service_answers import definition, point, shown, written
from domain.errors import DependencyCycle
from models.groups import Group
from models.registry_views import ServiceView
from models.services import Service

AT = datetime(2026, 5, 4, 10, 0, 0, 7, tzinfo=UTC)


def view(**columns: Any) -> ServiceView:
    known = dict.fromkeys(column.name for column in Service.__table__.columns) | {
        "id": "shop-web",
        "name": "web",
        "group_name": "shop",
        "runtime": "process",
        "status": "stopped",
        "desired": "stopped",
        "health_status": "none",
        "health_check_enabled": True,
        "created_at": AT,
        "updated_at": AT,
        **columns,
    }
    return ServiceView(SimpleNamespace(_mapping=known, **known))  # type: ignore[arg-type]


def claim(**facts: Any) -> Any:
    known = {
        "name": "",
        "host_ip": "127.0.0.1",
        "port": 9000,
        "container_port": None,
        "protocol": "tcp",
        "left_open": False,
    }
    return SimpleNamespace(**known | facts)


def test_times_are_utc_with_six_digits() -> None:
    assert written(AT) == "2026-05-04T10:00:00.000007Z"
    assert written(AT.astimezone(timezone(timedelta(hours=2)))) == "2026-05-04T10:00:00.000007Z"
    assert written(None) is None


@pytest.mark.parametrize(
    ("facts", "url"),
    [
        ({}, "http://127.0.0.1:9000"),
        ({"host_ip": "0.0.0.0"}, "http://127.0.0.1:9000"),
        ({"host_ip": "::"}, "http://[::1]:9000"),
        ({"host_ip": "fe80::1"}, "http://[fe80::1]:9000"),
        ({"protocol": "udp"}, None),
        ({"port": None}, None),
    ],
)
def test_a_ports_url_is_where_it_can_be_called(facts: dict[str, Any], url: str | None) -> None:
    web = view()
    web.claims = [claim(**facts)]
    assert shown(web)["ports"][0]["url"] == url


def test_a_row_that_v1_wrote_shows_its_port_and_its_check() -> None:
    found = shown(view(port=5432, health_url="http://127.0.0.1:5432/"))
    assert found["ports"][0]["host_port"] == 5432
    assert found["health_check"]["type"] == "http"


def test_a_dependency_is_named_as_it_was_given() -> None:
    web = view()
    web.depends_on = [
        ("shop", "db", "healthy", True, False),
        ("infra", "redis", "started", False, False),
        (None, "x-y", "started", True, False),
    ]
    assert [each["service"] for each in shown(web)["depends_on"]] == ["db", "infra/redis", "x-y"]


def test_without_a_check_there_is_none_and_one_switched_off_says_so() -> None:
    assert shown(view())["health_check"] is None
    assert shown(view(health_check_enabled=False))["health_check"]["enabled"] is False


def test_a_definition_holds_neither_secrets_nor_what_was_seen() -> None:
    web = view(command=["x"], status="running", health_check_type="exec", health_check_test=["true"])
    web.environment, web.secrets, web.claims = {"A": "b"}, ["TOKEN"], [claim(name="http")]
    found = definition(web)
    assert found["environment"] == {"A": "b"}
    assert found["ports"] == [{"name": "http", "host_ip": "127.0.0.1", "host_port": 9000, "protocol": "tcp"}]
    assert found["health_check"] == {"enabled": True, "type": "exec", "test": ["true"]}
    assert not {"secrets", "status", "id", "port", "health"} & found.keys()
    exported = export(Group(name="shop", project="core", start_order=0, dependencies=[]), [web])
    assert exported == {"name": "shop", "project": "core", "start_order": 0, "services": [found]}


def test_a_sample_has_every_member() -> None:
    row = SimpleNamespace(
        timestamp=AT, cpu_usage=1.5, memory_usage=None, memory_percent=None, network_rx=1, network_tx=2, disk_read=3,
        disk_write=4, response_time=None,
    )  # fmt: skip
    assert point(row) == {
        "timestamp": "2026-05-04T10:00:00.000007Z", "cpu_usage": 1.5, "memory_usage": None, "memory_percent": None,
        "network_rx": 1, "network_tx": 2, "disk_read": 3, "disk_write": 4, "response_time": None,
    }  # fmt: skip


def member(name: str, status: str, health: str = "none", desired: str = "running") -> Any:
    return SimpleNamespace(
        id=f"shop-{name}", name=name, group_name="shop", runtime="process", status=status, health_status=health,
        desired=desired, checked=False,
    )  # fmt: skip


def test_a_groups_score_is_the_share_of_what_is_wanted_that_is_well() -> None:
    assert health_score([]) == 1.0
    assert health_score([member("a", "stopped", desired="stopped")]) == 1.0
    assert health_score([member("a", "running", "healthy"), member("b", "failed"), member("c", "running")]) == 0.667


def test_a_group_counts_its_services() -> None:
    group = Group(name="shop", project="core", start_order=1, spec_version=4, created_at=AT, updated_at=AT)
    found = group_shown(group, [member("a", "running"), member("b", "unhealthy", "unhealthy"), member("c", "failed")])
    assert found["counts"] == {"total": 3, "running": 2, "healthy": 1, "failed": 1}
    assert (found["status"], found["services"][0], found["dependencies"]) == ("partial", "shop-a", [])


def test_a_graph_has_what_is_needed_first_and_leaves_out_edges_to_what_is_gone() -> None:
    def edge(source: str, target: str) -> Any:
        return SimpleNamespace(service_id=source, depends_on=target, condition="healthy", required=1, restart=0)

    members = [member("a", "stopped"), member("b", "stopped")]
    found = graph_shown(members, [edge("shop-a", "shop-b"), edge("shop-a", "gone")])
    assert found["order"] == ["shop-b", "shop-a"]
    assert found["edges"] == [
        {"source": "shop-a", "target": "shop-b", "condition": "healthy", "required": True, "restart": False}
    ]
    with pytest.raises(DependencyCycle):
        graph_shown(members, [edge("shop-a", "shop-b"), edge("shop-b", "shop-a")])
