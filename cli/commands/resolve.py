"""`clos resolve`: v1's choices at a terminal, policy in scripts, or one conflict by one strategy."""

from typing import Any

import click

from cli.command import Command
from cli.conflict_texts import WARNINGS, say_plan, where
from cli.errors import CONFLICT, DONE, USAGE, CliError
from cli.invocation import Invocation, pass_invocation
from cli.output import inert
from cli.resolving import SCAN_S, Session, carry_out, look
from cli.watching import quietly

STRATEGIES = ("migrate_service", "change_port", "stop_container", "kill_process", "ask", "ignore")


@click.command(cls=Command)
@click.argument("conflict_id", type=click.IntRange(1), metavar="[ID]", required=False)
@click.option("--auto", is_flag=True, help="Resolve what can be resolved within --max-risk, without a question each.")
@click.option("--max-risk", type=click.Choice(["low", "medium", "high"]), help="Of --auto (default: low).")
@click.option("-y", "--yes", is_flag=True, help="Do it without showing the plan first.")
@click.option("--dry-run", is_flag=True, help="Show the plan, change nothing.")
@click.option("--strategy", type=click.Choice(STRATEGIES), help="How to resolve the conflict ID.")
@click.option("--service", "service_id", metavar="ID", help="Of migrate_service and change_port: who moves.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of change_port: where to.")
@click.option("--confirm", metavar="TEXT", help="Of kill_process: its name and pid, or its pid.")
@click.option("--allow-foreign", is_flag=True, help="Of kill_process: also another user's process.")
@pass_invocation
def resolve(invocation: Invocation, conflict_id: int | None, **how: Any) -> int:
    """Resolve conflicts.

    \b
    clos resolve                                  one after the other, with questions (at a terminal)
    clos resolve --auto --max-risk low --yes      in a script; exit code 3 if any is left
    clos resolve 7 --strategy change_port --port 9400

    Everything is planned first and shown; a migration can be taken back (clos conflicts undo ID). No process that CLOS
    does not own is ended by --auto, whatever --max-risk says.
    """
    _refuse_mixtures(conflict_id, how)
    if how["auto"]:
        return _automatic(invocation, how)
    if conflict_id is not None and how["strategy"]:
        return _one(invocation, conflict_id, how)
    if not invocation.answers:
        raise CliError(
            "nobody can be asked here",
            USAGE,
            hint="say how: clos resolve --auto --max-risk low --yes, or clos resolve ID --strategy …",
        )
    return _by_questions(invocation, conflict_id)


def _refuse_mixtures(conflict_id: int | None, how: dict[str, Any]) -> None:
    if how["auto"] and (conflict_id is not None or how["strategy"]):
        raise click.UsageError("--auto resolves all conflicts: give neither an ID nor --strategy.")
    if conflict_id is None and how["strategy"]:
        raise click.UsageError("--strategy is for one conflict: give its ID (clos conflicts list).")
    for option in ("service_id", "port", "confirm", "allow_foreign"):
        if how[option] and not how["strategy"]:
            raise click.UsageError(f"--{option.removesuffix('_id').replace('_', '-')} goes with --strategy.")
    if how["max_risk"] and not how["auto"]:
        raise click.UsageError("--max-risk goes with --auto.")


def _one(invocation: Invocation, conflict_id: int, how: dict[str, Any]) -> int:
    """One conflict by one strategy: what was said is the yes."""
    named = ("strategy", "service_id", "port", "confirm", "allow_foreign")
    body = {name: how[name] for name in named if how[name]}
    path = f"/conflicts/{conflict_id}/resolve"
    if how["dry_run"]:
        return _show(invocation, path, body)
    return carry_out(invocation, path, body)


def _show(invocation: Invocation, path: str, body: dict[str, Any]) -> int:
    ended = quietly(invocation, invocation.client.post(path, body | {"dry_run": True}), SCAN_S)
    if invocation.printer.machine:
        invocation.printer.document(ended)
    say_plan(invocation.printer, ended)
    return DONE


def _automatic(invocation: Invocation, how: dict[str, Any]) -> int:
    """All of them by policy: planned, shown, and done after a yes."""
    look(invocation)
    body = {"max_risk": how["max_risk"] or "low"}
    if how["dry_run"]:
        return _show(invocation, "/conflicts/resolve", body)
    if not how["yes"]:
        _show(invocation, "/conflicts/resolve", body)
        if not invocation.answers:
            raise CliError("nothing was changed", CONFLICT if _left(invocation) else DONE, hint="to do it, add --yes")
        if not click.confirm("Do it?", err=True):
            return _rest(invocation)
    code = carry_out(invocation, "/conflicts/resolve", body)
    return code if code != DONE else _rest(invocation)


def _by_questions(invocation: Invocation, conflict_id: int | None) -> int:
    """One after the other, each as its person says."""
    look(invocation)
    session = Session(invocation)
    if conflict_id is not None:
        return session.settle(invocation.client.get(f"/conflicts/{conflict_id}"))
    found = list(invocation.client.pages("/conflicts"))
    if not found:
        invocation.printer.say("There are no conflicts.")
        return DONE
    for one in found:
        code = session.settle(one)
        if code not in (DONE, CONFLICT):
            return code
    return _rest(invocation)


def _left(invocation: Invocation) -> list[dict[str, Any]]:
    """Active conflicts, mere warnings left out."""
    return [one for one in invocation.client.pages("/conflicts") if one.get("kind") not in WARNINGS]


def _rest(invocation: Invocation) -> int:
    """Say what is left. Exit code 3 if anything is."""
    left = _left(invocation)
    for one in left:
        invocation.printer.say(f"left: conflict {inert(one.get('id'))}, {where(one)}: {inert(one.get('detail'))}")
    if not left:
        invocation.printer.say("No conflict is left.")
    return CONFLICT if left else DONE
