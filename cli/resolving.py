"""Resolving a conflict with a person at the terminal: v1's choices, each planned and shown before it is done."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from cli.commands.check import show as show_verdict
from cli.conflict_texts import resolved_by, say_plan, where
from cli.errors import CONFLICT, DONE, ApiError, CliError
from cli.invocation import Invocation
from cli.output import inert
from cli.questions import Entry, ask_confirmation, ask_port, choose, entry_of
from cli.watching import WAIT_S, conclude, quietly, watch

SCAN_S = 60.0
_MIGRATE, _CHANGE, _STOP, _KILL, _IGNORE = "migrate_service", "change_port", "stop_container", "kill_process", "ignore"
# What stands in front of an option's own description.
_NAMES = {
    _CHANGE: "type a port",
    _STOP: "stop what has it",
    _KILL: "kill the process",
    _IGNORE: "leave it as it is",
}
_WHICH, _ANALYSE, _SKIP = "which", "analyse", "skip"


def look(invocation: Invocation) -> None:
    """Look afresh, so that nothing is decided on what is gone. Who may not ask for that goes by the last look."""
    try:
        asked = invocation.client.post("/conflicts/scan")
    except ApiError as refused:
        if refused.status != 403:
            raise
        return
    quietly(invocation, asked, SCAN_S)


def carry_out(invocation: Invocation, path: str, body: Mapping[str, Any]) -> int:
    """Ask for a resolution, watch it, and say what came of it."""
    printer = invocation.printer
    ended = watch(invocation, invocation.client.post(path, body), WAIT_S)
    if printer.machine:
        printer.document(ended)
    code = conclude(invocation, ended)
    if code == DONE and not printer.machine:
        for line in resolved_by(invocation.client, ended) or ["done" if ended.get("steps") else "nothing to do"]:
            printer.say(inert(line))
    return code


class Session:
    """One person's way through conflicts."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation

    def settle(self, conflict: Mapping[str, Any]) -> int:
        """Ask about one conflict until it is settled or skipped. Exit code 3: it was skipped.

        Raises:
            click.Abort: the person went away.
        """
        while True:
            # Anew each time: what was tried, or somebody else, may have changed it.
            current = self._invocation.client.get(f"/conflicts/{conflict['id']}")
            if current.get("status") == "resolved":
                said = f"conflict {current['id']} about port {where(current)} is resolved already"
                self._invocation.printer.say(inert(said))
                return DONE
            click.echo(f"\nConflict {inert(current['id'])}: {inert(current.get('detail'))}", err=True)
            done = self._offer(current)
            if done is not None:
                return done

    def _offer(self, conflict: Mapping[str, Any]) -> int | None:
        menu = _menu(conflict)
        what, options = menu[choose(self._invocation.printer, "Your choice", [entry for entry, *_ in menu])][1:]
        if what == _SKIP:
            return CONFLICT
        if what == _ANALYSE:
            port = conflict["port"]
            ended = quietly(self._invocation, self._invocation.client.post(f"/ports/{port}/check"), SCAN_S)
            show_verdict(self._invocation, ended.get("result") or {}, port)
            return None
        option = options[0]
        if what == _WHICH:
            option = options[choose(self._invocation.printer, "Who moves", [entry_of(each) for each in options])]
        try:
            return self._do(conflict, option)
        except ApiError as refused:
            if refused.code == "conflict_closed":
                self._invocation.printer.say(refused.message)
                return DONE
            self._invocation.printer.error(refused.message, hint=refused.hint, lines=refused.lines)
        except CliError as failed:
            if failed.message:
                raise
        return None

    def _do(self, conflict: Mapping[str, Any], option: Mapping[str, Any]) -> int | None:
        """Show the plan, ask for a yes, and do it. None: not this way."""
        strategy = option["strategy"]
        body: dict[str, Any] = {"strategy": strategy}
        if strategy in (_MIGRATE, _CHANGE) and option.get("service_id"):
            body["service_id"] = option["service_id"]
        if strategy == _CHANGE:
            body["port"] = ask_port()
        if strategy == _KILL:
            body["confirm"] = option["confirm"]
        path = f"/conflicts/{conflict['id']}/resolve"
        if strategy != _IGNORE:
            planned = quietly(self._invocation, self._invocation.client.post(path, body | {"dry_run": True}), SCAN_S)
            say_plan(self._invocation.printer, planned)
        if not self._agreed(option):
            return None
        return carry_out(self._invocation, path, body)

    @staticmethod
    def _agreed(option: Mapping[str, Any]) -> bool:
        if option["strategy"] == _IGNORE:
            return True
        if option["strategy"] == _KILL:
            return ask_confirmation(str(option["confirm"]))
        return click.confirm("Do it?", err=True)


def _menu(conflict: Mapping[str, Any]) -> list[tuple[Entry, str, Sequence[Mapping[str, Any]]]]:
    """v1's choices, as far as they fit this conflict: what to show, what it means, and the options behind it."""
    options = list(conflict.get("options") or ())
    moves = [each for each in options if each["strategy"] == _MIGRATE]
    process = (conflict.get("holder") or {}).get("kind") == "process"
    found: list[tuple[Entry, str, Sequence[Mapping[str, Any]]]] = []
    if moves:
        name = "move the service away from the process" if process else "reassign automatically"
        found.append((_named(name, moves[0]), _MIGRATE, moves[:1]))
    if len(moves) > 1:
        found.append((Entry("choose which service moves"), _WHICH, moves))
    found += [
        (_named(_NAMES[strategy], each), strategy, [each])
        for strategy in (_STOP, _KILL, _CHANGE)
        for each in options
        if each["strategy"] == strategy
    ]
    found.append((Entry(f"analyse who uses port {conflict.get('port')}"), _ANALYSE, ()))
    found += [(_named(_NAMES[_IGNORE], each), _IGNORE, [each]) for each in options if each["strategy"] == _IGNORE]
    found.append((Entry("skip"), _SKIP, ()))
    return found


def _named(name: str, option: Mapping[str, Any]) -> Entry:
    entry = entry_of(option)
    return Entry(name if name == entry.text else f"{name}: {entry.text}", entry.risk, entry.effects)
