"""What a container can be: every key, everything that is wrong with one, and what a service names by it."""

from typing import Any

import pytest

from domain.container import (
    check,
    check_networks,
    check_volumes,
    file_variables,
    networks_named,
    services_named,
)
from domain.container_shapes import FIELDS, KEYS, REFUSED
from domain.shapes import nanoseconds

# As `docker-compose config --format json` prints it.
WHOLE: dict[str, Any] = {
    "annotations": {"an": "no"},
    "blkio_config": {
        "weight": 300, "weight_device": [{"path": "/dev/sda", "weight": 400}],
        "device_read_bps": [{"path": "/dev/sda", "rate": "12582912"}],
        "device_write_iops": [{"path": "/dev/sda", "rate": 30}],
    },
    "cap_add": ["NET_ADMIN"],
    "cap_drop": ["ALL"],
    "cgroup": "host",
    "cgroup_parent": "m-executor",
    "configs": [{"source": "c1", "target": "/c1", "content": "hello"}, {"source": "c2", "file": "/srv/c2"}],
    "cpu_period": "100000", "cpu_quota": 50_000, "cpu_rt_period": "1000", "cpu_rt_runtime": "400",
    "cpu_shares": 512, "cpuset": "0,1",
    "device_cgroup_rules": ["c 1:3 mr", "a *:* rwm"],
    "devices": [{"source": "/dev/null", "target": "/dev/xnull", "permissions": "rwm"}],
    "dns_opt": ["ndots:2"], "dns_search": ["x.y"], "domainname": "dd.ee", "hostname": "hh",
    "entrypoint": [],
    "expose": ["99", "100/udp"],
    "extra_hosts": ["bar=host-gateway", "six=::1"],
    "gpus": [{"capabilities": ["gpu"], "count": -1}],
    "group_add": ["100", "mail"],
    "healthcheck": {
        "test": ["CMD-SHELL", "true"], "interval": "1m30s", "timeout": "10s", "start_period": "0s", "retries": 3,
    },
    "init": True, "ipc": "service:db", "isolation": "default", "links": ["db", "db:store"],
    "logging": {"driver": "json-file", "options": {"max-size": "1m"}},
    "mac_address": "02:42:ac:11:65:43",
    "mem_limit": "67108865", "mem_reservation": "33554432", "mem_swappiness": "10", "memswap_limit": "-1",
    "networks": {
        "default": None,
        "back": {"aliases": ["a"], "ipv4_address": "10.1.1.9", "ipv6_address": "2001:db8::9", "priority": 10,
                 "link_local_ips": ["169.254.8.8"], "driver_opts": {"a": "b"}},
    },
    "oom_kill_disable": False, "oom_score_adj": -500, "pid": "container:x", "pids_limit": 50,
    "platform": "linux/amd64", "privileged": False, "pull_policy": "missing", "read_only": False, "runtime": "runc",
    "secrets": [{"source": "s", "target": "/run/secrets/s", "mode": "0400", "environment": "HUSH"}],
    "security_opt": ["no-new-privileges"], "shm_size": "67108864", "stdin_open": True, "stop_signal": "SIGINT",
    "storage_opt": {"size": "1G"}, "sysctls": {"net.core.somaxconn": "1024"}, "tmpfs": ["/run", "/t:size=64k"],
    "tty": True, "ulimits": {"nproc": 65, "nofile": {"soft": 100, "hard": 200}}, "userns_mode": "host", "uts": "host",
    "volumes": [
        {"type": "volume", "source": "data", "target": "/d", "volume": {"nocopy": True}},
        {"type": "volume", "target": "/anonymous", "volume": {}},
        {"type": "bind", "source": "/srv/x", "target": "/x", "bind": {"propagation": "rshared"}, "read_only": True},
        {"type": "tmpfs", "target": "/t2", "tmpfs": {"size": "1000000", "mode": 1016}},
    ],
    "volumes_from": ["db:ro"],
}  # fmt: skip


def texts(container: Any) -> list[str]:
    return [f"{problem.path}: {problem.text}" for problem in check(container)]


def test_every_key_is_taken_in_the_form_in_which_compose_prints_it() -> None:
    assert texts(WHOLE) == []
    assert set(WHOLE) == set(KEYS)


def test_null_is_as_if_nothing_was_said() -> None:
    assert texts(dict.fromkeys(KEYS)) == []


def test_an_unknown_key_is_named_with_what_was_meant() -> None:
    assert texts({"cap_ad": [], "zzz": 1}) == [
        "container.cap_ad: unknown; did you mean cap_add?",
        "container.zzz: unknown",
    ]


