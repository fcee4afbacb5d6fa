"""An operation's question: put to whoever sits at the terminal, or said how it is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from cli.client import segment
from cli.errors import CONFLICT, INTERRUPTED, ApiError, CliError
from cli.invocation import Invocation
from cli.live import Operation
from cli.output import Printer, inert, local_time
from cli.progress import title

NAMES_A_PORT = "change_port"
_RISK_COLOURS = {"low": "green", "medium": "yellow", "high": "red"}
# Somebody else was quicker, or its time was over: whoever watches sees what came of it.
_SETTLED = frozenset({"operation_not_waiting", "operation_final"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a menu."""

    text: str
    risk: str = ""
    effects: Sequence[str] = field(default=())


def entry_of(choice: Mapping[str, Any]) -> Entry:
    """A question's choice, or a conflict's option, as a line of a menu."""
    return Entry(
        str(choice.get("description") or choice.get("choice") or choice.get("strategy")),
        str(choice.get("risk_level") or ""),
        [str(effect) for effect in choice.get("effects") or ()],
    )


def choose(printer: Printer, prompt: str, entries: Sequence[Entry]) -> int:
    """Show a menu and give the place of what was chosen.

    Raises:
        click.Abort: nothing was.
    """
    for number, entry in enumerate(entries, 1):
        risk = f"  ({printer.paint_err(inert(entry.risk) + ' risk', _RISK_COLOURS.get(entry.risk))})"
        click.echo(f"  {number}  {inert(entry.text)}{risk if entry.risk else ''}", err=True, color=printer.colour_err)
        for effect in entry.effects:
            click.echo(f"       {inert(effect)}", err=True)
    return int(click.prompt(prompt, type=click.IntRange(1, len(entries)), err=True)) - 1


def ask_port() -> int:
    """The port that somebody types."""
    return int(click.prompt("Which port", type=click.IntRange(1, 65535), err=True))


def ask_confirmation(wanted: str) -> bool:
    """Whether somebody has typed what is to be ended."""
    typed = str(click.prompt(f"To end it, type {inert(wanted)}", default="", show_default=False, err=True))
    if typed.strip() in (wanted, wanted.rpartition("(pid ")[2].rstrip(")")):
        return True
    click.echo("That is not its name; nothing was done.", err=True)
    return False


def how_to(operation_id: str) -> str:
    """How a question is answered from elsewhere."""
    return f"clos ops answer {operation_id} CHOICE"


def lines_of(question: Mapping[str, Any]) -> list[str]:
    """A question's choices, one a line, as they are typed."""
    lines = []
    for choice in question.get("choices") or ():
        named = f"{choice['choice']}:PORT" if choice["choice"] == NAMES_A_PORT else choice["choice"]
        confirm = f" --confirm {choice['confirm']!r}" if choice.get("confirm") else ""
        lines.append(f"{named}{confirm}: {choice.get('description')} ({choice.get('risk_level')} risk)")
    return lines


def put(invocation: Invocation, operation: Operation) -> None:
    """Ask, and send the answer.

    Raises:
        CliError: nobody can be asked here (3), or whoever was asked went away (130); the operation goes on waiting.
    """
    question = operation["question"]
    if not invocation.answers:
        raise CliError(
            f"{title(operation)} waits for an answer: {question.get('text')}",
            CONFLICT,
            lines=tuple(lines_of(question)),
            hint=how_to(operation["id"]),
        )
    try:
        while not _answered(invocation, operation):
            continue
    except (click.Abort, KeyboardInterrupt, EOFError):
        until = local_time(question.get("expires_at"))
        invocation.printer.say(f"\nleft waiting{f' until {until}' if until else ''}: {how_to(operation['id'])}")
        raise CliError("", INTERRUPTED) from None


def _answered(invocation: Invocation, operation: Operation) -> bool:
    question, printer = operation["question"], invocation.printer
    choices = list(question.get("choices") or ())
    click.echo(f"\n{inert(question.get('text'))}", err=True)
    choice = choices[choose(printer, "Your choice", [entry_of(each) for each in choices])]
    body: dict[str, Any] = {"choice": choice["choice"]}
    if choice["choice"] == NAMES_A_PORT:
        body["choice"] = f"{NAMES_A_PORT}:{ask_port()}"
    if choice.get("confirm"):
        if not ask_confirmation(str(choice["confirm"])):
            return False
        body["confirm"] = choice["confirm"]
    try:
        invocation.client.post(f"/operations/{segment(operation['id'])}/answer", body)
    except ApiError as refused:
        if refused.code in _SETTLED:
            return True
        printer.error(refused.message, hint=refused.hint, lines=refused.lines)
        return False
    return True
