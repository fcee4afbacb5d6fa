"""What a clone's definition is made of, and what is said about it."""

from typing import Any

from domain.clone_paths import Directory
from domain.clone_storage import MARK
from domain.cloning import Clones, Cloning, Original, clones


def docker(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "runtime": "docker", "image": "i", "network_mode": "bridge", **more}


def port(number: int, name: str = "", inside: int | None = None) -> dict[str, Any]:
    return {"name": name, "host_ip": "127.0.0.1", "host_port": number, "container_port": inside, "protocol": "tcp"}


def made(*services: dict[str, Any], directory: str | None = None, **group: Any) -> Clones:
    original = Original({"name": "web", **group}, services)
    return clones({"web": original}, Cloning({"web": "x"}, "mark", directory))


def said(found: Clones) -> set[tuple[str | None, str]]:
    return {(each.service, each.field) for each in found.remarks}


def test_every_port_is_left_open_and_every_service_gets_the_tag() -> None:
    (group,) = made(docker("api", ports=[port(8101, "http", 80)], tags=["edge"])).groups
    (service,) = group["services"]
    assert service["ports"] == [port(8101, "http", 80) | {"host_port": None}]
    assert service["tags"] == ["clone", "edge"]
    assert group["name"] == "x"


def test_dependencies_and_references_inside_follow_and_those_to_others_stay() -> None:
    wanted = [{"service": "web/db"}, {"service": "other/queue", "condition": "healthy"}]
    environment = {"A": "${port:db}", "B": "${url:web/db}", "C": "${url:other/queue}", "D": "$${url:web/db}"}
    services = docker("api", depends_on=wanted, environment=environment), docker("db", ports=[port(8102, "sql", 5432)])
    (group,) = made(*services).groups
    api = group["services"][0]
    assert [each["service"] for each in api["depends_on"]] == ["db", "other/queue"]
    assert api["depends_on"][1]["condition"] == "healthy"
    assert api["environment"] == {"A": "${port:db}", "B": "${url:db}", "C": "${url:other/queue}", "D": "$${url:web/db}"}


def test_groups_that_are_cloned_together_refer_to_each_others_clones() -> None:
    web = Original(
        {"name": "web", "dependencies": ["shop", "far"]},
        (docker("api", environment={"S": "${url:shop/db}"}, depends_on=[{"service": "shop/db"}]),),
    )
    shop = Original({"name": "shop"}, (docker("db", ports=[port(9, "sql")]),))
    found = clones({"web": web, "shop": shop}, Cloning({"web": "x", "shop": "x-shop"}, "mark"))
    first, second = found.groups
    assert (first["name"], second["name"]) == ("x", "x-shop")
    assert first["dependencies"] == ["x-shop", "far"]
    api = first["services"][0]
    assert api["environment"] == {"S": "${url:x-shop/db}"}
    assert api["depends_on"][0]["service"] == "x-shop/db"


def test_an_external_service_is_shared_and_named_with_its_group() -> None:
    watched = {"name": "mail", "runtime": "external", "ports": [port(25)]}
    api = docker("api", environment={"M": "${url:mail}"}, depends_on=[{"service": "web/mail"}])
    found = made(api, watched)
    (service,) = found.groups[0]["services"]
    assert service["environment"] == {"M": "${url:web/mail}"}
    assert service["depends_on"] == [{"service": "web/mail"}]
    assert ("mail", "runtime") in said(found)


def test_a_text_that_holds_a_port_of_the_original_is_reported_and_left() -> None:
    api = docker("api", environment={"URL": "http://10.0.0.1:8102/x", "N": "281020", "DB": "5432"})
    found = made(api, docker("db", ports=[port(8102, "sql", 5432)]))
    assert found.groups[0]["services"][0]["environment"]["URL"] == "http://10.0.0.1:8102/x"
    assert said(found) == {("api", "environment.URL")}
    (remark,) = found.remarks
    assert "${port:db/sql}" in remark.text


def test_a_remark_about_a_secret_does_not_tell_it() -> None:
    (remark,) = made(docker("api", ports=[port(8103)], secrets={"DSN": "hush@127.0.0.1:8103"})).remarks
    assert remark.field == "secrets.DSN"
    assert "hush" not in remark.text


