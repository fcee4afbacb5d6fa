"""`clos start | stop | restart TARGET`: ask for it, watch it, say how it ended."""

from typing import Any

import click

from cli import targets
from cli.client import Client, segment
from cli.command import Command
from cli.errors import DONE, INTERRUPTED, TIMED_OUT, CliError, of_operation
from cli.invocation import Invocation, pass_invocation
from cli.live import FINAL, Operation, Watch
from cli.output import inert
from cli.progress import facts, reason, title, view

WAIT_S = 3600.0
_CANCEL_S = 60.0
_DONE_WORD = {"start": "started", "stop": "stopped", "restart": "restarted"}


def _common(command: Any) -> Any:
    for option in (
        click.argument("target"),
        click.option("--no-wait", is_flag=True, help="Print the operation's id and return."),
        click.option("--wait-for", is_flag=True, help="Queue behind an operation that is already at work on it."),
        click.option("--timeout", type=click.FloatRange(min=0.1), metavar="SECONDS", help="How long it may take."),
        click.option("--dry-run", is_flag=True, help="Show the plan, change nothing."),
        click.option("--services", metavar="NAMES", help="Only these of the group, separated by commas."),
    ):
        command = option(command)
    return command


@click.command(cls=Command)
@_common
@click.option("--no-deps", is_flag=True, help="Leave out what it depends on.")
@click.option("--on-conflict", type=click.Choice(["fail", "migrate", "ask"]), help="What to do about a taken port.")
@pass_invocation
def start(invocation: Invocation, target: str, no_deps: bool, on_conflict: str | None, **how: Any) -> int:
    """Start a group or a service, and what it depends on first.

    TARGET is a group, or a service by its name, its id or group/service.
    """
    found = targets.find(invocation.client, target)
    body = _body(invocation.client, found, how)
    if no_deps:
        body["no_deps"] = True
    if on_conflict:
        body["on_conflict"] = on_conflict
    if how["timeout"]:
        body["timeout"] = how["timeout"]
    return _run(invocation, found, "start", body, how)


@click.command(cls=Command)
@_common
@click.option("--cascade", is_flag=True, help="Stop first what depends on it.")
@pass_invocation
def stop(invocation: Invocation, target: str, cascade: bool, **how: Any) -> int:
    """Stop a group or a service.

    TARGET is a group, or a service by its name, its id or group/service. --timeout is how long each service gets
    before it is killed.
    """
    found = targets.find(invocation.client, target)
    body = _body(invocation.client, found, how)
    if cascade:
        body["cascade"] = True
    if how["timeout"]:
        body["timeout"] = how.pop("timeout")
    return _run(invocation, found, "stop", body, how)


@click.command(cls=Command)
@_common
@pass_invocation
def restart(invocation: Invocation, target: str, **how: Any) -> int:
    """Restart a group or a service: stop all of it, then start all of it.

    TARGET is a group, or a service by its name, its id or group/service.
    """
    found = targets.find(invocation.client, target)
    body = _body(invocation.client, found, how)
    if how["timeout"]:
        body["timeout"] = how["timeout"]
    return _run(invocation, found, "restart", body, how)


def _only(kind: str, found: targets.Target, option: str) -> None:
    if found.kind != kind:
        raise click.UsageError(f"{option} is for a {kind}; {inert(found.name)} is a {found.kind}.")


