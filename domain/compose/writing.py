"""A group as a Compose project, in the long forms that Compose prints; `x-clos` has what Compose has no word for.

Reading what is written here gives the group again. Secrets' values are left out; their names stand in `x-clos`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from domain.compose import extension, mounts, numbers, ports
from domain.compose.difference import canonical
from domain.compose.services import ServiceReader

_CONDITIONS = {
    "started": "service_started", "healthy": "service_healthy", "completed": "service_completed_successfully",
}  # fmt: skip
_PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
# Said in the same words by both.
_SAME = ("image", "build", "command", "working_dir", "user", "environment", "labels")
# Whose keys are anybody's, and which Compose reads as a list of KEY=VALUE as well.
_FREE = ("environment", "labels", "annotations", "args")
_EMPTY: tuple[Any, ...] = (None, {}, [], ())
_OF_A_PROCESS = ("command", "working_dir", "user", "environment", "labels")
Body = Mapping[str, Any]


def written(group: Body, secrets: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """The project that a group is. `group` is a body of `POST /groups`, `secrets` the names of each service's."""
    name = str(group["name"])
    project = {"name": name if _PROJECT_NAME.fullmatch(name) else re.sub(r"[^a-z0-9_-]", "-", f"g{name}".lower())}
    model: dict[str, Any] = project | {"services": {}}
    for service in group.get("services") or ():
        files = _Files(service)
        names = (secrets or {}).get(service["name"]) or list(service.get("secrets") or {})
        model["services"][service["name"]] = _service(service, files, sorted(set(names) - files.variables), model)
        for kind, definitions in files.definitions.items():
            model.setdefault(kind, {}).update(definitions)
    own = {key: group[key] for key in extension.GROUP_FIELDS if group.get(key) not in _EMPTY}
    for kind in ("networks", "volumes"):
        used = _used(kind, model)
        if each := _definitions(kind, group, used):
            model[kind] = each
        # What no service uses is left out by Compose.
        if unused := {key: each or {} for key, each in (group.get(kind) or {}).items() if key not in used}:
            own[kind] = unused
    if model["name"] != name:
        own["name"] = name
    found: dict[str, Any] = escaped(_own_keys_in_lists(model) | ({"x-clos": own} if own else {}))
    return found


def _own_keys_in_lists(model: Body) -> dict[str, Any]:
    """The model with its free mappings as `KEY=VALUE` where a key begins with `x-`: in a mapping Compose takes such a
    key for an extension of its own, wherever that stands."""
    found = dict(model)
    for kind in ("services", "networks", "volumes"):
        if kind in found:
            found[kind] = {name: _in_lists(each) for name, each in found[kind].items()}
    return found


def _in_lists(definition: Body | None) -> dict[str, Any]:
    found = dict(definition or {})
    if "build" in found:
        found["build"] = _in_lists(found["build"])
    for key in _FREE:
        each = found.get(key)
        if isinstance(each, Mapping) and any(str(name).startswith("x-") for name in each):
            found[key] = [name if value is None else f"{name}={value}" for name, value in each.items()]
    return found


