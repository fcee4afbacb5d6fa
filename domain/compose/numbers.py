"""Compose's durations and sizes, as text and as numbers."""

import re

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
MB = 1024 * 1024


def seconds(text: str | float) -> float:
    """Seconds of a duration such as `1m30s`; a bare number is seconds.

    Raises:
        ValueError: it is none.
    """
    if isinstance(text, int | float):
        return float(text)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration: write 1m30s")
    return round(sum(float(number) * _UNITS_S[unit] for number, unit in parts), 9)


def duration(value_s: float) -> str:
    """A duration as Compose writes it: `90` seconds are `1m30s`."""
    whole_ms = round(value_s * 1000)
    if whole_ms % 1000:
        return f"{whole_ms}ms"
    hours, rest = divmod(whole_ms // 1000, 3600)
    minutes, left = divmod(rest, 60)
    named = ((hours, "h"), (minutes, "m"), (left, "s"))
    return "".join(f"{number}{unit}" for number, unit in named if number) or "0s"


def size(text: str | float) -> int:
    """Bytes of a size such as `512m` or `1gb`, in powers of 1024 as Docker counts.

    Raises:
        ValueError: it is none.
    """
    if isinstance(text, int | float):
        return int(text)
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size: write 512m")
    return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])
