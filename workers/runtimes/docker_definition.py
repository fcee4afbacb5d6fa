"""A container as the definition of a service: what an inspect shows of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.runtimes.docker_names import Marks

# What has no field here, with what it is where nobody said anything.
_ALSO: Mapping[str, tuple[Any, ...]] = {
    "Privileged": (None, False),
    "CapAdd": (None, []),
    "CapDrop": (None, []),
    "Devices": (None, []),
    "DeviceRequests": (None, []),
    "SecurityOpt": (None, []),
    "Tmpfs": (None, {}),
    "Ulimits": (None, []),
    "Sysctls": (None, {}),
    "ExtraHosts": (None, []),
    "GroupAdd": (None, []),
    "PidMode": (None, ""),
    "UTSMode": (None, ""),
    "UsernsMode": (None, ""),
    "ReadonlyRootfs": (None, False),
    "VolumesFrom": (None, []),
    "Links": (None, []),
}


def definition_of(inspected: Mapping[str, Any], image: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    """The fields of a service that would make this container, and `unread`: what they do not say.

    What the image says itself (environment, command, labels) is left out.
    """
    config, host = inspected.get("Config") or {}, inspected.get("HostConfig") or {}
    own = image.get("Config") or {}
    ports, unread = _ports(host)
    labels = config.get("Labels") or {}
    fields: dict[str, Any] = {
        "runtime": "docker",
        "image": config.get("Image"),
        "environment": _environment(config.get("Env") or (), own.get("Env") or ()),
        "ports": ports,
        "volumes": list(host.get("Binds") or ()),
        "labels": {
            key: value
            for key, value in labels.items()
            if not key.startswith(f"{marks.prefix}.") and (own.get("Labels") or {}).get(key) != value
        },
    }
    if config.get("Cmd") and config.get("Cmd") != own.get("Cmd"):
        fields["command"] = list(config["Cmd"])
    if config.get("WorkingDir") and config["WorkingDir"] != own.get("WorkingDir"):
        fields["working_dir"] = config["WorkingDir"]
    if config.get("User") and config["User"] != own.get("User"):
        fields["user"] = config["User"]
    if host.get("NanoCpus"):
        fields["cpu_limit"] = host["NanoCpus"] / 1_000_000_000
    if host.get("Memory"):
        fields["memory_limit"] = host["Memory"] // (1024 * 1024)
    if host.get("NetworkMode") in ("host", "none"):
        fields["network_mode"] = host["NetworkMode"]
    unread += [f"HostConfig.{key}" for key, plain in _ALSO.items() if host.get(key) not in plain]
    if config.get("Entrypoint") and config["Entrypoint"] != own.get("Entrypoint"):
        unread.append("Config.Entrypoint")
    return {key: value for key, value in fields.items() if value not in (None, [], {})} | {"unread": unread}


def _environment(env: Sequence[str], of_image: Sequence[str]) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in env if entry not in of_image and "=" in entry)


def _ports(host: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    ports, unread = [], []
    for inside, bound in sorted((host.get("PortBindings") or {}).items()):
        number, _, protocol = inside.partition("/")
        for one in bound or ():
            if not str(one.get("HostPort") or "").isdigit():
                unread.append(f"HostConfig.PortBindings[{inside}]")
                continue
            port = {"container_port": int(number), "host_port": int(one["HostPort"]), "protocol": protocol or "tcp"}
            ports.append(port | ({"host_ip": one["HostIp"]} if one.get("HostIp") else {}))
    return ports, unread
