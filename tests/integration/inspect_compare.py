"""Two `docker inspect` results as one: what differs between what CLOS started and what the real Compose started.

Left out is what cannot be equal, or is agreed to differ: ids, times and paths of the engine, names of containers,
networks and built images, labels of CLOS and Compose, addresses that the engine chose, host addresses and host ports,
and restart policies (CLOS restarts by itself).

    differences(Side(ours, names={"clos-shop": "default"}), Side(theirs, names={"shop_default": "default"}))
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_OWN_LABELS = ("clos.", "com.docker.compose.", "desktop.docker.io/")
_ID = re.compile(r"[0-9a-f]{64}")
_KEPT = ("Args", "Path", "Platform", "Driver", "AppArmorProfile", "MountLabel", "ProcessLabel")
# What the engine does where nothing is said.
_ENGINES_STOP_S = 10


@dataclass(frozen=True)
class Side:
    """One of the two: what was inspected, and what its engine's names of networks and volumes mean.

    `names` maps them to what the definition calls them; `built`: its image's name is the builder's choice.
    """

    inspected: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    built: bool = False

    def name(self, text: str) -> str:
        """What the definition calls it. What only the engine named is `*`."""
        return "*" if _ID.fullmatch(text) else self.names.get(text, text)


def differences(ours: Side, theirs: Side) -> list[str]:
    """Every difference, one line each, by path; none, if they are equal."""
    return sorted(_differences("", normalised(ours), normalised(theirs)))


def normalised(side: Side) -> dict[str, Any]:
    """What counts of an inspected container."""
    inspected = side.inspected
    kept: dict[str, Any] = {name: inspected.get(name) for name in _KEPT}
    kept["Config"] = _config(side)
    kept["HostConfig"] = _host_config(side)
    kept["Mounts"] = {each["Destination"]: _mount(side, each) for each in inspected.get("Mounts") or ()}
    settings = inspected.get("NetworkSettings") or {}
    networks = settings.get("Networks") or {}
    kept["NetworkSettings"] = {
        "Networks": {side.name(name): _endpoint(side, each) for name, each in networks.items()},
        "Ports": sorted(settings.get("Ports") or ()),
    }
    return dict(_without_empty(kept))


def _config(side: Side) -> dict[str, Any]:
    config = dict(side.inspected["Config"])
    labels = config.get("Labels") or {}
    config["Labels"] = {name: value for name, value in labels.items() if not name.startswith(_OWN_LABELS)}
    config["Env"] = sorted(config.get("Env") or ())
    config["StopTimeout"] = config.get("StopTimeout") or _ENGINES_STOP_S
    # Its own short id, or that of the container whose network it has.
    if re.fullmatch(r"[0-9a-f]{12}", config.get("Hostname") or ""):
        config["Hostname"] = "*"
    if side.built:
        config["Image"] = "*"
    return config


def _host_config(side: Side) -> dict[str, Any]:
    host = dict(side.inspected["HostConfig"])
    del host["RestartPolicy"]
    for mode in ("NetworkMode", "PidMode", "IpcMode", "UTSMode"):
        host[mode] = _mode(side, host.get(mode) or "")
    host["PortBindings"] = {port: len(bound or ()) for port, bound in (host.get("PortBindings") or {}).items()}
    host["Binds"] = sorted(_bind(side, each) for each in host.get("Binds") or ())
    host["Mounts"] = {each["Target"]: _wanted_mount(side, each) for each in host.get("Mounts") or ()}
    host["Links"] = _links(host.get("Links") or ())
    # The first part is another container's id or name.
    host["VolumesFrom"] = sorted(re.sub(r"^[^:]+", "*", each) for each in host.get("VolumesFrom") or ())
    for unordered in ("CapAdd", "CapDrop", "ExtraHosts", "SecurityOpt", "GroupAdd", "MaskedPaths", "ReadonlyPaths"):
        host[unordered] = sorted(host.get(unordered) or ())
    for named, key in (("Ulimits", "Name"), ("Devices", "PathInContainer")):
        host[named] = {each[key]: each for each in host.get(named) or ()}
    return host


def _links(links: Iterable[str]) -> list[str]:
    """The aliases: Compose adds its containers' own names (`shop-db-1`, `db-1`), CLOS has no such."""
    found = {each.replace(":", "/").rpartition("/")[2] for each in links}
    return sorted(each for each in found if not re.search(r"-\d+$", each))


def _mode(side: Side, mode: str) -> str:
    # The engine keeps a network's id where it was given one. What never ran has no ids of networks yet.
    networks = (side.inspected.get("NetworkSettings") or {}).get("Networks") or {}
    if _ID.fullmatch(mode) and networks:
        mode = next((name for name, each in networks.items() if each.get("NetworkID") == mode), next(iter(networks)))
    return "container:*" if mode.startswith("container:") else side.name(mode)


def _bind(side: Side, bind: str) -> str:
    source, _, rest = bind.partition(":")
    return f"{side.name(source)}:{rest}"


def _wanted_mount(side: Side, mount: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(mount)
    if mount.get("Type") == "volume" and mount.get("Source"):
        shown["Source"] = side.name(mount["Source"])
    return shown


def _mount(side: Side, mount: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(mount)
    if mount.get("Type") == "volume":
        shown["Name"], shown["Source"] = side.name(mount["Name"]), "*"
    return shown


def _endpoint(side: Side, endpoint: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {name: endpoint.get(name) for name in ("IPAMConfig", "DriverOpts", "GwPriority")}
    shown["Links"] = _links(endpoint.get("Links") or ())
    fixed = endpoint.get("IPAMConfig") or {}
    if fixed.get("IPv4Address"):
        shown["IPAddress"] = endpoint.get("IPAddress")
    if fixed.get("IPv6Address"):
        shown["GlobalIPv6Address"] = endpoint.get("GlobalIPv6Address")
    # The engine makes its own of a chosen address; others begin otherwise.
    if side.inspected["Config"].get("MacAddress"):
        shown["MacAddress"] = endpoint.get("MacAddress")
    own = {side.inspected["Id"][:12], side.inspected["Name"].lstrip("/"), *_composes_own(side)}
    # Names with a dot are those by which CLOS lets other groups find a service (ADR 22).
    shown["Aliases"] = sorted({each for each in endpoint.get("Aliases") or () if "." not in each} - own)
    return shown


def _composes_own(side: Side) -> set[str]:
    """Compose's `project-service-1`, an alias as well as the container's name."""
    labels = side.inspected["Config"].get("Labels") or {}
    project, service = labels.get("com.docker.compose.project"), labels.get("com.docker.compose.service")
    number = labels.get("com.docker.compose.container-number", "1")
    return {f"{project}-{service}-{number}"} if project else set()


def _without_empty(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The engine writes nothing as null, as empty, or not at all, by the version of who asked."""
    for name, each in value.items():
        shown = dict(_without_empty(each)) if isinstance(each, Mapping) else each
        if shown not in (None, "", [], {}):
            yield name, shown


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in sorted({*ours, *theirs}):
            yield from _differences(f"{path}.{name}".lstrip("."), ours.get(name), theirs.get(name))
    elif ours != theirs:
        yield f"{path}: ours {ours!r}, theirs {theirs!r}"
