"""Reading what was written of a group gives the group again: in values, and through the real Compose."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.yaml_text import yaml_text
from domain.compose import difference
from domain.compose.reading import read_group
from domain.compose.writing import written
from workers.runtimes import compose_project
from workers.runtimes.compose_project import Wish, unescaped

_FOLDER = "/srv/demo"
WORD = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12) | st.sampled_from(
    ["$", "$$", "${A}", "$${port:api}", "${url:db}", "a: b", "'", '"', "#", "yes", "22:22", "1", " x ", "~", "null"]
)
NAMES = ["api", "db", "web"]


def maybe(strategy: Any) -> Any:
    return st.none() | strategy


def optional(**fields: Any) -> Any:
    return st.fixed_dictionaries({}, optional=fields)


PORT = st.fixed_dictionaries(
    {"container_port": st.integers(1, 65535), "protocol": st.sampled_from(["tcp", "udp"])},
    optional={
        "name": WORD, "host_ip": st.sampled_from(["127.0.0.1", "0.0.0.0", "::1"]),
        "host_port": st.integers(1024, 65535),
    },
)  # fmt: skip
# Two ports of one service cannot be the same one of the host.
PORTS = st.lists(
    PORT,
    max_size=3,
    unique_by=(lambda port: port.get("name", ""), lambda port: port.get("host_port") or f"none {port.get('name', '')}"),
)
CHECK = optional(
    type=st.sampled_from(["http", "tcp", "exec", "docker"]), url=st.just("/health"), retries=st.integers(1, 9),
    interval=st.integers(1, 99).map(float), timeout=st.just(2.5), test=st.just(["true"]), enabled=st.booleans(),
).filter(bool)  # fmt: skip
NEED = st.fixed_dictionaries(
    {"service": st.sampled_from([*NAMES, "other/db"])},
    optional={
        "condition": st.sampled_from(["started", "healthy", "completed"]),
        "required": st.booleans(),
        "restart": st.booleans(),
    },
)
CONTAINER = optional(
    cap_add=st.just(["NET_ADMIN"]), init=st.booleans(), hostname=WORD, shm_size=st.just("67108864"),
    entrypoint=st.lists(TEXT, min_size=1, max_size=2), sysctls=st.just({"net.core.somaxconn": "1024"}),
    ulimits=st.just({"nofile": {"soft": 1, "hard": 2}}), tmpfs=st.just(["/run"]), stop_signal=st.just("SIGINT"),
    healthcheck=st.just({"test": ["CMD", "true"], "interval": "3s"}), mem_limit=st.just("104857601"),
    networks=st.sampled_from(
        [{"front": {"aliases": ["w"]}}, {"default": None, "back": {"ipv4_address": "172.30.0.5"}}]
    ),
    volumes=st.just([{"type": "tmpfs", "target": "/t", "tmpfs": {"size": "1024"}}]),
    secrets=st.just([{"source": "s", "target": "/run/secrets/s", "file": "/srv/demo/s"}]),
    configs=st.just([{"source": "c", "target": "/c", "content": "a $b $$c"}]),
    logging=st.just({"driver": "json-file", "options": {"max-size": "1m"}}),
)  # fmt: skip
COMMON: dict[str, Any] = {
    "command": st.lists(TEXT, min_size=1, max_size=3), "user": WORD,
    "environment": st.dictionaries(WORD, TEXT, max_size=3),
    "labels": st.dictionaries(WORD, TEXT, max_size=2), "restart_policy": st.sampled_from(
        ["no", "always", "on-failure", "unless-stopped"]
    ), "restart_by": st.sampled_from(["clos", "engine"]),
    "stop_timeout": st.sampled_from([0.5, 1.0, 30.0, 90.0, 3600.0]),
    "ports": PORTS, "depends_on": st.lists(NEED, max_size=3, unique_by=lambda need: need["service"]),
    "health_check": CHECK, "tags": st.lists(WORD, max_size=2, unique=True), "description": TEXT, "owner": WORD,
    "working_dir": st.just("/srv/demo/api"),
}  # fmt: skip
DOCKER = st.fixed_dictionaries(
    {"runtime": st.just("docker"), "image": st.just("x:1")},
    optional=COMMON | {
        "volumes": st.lists(st.sampled_from(["data:/d", "own:/o:ro", "/srv/demo/a:/a"]), unique=True),
        "networks": st.lists(st.sampled_from(["front", "far"]), unique=True),
        "dns_servers": st.just(["8.8.8.8"]), "cpu_limit": st.just(0.5), "memory_limit": st.integers(6, 4096),
        "container": CONTAINER, "network_mode": st.sampled_from(["bridge", "host", "none", "default"]),
        "build": st.just({"context": "/srv/demo", "args": {"A": "$b"}, "dockerfile": "Dockerfile"}),
    },
)  # fmt: skip
PROCESS = st.fixed_dictionaries(
    {"runtime": st.just("process"), "command": st.just(["./run", "$PORT"])},
    optional={key: value for key, value in COMMON.items() if key != "command"},
)
GROUP_FIELDS = optional(
    description=TEXT, project=WORD, dependencies=st.just(["data"]), start_order=st.integers(-5, 5), network_name=WORD,
    restart_policy=st.just("always"), conflicts=st.just({"on_start": "ask"}), reconcile=st.just({"crash": "report"}),
    networks=st.just({"front": {"internal": True}, "back": {"ipam": {"config": [{"subnet": "172.30.0.0/24"}]}}}),
    volumes=st.just({"data": {"name": "old_data"}, "plain": {}}),
)  # fmt: skip


@st.composite
def groups(draw: Any) -> dict[str, Any]:
    services = []
    for place, name in enumerate(NAMES):
        service = draw(DOCKER | PROCESS)
        # Only those after it: Compose refuses a cycle.
        needs = [each for each in service.get("depends_on", []) if each["service"] in [*NAMES[place + 1 :], "other/db"]]
        service |= {"name": name} | ({"depends_on": needs} if "depends_on" in service else {})
        if service.get("network_mode", "bridge") != "bridge":
            service.pop("networks", None)
            service.get("container", {}).pop("networks", None)
        if "memory_limit" in service:
            service.get("container", {}).pop("mem_limit", None)  # one of them says it
        services.append(service)
    name = draw(st.sampled_from(["demo", "Demo.2", "a_b"]))
    return {"name": name, "directory": _FOLDER, "services": services, **draw(GROUP_FIELDS)}


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The fields that differ, each with both values."""
    pairs = [("group", found["group"], wanted["group"])]
    assert found["services"].keys() == wanted["services"].keys()
    pairs += [(name, found["services"][name], each) for name, each in wanted["services"].items()]
    return {
        f"{name}.{key}": (one.get(key), each) for name, one, other in pairs for key, each in other.items()
        if one.get(key) != each
    }  # fmt: skip


