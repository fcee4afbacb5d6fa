"""What a group gives its services, as their specs carry it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models import registry, registry_groups, registry_views, resolved_specs
from models.groups import Group
from models.record import Record
from models.services import Service
from tests.unit.api_kit import make_record
from workers.runtimes.docker_network_names import names_of

NETWORKS: dict[str, Any] = {"back": {"internal": True}, "unused": {"driver": "bridge"}, "default": {"name": "shop"}}


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = make_record(tmp_path)
    yield made
    made.close()


def made(record: Record, *services: dict[str, Any], **group: Any) -> dict[str, Any]:
    """A group with these services, and their specs by name."""
    with record.write() as session:
        registry_groups.create_group(session, {"name": "shop", "services": list(services), **group})
    return specs(record)


def specs(record: Record) -> dict[str, Any]:
    with record.read() as session:
        found = resolved_specs.specs(session, registry_groups.members(session, "shop"))
    return {spec.name: spec for spec in found.values()}


def test_a_spec_carries_what_its_group_defines_of_what_it_names(record: Record) -> None:
    web = {
        "name": "web", "image": "x", "volumes": ["data:/d", "/srv/a:/a", "loose:/l"], "networks": ["back"],
        "container": {"volumes": [{"type": "volume", "source": "more", "target": "/m"}], "links": ["db:store"]},
    }  # fmt: skip
    volumes = {"data": {"name": "shop_data"}, "more": None, "unused": {}}
    found = made(record, web, {"name": "db", "image": "x"}, networks=NETWORKS, volumes=volumes, directory="/srv/shop")
    assert found["web"].definitions == {
        "networks": {"back": {"internal": True}, "default": {"name": "shop"}},
        "volumes": {"data": {"name": "shop_data"}, "more": {}},
        "services": {"db": "shop-db"},
    }
    assert found["web"].directory == "/srv/shop"
    assert found["db"].definitions == {"networks": {"default": {"name": "shop"}}}


def test_the_groups_own_network_is_only_joined_where_it_is_named(record: Record) -> None:
    found = made(record, {"name": "web", "image": "x", "container": {"networks": {"back": None}}}, networks=NETWORKS)
    assert found["web"].definitions == {"networks": {"back": {"internal": True}}}


def test_a_groups_own_network_has_the_name_of_its_definition(record: Record) -> None:
    asking = {"name": "web", "image": "x", "group": "other", "environment": {"A": "${host:shop/db}"}}
    db = {"name": "db", "image": "x", "ports": [{"host_port": 9101, "container_port": 80}]}
    found = made(record, db, networks={"default": {"external": True, "name": "corp"}})
    assert names_of(found["db"]) == ["corp"]
    with record.write() as session:
        service = registry.create_service(session, asking)
        (spec,) = resolved_specs.specs(session, [service]).values()
    assert names_of(spec) == ["clos-other", "corp"]


def test_a_group_without_definitions_changes_no_hash(record: Record) -> None:
    found = made(record, {"name": "web", "image": "x"}, directory="/srv/shop")
    with record.read() as session:
        assert session.get_one(Service, "shop-web").spec().hash() == found["web"].hash()


def test_a_changed_definition_is_the_drift_of_those_who_use_it(record: Record) -> None:
    web = {"name": "web", "image": "x", "networks": ["back"]}
    found = made(record, web, {"name": "db", "image": "x"}, networks=NETWORKS)
    with record.write() as session:
        for service in registry_groups.members(session, "shop"):
            service.status, service.observed_hash = "running", found[service.name].hash()
    assert drifting(record) == set()
    with record.write() as session:
        group = session.get_one(Group, "shop")
        assert registry_groups.change_group(session, group, {"networks": NETWORKS | {"back": {"internal": False}}})
    assert drifting(record) == {"shop-web"}


def drifting(record: Record) -> set[str]:
    with record.read() as session:
        return {view.row.id for view in registry_views.of_group(session, "shop") if view.drift}


def test_a_dependency_that_follows_from_a_container_comes_back(record: Record) -> None:
    made(record, {"name": "side", "image": "x", "network_mode": "service:main"}, {"name": "main", "image": "x"})
    with record.write() as session:
        side = session.get_one(Service, "shop-side")
        registry.change_service(session, side, {"depends_on": []})
        assert [row.depends_on for row in side.dependencies] == ["shop-main"]
