"""What a new reading of a Compose file changes in a group, told apart from what was changed by hand since.

Three states are compared field by field: the *base* (what the file said when it was imported last), what the file says
now, and what the record has. Where both changed, the file wins, and the difference says so.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

GROUP_FIELDS = (
    "description", "project", "dependencies", "start_order", "network_name", "restart_policy", "conflicts",
    "reconcile", "networks", "volumes", "directory",
)  # fmt: skip
_SERVICE_DEFAULTS: dict[str, Any] = {
    "runtime": "docker", "image": None, "build": None, "command": None, "working_dir": None, "user": None,
    "environment": {}, "secrets": {}, "volumes": [], "networks": [], "network_mode": "bridge", "dns_servers": [],
    "labels": {}, "restart_policy": "unless-stopped", "restart_by": "clos", "cpu_limit": None, "memory_limit": None,
    "stop_timeout": 30.0, "ports": [], "depends_on": [], "health_check": None, "tags": [], "description": None,
    "version": None, "owner": None, "container": {},
}  # fmt: skip
SERVICE_FIELDS = tuple(_SERVICE_DEFAULTS)
_GROUP_DEFAULTS: dict[str, Any] = {
    "project": "development", "dependencies": [], "start_order": 0, "networks": {}, "volumes": {},
}  # fmt: skip
_CHECK_DEFAULTS: dict[str, Any] = {
    "enabled": True, "type": None, "url": None, "port": None, "test": None, "interval": 30.0, "timeout": 10.0,
    "retries": 3, "start_period": 30.0, "expected_status": 200,
}  # fmt: skip
_EMPTY: tuple[Any, ...] = (None, {}, [], ())
Body = Mapping[str, Any]


class By(StrEnum):
    """Who changed a field since the last import."""

    FILE = "file"
    HAND = "hand"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs. `service` is None for the group's own; `taken` whose value it has from now on."""

    service: str | None
    field: str
    by: By
    base: Any
    file: Any
    record: Any

    @property
    def taken(self) -> str:
        """Whose value stays: what was only changed by hand is kept."""
        return "record" if self.by is By.HAND else "file"

    def as_dict(self) -> dict[str, Any]:
        """As JSON. Secrets are named, their values are not."""
        shown: dict[str, Any] = {"service": self.service, "field": self.field, "by": self.by.value, "taken": self.taken}
        if self.field == "secrets":
            return shown | {"names": sorted({*(self.base or ()), *(self.file or ()), *(self.record or ())})}
        return shown | {"base": self.base, "file": self.file, "record": self.record}


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs. `added` and `removed` are services; `gone` ones that were removed by hand and stay in the file."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    gone: tuple[str, ...] = ()

    def fields_of(self, service: str | None) -> list[str]:
        """The fields that the file changes of a service, or of the group."""
        return [each.field for each in self.changes if each.service == service and each.by is not By.HAND]

    def changed(self) -> list[str]:
        """The services of which the file changes something."""
        return sorted({each.service for each in self.changes if each.service and each.by is not By.HAND})

    def is_empty(self) -> bool:
        """Whether the file brings nothing new."""
        return not (self.added or self.removed or self.gone or any(each.by is not By.HAND for each in self.changes))

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "added_again": list(self.gone),
            "changed": [each.as_dict() for each in self.changes],
        }


def canonical(service: Body) -> dict[str, Any]:
    """A service's definition with every field in one form, so that two ways to say the same are equal."""
    found = {field: service.get(field, default) for field, default in _SERVICE_DEFAULTS.items()}
    for field, default in _SERVICE_DEFAULTS.items():
        if found[field] in _EMPTY:
            found[field] = default
    # One without a value is whatever the record has: the file only says that it is a secret.
    secrets = service.get("secrets") or {}
    found["secrets"] = {key: None if value is None else _digest(value) for key, value in secrets.items()}
    found["ports"] = [_port(each, found["runtime"]) for each in found["ports"]]
    found["depends_on"] = sorted((_dependency(each) for each in found["depends_on"]), key=lambda each: each["service"])
    for field in ("networks", "tags"):
        found[field] = sorted(set(found[field]))
    if (attached := found["container"].get("networks")) is not None:
        # It says all of them, with their options.
        found["container"] = {**found["container"], "networks": {**dict.fromkeys(found["networks"]), **attached}}
        found["networks"] = []
    for field in ("cpu_limit", "stop_timeout"):
        found[field] = None if found[field] is None else float(found[field])
    found["health_check"] = _health_check(service)
    found["container"] = {key: value for key, value in found["container"].items() if value not in _EMPTY}
    return found


