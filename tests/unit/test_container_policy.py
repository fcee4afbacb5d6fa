"""What containers may not have of this machine, key by key, and how an administrator allows it."""

import os
from pathlib import Path
from typing import Any

import pytest

from domain.bind_policy import BindPolicy
from domain.container_policy import ContainerPolicy, PolicyDenied, refuse, violations
from domain.security_configuration import Security
from domain.specs import RuntimeKind, ServiceSpec

HOME = "/home/me"
STRICT = Security().container_policy(f"{HOME}/.clos", HOME, "unix:///srv/engine.sock")


def spec(container: dict[str, Any] | None = None, **fields: Any) -> ServiceSpec:
    return ServiceSpec("g-a", "a", "g", **({"image": "x", "container": container or {}} | fields))


def denied(made: ServiceSpec, policy: ContainerPolicy = STRICT) -> dict[str, str]:
    """Path to the key that allows it."""
    return {each.path: each.allow for each in violations(made, policy)}


@pytest.mark.parametrize(
    ("made", "path", "key"),
    [
        (spec({"privileged": True}), "container.privileged", "privileged"),
        (spec(network_mode="host"), "network_mode", "host_network"),
        (spec(networks=("host",)), "networks.host", "host_network"),
        (spec(network_name="host"), "networks.network_name", "host_network"),
        (spec({"networks": {"x": None}}, definitions={"networks": {"x": {"external": True, "name": "host"}}}),
         "networks.x", "host_network"),
        (spec({"pid": "host"}), "container.pid", "host_namespaces"),
        (spec({"ipc": "container:x"}), "container.ipc", "host_namespaces"),
        (spec({"uts": "host"}), "container.uts", "host_namespaces"),
        (spec({"userns_mode": "host"}), "container.userns_mode", "host_namespaces"),
        (spec({"cgroup": "host"}), "container.cgroup", "host_namespaces"),
        (spec(network_mode="container:x"), "network_mode", "host_namespaces"),
        (spec({"volumes_from": ["container:x"]}), "container.volumes_from[0]", "host_namespaces"),
        (spec({"devices": [{"source": "/dev/kmsg"}]}), "container.devices", "devices"),
        (spec({"device_cgroup_rules": ["a *:* rwm"]}), "container.device_cgroup_rules", "devices"),
        (spec({"gpus": [{"count": -1}]}), "container.gpus", "devices"),
        (spec({"cap_add": ["CHOWN", "sys_admin"]}), "container.cap_add[1]", "capabilities"),
        (spec({"cap_add": ["ALL"]}), "container.cap_add[0]", "capabilities"),
        (spec({"security_opt": ["seccomp:unconfined"]}), "container.security_opt[0]", "security_opt"),
        (spec({"security_opt": ["apparmor=unconfined"]}), "container.security_opt[0]", "security_opt"),
        (spec({"security_opt": ["label:disable"]}), "container.security_opt[0]", "security_opt"),
        (spec({"security_opt": ["systempaths=unconfined"]}), "container.security_opt[0]", "security_opt"),
        (spec({"sysctls": {"kernel.core_pattern": "|/x"}}), "container.sysctls.kernel.core_pattern", "sysctls"),
        (spec({"cgroup_parent": "/x"}), "container.cgroup_parent", "cgroup_parent"),
        (spec({"runtime": "sysbox"}), "container.runtime", "runtimes"),
        (spec(definitions={"volumes": {"v": {"driver": "sshfs"}}}), "volumes.v.driver", "volume_drivers"),
        (spec(definitions={"networks": {"n": {"driver": "macvlan"}}}), "networks.n.driver", "network_drivers"),
        (spec(definitions={"networks": {"n": {"driver_opts": {"com.docker.network.bridge.name": "docker0"}}}}),
         "networks.n.driver_opts.com.docker.network.bridge.name", "network_options"),
        (spec(definitions={"networks": {"n": {"driver_opts": {"com.docker.network.bridge.default_bridge": "true"}}}}),
         "networks.n.driver_opts.com.docker.network.bridge.default_bridge", "network_options"),
        (spec(definitions={"volumes": {"v": {"driver_opts": {
            "type": "overlay", "device": "overlay", "o": "lowerdir=/root,upperdir=/tmp/u,workdir=/tmp/w"}}}}),
         "volumes.v.driver_opts.type", "volume_types"),
        (spec(definitions={"volumes": {"v": {"driver_opts": {"type": "sysfs", "device": "sysfs"}}}}),
         "volumes.v.driver_opts.type", "volume_types"),
        (spec(definitions={"volumes": {"v": {"driver_opts": {"device": "sda1"}}}}),
         "volumes.v.driver_opts.o", "volume_types"),
        (spec(definitions={"volumes": {"v": {"driver_opts": {
            "type": "tmpfs", "device": "tmpfs", "o": "size=1m,context=x"}}}}),
         "volumes.v.driver_opts.o", "volume_types"),
        (spec({"logging": {"driver": "syslog", "options": {"syslog-address": "unixgram:///var/run/docker.sock"}}}),
         "container.logging.driver", "log_drivers"),
    ],
)  # fmt: skip
def test_what_comes_near_to_root_is_refused_with_the_key_that_allows_it(made: ServiceSpec, path: str, key: str) -> None:
    assert denied(made) == {path: f"security.containers.{key}"}


