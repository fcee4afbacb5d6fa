"""What CLOS starts from a `container` equals what the real Compose starts from the same definition, key by key."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from domain.container_shapes import FIELDS
from domain.errors import ImageMissing
from domain.shapes import as_whole, nanoseconds
from domain.specs import PortRequest, ServiceSpec
from tests.images import client, docker_url, make_docker_runtime, remove_all, test_image
from tests.integration.inspect_compare import Side, differences
from tests.integration.real_compose import RealCompose
from tests.integration.rig import free_port
from workers.runtimes.docker_config import image_of
from workers.runtimes.docker_engine import DockerEngine

pytestmark = pytest.mark.skipif(not Path(docker_url().removeprefix("unix://")).exists(), reason="needs Docker")

_MB = 1024 * 1024


class Both:
    """One definition, started twice: by Compose, then by CLOS."""

    def __init__(self, folder: Path) -> None:
        self.group = f"ct{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.compose = RealCompose(folder, self.group, {"HUSH": "not to be shown"})
        self.runtime, self.instance_id = make_docker_runtime()
        self.theirs: dict[str, Any] = {}

    def differences(self, start: bool = True, **definition: Any) -> dict[str, list[str]]:
        """By service, what differs. Without `start` they are only made: not every machine can run all that is said."""
        normalised = self.compose.define(definition)
        self.theirs = self.compose.up() if start else self.compose.create()
        self.compose.down()
        specs = self.specs(normalised)
        ours = {}
        for spec in specs:
            if start:
                self.runtime.start(spec)
            else:
                self.runtime.create(spec)
        for spec in specs:
            ours[spec.name] = self.inspect(self.runtime, spec)
        names = self.names(normalised)
        return {
            name: found
            for name, each in ours.items()
            if (found := differences(Side(each, names), Side(self.theirs[name], names)))
        }

    def names(self, normalised: Mapping[str, Any]) -> dict[str, str]:
        kinds = (normalised.get("networks") or {}, normalised.get("volumes") or {})
        return {each["name"]: key for kind in kinds for key, each in kind.items()}

    @staticmethod
    def inspect(runtime: DockerEngine, spec: ServiceSpec) -> Any:
        engine = client()
        try:
            return engine.api.inspect_container(runtime.observe()[spec.id].ref)
        finally:
            engine.close()

    def specs(self, normalised: Mapping[str, Any]) -> list[ServiceSpec]:
        """In an order in which they can be started."""
        services = normalised["services"]
        done: list[str] = []
        while len(done) < len(services):
            done += [
                name
                for name, each in services.items()
                if name not in done and all(other in done for other in each.get("depends_on") or ())
            ]
        return [self.spec(name, normalised) for name in done]

    def spec(self, name: str, normalised: Mapping[str, Any]) -> ServiceSpec:
        given = dict(normalised["services"][name])
        container = {key: value for key, value in given.items() if key not in FIELDS and value is not None}
        memory = as_whole(container.get("mem_limit")) or 0
        if memory and memory % _MB == 0:
            del container["mem_limit"]
        for kind in ("secrets", "configs"):
            for each in container.get(kind) or ():
                source = normalised[kind][each["source"]]
                each |= {key: source[key] for key in ("file", "content", "environment") if key in source}
        grace = nanoseconds(given.get("stop_grace_period") or "10s") or 0
        dns = given.get("dns") or ()
        return ServiceSpec(
            f"{self.group}-{name}", name, self.group,
            image=given["image"], command=tuple(given.get("command") or ()), user=given.get("user"),
            working_dir=given.get("working_dir"),
            environment={**(given.get("environment") or {}), "HUSH": "not to be shown"}
            if any(each.get("environment") for each in container.get("secrets") or ())
            else given.get("environment") or {},
            network_mode={"bridge": "default"}.get(given.get("network_mode", ""), given.get("network_mode", "bridge")),
            dns_servers=tuple([dns] if isinstance(dns, str) else dns), labels=given.get("labels") or {},
            cpu_limit=given.get("cpus"), memory_limit=memory // _MB if memory % _MB == 0 else None,
            stop_timeout_s=grace / 1e9, container=container,
            ports=tuple(
                PortRequest(host_port=free_port(), container_port=each["target"], protocol=each["protocol"])
                for each in given.get("ports") or ()
            ),
            network_name=(normalised.get("networks") or {}).get("default", {}).get("name", ""),
            definitions={
                "networks": normalised.get("networks") or {}, "volumes": normalised.get("volumes") or {},
                "services": {other: f"{self.group}-{other}" for other in normalised["services"]},
            },
            directory=str(self.folder),
        )  # fmt: skip

    def close(self) -> None:
        self.compose.down()
        remove_all(self.instance_id)
        engine = client()
        for each in engine.api.volumes(filters={"label": f"clos.instance={self.instance_id}"})["Volumes"] or ():
            engine.api.remove_volume(each["Name"])
        engine.close()
        self.runtime.close()


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    made = Both(tmp_path)
    yield made
    made.close()


def one(**service: Any) -> dict[str, Any]:
    return {"services": {"web": {"image": test_image(), **service}}}


@pytest.mark.parametrize(
    "service",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"entrypoint": [], "command": ["idle"]}, id="no entrypoint"),
        pytest.param({"entrypoint": ["/bin/sh", "-c"], "command": ["exec idle"], "working_dir": "/tmp"},
                     id="entrypoint"),
        pytest.param({"init": True, "tty": True, "stdin_open": True, "read_only": True,
                      "tmpfs": ["/run", "/t:size=64k"]}, id="terminal"),
        pytest.param({"user": "1000:1000", "group_add": ["100", "5"], "environment": {"A": "b", "EMPTY": ""}},
                     id="user"),
        pytest.param({"hostname": "hh", "domainname": "dd.ee", "mac_address": "02:42:ac:11:65:43"}, id="names"),
        pytest.param({"cap_add": ["NET_ADMIN", "SYS_TIME"], "cap_drop": ["CHOWN"],
                      "security_opt": ["no-new-privileges", "seccomp=unconfined"]}, id="capabilities"),
        pytest.param({"security_opt": ["systempaths=unconfined"]}, id="system paths"),
        pytest.param({"devices": ["/dev/null:/dev/xnull:rw", "/dev/zero"], "device_cgroup_rules": ["c 1:3 mr"]},
                     id="devices"),
        pytest.param({"ulimits": {"nproc": 65, "nofile": {"soft": 100, "hard": 200}},
                      "sysctls": {"net.core.somaxconn": 1024, "net.ipv4.tcp_syncookies": 0}}, id="kernel"),
        pytest.param({"mem_limit": "64m", "mem_reservation": "32m", "memswap_limit": "128m", "mem_swappiness": 10,
                      "oom_score_adj": 100, "oom_kill_disable": True, "pids_limit": 50, "shm_size": "64m"},
                     id="memory"),
        pytest.param({"mem_limit": 67_108_865}, id="odd memory"),
        pytest.param({"cpus": 0.5, "cpu_shares": 512, "cpuset": "0"}, id="cpu"),
        pytest.param({"cpu_period": 50_000, "cpu_quota": 25_000}, id="cpu quota"),
        pytest.param({"logging": {"driver": "json-file", "options": {"max-size": "1m", "max-file": "2"}}},
                     id="logging"),
        pytest.param({"dns": ["127.0.0.53"], "dns_search": ["x.y"], "dns_opt": ["ndots:2"],
                      "extra_hosts": ["foo:1.2.3.4", "bar:host-gateway"]}, id="names of others"),
        pytest.param({"healthcheck": {"test": "true", "interval": "3s", "timeout": "1m30s", "start_period": "1s",
                                      "retries": 4}}, id="healthcheck"),
        pytest.param({"healthcheck": {"disable": True}}, id="no healthcheck"),
        pytest.param({"stop_signal": "SIGINT", "stop_grace_period": "7s", "labels": {"a": "b"}}, id="stop"),
        pytest.param({"expose": ["99", "100/udp"], "ports": ["80", "81/udp"]}, id="ports"),
        pytest.param({"ipc": "shareable", "pid": "host", "uts": "host", "userns_mode": "host", "cgroup": "host"},
                     id="namespaces"),
        pytest.param({"network_mode": "none"}, id="no network"),
        pytest.param({"network_mode": "host"}, id="host network"),
        pytest.param({"network_mode": "bridge"}, id="default bridge"),
        pytest.param({"cgroup_parent": "/clos-test", "runtime": "runc", "platform": "linux/amd64"}, id="runtime"),
    ],
)  # fmt: skip
def test_a_service_is_started_as_compose_starts_it(both: Both, service: dict[str, Any]) -> None:
    assert both.differences(**one(**service)) == {}


@pytest.mark.parametrize(
    "service",
    [
        pytest.param({"privileged": True}, id="privileged"),
        pytest.param({"blkio_config": {
            "weight": 300, "weight_device": [{"path": "/dev/sda", "weight": 400}],
            "device_read_bps": [{"path": "/dev/sda", "rate": "12mb"}],
            "device_write_iops": [{"path": "/dev/sda", "rate": 30}]}}, id="blkio"),
        pytest.param({"gpus": "all"}, id="gpus"),
        pytest.param({"gpus": [{"driver": "nvidia", "count": 2, "capabilities": ["utility"], "options": {"a": "b"}}]},
                     id="a gpu"),
        pytest.param({"cap_drop": ["ALL"], "cap_add": ["chown"], "isolation": "default"}, id="all capabilities"),
    ],
)  # fmt: skip
def test_what_this_machine_may_not_run_is_made_as_compose_makes_it(both: Both, service: dict[str, Any]) -> None:
    assert both.differences(start=False, **one(**service)) == {}


def test_volumes_are_binds_or_mounts_as_compose_chooses(both: Both) -> None:
    (both.folder / "sec").mkdir()
    volumes = [
        "data:/data", "data:/ro:ro", "./sec:/sec:ro", "./new:/new", "/anonymous", "./sec:/z:z",
        {"type": "volume", "source": "data", "target": "/nocopy", "volume": {"nocopy": True}},
        {"type": "volume", "source": "data", "target": "/read", "read_only": True},
        {"type": "tmpfs", "target": "/t2", "tmpfs": {"size": 1_000_000, "mode": 0o1770}},
        {"type": "tmpfs", "target": "/t3"},
        {"type": "bind", "source": "./sec", "target": "/prop", "bind": {"propagation": "rprivate"}},
        {"type": "bind", "source": "./sec", "target": "/there", "bind": {"create_host_path": False}},
        {"type": "bind", "source": "./sec", "target": "/consistent", "consistency": "cached"},
    ]  # fmt: skip
    services = {"web": {"image": test_image(), "volumes": volumes}}
    defined = {"data": {"driver_opts": {"type": "tmpfs", "device": "tmpfs"}, "labels": {"a": "b"}}}
    assert both.differences(services=services, volumes=defined) == {}


def test_the_volumes_of_another_service_are_mounted_as_compose_does(both: Both) -> None:
    # Compose loses a `:ro` here; CLOS does not.
    other = {"image": test_image(), "volumes_from": ["web"]}
    services = {"other": other, "web": {"image": test_image(), "volumes": ["data:/data"]}}
    assert both.differences(services=services, volumes={"data": None}) == {}


def test_networks_and_addresses_are_as_compose_makes_them(both: Both) -> None:
    networks = {
        "fixed": {
            "driver": "bridge", "internal": True, "attachable": True, "labels": {"a": "b"},
            "driver_opts": {"com.docker.network.bridge.enable_icc": "false"},
            "ipam": {"driver": "default", "config": [{"subnet": "172.31.251.0/24", "gateway": "172.31.251.1",
                                                      "ip_range": "172.31.251.128/25"}]},
        },
    }  # fmt: skip
    web = {
        "image": test_image(),
        "networks": {
            "default": {"aliases": ["al"]},
            "fixed": {"ipv4_address": "172.31.251.9", "aliases": ["x2"], "priority": 10,
                      "link_local_ips": ["169.254.7.7"], "driver_opts": {"com.docker.test": "1"}},
        },
        "links": ["db:store", "db"],
    }  # fmt: skip
    services = {"web": web, "db": {"image": test_image()}, "alone": {"image": test_image(), "networks": ["fixed"]}}
    assert both.differences(services=services, networks=networks) == {}
    engine = client()
    (made,) = (each for each in engine.api.networks(names=[f"{both.group}_fixed"]))
    assert made["Internal"]
    assert made["Attachable"]
    assert made["IPAM"]["Config"][0]["Subnet"] == "172.31.251.0/24"
    assert made["Options"] == {"com.docker.network.bridge.enable_icc": "false"}
    assert made["Labels"]["a"] == "b"
    engine.close()


def test_namespaces_are_those_of_another_services_container(both: Both) -> None:
    side = {"image": test_image(), "network_mode": "service:main", "pid": "service:main", "ipc": "service:main"}
    services = {"side": side, "main": {"image": test_image(), "ipc": "shareable"}}
    assert both.differences(services=services) == {}


def test_secrets_and_configs_are_mounted_or_written_as_compose_does(both: Both) -> None:
    (both.folder / "s.txt").write_text("from a file")
    web = {
        "image": test_image(),
        "secrets": ["s1", {"source": "s2", "target": "/x/y", "mode": 0o400, "uid": "5"}, {"source": "s2"}],
        "configs": [{"source": "c1", "target": "/deep/er/c1"}, "c2", {"source": "c1"}],
    }
    found = both.differences(
        services={"web": web},
        secrets={"s1": {"file": "./s.txt"}, "s2": {"environment": "HUSH"}},
        configs={"c1": {"content": "hello"}, "c2": {"file": "./s.txt"}},
    )
    assert found == {}
    engine = client()
    (listed,) = engine.api.containers(filters={"label": f"clos.instance={both.instance_id}"})
    script = "for f in /run/secrets/s1 /x/y /run/secrets/s2 /deep/er/c1 /c2 /c1; do stat -c '%n %a %u' $f; cat $f; done"
    ran = engine.api.exec_create(listed["Id"], ["sh", "-c", script])
    said = engine.api.exec_start(ran["Id"]).decode()
    for expected in (
        "/x/y 400 5\nnot to be shown",
        "/run/secrets/s2 444 0\n",
        "/deep/er/c1 444 0\nhello",
        "from a file",
    ):
        assert expected in said
    inspected = engine.api.inspect_container(listed["Id"])
    assert "not to be shown" not in str(inspected)
    engine.close()


def test_an_image_is_built_with_all_that_is_said_and_under_all_its_names(both: Both) -> None:
    build = {
        "context": ".",
        "dockerfile_inline": f"FROM {test_image()} AS first\nARG WHO\nRUN echo $$WHO > /who\nFROM first\n",
        "args": {"WHO": "me"}, "labels": {"q": "r"}, "network": "none", "shm_size": "128m", "no_cache": True,
        "extra_hosts": ["a=1.2.3.4"], "target": "first", "ulimits": {"nofile": 100},
    }  # fmt: skip
    normalised = both.compose.define({"services": {"web": {"image": f"{both.group}:named", "build": build}}})
    spec = replace(both.specs(normalised)[0], build=normalised["services"]["web"]["build"])
    both.runtime.prepare(spec, lambda _line: None)
    both.runtime.start(spec)
    engine = client()
    built, named = engine.api.inspect_image(image_of(spec)), engine.api.inspect_image(f"{both.group}:named")
    assert built["Id"] == named["Id"]
    assert built["Config"]["Labels"]["q"] == "r"
    (listed,) = engine.api.containers(filters={"label": f"clos.instance={both.instance_id}"})
    ran = engine.api.exec_create(listed["Id"], ["cat", "/who"])
    assert engine.api.exec_start(ran["Id"]) == b"me\n"
    engine.close()


def test_a_policy_says_whether_an_image_is_fetched(both: Both) -> None:
    normalised = both.compose.define(one())
    (spec,) = both.specs(normalised)
    absent = replace(spec, image=f"{both.group}:nowhere", container={"pull_policy": "never"})
    with pytest.raises(ImageMissing, match="pull_policy is never"):
        both.runtime.prepare(absent, lambda _line: None)
    assert both.runtime.prepared(spec)
    assert not both.runtime.prepared(replace(spec, container={"pull_policy": "always"}))
