"""`x-clos`: what CLOS can be told in a Compose file that Compose has no word for."""

from collections.abc import Iterator, Mapping
from typing import Any

from domain.compose.problems import Problem
from domain.container_shapes import NETWORK, VOLUME
from domain.shapes import Problem as Wrong
from domain.shapes import Shape, either, flag, list_of, map_of, one_of, optional, record, text, whole
from domain.specs import MOST_PORTS

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAME = text(NAME, "a name of letters, digits, _ . -", 100)
_WORDS = text(longest=4000)
_URL = text(r"(?:https?://[^\s/?#@]+(?:[/?#]\S*)?|/\S*|\$\{url:\S+\}\S*)", "a URL or a path", 2000)


def _number(low: float, high: float) -> Shape:
    def check(value: Any, path: str) -> Iterator[Wrong]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            yield Wrong(path, f"must be a number from {low:g} to {high:g}")

    return check


_POLICIES = one_of("no", "on-failure", "always", "unless-stopped")
_NEEDED = text(rf"{NAME}(?:/{NAME})?", "a service, or group/service", 151)
PORT = record(
    name=text(rf"(?:{NAME})?", "a port's name", 100),
    host_ip=text(r"[0-9A-Fa-f:.]+", "an IP address", 45),
    host_port=optional(whole(1, 65535)),
    container_port=optional(whole(1, 65535)),
    protocol=one_of("tcp", "udp"),
)
HEALTH_CHECK = record(
    enabled=flag,
    type=one_of("http", "tcp", "exec", "docker"),
    url=_URL,
    port=_NAME,
    test=list_of(text(), 256),
    interval=_number(0.1, 86400),
    timeout=_number(0.1, 3600),
    retries=whole(1, 100),
    start_period=_number(0, 86400),
    expected_status=whole(100, 599),
)
# Fields of a service's own definition: what stands here replaces what Compose's keys say.
SERVICE_FIELDS: dict[str, Shape] = {
    "runtime": one_of("docker", "process", "external"),
    "working_dir": text(r"[^\x00]+", "a path", 4096),
    "ports": list_of(PORT, MOST_PORTS),
    "health_check": optional(HEALTH_CHECK),
    "restart_policy": _POLICIES,
    "restart_by": one_of("clos", "engine"),
    "stop_timeout": _number(0.1, 3600),
    "cpu_limit": optional(_number(0.01, 1024)),
    "memory_limit": optional(whole(6, 16_777_216)),
    "tags": list_of(text(r"[A-Za-z0-9][A-Za-z0-9_.:/-]*", "a word", 100), 50),
    "description": _WORDS,
    "version": text(longest=100),
    "owner": text(longest=100),
}
_SERVICE = record(
    **SERVICE_FIELDS,
    depends_on=list_of(
        either(
            "group/service, or a mapping with service, condition, required",
            _NEEDED,
            record(
                ("service",),
                service=_NEEDED,
                condition=one_of("started", "healthy", "completed"),
                required=flag,
                restart=flag,
            ),
        )
    ),
    secrets=list_of(text(r"[A-Za-z_][A-Za-z0-9_.-]*", "a variable's name", 255)),
)
_FLAGS = record(
    auto_resolve=flag,
    max_risk=one_of("low", "medium", "high"),
    on_start=one_of("fail", "migrate", "ask"),
    dependents=one_of("restart", "report"),
    ask_timeout=_number(1, 7 * 86400),
    on_timeout=one_of("fail", "migrate"),
)
GROUP_FIELDS: dict[str, Shape] = {
    "description": _WORDS,
    "project": text(NAME, "a project's name", 50),
    "dependencies": list_of(text(NAME, "a group's name", 50), 100),
    "start_order": whole(-1000, 1000),
    "restart_policy": _POLICIES,
    "conflicts": _FLAGS,
    "reconcile": record(**dict.fromkeys(("person", "engine", "host", "crash"), one_of("off", "report", "repair"))),
    "network_name": _NAME,
}
# Definitions that no service uses: Compose would leave them out. They are looked at with the others.
_GROUP = record(**GROUP_FIELDS, name=_NAME, networks=map_of(NETWORK, 50), volumes=map_of(VOLUME, 200))


def problems(extension: Any, path: str, group: bool = False) -> list[Problem]:
    """All that is wrong with an `x-clos`, of a service or of the whole project."""
    if extension is None:
        return []
    return [Problem(each.path, each.text) for each in (_GROUP if group else _SERVICE)(extension, path)]


def of(holder: Mapping[str, Any]) -> dict[str, Any]:
    """The `x-clos` of a service or a project; empty if it has none, or a wrong one."""
    found = holder.get("x-clos")
    return dict(found) if isinstance(found, Mapping) else {}


def well_formed(holder: Mapping[str, Any], group: bool = False) -> dict[str, Any]:
    """What of the `x-clos` of a service or a project can be carried out: `problems` names each key that is missing."""
    return {key: value for key, value in of(holder).items() if not problems({key: value}, "x-clos", group)}
