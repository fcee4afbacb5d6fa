"""How the course of an operation is shown: a view that redraws itself on a terminal, one line per change elsewhere."""

import time
from typing import Any, Protocol, Self

from cli.errors import holder_name
from cli.invocation import Invocation
from cli.live import Operation
from cli.output import Printer, inert, seconds

_SIGNS = {
    "pending": ("·", "bright_black"),
    "running": ("▸", "yellow"),
    "completed": ("✔", "green"),
    "failed": ("✘", "red"),
    "skipped": ("-", "bright_black"),
    "undone": ("↶", "magenta"),
}
_UNCLAIMED_S = 3.0


class View(Protocol):
    """Shows an operation each time it has changed."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *ended: object) -> None: ...
    def show(self, operation: Operation) -> None:
        """Take in what is new."""
        ...


def view(invocation: Invocation) -> View:
    """The view that fits the terminal, or the pipe."""
    printer = invocation.printer
    if invocation.terminal and not printer.quiet and not printer.machine:
        return _Live(printer)
    return _Lines(printer)


def title(operation: Operation) -> str:
    """`start shop`: what the operation does to what."""
    noun, _, verb = str(operation.get("type", "")).partition(".")
    target = operation.get("service_id") or operation.get("group_name") or noun
    return inert(f"{verb or noun} {target}")


def reason(error: dict[str, Any] | None) -> str:
    """A step's or an operation's error in a sentence."""
    text = str((error or {}).get("message") or (error or {}).get("code") or "")
    # Where the message sends a program to the result, people have it before them (`cli/aftermath.py`).
    return inert(text.partition("; result.")[0])


def facts(error: dict[str, Any] | None) -> list[str]:
    """What an error knows beside its message: the holder, the exit code, the last lines of output."""
    found = error or {}
    lines = []
    if isinstance(found.get("holder"), dict):
        lines.append(f"held by {holder_name(found['holder'])}")
    if found.get("exit_code") is not None:
        lines.append(f"exit code {found['exit_code']}")
    for each in (found.get("problems") or ())[1:]:  # the first one is the message
        place = f"{each['file']}:{each['line']}: " if each.get("file") and each.get("line") else ""
        lines.append(inert(f"{place}{each.get('path') or ''}: {each.get('reason')}"))
    output = found.get("log") or found.get("logs") or found.get("output") or []
    for line in output.splitlines() if isinstance(output, str) else output:
        lines.append(f"| {line.get('text', '') if isinstance(line, dict) else line}")
    return lines


def _state(operation: Operation) -> str:
    """Why nothing moves, if nothing does, or how far a long step is."""
    if operation["status"] not in ("waiting", "pending"):
        return inert(operation.get("note") or "") if operation["status"] == "in_progress" else ""
    question = (operation.get("question") or {}).get("text")
    waits = "; ".join(str(one.get("text")) for one in operation.get("waiting_for") or [])
    return inert(question or waits or ("waiting" if operation["status"] == "waiting" else ""))


class _Lines:
    """One line on stderr for each change of a step."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._seen: dict[str, str] = {}
        self._said = ""
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        return None

    def show(self, operation: Operation) -> None:
        """Print what is new."""
        state = _state(operation) or self._unclaimed(operation)
        if state and state != self._said:
            self._printer.say(f"  {state}")
        self._said = state or self._said
        for step in operation.get("steps") or []:
            status = str(step.get("status"))
            before = self._seen.get(step["id"], "pending")
            self._seen[step["id"]] = status
            if status != before:
                self._printer.say(self._line(step, status))

    def _unclaimed(self, operation: Operation) -> str:
        late = operation["status"] == "pending" and time.monotonic() - self._since > _UNCLAIMED_S
        return "no worker has taken it yet" if late else ""

    def _line(self, step: dict[str, Any], status: str) -> str:
        sign, colour = _SIGNS.get(status, ("?", None))
        took = seconds(step.get("started_at"), step.get("ended_at"))
        what = f"{inert(step.get('action')):<7} {inert(step.get('target')):<24}"
        line = f"  {self._printer.paint_err(sign, colour)} {what} {status}"
        line += f" ({took})" if took and status == "completed" else ""
        why = reason(step.get("error")) if status in ("failed", "skipped") else ""
        line += f": {why}" if why else ""
        if self._printer.verbose and step.get("cause"):
            line += f"  [{inert(step['cause'])}]"
        return line


class _Live:
    """All steps at once, redrawn in place."""

    def __init__(self, printer: Printer) -> None:
        from rich.console import Console
        from rich.live import Live

        self._operation: Operation | None = None
        self._began = time.monotonic()
        console = Console(stderr=True, no_color=not printer.colour_err, markup=False, highlight=False, emoji=False)
        self._live = Live(console=console, refresh_per_second=10, get_renderable=self._render)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._live.stop()

    def show(self, operation: Operation) -> None:
        """Draw it anew at the next refresh."""
        self._operation = operation

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        operation = self._operation
        if operation is None:
            return Text("…")
        steps = Table.grid(padding=(0, 2, 0, 0))
        for step in operation.get("steps") or []:
            steps.add_row(*self._cells(step))
        passed = time.monotonic() - self._began
        head = Text(f"{title(operation)}  ", style="bold")
        head.append(f"{operation.get('progress') or 0} %  {passed:.1f} s  ", style="not bold")
        head.append(_state(operation) or str(operation["status"]).replace("_", " "), style="yellow")
        return Group(head, steps)

    def _cells(self, step: dict[str, Any]) -> list[Any]:
        from rich.spinner import Spinner
        from rich.text import Text

        status = str(step.get("status"))
        sign, colour = _SIGNS.get(status, ("?", "white"))
        mark: Any = Text(f"  {sign}", style=colour)
        if status == "running":
            # The frames are picked by the clock, so a new Spinner every time still turns.
            frames = Spinner("dots").frames
            mark = Text(f"  {frames[int(time.monotonic() * 12) % len(frames)]}", style=colour)
        took = seconds(step.get("started_at"), step.get("ended_at"))
        note = reason(step.get("error")) if status in ("failed", "skipped") else took or inert(step.get("cause") or "")
        return [
            mark,
            Text(inert(step.get("action"))),
            Text(inert(step.get("target"))),
            Text(status, style=colour),
            Text(note, style="red" if status == "failed" else "bright_black"),
        ]
