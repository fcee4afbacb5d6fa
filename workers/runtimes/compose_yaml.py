"""Reading a Compose file's YAML within bounds, each value with its line, before any other program sees it.

PyYAML's events are counted as they come, so a file that would blow up is refused at the line where it begins to:
aliases at most 50, depth at most 20, nodes at most 20 000 with every alias counted as what it stands for.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from domain.compose.keys import Path, written
from domain.compose.problems import ComposeRefused, Problem

MAX_BYTES = 256 * 1024
_MAX_ALIASES, _MAX_DEPTH, _MAX_NODES = 50, 20, 20_000
# Compose's own tags, and YAML's standard ones.
_TAGS = ("!reset", "!override", "tag:yaml.org,2002:", "!")
_NULL, _BOOL = re.compile(r"~|null|Null|NULL|"), re.compile(r"true|True|TRUE|false|False|FALSE")
_INT, _FLOAT = re.compile(r"[-+]?[0-9]{1,30}"), re.compile(r"[-+]?[0-9]+\.[0-9]*(e[-+]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Limits:
    """How much may stand in a text."""

    aliases: int = _MAX_ALIASES
    depth: int = _MAX_DEPTH
    nodes: int = _MAX_NODES


@dataclass
class _Anchor:
    value: Any = None
    nodes: int = 0
    complete: bool = False


@dataclass
class _Open:
    """A collection that is being read."""

    value: Any
    path: Path
    began: int
    anchor: str | None
    key: str | None = None

    def next_path(self) -> Path:
        return (*self.path, len(self.value) if isinstance(self.value, list) else self.key or "")


@dataclass
class Document:
    """What stands in one file, and on which line (from 1) each path of it begins."""

    name: str
    tree: Any = None
    lines: dict[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int | None:
        """Where it stands, or what is nearest above it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def problem(self, path: Path, reason: str) -> Problem:
        """A problem at a path of it."""
        return Problem(written(path), reason, self.name, self.line_of(path))


class _Reader:
    def __init__(self, name: str, limits: Limits) -> None:
        self.document = Document(name)
        self._limits = limits
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = self._aliases = self._documents = 0

    def _refuse(self, event: yaml.Event, reason: str) -> ComposeRefused:
        path = self._open[-1].path if self._open else ()
        line = event.start_mark.line + 1 if event.start_mark else None
        return ComposeRefused([Problem(written(path), reason, self.document.name, line)])

    def take(self, event: yaml.Event) -> None:
        """Count and keep one event.

        Raises:
            ComposeRefused: it is too much, or not allowed.
        """
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._refuse(event, "a second document: write one per file")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._check(event)
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._check(event)
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def _check(self, event: Any) -> None:
        self._count(event, 1)
        if event.tag is not None and not event.tag.startswith(_TAGS):
            raise self._refuse(event, f"the tag {event.tag[:40]} is not allowed")

    def _count(self, event: yaml.Event, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > self._limits.nodes:
            raise self._refuse(event, f"more than {self._limits.nodes} values, with every alias counted")

    def _alias(self, event: Any) -> None:
        self._aliases += 1
        if self._aliases > self._limits.aliases:
            raise self._refuse(event, f"more than {self._limits.aliases} aliases")
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            raise self._refuse(event, f"*{event.anchor} refers to nothing")
        if not anchor.complete:
            raise self._refuse(event, f"*{event.anchor} stands inside of what it refers to")
        self._count(event, anchor.nodes)
        self._place(anchor.value, event)

    def _scalar(self, event: Any) -> None:
        parent = self._open[-1] if self._open else None
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            self._key(event, parent)
            return
        value = _typed(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(value, 1, True)
        self._place(value, event)

    def _key(self, event: Any, parent: _Open) -> None:
        if event.value in parent.value:
            raise self._refuse(event, f"the key {event.value[:100]!r} is given twice")
        parent.key = event.value
        self.document.lines[parent.next_path()] = event.start_mark.line + 1

    def _begin(self, event: Any) -> None:
        if len(self._open) >= self._limits.depth:
            raise self._refuse(event, f"deeper than {self._limits.depth} levels")
        parent = self._open[-1] if self._open else None
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            raise self._refuse(event, "a key must be text")
        path = parent.next_path() if parent else ()
        self.document.lines.setdefault(path, event.start_mark.line + 1)
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(value)
        self._open.append(_Open(value, path, self._nodes, event.anchor))

    def _end(self) -> None:
        ended = self._open.pop()
        if ended.anchor is not None:
            anchor = self._anchors[ended.anchor]
            anchor.nodes, anchor.complete = self._nodes - ended.began + 1, True
        self._place(ended.value, None)

    def _place(self, value: Any, event: yaml.Event | None) -> None:
        if not self._open:
            self.document.tree = value
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            if event is not None and event.start_mark is not None:
                self.document.lines[parent.next_path()] = event.start_mark.line + 1
            parent.value.append(value)
        elif parent.key is None:
            raise ComposeRefused([Problem(written(parent.path), "a key must be text", self.document.name)])
        else:
            parent.value[parent.key] = value
            parent.key = None


def _typed(event: Any) -> Any:
    """A scalar as YAML 1.2's core schema has it: `22:22`, `no` and dates stay text."""
    text = event.value
    if event.style in ("'", '"', "|", ">") or event.tag == "tag:yaml.org,2002:str":
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text) and not re.match(r"[-+]?0[0-9]", text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def read(data: bytes, name: str, limits: Limits | None = None) -> Document:
    """What stands in a file.

    Raises:
        ComposeRefused: it is not YAML of one mapping, names a key twice, or is too large, too deep or too manifold.
    """
    reader = _Reader(name, limits or Limits())
    try:
        text = data.decode("utf-8-sig")
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            reader.take(event)
    except UnicodeDecodeError as broken:
        line = data.count(b"\n", 0, broken.start) + 1
        raise ComposeRefused([Problem("", "not UTF-8", name, line)]) from broken
    except yaml.MarkedYAMLError as broken:
        mark: Any = broken.problem_mark
        at = mark.line + 1 if mark else None
        raise ComposeRefused([Problem("", f"not valid YAML: {broken.problem}", name, at)]) from broken
    except yaml.YAMLError as broken:
        raise ComposeRefused([Problem("", f"not valid YAML: {str(broken).splitlines()[0]}", name)]) from broken
    if not isinstance(reader.document.tree, dict):
        raise ComposeRefused([Problem("", "not a mapping of keys to values", name, 1)])
    return reader.document


def merged(tree: Any) -> Any:
    """A mapping with what its `<<` brings along, one level deep."""
    if not isinstance(tree, dict) or "<<" not in tree:
        return tree
    brought = tree["<<"] if isinstance(tree["<<"], list) else [tree["<<"]]
    found: dict[str, Any] = {}
    for each in reversed([merged(one) for one in brought if isinstance(one, dict)]):
        found |= each
    return found | {key: value for key, value in tree.items() if key != "<<"}
