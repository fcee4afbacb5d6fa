"""What one key of the configuration accepts."""

import dataclasses
from enum import StrEnum
from typing import Any, NamedTuple


class Kind(StrEnum):
    """What a key accepts, where no limits need saying."""

    TEXT = "text"
    TEXTS = "texts"
    SWITCH = "switch"
    DURATION = "duration"


class Whole(NamedTuple):
    """An integer, both ends included."""

    low: int
    high: int


class OneOf(NamedTuple):
    """One of a few words."""

    choices: tuple[str, ...]


TEXT, TEXTS, SWITCH, DURATION = Kind.TEXT, Kind.TEXTS, Kind.SWITCH, Kind.DURATION
PORT = Whole(1, 65535)


def key(default: Any, kind: Kind | Whole | OneOf, name: str = "") -> Any:
    """A key: its default, what it accepts, and its name where the attribute's differs."""
    return dataclasses.field(default=default, metadata={"kind": kind, "name": name})
