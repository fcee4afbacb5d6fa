"""What a container finds in its file system, as the engine is told. Pure, and as Compose chooses it:

what a `bind` string can say is one (the engine makes a missing folder of the host), all else is a mount.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from domain.shapes import as_whole
from domain.specs import ServiceSpec

FOLDERS = {"secrets": "/run/secrets/", "configs": "/"}
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_PLAIN_BIND = {"create_host_path", "selinux"}


def mounts_of(spec: ServiceSpec, real: Mapping[str, str]) -> dict[str, Any]:
    """The parts of a host configuration that say what is mounted. `real` are the host's paths without links."""
    binds = [_short(spec, volume, real) for volume in spec.volumes if ":" in volume]
    mounts = []
    for each in spec.container.get("volumes") or ():
        if _is_bind(each):
            binds.append(_bind(spec, each, real))
        else:
            mounts.append(_mount(spec, each, real))
    taken = {mount["Target"] for mount in mounts} | {bind.split(":")[1] for bind in binds}
    mounts += [file for file in _files_of_the_host(spec, real) if file["Target"] not in taken]
    found: dict[str, Any] = {"Binds": binds}
    if mounts:
        found["Mounts"] = mounts
    if tmpfs := spec.container.get("tmpfs"):
        found["Tmpfs"] = {path: options for path, _, options in (each.partition(":") for each in tmpfs)}
    return found


def engine_volume(spec: ServiceSpec, name: str) -> str:
    """The engine's name of a volume: its definition's, or the one by which the service names it."""
    definition = (spec.definitions.get("volumes") or {}).get(name) or {}
    return str(definition.get("name") or name)


def _short(spec: ServiceSpec, volume: str, real: Mapping[str, str]) -> str:
    source, target, *mode = volume.split(":")
    source = real.get(source, source) if source.startswith("/") else engine_volume(spec, source)
    return f"{source}:{target}:{mode[0] if mode else 'rw'}"


def _is_bind(volume: Mapping[str, Any]) -> bool:
    options = {kind: _said(volume.get(kind)) for kind in ("bind", "volume", "tmpfs", "image")}
    if volume["type"] == "volume":
        return bool(volume.get("source")) and not options["volume"] and not volume.get("consistency")
    if volume["type"] != "bind":
        return False
    return options["bind"].keys() <= _PLAIN_BIND and options["bind"].get("create_host_path", True) is not False


def _said(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (options or {}).items() if value not in (None, "", False)} | {
        name: False for name, value in (options or {}).items() if name == "create_host_path" and value is False
    }


def _bind(spec: ServiceSpec, volume: Mapping[str, Any], real: Mapping[str, str]) -> str:
    given = volume["source"]
    source = real.get(given, given) if volume["type"] == "bind" else engine_volume(spec, given)
    mode = "ro" if volume.get("read_only") else "rw"
    label = (volume.get("bind") or {}).get("selinux")
    return f"{source}:{volume['target']}:{mode}" + (f",{label}" if label else "")


def _mount(spec: ServiceSpec, volume: Mapping[str, Any], real: Mapping[str, str]) -> dict[str, Any]:
    kind, source = volume["type"], volume.get("source")
    mount: dict[str, Any] = {"Type": kind, "Target": volume["target"]}
    if source:
        mount["Source"] = engine_volume(spec, source) if kind == "volume" else real.get(source, source)
    if volume.get("read_only"):
        mount["ReadOnly"] = True
    if volume.get("consistency"):
        mount["Consistency"] = volume["consistency"]
    options = _OPTIONS[kind](volume.get(kind) or {})
    return mount | options


def _bind_options(given: Mapping[str, Any]) -> dict[str, Any]:
    recursive = {"disabled": "NonRecursive", "writable": "ReadOnlyNonRecursive", "readonly": "ReadOnlyForceRecursive"}
    options: dict[str, Any] = {"CreateMountpoint": given.get("create_host_path", True) is not False}
    if given.get("propagation"):
        options["Propagation"] = given["propagation"]
    if given.get("recursive") in recursive:
        options[recursive[given["recursive"]]] = True
    return {"BindOptions": options}


def _volume_options(given: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if given.get("nocopy"):
        options["NoCopy"] = True
    if given.get("subpath"):
        options["Subpath"] = given["subpath"]
    if given.get("labels"):
        options["Labels"] = {name: str(value) for name, value in given["labels"].items()}
    return {"VolumeOptions": options}


def _tmpfs_options(given: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if size := as_whole(given.get("size")):
        options["SizeBytes"] = size
    if given.get("mode") is not None:
        options["Mode"] = mode_of(given["mode"])
    return {"TmpfsOptions": options} if given else {}


def _image_options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"ImageOptions": {"Subpath": given["subpath"]}} if given.get("subpath") else {}


_OPTIONS = {"bind": _bind_options, "volume": _volume_options, "tmpfs": _tmpfs_options, "image": _image_options}


def mode_of(mode: Any) -> int:
    """A mode as a number: Compose prints a file's in octal digits, a tmpfs's as a number."""
    return int(mode, 8) if isinstance(mode, str) else int(mode)


def _files_of_the_host(spec: ServiceSpec, real: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for kind in FOLDERS:
        for each in spec.container.get(kind) or ():
            if each.get("file") is not None:
                source = real.get(each["file"], each["file"])
                mount = {"Type": "bind", "Source": source, "Target": target_of(kind, each), "ReadOnly": True}
                # A secret's missing file is an error, a config's becomes a folder: Compose's own difference.
                yield mount | ({"BindOptions": {}} if kind == "secrets" else {})


def target_of(kind: str, file: Mapping[str, Any]) -> str:
    """Where a secret or a config stands in the container."""
    return posixpath.join(FOLDERS[kind], file.get("target") or file["source"])


def keep_anonymous(config: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Let a container that is to be made have the anonymous volumes of the one that it replaces, where it
    mounts nothing else; `before` is how the engine shows that one."""
    host = config["HostConfig"]
    binds = list(host.get("Binds") or ())
    taken = {bind.split(":")[1] for bind in binds if ":" in bind} | set(host.get("Tmpfs") or ())
    taken |= {mount.get("Target") for mount in host.get("Mounts") or ()}
    for mount in before.get("Mounts") or ():
        anonymous = mount.get("Type") == "volume" and _ANONYMOUS.fullmatch(str(mount.get("Name")))
        if anonymous and mount.get("Destination") not in taken:
            binds.append(f"{mount['Name']}:{mount['Destination']}")
    if binds:
        host["Binds"] = binds