@pytest.mark.parametrize(("key", "field"), FIELDS.items())
def test_what_the_service_has_a_field_for_is_refused_with_its_name(key: str, field: str) -> None:
    assert texts({key: None}) == [f"container.{key}: the service's own field is meant for it: {field}"]


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_carried_out_is_refused_with_the_reason(key: str) -> None:
    assert texts({key: "x"}) == [f"container.{key}: is not carried out: {REFUSED[key]}"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"init": "yes"}, "container.init: must be true or false"),
        ({"cgroup": "hots"}, "container.cgroup: must be one of host, private; did you mean host?"),
        ({"cpu_shares": 1.5}, f"container.cpu_shares: must be a whole number from 0 to {2**63 - 1}"),
        ({"pids_limit": True}, f"container.pids_limit: must be a whole number from -1 to {2**63 - 1}"),
        ({"healthcheck": {"interval": "soon"}},
         "container.healthcheck.interval: must be a duration such as 500ms or 1m30s"),
        ({"healthcheck": {"interva": "1s"}}, "container.healthcheck.interva: unknown; did you mean interval?"),
        ({"networks": {"a": {"alias": []}}}, "container.networks.a.alias: unknown; did you mean aliases?"),
        ({"networks": ["a"]}, "container.networks: must be a mapping"),
        ({"cap_add": "NET_ADMIN"}, "container.cap_add: must be a list"),
        ({"security_opt": ["seccomp=unconfined", "seccomp=profile.json"]},
         "container.security_opt[1]: must be an option; of a seccomp profile, its JSON and not its file"),
        ({"cap_add": ["NET ADMIN"]}, "container.cap_add[0]: must be a capability such as NET_ADMIN"),
        ({"cap_add": ["A"] * 201}, "container.cap_add: must have at most 200 entries"),
        ({"sysctls": {str(n): "1" for n in range(201)}}, "container.sysctls: must have at most 200 entries"),
        ({"hostname": "a\x00"}, "container.hostname: must be a word without spaces"),
        ({"devices": [{"target": "/dev/x"}]}, "container.devices[0].source: is missing"),
        ({"ulimits": {"nofile": {"sof": 1}}}, "container.ulimits.nofile.sof: unknown; did you mean soft?"),
        ({"ulimits": {"nofile": "x"}}, "container.ulimits.nofile: must be a number or soft and hard"),
        ({"blkio_config": 3}, "container.blkio_config: must be a mapping"),
        ({"volumes": [{"type": "bind", "target": "/x"}]}, "container.volumes[0].source: is missing"),
        ({"secrets": [{"source": "s"}]},
         "container.secrets[0]: must say where it comes from: one of file, content, environment"),
        ({"secrets": [{"source": "s", "content": "x"}]},
         "container.secrets[0].content: would be shown: name a key of `secrets` in `environment`"),
        ({"read_only": True, "configs": [{"source": "s", "content": "x"}]},
         "container.configs[0]: cannot be written into a read_only container: take a file of the host"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named_by_its_path(wrong: dict[str, Any], said: str) -> None:
    assert texts(wrong) == [said]


def test_a_container_is_a_mapping() -> None:
    assert texts([]) == ["container: must be a mapping"]


def test_a_groups_networks_are_described_as_compose_does() -> None:
    described = {
        "default": None,
        "back": {
            "name": "shop_back", "driver": "bridge", "driver_opts": {"a": "b"}, "internal": True, "attachable": True,
            "enable_ipv6": True, "labels": {"a": "b"},
            "ipam": {"driver": "default", "config": [{"subnet": "10.1.0.0/16", "gateway": "10.1.0.1"}]},
        },
        "corp": {"name": "corp", "external": True, "ipam": {}},
    }  # fmt: skip
    assert check_networks(described) == []
    wrong = check_networks({"a": {"external": True, "driver": "bridge"}, "b": {"drive": "x"}})
    assert [problem.path for problem in wrong] == ["networks.b.drive", "networks.a.driver"]
    assert [problem.path for problem in check_networks([])] == ["networks"]


def test_a_groups_volumes_are_described_as_compose_does() -> None:
    assert check_volumes({"data": {"name": "x_data", "driver_opts": {"type": "tmpfs"}}, "e": {"external": True}}) == []
    assert [problem.path for problem in check_volumes({"a": {"opts": {}}})] == ["volumes.a.opts"]


def test_services_whose_containers_are_joined_are_named() -> None:
    container = {
        "pid": "service:a", "ipc": "container:x", "links": ["b:bee", "c"], "volumes_from": ["d:ro", "container:e"],
    }  # fmt: skip
    assert services_named(container, "service:f") == {"a", "b", "c", "d", "f"}
    assert services_named({}) == set()


def test_networks_come_by_priority_and_the_groups_own_only_where_it_is_named() -> None:
    assert networks_named({}, ("b", "a")) == ["default", "b", "a"]
    assert networks_named({"networks": {"a": None, "b": {"priority": 5}, "default": {}}}, ()) == ["b", "a", "default"]
    assert networks_named({"networks": {"a": None}}, ("c",)) == ["a", "c"]


def test_variables_that_are_files_are_known() -> None:
    assert file_variables({"secrets": [{"environment": "A"}], "configs": [{"content": "x"}]}) == {"A"}


@pytest.mark.parametrize(
    ("text", "known"), [("1m30s", 90 * 10**9), ("1.5s", 1_500_000_000), ("0", 0), ("250ms", 250_000_000), ("5", None)]
)
def test_durations_are_nanoseconds(text: str, known: int | None) -> None:
    assert nanoseconds(text) == known
