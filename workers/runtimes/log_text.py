"""Text of programs that is safe to show."""

import re

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC and its kin: titles, links
    r"|\x1b[ -/]*[0-~]"
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)


def plain(raw: bytes) -> str:
    """One line as text: no escape sequences, no control characters but the tab; what is not UTF-8 is replaced."""
    return _ESCAPES.sub("", raw.decode("utf-8", "replace"))


def plain_text(raw: bytes) -> str:
    """The same for several lines."""
    return "\n".join(plain(line) for line in raw.split(b"\n"))
