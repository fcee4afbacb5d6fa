"""What a normalised Compose project comes to as a group. Pure."""

from typing import Any

import pytest

from domain.compose.reading import Imported, read_group
from domain.specs import MOST_PORTS


def project(services: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "demo", "services": services, "networks": {"default": {"name": "demo_default"}}, **more}


def one(values: dict[str, str] | None = None, model: dict[str, Any] | None = None, **service: Any) -> Imported:
    given = {"image": "x:1", "networks": {"default": None}, **service}
    return read_group(project({"web": given}, **(model or {})), "demo", "/srv/demo", values)


def body(found: Imported) -> dict[str, Any]:
    assert found.problems == (), [each.text() for each in found.problems]
    service: dict[str, Any] = found.body["services"][0]
    return service


def reasons(found: Imported) -> dict[str, str]:
    return {each.path: each.reason for each in found.problems}


def test_what_a_file_says_nothing_of_is_as_compose_means_it() -> None:
    found = body(one())
    assert (found["runtime"], found["image"], found["restart_policy"], found["stop_timeout"]) == (
        "docker", "x:1", "no", 10.0,
    )  # fmt: skip
    assert "health_check" not in found
    assert "container" not in found


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("always", "always"),
        ("unless-stopped", "unless-stopped"),
        ("no", "no"),
        ("on-failure", "on-failure"),
        ("on-failure:5", "on-failure"),
    ],
)
def test_restart_is_carried_out_by_clos(said: str, meant: str) -> None:
    found = one(restart=said)
    assert body(found)["restart_policy"] == meant
    assert any("crash-loop limit, not after 5" in warning for warning in found.warnings) == said.endswith(":5")


@pytest.mark.parametrize(("condition", "meant"), [("none", "no"), ("on-failure", "on-failure"), ("any", "always")])
def test_of_two_ways_to_say_how_it_is_restarted_the_one_counts_that_counts_for_compose(
    condition: str, meant: str
) -> None:
    found = one(restart="always", deploy={"restart_policy": {"condition": condition}})
    assert body(found)["restart_policy"] == meant
    assert any("deploy.restart_policy says otherwise, and counts" in warning for warning in found.warnings)


def test_a_published_port_is_claimed_on_loopback_and_an_open_one_is_leased() -> None:
    found = one(
        ports=[
            {"mode": "ingress", "target": 80, "published": "8080", "protocol": "tcp"},
            {"mode": "ingress", "target": 53, "protocol": "udp"},
            {"mode": "host", "target": 90, "published": "9000-9001", "protocol": "tcp", "host_ip": "0.0.0.0"},
            {"target": 91, "published": "9000-9001", "protocol": "tcp", "host_ip": "0.0.0.0", "name": "admin"},
        ]
    )
    assert body(found)["ports"] == [
        {"name": "", "host_ip": "127.0.0.1", "container_port": 80, "protocol": "tcp", "host_port": 8080},
        {"name": "53-udp", "host_ip": "127.0.0.1", "container_port": 53, "protocol": "udp"},
        {"name": "90", "host_ip": "0.0.0.0", "container_port": 90, "protocol": "tcp", "host_port": 9000},
        {"name": "admin", "host_ip": "0.0.0.0", "container_port": 91, "protocol": "tcp", "host_port": 9001},
    ]
    assert sum("127.0.0.1, not on every address" in warning for warning in found.warnings) == 1


def test_a_service_with_more_ports_than_one_may_have_is_refused_and_one_with_as_many_is_not() -> None:
    many = [{"target": each, "published": str(each), "protocol": "udp"} for each in range(20_000, 20_001 + MOST_PORTS)]
    assert reasons(one(ports=many)) == {
        "services.web.ports": "1001 ports are published: a service has at most 1000",
    }
    assert len(body(one(ports=many[:-1]))["ports"]) == MOST_PORTS


def test_a_range_with_no_number_left_is_refused() -> None:
    same = {"target": 90, "published": "9000", "protocol": "tcp"}
    assert "no port of 9000 is left" in reasons(one(ports=[same, {**same, "target": 91}]))["services.web.ports[1]"]


def test_dependencies_keep_their_conditions() -> None:
    model = project(
        {
            "web": {
                "image": "x",
                "depends_on": {
                    "db": {"condition": "service_healthy", "required": True},
                    "job": {"condition": "service_completed_successfully", "required": False},
                    "log": {"condition": "service_started", "restart": True, "required": True},
                },
            },
            "db": {"image": "x"}, "job": {"image": "x"}, "log": {"image": "x"},
        }
    )  # fmt: skip
    found = read_group(model, "demo", None)
    needs = {each["service"]: (each["condition"], each["required"]) for each in found.body["services"][0]["depends_on"]}
    assert needs == {"db": ("healthy", True), "job": ("completed", False), "log": ("started", True)}
    assert [each["service"] for each in found.body["services"][0]["depends_on"] if each.get("restart")] == ["log"]