def test_between_containers_the_port_inside_is_no_port_of_the_original() -> None:
    db = docker("db", ports=[port(5432, "sql", 5432)])
    inside = docker("api", environment={"DB": "db:5432"})
    outside = {"name": "job", "runtime": "process", "environment": {"DB": "127.0.0.1:5432"}}
    assert said(made(inside, db)) == set()
    assert said(made(outside, db)) == {("job", "environment.DB")}


def test_volumes_and_networks_get_names_of_their_own_but_for_external_ones() -> None:
    found = made(
        docker("db", volumes=["data:/d", "shared:/s", "/anonymous"], networks=["back", "edge"]),
        volumes={"shared": {"external": True, "name": "real"}, "data": {"driver": "local", "name": "web_data"}},
        networks={"edge": {"external": True}, "default": {"ipam": {"config": [{"subnet": "10.9.0.0/24"}]}}},
    )
    (group,) = found.groups
    assert group["volumes"] == {
        "data": {"driver": "local", "name": "x_data", "labels": {MARK: "mark"}},
        "shared": {"external": True, "name": "real"},
    }
    assert group["networks"] == {"back": {"name": "x_back"}, "default": {}, "edge": {"external": True}}
    assert said(found) == {(None, "volumes.shared"), (None, "networks.edge"), (None, "networks.default.ipam")}


def test_addresses_in_networks_are_lost_and_said_to_be() -> None:
    container = {"networks": {"default": {"ipv4_address": "10.9.0.5", "aliases": ["d"]}}, "init": True}
    found = made(docker("db", container=container))
    (service,) = found.groups[0]["services"]
    assert service["container"] == {"networks": {"default": {"aliases": ["d"]}}, "init": True}
    assert said(found) == {("db", "container.networks.default")}


def test_paths_inside_of_the_directory_move_and_others_are_shared() -> None:
    api = {
        "name": "api",
        "runtime": "process",
        "working_dir": "/src/web/api",
        "command": ["/src/web/run", "--config=/src/web/a.yml", "/src/website"],
        "environment": {"HERE": "/src/web/data"},
    }
    db = docker(
        "db",
        build={"context": "/src/web/db", "args": {"A": "/src/web"}},
        volumes=["/src/web/conf:/etc/db:ro", "/var/lib/db:/data"],
        container={"volumes": [{"type": "bind", "source": "/src/web/x", "target": "/x"}]},
    )
    found = clones(
        {"web": Original({"name": "web", "directory": "/src/web/"}, (api, db))}, Cloning({"web": "x"}, "m", "/trees/x")
    )
    (group,) = found.groups
    first, second = group["services"]
    assert group["directory"] == "/trees/x"
    assert first["working_dir"] == "/trees/x/api"
    assert first["command"] == ["/trees/x/run", "--config=/trees/x/a.yml", "/src/website"]
    assert first["environment"] == {"HERE": "/src/web/data"}
    assert second["build"] == {"context": "/trees/x/db", "args": {"A": "/trees/x"}}
    assert second["volumes"] == ["/trees/x/conf:/etc/db:ro", "/var/lib/db:/data"]
    assert second["container"]["volumes"][0]["source"] == "/trees/x/x"
    assert said(found) == {("api", "environment.HERE"), ("db", "volumes")}


def test_without_a_directory_what_is_shared_is_named() -> None:
    api = {"name": "api", "runtime": "process", "working_dir": "/src/web"}
    found = made(api, docker("db", volumes=["/src/web/conf:/etc"]))
    assert said(found) == {("api", "working_dir"), ("db", "volumes")}


def test_a_path_is_no_part_of_a_longer_name() -> None:
    directory = Directory.of("/src/web", "/x")
    assert directory is not None
    assert (
        directory.text("/src/website /src/web-2 a/src/web /src/web:/src/web/a")
        == "/src/website /src/web-2 a/src/web /x:/x/a"
    )
    assert Directory.of("/a", "/a/") is None


def test_a_network_name_of_the_original_is_not_taken_over() -> None:
    found = made(docker("api"), network_name="corp")
    assert "network_name" not in found.groups[0]
    assert said(found) == {(None, "network_name")}