def same(group: dict[str, Any], model: dict[str, Any]) -> None:
    found = read_group(model, str(model.get("x-clos", {}).get("name") or model["name"]), _FOLDER, {})
    assert found.problems == (), [each.text() for each in found.problems]
    assert found.body["name"] == group["name"]
    assert differing(difference.snapshot(found.body), difference.snapshot(group)) == {}


def _mapped(model: dict[str, Any]) -> dict[str, Any]:
    """`KEY=VALUE` as mappings, as Compose prints them."""
    for each in [*model["services"].values(), *(model.get("networks") or {}).values()]:
        for key in ("environment", "labels"):
            if isinstance(each.get(key), list):
                each[key] = dict(pair.split("=", 1) for pair in each[key])
    return model


@given(groups())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_group_is_the_same_after_it_was_written_and_read(group: dict[str, Any]) -> None:
    same(group, _mapped(unescaped(written(group))))


@given(groups())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_and_after_the_real_compose_has_read_it(group: dict[str, Any]) -> None:
    text = yaml_text(written(group))
    with tempfile.TemporaryDirectory() as folder:
        content = text.replace(_FOLDER, folder)
        for name in ("s", "a"):
            (Path(folder) / name).touch()
        found = compose_project.read(Wish(content=content, directory=Path(folder)))
    model = yaml.safe_load(yaml.safe_dump(found.model).replace(folder, _FOLDER))
    same(group, model)


def test_keys_that_compose_would_take_for_its_own_extensions_come_back_from_it() -> None:
    given = {"x-": "", "x-own": "a=b", "Y": "$1"}
    service = {"name": "web", "image": "x", "environment": given, "labels": given}
    group = {"name": "demo", "services": [service], "networks": {"default": {"labels": given}}}
    with tempfile.TemporaryDirectory() as folder:
        found = compose_project.read(Wish(content=yaml_text(written(group)), directory=Path(folder)))
    read = found.model["services"]["web"]
    assert (read["environment"], read["labels"], found.model["networks"]["default"]["labels"]) == (given, given, given)


def test_secrets_are_named_and_their_values_left_out() -> None:
    service = {
        "name": "a", "image": "x", "secrets": {"TOKEN": None, "FILE": None},
        "container": {"secrets": [{"source": "f", "target": "/run/secrets/f", "environment": "FILE"}]},
    }  # fmt: skip
    model = written({"name": "demo", "services": [service]}, {"a": ["FILE", "TOKEN"]})
    assert model["services"]["a"]["x-clos"]["secrets"] == ["TOKEN"]
    assert model["secrets"] == {"f": {"environment": "FILE"}}
    found = read_group(unescaped(model), "demo", None, {})
    assert found.body["services"][0]["secrets"] == {"TOKEN": None, "FILE": None}


def test_what_one_version_of_yaml_takes_for_a_number_stays_a_text() -> None:
    texts = ["0E0", "1:30", "012", "on", "", "1_000", "~", "-1", ".5", "2026-11-27", "y", "a: b", "null", "0x1f"]
    environment = {f"V{place}": text for place, text in enumerate(texts)}
    web = {"name": "web", "image": "x", "command": texts, "environment": environment}
    project = compose_project.read(
        Wish(content=yaml_text(written({"name": "demo", "services": [web]})), directory=Path("/tmp"))
    )
    read = project.model["services"]["web"]
    assert (read["command"], read["environment"]) == (texts, environment)


def test_a_variable_without_a_value_stays_without_one_beside_a_key_of_ones_own() -> None:
    service = {"name": "a", "image": "x", "build": {"context": ".", "args": {"x-own": "1", "FROM_OUTSIDE": None}}}
    args = written({"name": "demo", "services": [service]})["services"]["a"]["build"]["args"]
    assert args == ["x-own=1", "FROM_OUTSIDE"]