def test_a_healthcheck_is_the_engines_and_runs_at_once_too() -> None:
    check = {"test": ["CMD-SHELL", "true"], "interval": "1m30s", "timeout": "500ms", "retries": 4, "start_period": "2s"}
    found = body(one(healthcheck=check))
    assert found["container"]["healthcheck"] == check
    assert found["health_check"] == {
        "type": "docker", "interval": 90.0, "timeout": 0.5, "retries": 4, "start_period": 2.0,
    }  # fmt: skip
    assert "health_check" not in body(one(healthcheck={"disable": True}))
    assert "health_check" not in body(one(healthcheck={"test": ["NONE"]}))


def test_limits_are_fields_where_clos_has_them() -> None:
    found = body(one(cpus=1.5, mem_limit="104857600", pids_limit=5))
    assert (found["cpu_limit"], found["memory_limit"], found["container"]) == (1.5, 100, {"pids_limit": 5})
    odd = body(one(mem_limit="104857601"))
    assert odd["container"] == {"mem_limit": "104857601"}
    limits = {"limits": {"cpus": 0.5, "memory": "52428800", "pids": 9}, "reservations": {"memory": "20971520"}}
    deployed = body(one(mem_limit="1", deploy={"resources": limits}))
    assert (deployed["cpu_limit"], deployed["memory_limit"]) == (0.5, 50)
    assert deployed["container"] == {"pids_limit": 9, "mem_reservation": "20971520"}


@pytest.mark.parametrize(
    ("said", "path", "reason"),
    [
        ({"deploy": {"replicas": 3}}, "services.web.deploy.replicas", "3 instances"),
        ({"scale": 2}, "services.web.scale", "2 instances"),
        ({"deploy": {"mode": "global"}}, "services.web.deploy.mode", "swarm"),
        ({"provider": {"type": "x"}}, "services.web.provider", "no container"),
        ({"post_start": [{"command": ["x"]}]}, "services.web.post_start", "hooks"),
        ({"models": {"m": None}}, "services.web.models", "models"),
        ({"use_api_socket": True}, "services.web.use_api_socket", "socket"),
        ({"external_links": ["a"]}, "services.web.external_links", "network"),
        ({"credential_spec": {"file": "x"}}, "services.web.credential_spec", "Windows"),
        ({"command": []}, "services.web.command", "takes the image's own away"),
        ({"labels": {"clos.x": "1"}}, "services.web.labels.clos.x", "CLOS's own"),
        ({"image": "Not An Image"}, "services.web.image", "no image's name"),
        ({"volumes": [{"type": "bind", "source": "/", "target": "/x"}]}, "services.web.volumes", "host's root"),
        ({"build": {"context": "/srv/demo", "ssh": ["default"]}}, "services.web.build.ssh", "no key"),
        ({"secrets": [{"source": "s"}]}, "services.web.secrets[0]", "no file"),
        ({"x-clos": {"tagz": []}}, "services.web.x-clos.tagz", "did you mean tags"),
        ({"x-clos": {"runtime": "podman"}}, "services.web.x-clos.runtime", "must be one of"),
        ({"x-clos": {"runtime": "process"}, "privileged": True}, "services.web.privileged", "only a container"),
    ],
)
def test_what_is_not_carried_out_is_refused_by_name(said: dict[str, Any], path: str, reason: str) -> None:
    found = reasons(one(**said))
    assert path in found, found
    assert reason in found[path]


_CHECK = {"test": ["CMD", "x"]}


