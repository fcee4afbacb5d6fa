"""Which networks a service joins, by the names under which CLOS keeps them. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from domain.container import DEFAULT_NETWORK, networks_named
from domain.errors import StartFailed
from domain.specs import ServiceSpec
from workers.runtimes.docker_names import slug

# What a definition says of who it is, not of what it is like.
_NOT_LIKE = ("name", "external", "labels")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A network that a service joins.

    `key` is its name in the group, None where the service only looks for another group's services in it. `owned`: the
    name is CLOS's choice, so that a stranger's network of that name is not the one that is meant.
    """

    group: str
    key: str | None
    definition: Mapping[str, Any]
    owned: bool = False

    @property
    def external(self) -> bool:
        """Whether somebody else makes it."""
        return bool(self.definition.get("external"))

    def fingerprint(self) -> str:
        """What it is like, so that a change is seen; empty if nothing was said."""
        like = {key: value for key, value in self.definition.items() if key not in _NOT_LIKE and value not in _NOTHING}
        like = {key: value for key, value in like.items() if not (key == "driver" and value == "bridge")}
        return hashlib.sha256(json.dumps(like, sort_keys=True).encode()).hexdigest()[:16] if like else ""


_NOTHING: tuple[Any, ...] = (None, False, "", {}, [])


def names_of(spec: ServiceSpec) -> list[str]:
    """The logical networks of a service, its own first; none where it has the host's, another container's, or none."""
    return list(wanted(spec))


def only_joined(spec: ServiceSpec) -> set[str]:
    """Those in which it only looks for others: it has no name there, since the group has names of its own."""
    return set(names_of(spec)) - set(names_of(replace(spec, joins=())))


def wanted(spec: ServiceSpec) -> dict[str, Wanted]:
    """What a service joins, by logical name: its group's or what it prefers first, those of groups that it refers to
    last.

    Raises:
        StartFailed: its network mode is none that there is.
    """
    if spec.network_mode in ("host", "none", "default") or spec.network_mode.startswith(("service:", "container:")):
        return {}
    if spec.network_mode != "bridge":
        raise StartFailed(
            f"network_mode {spec.network_mode!r} of {spec.id} is not supported",
            hint="use bridge, host, none, default, service:<name> or container:<name>, and `networks` to join networks",
        )
    found: dict[str, Wanted] = {}
    for key in networks_named(spec.container, spec.networks):
        name, network = _own(spec, key)
        found.setdefault(name, network)
    for group, network_name in spec.joins:
        found.setdefault(_of_group(group, network_name), Wanted(group, None, {}, owned=not network_name))
    return found


def _own(spec: ServiceSpec, key: str) -> tuple[str, Wanted]:
    definition = (spec.definitions.get("networks") or {}).get(key)
    if key == DEFAULT_NETWORK:
        return _of_group(spec.group, spec.network_name), Wanted(
            spec.group, key, definition or {}, owned=not spec.network_name
        )
    if definition is None:
        return slug(key), Wanted(spec.group, key, {})
    if definition.get("name") or definition.get("external"):
        return slug(definition.get("name") or key), Wanted(spec.group, key, definition)
    return f"{_of_group(spec.group, '')}_{slug(key)}", Wanted(spec.group, key, definition, owned=True)


def _of_group(group: str, network_name: str) -> str:
    return slug(network_name) if network_name else f"clos-{slug(group)}"
