"""What a JSON value has to look like, said in values: each shape names all that is wrong with one, and where.

A shape is a function of a value and of its path; it gives problems. Nothing is changed on the way.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_MOST = 2**63 - 1
_LONGEST = 32_768


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and what to do."""

    path: str
    text: str


Shape = Callable[[Any, str], Iterator[Problem]]


def text(pattern: str = r"[^\x00]*", what: str = "a string", longest: int = _LONGEST) -> Shape:
    """A string that matches the whole pattern; `what` says so to people."""
    wanted = re.compile(pattern)

    def check(value: Any, path: str) -> Iterator[Problem]:
        if not isinstance(value, str) or not wanted.fullmatch(value) or len(value) > longest or "\x00" in value:
            yield Problem(path, f"must be {what}")

    return check


def one_of(*choices: str) -> Shape:
    """One of these words."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            guess = f"; did you mean {near[0]}?" if near else ""
            yield Problem(path, f"must be one of {', '.join(choices)}{guess}")

    return check


def flag(value: Any, path: str) -> Iterator[Problem]:
    """True or false."""
    if not isinstance(value, bool):
        yield Problem(path, "must be true or false")


def whole(low: int = 0, high: int = _MOST) -> Shape:
    """An integer, as a number or, as Compose prints some, in digits."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        number = as_whole(value)
        if number is None or not low <= number <= high:
            yield Problem(path, f"must be a whole number from {low} to {high}")

    return check


def size(value: Any, path: str) -> Iterator[Problem]:
    """Bytes, as a number or in digits; -1 is no limit."""
    yield from whole(-1)(value, path)


def duration(value: Any, path: str) -> Iterator[Problem]:
    """A time as `1m30s`."""
    if not isinstance(value, str) or nanoseconds(value) is None:
        yield Problem(path, "must be a duration such as 500ms or 1m30s")


def list_of(shape: Shape, most: int = 200) -> Shape:
    """A list of such."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        if not isinstance(value, list):
            yield Problem(path, "must be a list")
            return
        if len(value) > most:
            yield Problem(path, f"must have at most {most} entries")
            return
        for place, each in enumerate(value):
            yield from shape(each, f"{path}[{place}]")

    return check


def map_of(shape: Shape, most: int = 200) -> Shape:
    """A mapping of any names to such."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
            yield Problem(path, "must be a mapping")
            return
        if len(value) > most:
            yield Problem(path, f"must have at most {most} entries")
            return
        for name, each in value.items():
            yield from shape(each, f"{path}.{name}")

    return check


def record(required: Collection[str] = (), /, **shapes: Shape) -> Shape:
    """A mapping with these keys and no others."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        if not isinstance(value, Mapping):
            yield Problem(path, "must be a mapping")
            return
        for name, each in value.items():
            # Compose prints `null` for what was not said.
            if name not in shapes:
                yield unknown(path, str(name), shapes)
            elif each is not None:
                yield from shapes[name](each, f"{path}.{name}")
        for name in required:
            if value.get(name) is None:
                yield Problem(f"{path}.{name}", "is missing")

    return check


def optional(shape: Shape) -> Shape:
    """Such, or null."""
    return lambda value, path: iter(()) if value is None else shape(value, path)


def either(what: str, *shapes: Shape) -> Shape:
    """What fits one of them; `what` says it to people."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        found = [list(shape(value, path)) for shape in shapes]
        if all(found):
            # Where one of them came further than the value itself, it says more.
            deeper = next((each for each in found if all(problem.path != path for problem in each)), None)
            yield from deeper or [Problem(path, f"must be {what}")]

    return check


def unknown(path: str, name: str, known: Collection[str]) -> Problem:
    """A key that nobody knows, and what may have been meant."""
    near = difflib.get_close_matches(name, sorted(known), 1)
    return Problem(f"{path}.{name}", "unknown" + (f"; did you mean {near[0]}?" if near else ""))


def as_whole(value: Any) -> int | None:
    """The integer that a number or its digits say; None if they say none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?\d{1,19}", value, re.ASCII) else None
    return value


def nanoseconds(text: str) -> int | None:
    """`1m30s` in nanoseconds; None if it is no duration."""
    if text == "0":
        return 0
    if not _DURATION.fullmatch(text):
        return None
    return int(sum(float(number) * _NANOSECONDS[unit] for number, unit in _PART.findall(text)))