@pytest.mark.parametrize(
    ("said", "path", "reason"),
    [
        ({"x-clos": 5}, "x-clos", "must be a mapping"),
        ({"x-clos": {"depends_on": 5}}, "x-clos.depends_on", "must be a list"),
        ({"x-clos": {"depends_on": [5]}}, "x-clos.depends_on[0]", "group/service"),
        ({"x-clos": {"secrets": [[1]]}}, "x-clos.secrets[0]", "a variable's name"),
        (
            {"command": ["x"], "x-clos": {"runtime": "process", "working_dir": 5}},
            "x-clos.working_dir", "must be a path",
        ),
        ({"healthcheck": _CHECK | {"interval": "-1s"}}, "healthcheck.interval", "'-1s' is no duration"),
        ({"healthcheck": _CHECK | {"start_period": "-1s"}}, "healthcheck.start_period", "'-1s' is no duration"),
        (
            {"command": ["x"], "x-clos": {"runtime": "process"}, "healthcheck": _CHECK | {"timeout": "-1s"}},
            "healthcheck.timeout", "'-1s' is no duration",
        ),
        ({"stop_grace_period": "-5s"}, "stop_grace_period", "'-5s' is no duration"),
        ({"restart": "sometimes"}, "restart", "'sometimes' is none of no, on-failure, always, unless-stopped"),
        ({"restart": "on-failure:x"}, "restart", "'on-failure:x' is none of"),
        ({"restart": "always:3"}, "restart", "'always:3' is none of"),
        (
            {"deploy": {"restart_policy": {"condition": "now"}}},
            "deploy.restart_policy.condition", "'now' is none of none, on-failure, any",
        ),
        ({"ports": [{"target": 80, "published": "abc"}]}, "ports[0]", "'abc' is no port from 1 to 65535"),
        ({"ports": [{"target": 80, "published": "-3"}]}, "ports[0]", "'-3' is no port"),
        ({"ports": [{"target": 80, "published": "99999"}]}, "ports[0]", "'99999' is no port"),
        ({"ports": [{"target": 80, "published": "90-80"}]}, "ports[0]", "'90-80' is no port"),
        ({"ports": [{"target": 80}, {"published": "80"}]}, "ports[1]", "the container's port is a number from 1"),
        ({"ports": [{"target": 99999}]}, "ports[0]", "the container's port is a number from 1"),
        ({"mem_limit": "-1"}, "mem_limit", "'-1' is no size"),
        ({"cpus": -1}, "cpus", "-1 is no number from 0.01 to 1024"),
        ({"deploy": {"resources": {"limits": {"cpus": 5000}}}}, "deploy.resources.limits.cpus", "5000 is no number"),
    ],
)  # fmt: skip
def test_a_value_that_means_nothing_is_refused_once_and_the_rest_is_read(
    said: dict[str, Any], path: str, reason: str
) -> None:
    found = one(**said)
    assert [each.path for each in found.problems] == [f"services.web.{path}"]
    assert reason in found.problems[0].reason
    # What is left when that is left out can be written.
    service = found.body["services"][0]
    assert service["restart_policy"] == "no"
    assert all(isinstance(each, dict) for each in service["depends_on"])


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"networks": {"default": 5}}, "x-clos.networks.default"),
        ({"volumes": {"data": [5]}}, "x-clos.volumes.data"),
        ({"networks": 5}, "x-clos.networks"),
        ({"start_order": "first"}, "x-clos.start_order"),
    ],
)
def test_what_the_projects_own_extension_has_wrong_is_refused_once_where_it_stands(
    said: dict[str, Any], path: str
) -> None:
    found = one(model={"x-clos": said})
    assert [each.path for each in found.problems] == [path]
    assert not set(said) & {"start_order"} & set(found.body)


@pytest.mark.parametrize(
    ("said", "warning"),
    [
        ({"container_name": "c"}, "c stays an alias"),
        ({"attach": False}, "attach"),
        ({"develop": {"watch": []}}, "watches no files"),
        ({"deploy": {"update_config": {"parallelism": 1}}}, "update_config mean something to a swarm"),
        ({"environment": {"A": None}}, "A have no value"),
    ],
)
def test_what_clos_does_otherwise_is_said(said: dict[str, Any], warning: str) -> None:
    found = one(**said)
    assert body(found)
    assert any(warning in each for each in found.warnings), found.warnings


def test_composes_bridge_is_the_engines_own_and_not_the_groups() -> None:
    assert body(one(network_mode="bridge"))["network_mode"] == "default"


def test_every_key_of_a_service_is_carried_out_refused_or_spoken_of() -> None:
    from domain.compose.keys import SERVICE
    from domain.compose.services import _ONLY_FOR_COMPOSE, _READ
    from domain.container_shapes import KEYS, REFUSED

    gone_by_then = {"extends", "env_file", "label_file"}
    known = {*_READ, *KEYS, *REFUSED, *_ONLY_FOR_COMPOSE, *gone_by_then, "pull_refresh_after"}
    assert set(SERVICE) <= known, set(SERVICE) - known


def test_mounts_are_short_where_the_short_form_says_it() -> None:
    found = body(
        one(
            volumes=[
                {"type": "volume", "source": "data", "target": "/d", "read_only": True, "volume": {}},
                {"type": "bind", "source": "/srv/demo/a", "target": "/a", "bind": {"create_host_path": True}},
                {"type": "bind", "source": "/srv/demo/b", "target": "/b", "bind": {"propagation": "rslave"}},
                {"type": "tmpfs", "target": "/t", "tmpfs": {"size": "1024"}},
                {"type": "volume", "target": "/anonymous", "volume": {}},
            ]
        )
    )
    assert found["volumes"] == ["data:/d:ro", "/srv/demo/a:/a"]
    assert [each["target"] for each in found["container"]["volumes"]] == ["/b", "/t", "/anonymous"]