def test_the_harmless_is_nobodys_business() -> None:
    harmless = {
        "cap_add": ["NET_BIND_SERVICE", "CAP_SYS_NICE"], "security_opt": ["no-new-privileges:true", "label=level:s0"],
        "sysctls": {"net.core.somaxconn": "1"}, "runtime": "runc", "ipc": "shareable", "pid": "service:b",
        "privileged": False, "cgroup": "private",
    }  # fmt: skip
    assert denied(spec(harmless, definitions={"volumes": {"v": {"driver_opts": {"type": "tmpfs"}}}})) == {}
    assert violations(ServiceSpec("g-a", "a", "g", RuntimeKind.PROCESS, network_mode="host"), STRICT) == []


@pytest.mark.parametrize(
    "source",
    [
        "/", "/etc", "/etc/shadow", "/proc", "/sys/fs", "/dev", "/dev/sda", "/run", "/var/run", "/var/run/docker.sock",
        "/var", "/boot", "/usr/bin", "/var/lib/docker", "/srv/engine.sock", "/srv", f"{HOME}/.clos", HOME,
        f"{HOME}/.clos/keys",
        "/home", f"{HOME}/.ssh", f"{HOME}/.docker/config.json", "/opt/other", f"{HOME}/../other", "//etc",
    ],
)  # fmt: skip
def test_folders_of_the_system_and_of_others_are_not_mounted(source: str) -> None:
    ways = {
        "volumes[0]": spec(volumes=(f"{source}:/x",)),
        "container.volumes[0]": spec({"volumes": [{"type": "bind", "source": source, "target": "/x"}]}),
        "container.secrets[0].file": spec({"secrets": [{"source": "s", "file": source}]}),
        "volumes.v.driver_opts.device": spec(
            definitions={"volumes": {"v": {"driver_opts": {"type": "none", "o": "bind", "device": source}}}}
        ),
    }
    for path, made in ways.items():
        assert list(denied(made)) == [path], source


def test_own_folders_are_mounted() -> None:
    mine = (f"{HOME}/shop/data:/x", "/work/tree/data:/y", "named:/z", "/anonymous")
    assert denied(spec(volumes=mine, directory="/work/tree")) == {}
    assert list(denied(spec(volumes=mine))) == ["volumes[1]"]
    assert denied(spec(volumes=("/etc/localtime:/etc/localtime:ro", "/etc/timezone:/etc/timezone:ro"))) == {}
    assert list(denied(spec(volumes=("/etc/localtime:/etc/localtime",)))) == ["volumes[0]"]


@pytest.mark.parametrize("directory", ["/", "/etc", "/home", "/var"])
def test_a_group_cannot_make_the_system_its_own_folder(directory: str) -> None:
    assert denied(spec(volumes=(f"{directory}/x:/x",), directory=directory)) != {}


def test_what_goes_into_an_image_is_nobodys_secret() -> None:
    assert denied(spec(build={"context": "/opt/src"})) == {}
    for context in ("/", "/etc", HOME, f"{HOME}/.clos", f"{HOME}/.ssh"):
        assert list(denied(spec(build={"context": context}))) == ["build.context"]
    assert list(denied(spec(build={"context": "/opt", "dockerfile": "../etc/shadow"}))) == ["build.dockerfile"]