def escaped(value: Any) -> Any:
    """A value with every `$` written `$$`, so that Compose takes it for itself."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: escaped(inner) for key, inner in value.items()}
    return [escaped(inner) for inner in value] if isinstance(value, list | tuple) else value


class _Files:
    """The secrets and configs of one service, as Compose defines them: once for the project."""

    def __init__(self, service: Body) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}
        self.references: dict[str, list[dict[str, Any]]] = {}
        self.variables: set[str] = set()
        for kind in ("secrets", "configs"):
            for each in (service.get("container") or {}).get(kind) or ():
                self._take(kind, each)

    def _take(self, kind: str, each: Body) -> None:
        comes_from = {key: each[key] for key in ("file", "content", "environment") if each.get(key) is not None}
        if "environment" in comes_from:
            self.variables.add(str(comes_from["environment"]))
        self.definitions.setdefault(kind, {})[each["source"]] = comes_from
        reference = {key: value for key, value in each.items() if key not in comes_from}
        self.references.setdefault(kind, []).append(reference)


def _service(service: Body, files: _Files, secrets: list[str], model: Body) -> dict[str, Any]:
    docker = service.get("runtime", "docker") == "docker"
    found: dict[str, Any] = dict(service.get("container") or {}) if docker else {}
    found.pop("networks", None)
    found |= {key: service[key] for key in (_SAME if docker else _OF_A_PROCESS) if service.get(key) not in _EMPTY}
    found |= files.references
    if docker:
        found |= _of_a_container(service)
    found["restart"] = service.get("restart_policy") or "unless-stopped"
    found["stop_grace_period"] = numbers.duration(float(service.get("stop_timeout") or 30))
    found["ports"] = list(ports.written(service.get("ports") or []))
    needs = [{"service": each} if isinstance(each, str) else each for each in service.get("depends_on") or ()]
    found["depends_on"] = {each["service"]: _need(each) for each in needs if "/" not in each["service"]}
    own: dict[str, Any] = {} if docker else {"runtime": service["runtime"]}
    if elsewhere := [each for each in needs if "/" in each["service"]]:
        own["depends_on"] = elsewhere
    if secrets:
        own["secrets"] = secrets
    found = {key: value for key, value in found.items() if value not in _EMPTY}
    own |= _what_is_left(service, found | {"x-clos": own}, model)
    return found | ({"x-clos": own} if own else {})


def _need(each: Body) -> dict[str, Any]:
    needed = {"condition": _CONDITIONS[each.get("condition") or "started"], "required": each.get("required", True)}
    return needed | ({"restart": True} if each.get("restart") else {})


def _of_a_container(service: Body) -> dict[str, Any]:
    found: dict[str, Any] = {}
    long = (service.get("container") or {}).get("volumes") or []
    found["volumes"] = [*map(mounts.mount, service.get("volumes") or ()), *long]
    found["dns"] = service.get("dns_servers")
    if service.get("cpu_limit"):
        found["cpus"] = service["cpu_limit"]
    if service.get("memory_limit"):
        found["mem_limit"] = str(service["memory_limit"] * numbers.MB)
    mode = service.get("network_mode") or "bridge"
    if mode != "bridge":
        return found | {"network_mode": "bridge" if mode == "default" else mode}
    return found | {"networks": networks_of(service)}


def networks_of(service: Body) -> dict[str, Any]:
    """The networks of a container service by their names, with its options in each."""
    attached = (service.get("container") or {}).get("networks")
    named = dict.fromkeys(service.get("networks") or ())
    return {"default": None, **named} if attached is None else {**named, **attached}


def _what_is_left(service: Body, found: Body, model: Body) -> dict[str, Any]:
    """The fields that reading this again would not give: what Compose has no word for."""
    wanted = canonical(service)
    read = canonical(ServiceReader(str(service["name"]), found, model, {}).body)
    return {key: service.get(key) for key in extension.SERVICE_FIELDS if read.get(key) != wanted.get(key)}


def _used(kind: str, model: Body) -> set[str]:
    used: set[str] = set()
    for service in model["services"].values():
        if kind == "networks":
            used |= set(service.get("networks") or ())
        else:
            used |= {each["source"] for each in service.get("volumes") or () if _is_named(each)}
    return used


def _definitions(kind: str, group: Body, used: set[str]) -> dict[str, Any]:
    """The group's definitions, and an entry for each that a service names and nobody defines."""
    known = {key: each for key, each in (group.get(kind) or {}).items() if key in used}
    defined = {key: _named(kind, str(key), each or {}) for key, each in known.items()}
    implicit = {"x-clos": {"implicit": True}}
    return defined | {
        name: {"name": name} | implicit
        for name in sorted(used - set(defined))
        if (kind, name) != ("networks", "default")
    }


def _named(kind: str, key: str, definition: Body) -> dict[str, Any]:
    # CLOS keeps a volume under the name that it has in the group, Compose under one with its project in front.
    found = {name: value for name, value in definition.items() if value not in _EMPTY}
    return {"name": key, **found} if kind == "volumes" else found


def _is_named(mount: Body) -> bool:
    return mount["type"] == "volume" and bool(mount.get("source"))
