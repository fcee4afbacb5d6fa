"""The administrator's policy where containers are defined: 422 by name, for services, groups and changes of both."""

from pathlib import Path
from typing import Any

from models.services import Service
from tests.unit.api_kit import Kit, api, kit

__all__ = ["api"]
DENIED = "a privileged container is root on this machine (security.containers.privileged)"


def test_a_service_that_asks_for_too_much_is_refused_by_name(api: Kit) -> None:
    body = {"name": "a", "group": api.name(), "image": "x", "container": {"privileged": True}, "network_mode": "host"}
    answer = api.refused("POST", "/services", body, 422, "policy_denied")
    assert answer["errors"] == {
        "container.privileged": [DENIED],
        "network_mode": ["the host's network: all that listens on 127.0.0.1 (security.containers.host_network)"],
    }
    assert answer["violations"][0]["allow"] == "security.containers.privileged"
    assert "security.containers.host_network" in answer["hint"]
    assert api.call("GET", f"/services/{body['group']}-a").status_code == 404


def test_a_group_is_refused_as_a_whole_with_the_place_of_the_service(api: Kit) -> None:
    services: list[dict[str, Any]] = [{"name": "a", "image": "x"}, {"name": "b", "image": "x", "volumes": ["v:/v"]}]
    volume = {"v": {"driver_opts": {"type": "none", "o": "bind", "device": "/etc"}}}
    body = {"name": api.name(), "services": services, "volumes": volume}
    errors = api.refused("POST", "/groups", body, 422, "policy_denied")["errors"]
    assert list(errors) == ["services.1.volumes.v.driver_opts.device"]
    assert api.call("GET", f"/groups/{body['name']}").status_code == 404


def test_a_change_is_looked_at_like_a_definition(api: Kit) -> None:
    group = api.name()
    api.post("/groups", {"name": group, "services": [{"name": "a", "image": "x", "volumes": ["v:/v"]}]})
    for change in ({"network_mode": "host"}, {"volumes": ["/etc:/x"]}, {"container": {"pid": "host"}}):
        api.refused("PATCH", f"/services/{group}-a", change, 422, "policy_denied")
    hidden = {"volumes": {"v": {"driver_opts": {"type": "none", "o": "bind", "device": "/var/run"}}}}
    api.refused("PATCH", f"/groups/{group}", hidden, 422, "policy_denied")
    assert api.get(f"/groups/{group}")["volumes"] == {}


def test_what_is_registered_already_can_be_changed_in_other_respects(api: Kit) -> None:
    group = api.name()
    made = api.post("/services", {"name": "a", "group": group, "image": "x"})
    with api.record.write() as session:
        session.get_one(Service, made["id"]).network_mode = "host"
    assert api.call("PATCH", f"/services/{made['id']}", {"description": "d"}).json["description"] == "d"
    api.refused("PATCH", f"/services/{made['id']}", {"volumes": []}, 422, "policy_denied")
    assert api.call("PATCH", f"/services/{made['id']}", {"network_mode": "bridge"}).status_code == 200


def test_the_groups_own_folder_may_be_mounted(api: Kit) -> None:
    service = {"name": "a", "image": "x", "volumes": ["/work/shop/data:/d"]}
    body = {"name": api.name(), "services": [service]}
    api.refused("POST", "/groups", body, 422, "policy_denied")
    api.post("/groups", body | {"directory": "/work/shop"})


def test_an_administrator_allows_it_in_the_configuration(tmp_path: Path) -> None:
    with kit(tmp_path, CLOS_SECURITY__CONTAINERS__PRIVILEGED="true") as allowing:
        allowing.post("/services", {"name": "a", "group": "g", "image": "x", "container": {"privileged": True}})
