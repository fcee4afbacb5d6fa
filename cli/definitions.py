"""Files that define groups and services: YAML or JSON, read safely, with paths that count from the file."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cli.errors import USAGE, CliError

_MAX_BYTES = 256 * 1024
_MAX_DEPTH, _MAX_ALIASES, _MAX_NODES = 20, 50, 20_000
_LOCAL_PATH = re.compile(r"^(\.{1,2}|~)(/|$)")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars, so `22:22`, `no` and `2026-01-01` stay text, and no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: ARG002
        """As SafeLoader does, but a key may stand only once and is text."""
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key_node.value in seen:
                problem = f"{key_node.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        self.flatten_mapping(node)
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            found[str(key_node.value)] = self.construct_object(value_node, deep=True)
        return found


for _tag, _form, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|True|false|False", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,29})", list("-+0123456789")),
    ("float", r"[-+]?[0-9]+\.[0-9]*(?:e[-+]?[0-9]{1,3})?", list("-+0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), _first)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_group(name: str) -> dict[str, Any]:
    """The body of `POST /groups` from a file, or from stdin for `-`.

    Raises:
        CliError: it cannot be read, is no mapping, or a service or the directory in it is none (exit code 2).
    """
    body, folder = _read(name)
    services = body.get("services")
    if isinstance(services, Mapping):
        # As in a compose file, where a service's name is its key.
        services = [_named(key, value, name) for key, value in services.items()]
    if isinstance(services, list):
        body["services"] = [_from_file(one, folder) if isinstance(one, dict) else one for one in services]
    directory = body.get("directory")
    if not isinstance(directory, str | None):
        raise CliError(f"{_where(name)}: directory: must be a path, in quotes if it is a number", USAGE)
    # Where its paths count from: what a clone in a directory of its own has moved.
    body["directory"] = _absolute(directory or ".", folder)
    return _with_absolute(body, "compose_file", folder)


def _named(key: str, service: Any, file: str) -> dict[str, Any]:
    if not isinstance(service, Mapping | None):
        raise CliError(f"{_where(file)}: services.{key}: must be a mapping, such as {{image: nginx}}", USAGE)
    return {"name": key, **(service or {})}


def _where(name: str) -> str:
    return "stdin" if name == "-" else name


def read_service(name: str) -> dict[str, Any]:
    """The body of `POST /services` from a file, or from stdin for `-`.

    Raises:
        CliError: it cannot be read, or is no mapping (exit code 2).
    """
    body, folder = _read(name)
    return _from_file(body, folder)


def parse(text: str, where: str) -> Any:
    """What stands in a YAML or JSON text.

    Raises:
        CliError: it is not well formed, too large, too deep, or names a key twice (exit code 2).
    """
    try:
        if text.lstrip().startswith("{"):
            found = json.loads(text, object_pairs_hook=_once)
        else:
            _limit(text)
            found = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        _count(found, 0, 0)
        return found
    except yaml.MarkedYAMLError as broken:
        line = f":{broken.problem_mark.line + 1}" if broken.problem_mark else ""
        raise CliError(f"{where}{line}: not valid YAML: {broken.problem}", USAGE) from broken
    except (ValueError, RecursionError, yaml.YAMLError) as broken:
        raise CliError(f"{where}: {str(broken).splitlines()[0] if str(broken) else 'too deep'}", USAGE) from broken


def _read(name: str) -> tuple[dict[str, Any], Path]:
    where = _where(name)
    try:
        if name == "-":
            raw, folder = sys.stdin.buffer.read(_MAX_BYTES + 1), Path.cwd()
        else:
            file = Path(name).expanduser()
            with file.open("rb") as opened:
                raw, folder = opened.read(_MAX_BYTES + 1), file.absolute().parent
        if len(raw) > _MAX_BYTES:
            raise CliError(f"{where}: larger than {_MAX_BYTES // 1024} KiB", USAGE)
        found = parse(raw.decode("utf-8-sig"), where)
    except (OSError, UnicodeDecodeError) as unreadable:
        why = unreadable.strerror if isinstance(unreadable, OSError) else "not UTF-8"
        raise CliError(f"{where}: {why}", USAGE) from unreadable
    if not isinstance(found, dict):
        raise CliError(f"{where}: not a mapping of keys to values", USAGE)
    return found, folder


def _limit(text: str) -> None:
    depth = aliases = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        nodes += isinstance(event, yaml.NodeEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or aliases > _MAX_ALIASES or nodes > _MAX_NODES:
            line = event.start_mark.line + 1 if event.start_mark else "?"
            raise ValueError(f"line {line}: too deep, too large or too many aliases")


def _count(value: Any, depth: int, nodes: int) -> int:
    """How many values there are once every alias stands for itself.

    Raises:
        ValueError: too many, too deep, or it holds itself.
    """
    if depth > _MAX_DEPTH or nodes > _MAX_NODES:
        raise ValueError("too deep, too large or too many aliases")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        nodes = _count(one, depth + 1, nodes)
    return nodes + 1


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice!r} stands twice")
    return found


def _from_file(service: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A service's paths made absolute, and the plain values of its environment and command made text."""
    service = _with_absolute(service, "working_dir", folder)
    build = service.get("build")
    if isinstance(build, str):
        service["build"] = {"context": _absolute(build, folder)}
    elif isinstance(build, dict):
        service["build"] = _with_absolute(build, "context", folder)
    if isinstance(service.get("volumes"), list):
        service["volumes"] = [_volume(one, folder) for one in service["volumes"]]
    if isinstance(service.get("container"), dict):
        service["container"] = _container(service["container"], folder)
    if isinstance(service.get("command"), list):
        service["command"] = [_text(one) for one in service["command"]]
    for key in ("environment", "labels"):
        if isinstance(service.get(key), dict):
            service[key] = {name: _text(value) for name, value in service[key].items()}
    return service


def _container(container: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What of a container names files of this host: binds, and secrets and configs that come from a file."""
    keys = {"volumes": "source", "secrets": "file", "configs": "file"}
    found = dict(container)
    for kind, key in keys.items():
        if isinstance(found.get(kind), list):
            found[kind] = [
                _with_absolute(each, key, folder)
                if isinstance(each, dict) and (key == "file" or each.get("type") == "bind")
                else each
                for each in found[kind]
            ]
    return found


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _with_absolute(body: dict[str, Any], key: str, folder: Path) -> dict[str, Any]:
    return {**body, key: _absolute(body[key], folder)} if isinstance(body.get(key), str) else dict(body)


def _absolute(path: str, folder: Path) -> str:
    return str((folder / Path(path).expanduser()).resolve())


def _volume(volume: Any, folder: Path) -> Any:
    if not isinstance(volume, str) or not _LOCAL_PATH.match(volume):
        return volume
    source, colon, rest = volume.partition(":")
    return f"{_absolute(source, folder)}{colon}{rest}"
