"""Strict JSON. What two parsers could read differently, or no database could keep, is refused (pitfalls 7.10)."""

import json
import re
from typing import Any

from api.errors import MalformedJson
from domain.errors import ValidationFailed

MAX_DEPTH = 32
_MARKS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_SUSPECT = re.compile(r"\\u|[0-9]{19}")


def loads(raw: bytes) -> Any:
    """The value in `raw`.

    Raises:
        MalformedJson: not UTF-8, not JSON, too deep, a name twice in an object, or NaN.
        ValidationFailed: NUL or half a surrogate pair in a text, or an integer beyond 64 bits.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as broken:
        raise MalformedJson(f"not UTF-8 at byte {broken.start}") from broken
    _check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as broken:
        raise MalformedJson(f"not JSON: {_reason(broken)}") from broken
    if _SUSPECT.search(text):
        _check_values(value, "")
    return value


def _reason(broken: Exception) -> str:
    if isinstance(broken, json.JSONDecodeError):
        return f"{broken.msg} (line {broken.lineno}, column {broken.colno})"
    return str(broken)[:200]


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for mark in _MARKS.finditer(text):
        sign = mark[0]
        depth += 1 if sign in "[{" else -1 if sign in "]}" else 0
        if depth > MAX_DEPTH:
            raise MalformedJson(f"nested deeper than {MAX_DEPTH}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:100]!r} is given twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _check_values(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name, path or "_schema")
            _check_values(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            _check_values(inner, f"{path}.{position}" if path else str(position))
    elif isinstance(value, str):
        _check_text(value, path or "_schema")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValidationFailed({path or "_schema": ["Not a valid integer: beyond 64 bits."]})


def _check_text(text: str, path: str) -> None:
    if "\x00" in text:
        raise ValidationFailed({_shown(path): ["Must not contain NUL."]})
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValidationFailed({_shown(path): ["Must not contain half a surrogate pair."]})


def _shown(path: str) -> str:
    return path.encode("utf-8", "replace").decode().replace("\x00", "?")