def test_volumes_keep_the_names_under_which_compose_keeps_their_data() -> None:
    model = {"volumes": {"data": {"name": "demo_data"}, "old": {"name": "legacy", "external": True}}}
    assert one(model=model).body["volumes"] == {
        "data": {"name": "demo_data"},
        "old": {"name": "legacy", "external": True},
    }


def test_networks_get_names_of_closs_unless_they_are_to_be_kept() -> None:
    networks = {
        "default": {"name": "demo_default"},
        "front": {"name": "demo_front", "internal": True},
        "named": {"name": "fixed"},
        "out": {"name": "lan", "external": True},
    }
    model = project({"web": {"image": "x"}}) | {"networks": networks}
    assert read_group(model, "demo", None).body["networks"] == {
        "front": {"internal": True}, "named": {"name": "fixed"}, "out": {"name": "lan", "external": True},
    }  # fmt: skip
    kept = read_group(model, "demo", None, keep_network_names=True).body["networks"]
    assert (kept["default"], kept["front"]["name"]) == ({"name": "demo_default"}, "demo_front")


def test_a_service_is_in_the_networks_that_it_names_and_in_no_other() -> None:
    assert body(one(networks={"default": None, "front": None}))["networks"] == ["front"]
    only = body(one(networks={"front": {"aliases": ["w"], "ipv4_address": "172.30.0.5"}}))
    assert only["networks"] == []
    assert only["container"]["networks"] == {"front": {"aliases": ["w"], "ipv4_address": "172.30.0.5"}}


def test_secrets_and_configs_say_where_they_come_from() -> None:
    model = {
        "secrets": {"s": {"file": "/srv/demo/s"}, "e": {"environment": "TOKEN"}},
        "configs": {"c": {"content": "text"}, "v": {"environment": "CONF"}},
    }
    found = body(
        one(
            {"TOKEN": "t0", "CONF": "c0"}, model,
            secrets=[{"source": "s", "target": "/run/secrets/s", "mode": "0440"}, {"source": "e"}],
            configs=[{"source": "c"}, {"source": "v", "target": "/etc/v"}],
        )
    )  # fmt: skip
    assert found["container"]["secrets"] == [
        {"source": "s", "target": "/run/secrets/s", "mode": "0440", "file": "/srv/demo/s"},
        {"source": "e", "target": "/run/secrets/e", "environment": "TOKEN"},
    ]
    assert found["secrets"] == {"TOKEN": "t0", "CONF": "c0"}
    assert found["container"]["configs"] == [
        {"source": "c", "target": "/c", "content": "text"},
        {"source": "v", "target": "/etc/v", "environment": "CONF"},
    ]


def test_x_clos_says_what_compose_has_no_word_for() -> None:
    own = {
        "runtime": "process", "working_dir": "/srv/demo/api", "ports": [{"name": "http"}], "tags": ["a"],
        "depends_on": ["other/db", {"service": "cache", "condition": "healthy"}], "owner": "me",
        "health_check": {"type": "http", "url": "/health"}, "secrets": ["TOKEN", "LATER"],
    }  # fmt: skip
    found = one(
        image="clos.invalid/process", command=["./run"], environment={"TOKEN": "t", "A": "b"}, **{"x-clos": own}
    )
    service = body(found)
    assert (service["runtime"], service["command"], service["working_dir"]) == ("process", ["./run"], "/srv/demo/api")
    assert "image" not in service
    assert service["ports"] == [{"name": "http"}]
    assert service["depends_on"] == [{"service": "other/db"}, {"service": "cache", "condition": "healthy"}]
    assert (service["environment"], service["secrets"]) == ({"A": "b"}, {"TOKEN": "t", "LATER": None})
    assert service["health_check"] == {"type": "http", "url": "/health"}


def test_x_clos_of_the_project_says_what_the_group_is() -> None:
    own = {"project": "core", "dependencies": ["data"], "start_order": 3, "conflicts": {"on_start": "migrate"}}
    found = read_group(project({"web": {"image": "x"}}) | {"x-clos": own}, "demo", "/srv/demo")
    assert found.problems == ()
    assert {key: found.body[key] for key in own} == own
    wrong = read_group(project({"web": {"image": "x"}}) | {"x-clos": {"start_order": "first"}}, "demo", None)
    assert "x-clos.start_order" in {each.path for each in wrong.problems}


def test_a_group_must_have_a_name_and_services() -> None:
    assert {each.path for each in read_group(project({}), "a b", None).problems} == {"name", "services"}
