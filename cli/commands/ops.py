"""`clos ops`: what was asked of CLOS, and how it went."""

from itertools import chain, repeat
from typing import Any

import click

from cli import aftermath, several
from cli.client import Client, segment
from cli.command import Group
from cli.errors import DONE, FAILED, NOT_FOUND, USAGE, ApiError, CliError
from cli.invocation import Invocation, pass_invocation
from cli.live import asks
from cli.output import Column, local_time, seconds
from cli.progress import facts, reason
from cli.questions import how_to, lines_of
from cli.watching import WAIT_S, conclude, tell_cancelled, watch

_COLUMNS: list[Column] = [
    ("ID", lambda one: one.get("id")),
    ("TYPE", lambda one: one.get("type")),
    ("TARGET", lambda one: one.get("service_id") or one.get("group_name")),
    ("STATUS", lambda one: one.get("status")),
    ("%", lambda one: str(one.get("progress") or 0)),
    ("CREATED", lambda one: local_time(one.get("created_at"))),
    ("TOOK", lambda one: seconds(one.get("start_time"), one.get("end_time"))),
]
_WIDE: list[Column] = [
    ("BY", lambda one: one.get("initiated_by")),
    ("ATTEMPT", lambda one: str(one.get("attempt") or 0)),
    ("ERROR", lambda one: (one.get("error") or {}).get("code")),
]
STEPS: list[Column] = [
    ("STEP", lambda step: step.get("action")),
    ("TARGET", lambda step: step.get("target")),
    ("STATUS", lambda step: step.get("status")),
    ("TOOK", lambda step: seconds(step.get("started_at"), step.get("ended_at"))),
    ("WHY", lambda step: reason(step.get("error")) or step.get("cause")),
]


@click.group(cls=Group)
def ops() -> None:
    """Operations: everything that changes something is one."""


def _named(client: Client, wanted: str) -> dict[str, Any]:
    """The operation of that id, or the only recent one whose id begins or ends like that."""
    try:
        found: dict[str, Any] = client.get(f"/operations/{segment(wanted)}")
        return found
    except ApiError as refused:
        if refused.status not in (400, 404, 422):
            raise
    recent = client.get("/operations", limit=200)["items"]
    near = [one for one in recent if len(wanted) >= 4 and (one["id"].startswith(wanted) or one["id"].endswith(wanted))]
    if len(near) != 1:
        why = f"{len(near)} operations fit {wanted!r}" if near else f"there is no operation {wanted!r}"
        raise CliError(why, NOT_FOUND, hint="clos ops list")
    return dict(near[0])


@ops.command("list")
@click.option("--status", help="pending, waiting, in_progress, cancelling, completed, failed, cancelled (commas: or).")
@click.option("--type", "kind", help="For example group.start.")
@click.option("--service", help="A service's id.")
@click.option("--group", help="A group's name.")
@click.option("--parent", help="A batch's id: the operations of it.")
@click.option("--since", help="A time, or 15m.")
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@pass_invocation
def list_(invocation: Invocation, limit: int, kind: str | None, **filters: Any) -> int:
    """List operations, newest first."""
    found = invocation.client.get("/operations", limit=limit, type=kind, **filters)["items"]
    if not found and not invocation.printer.machine:
        invocation.printer.data("No operations.")
        return DONE
    invocation.printer.objects(found, _COLUMNS, wide=_WIDE)
    return DONE


@ops.command()
@click.argument("operation_id")
@click.option("--timings", is_flag=True, help="How long each step took, the slowest first; * is the critical path.")
@pass_invocation
def show(invocation: Invocation, operation_id: str, timings: bool) -> int:
    """Show one operation with its steps."""
    printer = invocation.printer
    one = _named(invocation.client, operation_id)
    parts = several.children(invocation.client, one)
    if printer.machine:
        printer.document(one)
        return DONE
    if timings:
        return _timings(invocation, one)
    error, question = one.get("error") or {}, one.get("question") or {}
    printer.facts(
        [
            ("id", one["id"]),
            ("type", one.get("type")),
            ("target", one.get("service_id") or one.get("group_name")),
            ("status", one.get("status")),
            ("progress", f"{one.get('progress') or 0} %"),
            ("by", one.get("initiated_by")),
            ("created", local_time(one.get("created_at"))),
            ("took", seconds(one.get("start_time"), one.get("end_time"))),
            ("left", _in_seconds(one.get("remaining_s"))),
            ("retry of", one.get("retry_of")),
            ("part of", one.get("parent_id")),
            ("after", ", ".join(map(str, one.get("dependencies") or [])) or None),
            ("waits", several.said(one) or None),
            ("asks", question.get("text")),
            *(("", line) for line in lines_of(question)),
            ("answer", how_to(one["id"]) if question else None),
            ("error", reason(error)),
            *(("", line) for line in facts(error)),
            ("hint", error.get("hint")),
            *zip(chain(["outcome"], repeat("")), aftermath.lines_of(one), strict=False),
        ]
    )
    for rows, columns in ((one.get("steps") or [], STEPS), (parts, several.CHILDREN)):
        if rows:
            printer.data("")
            printer.table(rows, columns)
    return DONE