def canonical_group(body: Body) -> dict[str, Any]:
    """A group's own fields in one form."""
    found = {field: body.get(field) for field in GROUP_FIELDS}
    for kind in ("networks", "volumes"):
        found[kind] = {key: _definition(key, each or {}) for key, each in (found[kind] or {}).items()}
    return {field: _GROUP_DEFAULTS.get(field) if value in _EMPTY else value for field, value in found.items()}


def _definition(key: str, definition: Body) -> dict[str, Any]:
    found = {name: value for name, value in definition.items() if value not in (*_EMPTY, False)}
    if found.get("name") == key:
        del found["name"]
    return found


def snapshot(body: Body) -> dict[str, Any]:
    """A whole group in the form in which it is kept as a base: `{"group": …, "services": {name: …}}`."""
    return {
        "group": canonical_group(body),
        "services": {each["name"]: canonical(each) for each in body.get("services") or ()},
    }


def _digest(value: str) -> str:
    # Enough to tell a change; the value itself is kept with the service alone.
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def _port(port: Body, runtime: str) -> dict[str, Any]:
    host_port = port.get("host_port")
    return {
        "name": port.get("name") or "",
        "host_ip": port.get("host_ip") or "127.0.0.1",
        "host_port": host_port,
        "container_port": port.get("container_port") or (host_port if runtime == "docker" else None),
        "protocol": port.get("protocol") or "tcp",
    }


def _dependency(each: Any) -> dict[str, Any]:
    given = {"service": each} if isinstance(each, str) else each
    found = {
        "service": given["service"],
        "condition": given.get("condition") or "started",
        "required": given.get("required", True),
    }
    return found | ({"restart": True} if given.get("restart") else {})


def _health_check(service: Body) -> dict[str, Any] | None:
    given = service.get("health_check")
    if service.get("health_url"):
        given = {"url": service["health_url"], **(given or {})}
    if not given:
        return None
    found = {key: default if given.get(key) is None else given[key] for key, default in _CHECK_DEFAULTS.items()}
    if found["type"] is None:
        kinds = (("url", "http"), ("port", "tcp"), ("test", "exec"))
        found["type"] = next((kind for key, kind in kinds if given.get(key)), None)
    return found


def compare(base: Body, file: Body, record: Body) -> Difference:
    """What differs between three snapshots."""
    old, new, now = base["services"], file["services"], record["services"]
    changes = list(_changes(None, base["group"], file["group"], record["group"], GROUP_FIELDS))
    for name in sorted(set(new) & set(now)):
        changes += _changes(name, old.get(name) or now[name], new[name], now[name], SERVICE_FIELDS)
    return Difference(
        added=tuple(sorted(set(new) - set(now) - set(old))),
        removed=tuple(sorted((set(old) - set(new)) & set(now))),
        changes=tuple(changes),
        gone=tuple(sorted((set(new) & set(old)) - set(now))),
    )


def _changes(service: str | None, base: Body, file: Body, record: Body, fields: Collection[str]) -> Iterator[Change]:
    for field in fields:
        was, wanted, current = base.get(field), file.get(field), record.get(field)
        if field == "secrets":
            was, wanted = _with_values(was, current), _with_values(wanted, current)
        if field == "ports":
            current = _without_leases(was, current)
            current = _without_leases(wanted, current)
        by_file, by_hand = wanted != was, current != was
        if wanted == current or not (by_file or by_hand):
            continue
        by = By.BOTH if by_file and by_hand else By.FILE if by_file else By.HAND
        yield Change(service, field, by, was, wanted, current)


def _with_values(said: Any, current: Any) -> Any:
    return {key: (current or {}).get(key) if value is None else value for key, value in (said or {}).items()}


def _without_leases(said: Any, current: Any) -> Any:
    """The record's ports with those left open again that the file leaves open: what they lease is no change."""
    left_open = {(port["name"], port["protocol"]): port for port in said or () if port["host_port"] is None}
    return [_opened(port, left_open.get((port["name"], port["protocol"]))) for port in current or ()]


def _opened(port: Body, said: Body | None) -> dict[str, Any]:
    if said is None:
        return dict(port)
    # Where nothing is said of the container's own port, it is the one that was leased.
    inside = None if port["container_port"] == port["host_port"] else port["container_port"]
    return {**port, "host_port": None} | ({"container_port": inside} if said["container_port"] is None else {})
