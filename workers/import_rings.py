"""By which key of its files a project says that two in a ring need each other: Compose has several, `x-clos` two."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from domain.compose import keys
from workers.runtimes.compose_files import Files
from workers.runtimes.compose_yaml import merged

# A service's keys that make it need another one, in the order in which they are looked at.
_KEYS: tuple[tuple[str, ...], ...] = (
    ("depends_on",), ("x-clos", "depends_on"), ("links",), ("network_mode",), ("volumes_from",), ("pid",), ("ipc",),
)  # fmt: skip


def said(files: Files, body: Mapping[str, Any], ring: Sequence[str]) -> Iterator[str]:
    """The path at which the files say the first link of a ring that they say at all; else a service that is in it."""
    group = str(body["name"])
    services = {f"{group}-{each['name']}": str(each["name"]) for each in body["services"]}
    for one, other in pairwise(ring):
        if one != group and one not in services:
            continue
        if other in (body.get("dependencies") or ()):
            yield "x-clos.dependencies"
            return
        for key in _KEYS if one in services else ():
            if any(_means(text, group, other) for text in _named(files, services[one], key)):
                yield keys.written(("services", services[one], *key))
                return
    yield from [f"services.{services[each]}" for each in ring if each in services][:1]


def _named(files: Files, service: str, key: tuple[str, ...]) -> Iterator[str]:
    """What a key of a service names, in every file."""
    for document in files.documents:
        value: Any = document.tree
        for part in ("services", service, *key):
            value = merged(value).get(part) if isinstance(value, dict) else None
        entries = value if isinstance(value, list) else merged(value) if isinstance(value, dict) else [value]
        for entry in entries:
            yield str(entry.get("service") if isinstance(entry, dict) else entry)


def _means(text: str, group: str, other: str) -> bool:
    """Whether `db`, `shop/db`, `db:alias` or `service:db` is the service of that id."""
    words = [text, *text.split(":")]
    return any((word.replace("/", "-", 1) if "/" in word else f"{group}-{word}") == other for word in words)
