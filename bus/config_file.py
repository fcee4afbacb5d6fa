"""Read a YAML file that somebody wrote by hand: every value with its line, and nothing that can blow up."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

_MAX_FILE_BYTES = 256 * 1024
_MAX_DEPTH = 20
_MAX_ALIASES = 50
_MAX_NODES = 20_000


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `22:22`, `no` and dates stay what was written."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol


for _tag, _form, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|True|false|False", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,30}", list("-+0123456789")),
    ("float", r"[-+]?[0-9]+\.[0-9]*(e[-+]?[0-9]{1,3})?", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), _first)
_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text[0] in "tT",
    "int": int,
    "float": float,
    "str": str,
}


def read_mapping(file: Path, problems: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The mapping in a YAML file, and `path -> file:line` for everything in it."""
    lines: dict[str, str] = {}
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError(f"larger than {_MAX_FILE_BYTES // 1024} KiB")
        text = file.read_text(encoding="utf-8")
        _limit(text)
        node = yaml.compose(text, Loader=_Loader)
        tree = _build(node, "", file, lines, problems) if node else {}
        if not isinstance(tree, dict):
            raise ValueError("not a mapping of keys to values")
    except yaml.MarkedYAMLError as broken:
        mark: Any = broken.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        problems.append(f"{file}{line}: not valid YAML: {broken.problem}")
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as unreadable:
        reason = unreadable.strerror if isinstance(unreadable, OSError) else str(unreadable).splitlines()[0]
        problems.append(f"{file}: {reason}")
    else:
        return tree, lines
    return {}, lines


def _limit(text: str) -> None:
    depth = aliases = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        nodes += isinstance(event, yaml.NodeEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or aliases > _MAX_ALIASES or nodes > _MAX_NODES:
            raise ValueError("too deep, too large or too many aliases")


def _build(node: Any, path: str, file: Path, lines: dict[str, str], problems: list[str]) -> Any:
    here = lines.setdefault(path, f"{file}:{node.start_mark.line + 1}")
    if len(lines) > _MAX_NODES or path.count(".") + path.count("[") > _MAX_DEPTH:
        raise ValueError("too deep or too large")
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, f"{path}[{i}]", file, lines, problems) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in found:
                problems.append(f"{file}:{key.start_mark.line + 1}: {path and path + '.'}{name}: given twice")
            child = f"{path}.{name}" if path else name
            lines[child] = f"{file}:{key.start_mark.line + 1}"
            found[name] = _build(value, child, file, lines, problems)
        return found
    make = _SCALARS.get(node.tag.removeprefix("tag:yaml.org,2002:"))
    if make is None:
        problems.append(f"{here}: {path}: the tag {node.tag} is not allowed here")
    return make(node.value) if make else None


def read_text(text: str) -> Any:
    """What a short piece of YAML, or JSON, means.

    Raises:
        ValueError: it means nothing, or is too large.
    """
    problems: list[str] = []
    try:
        _limit(text)
        node = yaml.compose(text, Loader=_Loader)
        value = _build(node, "", Path("text"), {}, problems) if node else None
    except yaml.YAMLError as broken:
        raise ValueError(str(broken)) from broken
    if problems:
        raise ValueError(problems[0])
    return value
