"""How a container stands in its networks, as the engine is told. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain import reachability
from domain.specs import ServiceSpec
from workers.runtimes.docker_names import slug

_PREFIX = "container:"


@dataclass(frozen=True, slots=True)
class Joined:
    """One network of a container: the engine's id, the name that the group has for it, whether others find it there."""

    network_id: str
    name: str | None
    named: bool = True


def aliases(spec: ServiceSpec) -> list[str]:
    """The names under which the others in its network find it; the last one is no other group's either."""
    return [*sorted({spec.name, slug(spec.name)}), reachability.alias(spec.name, spec.group)]


def endpoint(spec: ServiceSpec, joined: Joined, attached: Mapping[str, str], *, first: bool) -> dict[str, Any]:
    """What the engine is told of one network. `attached` are the ids of other services' containers, by name."""
    given = ((spec.container.get("networks") or {}).get(joined.name) or {}) if joined.name else {}
    found: dict[str, Any] = {"Aliases": [*aliases(spec), *(given.get("aliases") or ())] if joined.named else []}
    fixed = {
        "IPv4Address": given.get("ipv4_address"),
        "IPv6Address": given.get("ipv6_address"),
        "LinkLocalIPs": given.get("link_local_ips"),
    }
    if given:
        found["IPAMConfig"] = {name: value for name, value in fixed.items() if value}
    # The container's own address is its first network's.
    mac = given.get("mac_address") or (spec.container.get("mac_address") if first else None)
    further = {"MacAddress": mac, "DriverOpts": given.get("driver_opts"), "GwPriority": given.get("gw_priority")}
    found |= {name: value for name, value in further.items() if value}
    if joined.named and (links := links_of(spec, attached)):
        found["Links"] = links
    return found


def links_of(spec: ServiceSpec, attached: Mapping[str, str]) -> list[str]:
    """Its links as `container:alias`."""
    found = []
    for link in spec.container.get("links") or ():
        service, _, alias = link.partition(":")
        found.append(f"{attached[service]}:{alias or service}")
    return found


def attached_text(attached: Mapping[str, str]) -> str:
    """On which containers one is made, as its label keeps it."""
    return ",".join(f"{name}={ref}" for name, ref in sorted(attached.items()))


def mode(given: str, attached: Mapping[str, str]) -> str:
    """A namespace's mode; `service:x` is that service's container."""
    kind, _, name = given.partition(":")
    return f"{_PREFIX}{attached[name]}" if kind == "service" else given


def volumes_from(given: Sequence[str], attached: Mapping[str, str]) -> list[str]:
    """Whose volumes are mounted as well: `db:ro` or `container:name`."""
    found = []
    for each in given:
        if each.startswith(_PREFIX):
            found.append(each.removeprefix(_PREFIX))
        else:
            service, colon, how = each.partition(":")
            found.append(f"{attached[service]}{colon}{how}")
    return found