def test_an_administrator_allows_each_by_its_key() -> None:
    everything = Security(
        containers_privileged=True, containers_host_network=True, containers_host_namespaces=True,
        containers_docker_socket=True, containers_devices=True, containers_capabilities=("SYS_ADMIN",),
        containers_security_opt=True, containers_sysctls=True, containers_cgroup_parent=True,
        containers_runtimes=("sysbox",), containers_volume_drivers=("sshfs",), containers_network_drivers=("macvlan",),
        containers_network_options=("com.docker.network.bridge.name",), containers_volume_types=("nfs",),
        containers_log_drivers=("syslog",),
        containers_bind_roots=("/opt", "/etc/ssl", "~/.ssh/known"),
    ).container_policy(f"{HOME}/.clos", HOME, "unix:///srv/engine.sock")  # fmt: skip
    wanted = spec(
        {
            "privileged": True, "pid": "host", "devices": [{"source": "/dev/x"}], "cap_add": ["SYS_ADMIN"],
            "security_opt": ["seccomp=unconfined"], "sysctls": {"kernel.x": "1"}, "cgroup_parent": "/x",
            "runtime": "sysbox", "logging": {"driver": "syslog"},
        },
        network_mode="host",
        volumes=("/opt/x:/x", "/etc/ssl:/y", f"{HOME}/.ssh/known:/z", "/var/run/docker.sock:/s", "/srv/engine.sock:/t"),
        definitions={
            "volumes": {
                "v": {"driver": "sshfs"}, "w": {"driver_opts": {"type": "nfs", "o": "addr=1", "device": ":/x"}},
            },
            "networks": {"n": {"driver": "macvlan", "driver_opts": {"com.docker.network.bridge.name": "br7"}}},
        },
    )  # fmt: skip
    assert denied(wanted, everything) == {}
    assert list(denied(spec(volumes=("/run:/x",)), everything)) == ["volumes[0]"]
    assert list(denied(spec(volumes=(f"{HOME}/.clos:/x",)), everything)) == ["volumes[0]"]


def test_an_allowed_folder_does_not_give_the_socket_in_it_away() -> None:
    policy = ContainerPolicy(binds=BindPolicy(roots=("/var/run", "/")))
    assert denied(spec(volumes=("/var/run:/x",)), policy) == {"volumes[0]": "security.containers.docker_socket"}
    assert list(denied(spec(volumes=("/:/x",)), policy)) == ["volumes[0]"]


def test_links_are_followed_where_one_may_look(tmp_path: Path) -> None:
    root = Path(os.path.realpath(tmp_path))
    (root / "link").symlink_to("/etc")
    (root / "sock").symlink_to("/var/run/docker.sock")
    (root / "fine").mkdir()
    made = spec(volumes=tuple(f"{root}/{name}:/{name}" for name in ("link", "sock", "fine")), directory=str(root))
    assert denied(made) == {}
    found = violations(made, STRICT, os.path.realpath)
    assert [each.path for each in found] == ["volumes[0]", "volumes[1]"]
    assert found[1].allow == "security.containers.docker_socket"


def test_a_refusal_says_what_and_how_to_allow_it() -> None:
    with pytest.raises(PolicyDenied) as refused:
        refuse(spec({"privileged": True}, network_mode="host"), STRICT)
    assert refused.value.code == "policy_denied"
    assert refused.value.errors == {
        "container.privileged": ["a privileged container is root on this machine (security.containers.privileged)"],
        "network_mode": ["the host's network: all that listens on 127.0.0.1 (security.containers.host_network)"],
    }
    assert refused.value.as_dict()["violations"][0] == {
        "path": "container.privileged",
        "reason": "a privileged container is root on this machine",
        "allow": "security.containers.privileged",
    }
    assert "security.containers.host_network" in str(refused.value.hint)


def test_what_an_ordinary_file_says_of_networks_volumes_and_logs_is_allowed() -> None:
    assert denied(
        spec(
            {"logging": {"driver": "json-file", "options": {"max-size": "1m"}}},
            directory=f"{HOME}/src",
            definitions={
                "networks": {"n": {"driver_opts": {
                    "com.docker.network.driver.mtu": "1400", "com.docker.network.bridge.enable_icc": "false"}}},
                "volumes": {
                    "t": {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": "size=64m,uid=1000"}},
                    "b": {"driver_opts": {"type": "none", "o": "bind,ro", "device": f"{HOME}/src/data"}},
                },
            },
        )
    ) == {}  # fmt: skip