def _body(client: Client, found: targets.Target, how: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {name: True for name in ("wait_for", "dry_run") if how[name]}
    if how["services"]:
        _only("group", found, "--services")
        wanted = [name.strip() for name in how["services"].split(",") if name.strip()]
        body["services"] = [targets.service(client, f"{found.name}/{_short(found, name)}")["name"] for name in wanted]
    return body


def _short(found: targets.Target, name: str) -> str:
    return name.removeprefix(f"{found.name}/").removeprefix(f"{found.name}-")


def _run(invocation: Invocation, found: targets.Target, verb: str, body: dict[str, Any], how: dict[str, Any]) -> int:
    client, printer = invocation.client, invocation.printer
    operation = client.post(f"{found.path}/{verb}", body)
    if how["no_wait"]:
        if printer.form in ("json", "yaml"):
            printer.document(operation)
        else:
            printer.data(operation["id"])
        return DONE
    timeout_s = how.get("timeout")
    ended = watch(invocation, operation, timeout_s + 5 if timeout_s else WAIT_S)
    if printer.machine:
        printer.document(ended)
    if how["dry_run"] and ended["status"] == "completed":
        _show_plan(invocation, ended)
        return DONE
    code = conclude(invocation, ended)
    if code == DONE and not printer.machine:
        _summary(invocation, found, verb, ended, set(body.get("services", [])))
    return code


def watch(invocation: Invocation, operation: Operation, timeout_s: float) -> Operation:
    """Show an operation until it ends.

    Raises:
        CliError: it did not end in time (7), or somebody pressed Ctrl-C and it was left or cancelled (130).
    """
    client, printer = invocation.client, invocation.printer
    while True:
        try:
            with view(invocation) as shown:
                follow = Watch(client, shown.show, printer.detail)
                operation = follow.until_end(operation["id"], timeout_s)
            break
        except KeyboardInterrupt:
            client.close()
            if not _interrupted(invocation, operation["id"]):
                raise CliError("", INTERRUPTED) from None
    if operation["status"] not in FINAL:
        raise CliError(
            f"{title(operation)} has not ended after {timeout_s:g} s",
            TIMED_OUT,
            hint=f"it goes on: clos ops watch {operation['id']}",
        )
    return operation


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
        printer.say(f"{title(ended)}: {ended['status']}")
    else:
        printer.say(f"left running: clos ops watch {operation_id}")
    return False


def conclude(invocation: Invocation, operation: Operation) -> int:
    """Say how it ended where that was not well, and give the exit code."""
    status, error = operation["status"], operation.get("error") or {}
    if status == "completed":
        return DONE
    if status == "cancelled":
        invocation.printer.error(f"{title(operation)} was cancelled", lines=_left_out(operation))
        return INTERRUPTED if not error else of_operation(error)
    lines = [*_failed_steps(operation), *facts(error), *_left_out(operation)]
    invocation.printer.error(
        f"{title(operation)} failed: {reason(error) or 'no reason given'}",
        lines=[*lines, f"operation: {operation['id']}"],
        hint=str(error.get("hint") or ""),
    )
    return of_operation(error)


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
    steps = operation.get("steps") or []
    failed = {step.get("target") for step in steps if step.get("status") == "failed"}
    skipped = [step.get("target") for step in steps if step.get("status") == "skipped"]
    left = [str(target) for target in skipped if target not in failed]
    return [f"not attempted: {', '.join(dict.fromkeys(left))}"] if left else []


def _summary(invocation: Invocation, found: targets.Target, verb: str, ended: Operation, only: set[str]) -> None:
    printer = invocation.printer
    services = [one for one in found.services(invocation.client) if not only or one["name"] in only]
    if verb != "stop" and found.kind == "service":
        services += _taken_along(invocation.client, ended, {one["id"] for one in services})
    nothing = "" if ended.get("steps") else " (nothing to do)"
    printer.say(f"{inert(found.name)} {_DONE_WORD[verb]}{nothing}")
    printer.table(
        services,
        [
            ("NAME", lambda one: one.get("name")),
            ("STATUS", lambda one: one.get("status")),
            ("HEALTH", lambda one: (one.get("health") or {}).get("status")),
            ("URL", address),
        ],
    )
    told = {**(ended.get("parameters") or {}), **(ended.get("result") or {})}
    dependents = told.get("running_dependents")
    if dependents:
        printer.say(f"still running and depending on it: {inert(', '.join(map(str, dependents)))}")


def _taken_along(client: Client, ended: Operation, shown: set[str]) -> list[dict[str, Any]]:
    along = {str(step["target"]) for step in ended.get("steps") or [] if step.get("action") == "start"}
    return [client.get(f"/services/{segment(one)}") for one in sorted(along - shown) if ":" not in one]


def address(one: dict[str, Any]) -> str | None:
    """Where a service answers: its first port's URL, or host and port."""
    for port in one.get("ports") or []:
        if port.get("url"):
            return str(port["url"])
        if port.get("host_port"):
            return f"{port.get('host_ip') or '127.0.0.1'}:{port['host_port']}"
    return None


def _show_plan(invocation: Invocation, ended: Operation) -> None:
    printer = invocation.printer
    if printer.machine:
        return
    plan = (ended.get("result") or {}).get("plan") or {}
    if not plan.get("steps"):
        printer.say("nothing to do")
        return
    printer.table(
        plan["steps"],
        [
            ("STEP", lambda step: step.get("action")),
            ("TARGET", lambda step: step.get("target")),
            ("AFTER", lambda step: ", ".join(step.get("depends_on") or [])),
            ("WHY", lambda step: step.get("cause")),
        ],
    )
    for conflict in plan.get("conflicts") or []:
        printer.say(f"conflict: port {conflict.get('port')}/{conflict.get('protocol')} ({inert(conflict.get('kind'))})")
