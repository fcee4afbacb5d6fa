"""What a container can be beside what every service is: the `container` field, under Compose's names.

Its values have the form in which `docker-compose config --format json` prints them: sizes are bytes (a number or its
digits), durations texts such as `1m30s`. Nothing that cannot be carried out is taken: each such key is refused with
the reason, as is one that the service has a field of its own for.

A file of `secrets` or `configs` comes from a file of the host (`file`), from text (`content`, configs only), or from
the service's own `secrets` or `environment` (`environment`: a key there, which then is no variable of the container).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from domain.container_shapes import FIELDS, KEYS, NETWORK, REFUSED, VOLUME
from domain.shapes import Problem, map_of, unknown

DEFAULT_NETWORK = "default"


def check(container: Any) -> list[Problem]:
    """All that is wrong with a `container` mapping; nothing, if it can be carried out."""
    if not isinstance(container, Mapping):
        return [Problem("container", "must be a mapping")]
    return [problem for key, value in container.items() for problem in _check_key(str(key), value)] or _together(
        container
    )


def _check_key(key: str, value: Any) -> Iterator[Problem]:
    path = f"container.{key}"
    if key in FIELDS:
        yield Problem(path, f"the service's own field is meant for it: {FIELDS[key]}")
    elif key in REFUSED:
        yield Problem(path, f"is not carried out: {REFUSED[key]}")
    elif key not in KEYS:
        yield unknown("container", key, {*KEYS, *FIELDS})
    elif value is not None:
        yield from KEYS[key](value, path)


def _together(container: Mapping[str, Any]) -> list[Problem]:
    """What no key shows on its own."""
    found = []
    for kind in ("secrets", "configs"):
        for place, each in enumerate(container.get(kind) or ()):
            path = f"container.{kind}[{place}]"
            given = [name for name in ("file", "content", "environment") if each.get(name) is not None]
            if len(given) != 1:
                found.append(Problem(path, "must say where it comes from: one of file, content, environment"))
            elif kind == "secrets" and given == ["content"]:
                found.append(Problem(f"{path}.content", "would be shown: name a key of `secrets` in `environment`"))
            elif given != ["file"] and container.get("read_only"):
                found.append(Problem(path, "cannot be written into a read_only container: take a file of the host"))
    for place, each in enumerate(container.get("volumes") or ()):
        if each["type"] in ("bind", "image", "npipe", "cluster") and not each.get("source"):
            found.append(Problem(f"container.volumes[{place}].source", "is missing"))
    return found


def check_networks(networks: Any) -> list[Problem]:
    """All that is wrong with a group's `networks`."""
    return list(map_of(NETWORK, 50)(networks, "networks")) + _externals("networks", networks)


def check_volumes(volumes: Any) -> list[Problem]:
    """All that is wrong with a group's `volumes`."""
    return list(map_of(VOLUME, 200)(volumes, "volumes")) + _externals("volumes", volumes)


def _externals(kind: str, definitions: Any) -> list[Problem]:
    """What is made by somebody else has a name and no further description."""
    if not isinstance(definitions, Mapping):
        return []
    allowed = {"external", "name"}
    return [
        Problem(f"{kind}.{name}.{key}", "cannot be said of what is external: only its name")
        for name, each in definitions.items()
        if isinstance(each, Mapping) and each.get("external") is True
        for key, value in each.items()
        if key not in allowed and value not in (None, {}, [], False)
    ]


def services_lived_in(container: Mapping[str, Any], network_mode: str = "") -> set[str]:
    """The services of its group of which a container has the network, the processes or the like (`service:x`): these
    are gone when that one's container stops."""
    modes = [network_mode, *(container.get(key) or "" for key in ("pid", "ipc", "uts"))]
    return {mode.partition(":")[2] for mode in modes if mode.startswith("service:")}


def services_named(container: Mapping[str, Any], network_mode: str = "") -> set[str]:
    """The services of its group that a container is attached to: by `service:x`, `links` and `volumes_from`."""
    named = services_lived_in(container, network_mode)
    named |= {link.partition(":")[0] for link in container.get("links") or ()}
    froms = (each for each in container.get("volumes_from") or () if not each.startswith("container:"))
    return named | {each.partition(":")[0] for each in froms}


def networks_named(container: Mapping[str, Any], networks: tuple[str, ...]) -> list[str]:
    """The names under which its group defines the networks that a service joins, the one that it prefers first.

    Where `container.networks` says which, its group's own is only joined if `default` is among them.
    """
    attached = container.get("networks")
    if attached is None:
        return [DEFAULT_NETWORK, *networks]
    named = {name: (attached.get(name) or {}).get("priority") or 0 for name in (*attached, *networks)}
    return sorted(named, key=lambda name: (-named[name], name))


def own_network(network_name: str | None, networks: Mapping[str, Any] | None) -> str:
    """The engine's name of a group's own network, where it has been given one: by its field or its definition."""
    defined = (networks or {}).get(DEFAULT_NETWORK) or {}
    return network_name or str(defined.get("name") or (DEFAULT_NETWORK if defined.get("external") else ""))


def capability(name: str) -> str:
    """A capability as the engine names it: `net_admin` is CAP_NET_ADMIN."""
    name = name.upper()
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def file_variables(container: Mapping[str, Any]) -> set[str]:
    """The keys of the service's environment and secrets that are files in the container, not variables."""
    files = [*(container.get("secrets") or ()), *(container.get("configs") or ())]
    return {each["environment"] for each in files if each.get("environment") is not None}
