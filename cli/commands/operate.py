"""`clos start | stop | restart | update TARGET`: ask for it, watch it, say how it ended."""

from typing import Any

import click

from cli import compose_hint, options, several, targets, updates
from cli.client import Client, segment
from cli.command import Command
from cli.conflict_texts import resolved_by, say_plan
from cli.errors import DONE, CliError
from cli.invocation import Invocation, pass_invocation
from cli.live import Operation
from cli.output import inert
from cli.watching import WAIT_S, conclude, watch

_DONE_WORD = {"start": "started", "stop": "stopped", "restart": "restarted", "update": "updated"}


@click.command(cls=Command)
@options.common
@options.timeout
@options.on_conflict
@click.option("--no-deps", is_flag=True, help="Leave out what it depends on.")
@pass_invocation
def start(invocation: Invocation, named: tuple[str, ...], no_deps: bool, on_conflict: str | None, **how: Any) -> int:
    """Start groups or services, and what they depend on first.

    TARGET is a group, or a service by its name, its id or group/service. Where somebody else has a port of it, a
    person at a terminal is asked what to do; in a script the group's policy decides, unless --on-conflict does.
    """
    more: dict[str, Any] = {"no_deps": True} if no_deps else {}
    if how["timeout"]:
        more["timeout"] = how["timeout"]
    return _do(invocation, "start", named, more, how, on_conflict)


@click.command(cls=Command)
@options.common
@options.stop_timeout
@click.option("--cascade", is_flag=True, help="Stop first what depends on it.")
@pass_invocation
def stop(invocation: Invocation, named: tuple[str, ...], cascade: bool, **how: Any) -> int:
    """Stop groups or services.

    TARGET is a group, or a service by its name, its id or group/service. --timeout is how long each service gets
    before it is killed.
    """
    more: dict[str, Any] = {"cascade": True} if cascade else {}
    if (given := how.pop("timeout")) is not None:
        more["timeout"] = given
    return _do(invocation, "stop", named, more, how)


@click.command(cls=Command)
@options.common
@options.timeout
@options.on_conflict
@pass_invocation
def restart(invocation: Invocation, named: tuple[str, ...], on_conflict: str | None, **how: Any) -> int:
    """Restart groups or services: stop all of it, then start all of it.

    TARGET is a group, or a service by its name, its id or group/service.
    """
    more = {"timeout": how["timeout"]} if how["timeout"] else {}
    return _do(invocation, "restart", named, more, how, on_conflict)


@click.command(cls=Command)
@options.common
@options.timeout
@click.option(
    "--on-failure",
    type=click.Choice(["rollback", "keep"]),
    help="If a new version does not get well: take everything back (the default), or leave it as it is then.",
)
@pass_invocation
def update(invocation: Invocation, named: tuple[str, ...], on_failure: str | None, **how: Any) -> int:
    """Bring what drifted to what is wanted: new versions beside the old ones, exchanged one by one.

    TARGET is a group, or a service by its name, its id or group/service. What is stopped stays so. Either all new
    versions stand in the end, or everything is as before; the table says which version runs.
    """
    more: dict[str, Any] = {"on_failure": on_failure} if on_failure else {}
    if how["timeout"]:
        more["timeout"] = how["timeout"]
    return _do(invocation, "update", named, more, how)


def _do(
    invocation: Invocation,
    verb: str,
    named: tuple[str, ...],
    more: dict[str, Any],
    how: dict[str, Any],
    on_conflict: str | None = None,
) -> int:
    body = {name: True for name in ("wait_for", "dry_run") if how[name]} | more
    if how["step_timeout"]:
        body["step_timeout"] = how["step_timeout"]
    if how["after"]:
        body["dependencies"] = list(how["after"])
    starts = verb in ("start", "restart")
    nothing = not (named or how["tag"] or how["match"])
    if verb == "start" and nothing and (hinted := compose_hint.nothing_named(invocation)):
        raise hinted
    if not several.is_one(named, how):
        body |= several.asked(invocation.client, verb, named, how)
        return _run(invocation, None, verb, body | _policy(invocation, None, on_conflict, how, starts), how)
    try:
        found = targets.find(invocation.client, named[0])
    except CliError as missing:
        raise (compose_hint.with_hint(invocation, missing) if verb == "start" else missing) from missing
    body |= _only_these(invocation.client, found, how)
    return _run(invocation, found, verb, body | _policy(invocation, found, on_conflict, how, starts), how)


def _policy(
    invocation: Invocation, found: targets.Target | None, on_conflict: str | None, how: dict[str, Any], starts: bool
) -> dict[str, Any]:
    """What is said about taken ports: a person who watches is asked, unless the group has a policy of its own."""
    if not starts or (found is None and not on_conflict):
        return {}
    if on_conflict or found is None:
        return {"on_conflict": on_conflict}
    watched = invocation.answers and not how["no_wait"] and not how["dry_run"] and not invocation.printer.machine
    if not watched:
        return {}
    group = found.found
    if found.kind == "service":
        group = invocation.client.get(f"/groups/{segment(found.found['group'])}")
    policy = group.get("conflicts") or {}
    return {} if policy.get("on_start") or policy.get("auto_resolve") else {"on_conflict": "ask"}


def _only(kind: str, found: targets.Target, option: str) -> None:
    if found.kind != kind:
        raise click.UsageError(f"{option} is for a {kind}; {inert(found.name)} is a {found.kind}.")


def _only_these(client: Client, found: targets.Target, how: dict[str, Any]) -> dict[str, Any]:
    if not how["services"]:
        return {}
    _only("group", found, "--services")
    wanted = [name.strip() for name in how["services"].split(",") if name.strip()]
    named = [targets.service(client, f"{found.name}/{_short(found, name)}")["name"] for name in wanted]
    return {"services": named}


def _short(found: targets.Target, name: str) -> str:
    return name.removeprefix(f"{found.name}/").removeprefix(f"{found.name}-")


def _run(
    invocation: Invocation, found: targets.Target | None, verb: str, body: dict[str, Any], how: dict[str, Any]
) -> int:
    client, printer = invocation.client, invocation.printer
    operation = client.post("/operations" if found is None else f"{found.path}/{verb}", body)
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
        say_plan(invocation.printer, ended)
        return DONE
    code = conclude(invocation, ended)
    if verb == "update" and not printer.machine:
        updates.say(printer, ended)
        return code
    if code == DONE and not printer.machine:
        if found is None:
            return several.summary(invocation, ended, _DONE_WORD[verb])
        _summary(invocation, found, verb, ended, set(body.get("services", [])))
    return code


def _summary(invocation: Invocation, found: targets.Target, verb: str, ended: Operation, only: set[str]) -> None:
    printer = invocation.printer
    services = [one for one in found.services(invocation.client) if not only or one["name"] in only]
    if verb != "stop" and found.kind == "service":
        services += _taken_along(invocation.client, ended, {one["id"] for one in services})
    nothing = "" if ended.get("steps") else " (nothing to do)"
    printer.say(f"{inert(found.name)} {_DONE_WORD[verb]}{nothing}")
    for line in resolved_by(invocation.client, ended):
        printer.say(inert(line))
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
