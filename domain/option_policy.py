"""Which options of networks, volumes and logs are harmless. The rest steers the engine itself, which runs as root.

Allow-lists, since drivers have more options than anybody knows: one names an interface of the host, and the engine
takes that over, address and rules (`com.docker.network.bridge.name: docker0`); the local volume driver hands its
options to mount(2), so `overlay` with a `lowerdir` is a bind mount of any folder.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

_BRIDGE = "com.docker.network.bridge."
_NETWORK_OPTIONS = frozenset(
    {
        "com.docker.network.driver.mtu",
        "com.docker.network.container_iface_prefix",
        f"{_BRIDGE}enable_icc",
        f"{_BRIDGE}enable_ip_masquerade",
        f"{_BRIDGE}host_binding_ipv4",
        f"{_BRIDGE}inhibit_ipv4",
    }
)
# What goes to files that the engine keeps for the container, or nowhere. Others dial out, also over the host's sockets.
LOG_DRIVERS = frozenset({"json-file", "local", "none", "journald"})
_BIND_WORDS = frozenset(
    {"bind", "rbind", "ro", "rw", "private", "rprivate", "slave", "rslave", "noatime", "nodev", "noexec", "nosuid"}
)
_TMPFS_WORDS = frozenset(
    {"size", "uid", "gid", "mode", "nr_inodes", "ro", "rw", "noatime", "nodev", "noexec", "nosuid"}
)

Found = Iterator[tuple[str, str, str]]


def of_network(name: str, definition: Mapping[str, Any], allowed: Collection[str]) -> Found:
    """Options of a network that reach beyond it: where, why, and the key that allows them."""
    for option, value in (definition.get("driver_opts") or {}).items():
        if option in _NETWORK_OPTIONS or option in allowed:
            continue
        reason = f"the option {option} ({str(value)[:40]}) may take over what the host has of its own"
        yield f"networks.{name}.driver_opts.{option}", reason, "network_options"


def of_volume(name: str, definition: Mapping[str, Any], allowed: Collection[str]) -> Found:
    """Options of a local volume that mount something of the host which no path tells.

    A bind mount (`type: none`, `o: bind`) has its `device` checked like any other bind mount.
    """
    options = {str(key): str(value) for key, value in (definition.get("driver_opts") or {}).items()}
    kind = options.get("type", "")
    if not options or kind in allowed or (definition.get("driver") or "local") != "local":
        return
    path = f"volumes.{name}.driver_opts"
    words = {word.partition("=")[0].strip() for word in options.get("o", "").split(",")} - {""}
    if kind in ("", "none"):
        if "device" in options and not words & {"bind", "rbind"}:
            yield f"{path}.o", "only a bind mount has no type", "volume_types"
        known = _BIND_WORDS
    elif kind == "tmpfs":
        known = _TMPFS_WORDS
    else:
        yield f"{path}.type", f"mounting {kind} shows what is the host's own", "volume_types"
        return
    for word in sorted(words - known):
        yield f"{path}.o", f"the mount option {word} is none of the harmless ones", "volume_types"


def of_logging(logging: Mapping[str, Any], allowed: Collection[str]) -> Found:
    """A log driver that dials out."""
    driver = str(logging.get("driver") or "json-file")
    if driver not in LOG_DRIVERS and driver not in allowed:
        yield "container.logging.driver", f"the engine itself would dial for {driver}, as root", "log_drivers"
