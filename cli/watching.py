"""Watching an operation to its end: progress, its question where a person can answer, and how it ended."""

from collections.abc import Mapping
from typing import Any

import click

from cli import aftermath, questions, several
from cli.client import segment
from cli.errors import CONFLICT, DONE, INTERRUPTED, TIMED_OUT, CliError, of_operation
from cli.invocation import Invocation
from cli.live import FINAL, Operation, Watch, asks
from cli.output import inert
from cli.progress import facts, reason, title, view

WAIT_S = 3600.0
_CANCEL_S = 60.0


class _Quietly(Invocation):
    """The same run without its progress lines."""

    def __init__(self, other: Invocation) -> None:
        super().__init__({**other.options, "quiet": True})
        self.__dict__["client"] = other.client


def quietly(invocation: Invocation, operation: Operation, timeout_s: float) -> Operation:
    """Wait for the end of what takes milliseconds, such as a look or a dry run.

    Raises:
        CliError: it failed, with its exit code; or it did not end in time (7).
    """
    quiet = _Quietly(invocation)
    ended = watch(quiet, operation, timeout_s)
    code = conclude(quiet, ended)
    if code != DONE:
        raise CliError("", code)
    return ended


def watch(invocation: Invocation, operation: Operation, timeout_s: float) -> Operation:
    """Show an operation until it ends. Its question is put to whoever sits at the terminal.

    Raises:
        CliError: it did not end in time (7), somebody pressed Ctrl-C and it was left or cancelled (130), or it waits
            for an answer that nobody here can give (3).
    """
    while True:
        operation = _followed(invocation, operation, timeout_s)
        if operation["status"] in FINAL:
            return operation
        if not asks(operation):
            raise CliError(
                f"{title(operation)} has not ended after {timeout_s:g} s",
                TIMED_OUT,
                hint=f"it goes on: clos ops watch {operation['id']}",
            )
        questions.put(invocation, operation)


def _followed(invocation: Invocation, operation: Operation, timeout_s: float) -> Operation:
    client, printer = invocation.client, invocation.printer
    while True:
        try:
            with view(invocation) as shown:
                return Watch(client, shown.show, printer.detail).until_end(operation["id"], timeout_s)
        except KeyboardInterrupt:
            client.close()
            if not _interrupted(invocation, operation["id"]):
                raise CliError("", INTERRUPTED) from None


def _interrupted(invocation: Invocation, operation_id: str) -> bool:
    """Ask what shall become of it. True: keep watching."""
    printer = invocation.printer
    choice = "l"
    if invocation.answers:
        try:
            choice = click.prompt(
                "\nIt is still at work. [l]eave it running, [c]ancel it, or [k]eep watching",
                type=click.Choice(["l", "c", "k"], case_sensitive=False),
                default="l",
                show_choices=False,
                err=True,
            ).lower()
        except (click.Abort, KeyboardInterrupt, EOFError):
            choice = "l"
    if choice == "k":
        return True
    if choice == "c":
        invocation.client.post(f"/operations/{segment(operation_id)}/cancel")
        ended = Watch(invocation.client, lambda _: None, printer.detail).until_end(operation_id, _CANCEL_S)
        tell_cancelled(invocation, title(ended), ended)
    else:
        printer.say(f"left running: clos ops watch {operation_id}")
    return False


def tell_cancelled(invocation: Invocation, name: str, operation: Operation) -> None:
    """Say how an operation stands that was asked to end; if it has ended, what was undone and what is left too."""
    error = operation.get("error") or {}
    lines = [f"{name}: {operation['status']}"]
    if operation["status"] in FINAL:
        why = reason(error) if error.get("code") != "cancelled" else ""
        lines += [f"  {inert(each)}" for each in (why, *aftermath.lines_of(operation)) if each]
    for line in lines:
        invocation.printer.say(line)


def conclude(invocation: Invocation, operation: Operation) -> int:
    """Say how it ended where that was not well, and give the exit code."""
    status, error = operation["status"], operation.get("error") or {}
    if status == "completed":
        return DONE
    if status == "cancelled":
        invocation.printer.error(
            f"{title(operation)} was cancelled",
            lines=[*_left_out(operation), *aftermath.lines_of(operation)],
            hint=_its_parts(operation),
        )
        return INTERRUPTED if not error else of_operation(error)
    lines = [*_failed_steps(operation), *facts(error), *_left_out(operation), *aftermath.lines_of(operation)]
    invocation.printer.error(
        f"{title(operation)} failed: {reason(error) or 'no reason given'}",
        lines=[*lines, f"operation: {operation['id']}"],
        hint=_hint(error),
    )
    return of_operation(error)


def _its_parts(operation: Operation) -> str:
    """Of a batch each operation has lists of its own."""
    shown = f"what each of its operations has undone and left: clos ops list --parent {operation['id']}"
    return shown if several.is_batch(operation) else ""


def _hint(error: Mapping[str, Any]) -> str:
    hint = str(error.get("hint") or "")
    if of_operation(error) != CONFLICT or "clos resolve" in hint:
        return hint
    return f"{hint}; or choose what to do: clos resolve" if hint else "clos resolve"


def _failed_steps(operation: Operation) -> list[str]:
    failed = [step for step in operation.get("steps") or [] if step.get("status") == "failed"]
    told = reason(operation.get("error"))
    lines = []
    for step in failed:
        why = reason(step.get("error"))
        name = f"{step.get('action')} {step.get('target')} failed"
        lines.append(name if not why or why == told else f"{name}: {why}")
    return lines


def _left_out(operation: Operation) -> list[str]:
    """Who was not attempted: nothing failed of it, and it was neither stopped nor started, even if that is undone."""
    steps = operation.get("steps") or []
    tried = {step.get("target") for step in steps if step.get("status") == "failed" or _had_effect(step)}
    skipped = [step.get("target") for step in steps if step.get("status") == "skipped"]
    left = [str(target) for target in skipped if target not in tried]
    return [f"not attempted: {', '.join(dict.fromkeys(left))}"] if left else []


def _had_effect(step: Mapping[str, Any]) -> bool:
    return step.get("action") in ("stop", "start", "withdraw") and step.get("status") in ("completed", "undone")