def _in_seconds(value: Any) -> str | None:
    return None if value is None else f"{float(value):.1f} s"


def _timings(invocation: Invocation, one: dict[str, Any]) -> int:
    """The steps by how long they took or are expected to take."""
    critical = set(one.get("critical_path") or [])

    def weight(step: dict[str, Any]) -> float:
        took = step.get("duration_s")
        return float((took if took is not None else step.get("expected_s")) or 0.0)

    columns: list[Column] = [
        ("", lambda step: "*" if step["id"] in critical else ""),
        ("STEP", lambda step: step["id"]),
        ("STATUS", lambda step: step.get("status")),
        ("TOOK", lambda step: _in_seconds(step.get("duration_s"))),
        ("USUALLY", lambda step: _in_seconds(step.get("expected_s"))),
    ]
    invocation.printer.table(sorted(one.get("steps") or [], key=weight, reverse=True), columns)
    return DONE


@ops.command("watch")
@click.argument("operation_id")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=WAIT_S, metavar="SECONDS")
@pass_invocation
def watch_(invocation: Invocation, operation_id: str, timeout: float) -> int:
    """Follow an operation to its end; the exit code is its own."""
    ended = watch(invocation, _named(invocation.client, operation_id), timeout)
    return _ended(invocation, ended)


@ops.command()
@click.argument("operation_id")
@click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
@pass_invocation
def cancel(invocation: Invocation, operation_id: str, no_wait: bool) -> int:
    """Cancel an operation: it ends between two steps, what it did not reach is skipped.

    What was undone and what is left as it is is listed. The exit code is 1 where something could not be taken back.
    """
    wanted = _named(invocation.client, operation_id)
    asked = invocation.client.post(f"/operations/{segment(wanted['id'])}/cancel") or wanted
    if not no_wait:
        asked = watch(invocation, asked, 120.0)
    tell_cancelled(invocation, wanted["id"], asked)
    if invocation.printer.machine:
        invocation.printer.document(asked)
    return FAILED if (asked.get("result") or {}).get("not_undone") else DONE


@ops.command()
@click.argument("operation_id")
@click.option("--no-wait", is_flag=True, help="Print the new operation's id and return.")
@pass_invocation
def retry(invocation: Invocation, operation_id: str, no_wait: bool) -> int:
    """Try a failed operation again, as a new one."""
    wanted = _named(invocation.client, operation_id)
    again = invocation.client.post(f"/operations/{segment(wanted['id'])}/retry")
    if no_wait:
        invocation.printer.data(again["id"])
        return DONE
    return _ended(invocation, watch(invocation, again, WAIT_S))


@ops.command()
@click.argument("operation_id")
@click.argument("choice", required=False)
@click.option(
    "--confirm", metavar="TEXT", help="What the choice asks to be repeated: a process's name and pid, or its pid."
)
@click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
@pass_invocation
def answer(invocation: Invocation, operation_id: str, choice: str | None, confirm: str | None, no_wait: bool) -> int:
    """Answer the question of a waiting operation, and follow it to its end.

    CHOICE is one of those that `clos ops show` lists; change_port takes a port: change_port:9400. Without a CHOICE, a
    person at a terminal is asked.
    """
    wanted = _named(invocation.client, operation_id)
    if choice is not None:
        body = {"choice": choice} | ({"confirm": confirm} if confirm else {})
        wanted = invocation.client.post(f"/operations/{segment(wanted['id'])}/answer", body)
    elif not asks(wanted):
        raise CliError(f"operation {wanted['id']} asks nothing", FAILED)
    elif not invocation.answers:
        lines = tuple(lines_of(wanted["question"]))
        raise CliError(str(wanted["question"].get("text")), USAGE, lines=lines, hint=how_to(wanted["id"]))
    if no_wait and choice is not None:
        invocation.printer.data(wanted["id"])
        return DONE
    return _ended(invocation, watch(invocation, wanted, WAIT_S))


def _ended(invocation: Invocation, operation: dict[str, Any]) -> int:
    if invocation.printer.machine:
        invocation.printer.document(operation)
    code = conclude(invocation, operation)
    if code == DONE:
        invocation.printer.say(f"{operation['id']}: {operation['status']}")
    return code
