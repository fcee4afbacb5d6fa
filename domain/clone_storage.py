"""A clone's networks and volumes: its own ones, by names of its own, but for what is external.

Definitions are Compose's, normalised (`group.networks`, `group.volumes`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from domain.clone_paths import Directory
from domain.clone_remarks import Remarks

# The label by which a volume is known as a clone's own: what carries another value of it, or none, is not.
MARK = "clos.clone"
DEFAULT = "default"
_ADDRESSES = ("ipv4_address", "ipv6_address", "link_local_ips", "mac_address")
_BRIDGE_NAME = "com.docker.network.bridge.name"
Definitions = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Storage:
    """The definitions of a clone."""

    networks: Definitions
    volumes: Definitions


def of(
    group: Mapping[str, Any],
    services: Iterable[Mapping[str, Any]],
    clone: str,
    mark: str,
    directory: Directory | None,
    elsewhere: frozenset[str],
    remarks: Remarks,
) -> Storage:
    """What the clone's services need, defined for it alone."""
    members = list(services)
    networks = _networks(group, members, clone, elsewhere, remarks)
    return Storage(networks, _volumes(group, members, clone, mark, directory, remarks))


def _networks(
    group: Mapping[str, Any], services: list[Mapping[str, Any]], clone: str, elsewhere: frozenset[str], remarks: Remarks
) -> Definitions:
    defined: Mapping[str, Any] = group.get("networks") or {}
    named = {name for each in services for name in _networks_of(each)} - {DEFAULT}
    made: Definitions = {}
    for name in sorted({*defined, *named}):
        definition = dict(defined.get(name) or {})
        place = f"networks.{name}"
        if definition.get("external"):
            remarks.add(None, place, "it is external, so it is shared with the original")
            made[name] = definition
        elif name not in defined and name in elsewhere:
            remarks.add(None, place, "services of other groups are in it, so it is shared with the original")
        else:
            made[name] = _network(name, definition, clone, place, remarks)
    return made


def _network(name: str, definition: Definitions, clone: str, place: str, remarks: Remarks) -> Definitions:
    ipam = dict(definition.get("ipam") or {})
    if ipam.pop("config", None):
        remarks.add(None, f"{place}.ipam", "its fixed subnet is the original's: the clone's is the engine's choice")
    options = dict(definition.get("driver_opts") or {})
    if options.pop(_BRIDGE_NAME, None):
        remarks.add(None, f"{place}.driver_opts", f"{_BRIDGE_NAME} is the original's: the clone has none")
    kept = {key: value for key, value in definition.items() if key not in ("name", "ipam", "driver_opts")}
    kept |= {key: value for key, value in (("ipam", ipam), ("driver_opts", options)) if value}
    return kept if name == DEFAULT else kept | {"name": f"{clone}_{name}"}


def _networks_of(service: Mapping[str, Any]) -> Iterator[str]:
    yield from service.get("networks") or ()
    yield from (service.get("container") or {}).get("networks") or ()


def _volumes(
    group: Mapping[str, Any],
    services: list[Mapping[str, Any]],
    clone: str,
    mark: str,
    directory: Directory | None,
    remarks: Remarks,
) -> Definitions:
    defined: Mapping[str, Any] = group.get("volumes") or {}
    made: Definitions = {}
    for name in sorted({*defined, *(name for each in services for name in volumes_of(each))}):
        definition = dict(defined.get(name) or {})
        if definition.get("external"):
            remarks.add(None, f"volumes.{name}", "it is external, so it is shared with the original")
        else:
            labels = dict(definition.get("labels") or {}) | {MARK: mark}
            definition |= {"name": f"{clone}_{name}", "labels": labels}
            _place(definition, f"volumes.{name}", directory, remarks)
        made[name] = definition
    return made


def _place(definition: Definitions, place: str, directory: Directory | None, remarks: Remarks) -> None:
    """A volume of the local driver may be a folder or a share by another name."""
    options = definition.get("driver_opts") or {}
    device = str(options.get("device") or "")
    if not device:
        return
    if directory is not None and directory.holds(device):
        definition["driver_opts"] = {**options, "device": directory.path(device)}
    else:
        remarks.add(None, f"{place}.driver_opts", f"{device} is shared with the original")


def volumes_of(service: Mapping[str, Any]) -> Iterator[str]:
    """The names of the volumes that a service mounts."""
    for each in service.get("volumes") or ():
        source, colon, _ = str(each).partition(":")
        if colon and not source.startswith(("/", ".", "~")):
            yield source
    for mount in (service.get("container") or {}).get("volumes") or ():
        if mount.get("type") == "volume" and mount.get("source"):
            yield str(mount["source"])


def without_addresses(service: Mapping[str, Any], remarks: Remarks) -> Definitions:
    """`container` without the addresses that its original has in its networks."""
    container = service.get("container")
    if not container:
        return {}
    kept = {key: value for key, value in container.items() if key != "mac_address"}
    networks = {}
    for name, endpoint in (container.get("networks") or {}).items():
        lost = [key for key in _ADDRESSES if (endpoint or {}).get(key)]
        if lost:
            place = f"container.networks.{name}"
            remarks.add(str(service["name"]), place, f"{', '.join(lost)} is the original's: the clone has none")
        networks[name] = {key: value for key, value in (endpoint or {}).items() if key not in _ADDRESSES} or None
    if networks:
        kept["networks"] = networks
    if "mac_address" in container:
        remarks.add(str(service["name"]), "container.mac_address", "it is the original's: the clone has none")
    return {"container": kept}
