"""Everything that is printed: data on stdout, messages on stderr, and nothing hostile on either.

What comes from the server, or from a service's output, may hold escape sequences, line ends and markup. All of it
goes through `inert` or `inert_line`; no markup language is ever parsed.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

import click

# Escape sequences whole, then every control character, bidirectional override and line separator that is left.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x1b\\|\x07|\x9c|$)|\x9b[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]?", re.DOTALL
)
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_COLOURS = {
    "running": "green",
    "healthy": "green",
    "completed": "green",
    "free": "green",
    "failed": "red",
    "unhealthy": "red",
    "held": "red",
    "starting": "yellow",
    "stopping": "yellow",
    "waiting": "yellow",
    "in_progress": "yellow",
    "cancelling": "yellow",
    "partial": "yellow",
    "unknown": "magenta",
    "error": "red",
    "warning": "yellow",
}
Column = tuple[str, Callable[[Any], Any]]


def inert(text: Any) -> str:
    """`text` on one line, with nothing in it that a terminal would obey."""
    return _CONTROL.sub(" ", _SEQUENCE.sub("", str(text)).replace("\t", " "))


def inert_line(text: str) -> str:
    """A line of a log: like `inert`, but its tabs stay."""
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


def coloured(stream: TextIO, wanted: bool | None = None) -> bool:
    """Whether colours are wanted there: flag, then NO_COLOR, then FORCE_COLOR, then whether it is a terminal."""
    if wanted is not None:
        return wanted
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


class Printer:
    """Prints in the form that was asked for. `quiet` leaves out messages, but no error."""

    def __init__(
        self, form: str | None = None, *, colour: bool | None = None, quiet: bool = False, verbose: int = 0
    ) -> None:
        self.form = form or "table"
        self.quiet = quiet
        self.verbose = verbose
        # Set where messages are part of the answer: a story in one stream keeps its order.
        self.one_stream = False
        self.colour = coloured(sys.stdout, colour)
        self.colour_err = coloured(sys.stderr, colour)

    @property
    def machine(self) -> bool:
        """Whether stdout is for a program."""
        return self.form in ("json", "yaml", "name")

    def data(self, text: str) -> None:
        """A line of the answer."""
        click.echo(text, color=self.colour)

    def say(self, text: str) -> None:
        """A message that is no part of the answer."""
        if not self.quiet:
            click.echo(text, err=not self.one_stream, color=self.colour_err)

    def detail(self, text: str) -> None:
        """A message for `-v`."""
        if self.verbose:
            click.echo(text, err=True, color=self.colour_err)

    def error(self, text: str, *, hint: str = "", lines: Iterable[str] = ()) -> None:
        """What went wrong, why, and what to do."""
        facts = [f"  {inert(line)}" for line in lines]
        if hint:
            facts.append(f"  {self.paint_err('Hint:', 'cyan')} {inert(hint)}")
        for line in [f"{self.paint_err('Error:', 'red')} {inert(text)}", *facts]:
            click.echo(line, err=not self.one_stream, color=self.colour_err)

    def paint(self, text: str, colour: str | None) -> str:
        """Colour for stdout. `text` must be inert already."""
        return click.style(text, fg=colour) if colour and self.colour else text

    def paint_err(self, text: str, colour: str | None) -> str:
        """Colour for stderr. `text` must be inert already."""
        return click.style(text, fg=colour) if colour and self.colour_err else text

    def state(self, text: str) -> str:
        """A state's name in its colour, for stdout."""
        return self.paint(inert(text), _COLOURS.get(text))

    def objects(
        self,
        items: Sequence[Mapping[str, Any]],
        columns: Sequence[Column],
        *,
        name: str = "id",
        wide: Sequence[Column] = (),
    ) -> None:
        """A list, as what `-o` says. `name` is the key that `-o name` prints."""
        if self.form == "name":
            for item in items:
                self.data(inert(item.get(name, "")))
        elif self.machine:
            self.document(list(items))
        else:
            self.table(items, [*columns, *wide] if self.form == "wide" else columns)

    def document(self, value: Any, *, name: str = "id") -> None:
        """One object or list as JSON or YAML (tables too fall back to YAML, which people can read)."""
        if self.form == "name":
            self.data(inert(value.get(name, "") if isinstance(value, Mapping) else value))
        elif self.form == "json":
            text = json.dumps(value, indent=2, ensure_ascii=not _prints_unicode())
            self.data(_CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text))
        else:
            import yaml

            text = yaml.safe_dump(value, sort_keys=False, allow_unicode=False, default_flow_style=False)
            self.data(text.rstrip("\n"))

    def table(self, items: Iterable[Any], columns: Sequence[Column]) -> None:
        """Aligned columns; a state gets its colour."""
        rows = [[inert(_blank(read(item))) for _, read in columns] for item in items]
        titles = [title for title, _ in columns]
        widths = [max([len(title), *(len(row[i]) for row in rows)]) for i, title in enumerate(titles)]
        limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        for number, row in enumerate([titles, *rows]):
            self.data(self._row(row, widths, limit, is_title=number == 0))

    def _row(self, row: Sequence[str], widths: Sequence[int], limit: int, *, is_title: bool) -> str:
        cells, used = [], 0
        for text, width in zip(row, widths, strict=True):
            left = max(limit - used, 1) if limit else len(text)
            shown = text if len(text) <= left else f"{text[: left - 1]}…"
            padding = " " * (width - len(shown))
            if is_title:
                cells.append((click.style(shown, bold=True) if self.colour else shown) + padding)
            else:
                cells.append(self.paint(shown, _COLOURS.get(text)) + padding)
            used += width + 2
            if limit and used >= limit:
                break
        return "  ".join(cells).rstrip()

    def facts(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """`key: value`, aligned; what is None or empty is left out."""
        shown = [(key, inert(value)) for key, value in pairs if value not in (None, "", [], {})]
        width = max((len(key) for key, _ in shown), default=0) + 1
        for key, value in shown:
            self.data(f"{key + ':' if key else '':<{width}} {self.paint(value, _COLOURS.get(value))}")


def _prints_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _blank(value: Any) -> Any:
    return "-" if value in (None, "", [], {}) else value


def local_time(text: str | None) -> str:
    """An API time as local time to the second; what is no time stays as it is."""
    if not text:
        return ""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return inert(text)


def seconds(start: str | None, end: str | None) -> str:
    """The time between two API times, `0.31 s`; empty if one is missing."""
    if not start or not end:
        return ""
    from datetime import datetime

    try:
        passed = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return ""
    return f"{passed:.2f} s" if passed < 10 else f"{passed:.0f} s"
