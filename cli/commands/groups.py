"""`clos groups`: what belongs together and starts together."""

from typing import Any

import click

from cli import targets
from cli.client import segment
from cli.command import Group
from cli.commands.clones import clone, keep
from cli.commands.operate import address
from cli.commands.status import COLUMNS
from cli.errors import DONE, FAILED, ApiError, CliError
from cli.invocation import Invocation, pass_invocation
from cli.output import Column, inert, local_time
from cli.watching import WAIT_S, conclude, watch

_COLUMNS: list[Column] = [
    ("NAME", lambda one: one.get("name")),
    ("STATUS", lambda one: one.get("status")),
    ("SERVICES", lambda one: _counted(one.get("counts") or {})),
    ("HEALTH", lambda one: _percent(one.get("health_score"))),
    ("PROJECT", lambda one: one.get("project")),
    ("NEEDS", lambda one: ", ".join(one.get("dependencies") or [])),
]
_WIDE: list[Column] = [
    ("ORDER", lambda one: str(one.get("start_order") or 0)),
    ("CLONE OF", lambda one: one.get("cloned_from")),
    ("REMOVED AT", lambda one: local_time(one["expires_at"]) if one.get("expires_at") else ""),
    ("NETWORK", lambda one: one.get("network_name")),
    ("DESCRIPTION", lambda one: one.get("description")),
]


def _counted(counts: dict[str, Any]) -> str:
    return f"{counts.get('running', 0)}/{counts.get('total', 0)} running" if counts else ""


def _percent(score: Any) -> str:
    return f"{round(score * 100)} %" if isinstance(score, int | float) else ""


_LAZY = {
    "import": (
        "cli.commands.imports",
        "import_",
        "Make a group of a Compose project, or bring one up to date with it.",
    ),
    "export": ("cli.commands.imports", "export", "Write a group as a Compose file, or as JSON."),
}


@click.group(cls=Group, lazy=_LAZY)
def groups() -> None:
    """Groups of services."""


groups.add_command(clone)
groups.add_command(keep)


@groups.command("list")
@pass_invocation
def list_(invocation: Invocation) -> int:
    """List all groups."""
    found = list(invocation.client.pages("/groups"))
    if not found and not invocation.printer.machine:
        invocation.printer.data("No groups are registered.")
        invocation.printer.say("Register one: clos groups add -f FILE")
        return DONE
    invocation.printer.objects(found, _COLUMNS, name="name", wide=_WIDE)
    return DONE


@groups.command()
@click.argument("name")
@pass_invocation
def show(invocation: Invocation, name: str) -> int:
    """Show a group and its services."""
    printer = invocation.printer
    one = targets.group(invocation.client, name)
    if printer.machine:
        printer.document(one, name="name")
        return DONE
    printer.facts(
        [
            ("name", one["name"]),
            ("description", one.get("description")),
            ("status", one.get("status")),
            ("services", _counted(one.get("counts") or {})),
            ("project", one.get("project")),
            ("needs", ", ".join(one.get("dependencies") or [])),
            ("network", one.get("network_name")),
            ("directory", one.get("directory")),
            ("cloned from", one.get("cloned_from")),
            ("removed at", local_time(one["expires_at"]) if one.get("expires_at") else None),
            ("version", one.get("spec_version")),
        ]
    )
    services = list(invocation.client.pages("/services", group=one["name"]))
    if services:
        printer.data("")
        printer.table(services, [*COLUMNS, ("URL", address)])
    return DONE


@groups.command()
@click.option("-f", "--file", "file", metavar="FILE", help="YAML or JSON; - is stdin.")
@click.argument("name", required=False)
@click.option("--description", help="For an empty group given by NAME.")
@click.option("--project", help="Whose port ranges it takes.")
@pass_invocation
def add(invocation: Invocation, file: str | None, name: str | None, **given: Any) -> int:
    """Register a group: from FILE with all of its services, or an empty one by NAME."""
    if (file is None) == (name is None):
        raise click.UsageError("Give either -f FILE or a NAME.")
    if file is not None:
        from cli.definitions import read_group

        body = read_group(file)
    else:
        body = {"name": name}
    body |= {key: value for key, value in given.items() if value is not None}
    try:
        made = invocation.client.post("/groups", body)
    except ApiError as refused:
        if refused.code == "group_exists":
            group = body.get("name")
            hint = f"clos groups show {group}; to define it anew: clos groups rm {group}"
            raise CliError(f"group {group!r} is registered already", FAILED, hint=hint) from refused
        raise
    printer = invocation.printer
    if printer.machine:
        printer.document(made, name="name")
        return DONE
    printer.data(f"Group {inert(made['name'])} is registered with {len(made.get('services') or [])} services.")
    printer.say(f"Start it: clos start {inert(made['name'])}")
    return DONE


@groups.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when services of it run: they are stopped.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def rm(invocation: Invocation, name: str, force: bool, yes: bool) -> int:
    """Remove a group and its services."""
    one = targets.group(invocation.client, name)
    if not yes and invocation.answers:
        count = (one.get("counts") or {}).get("total", 0)
        click.confirm(f"Remove group {inert(name)} with its {count} services?", abort=True, err=True)
    answer = invocation.client.delete(f"/groups/{segment(one['name'])}", force="true" if force else None)
    if answer and answer.get("steps") is not None and answer.get("id"):
        code = conclude(invocation, watch(invocation, answer, WAIT_S))
        if code != DONE:
            return code
    invocation.printer.say(f"Group {inert(name)} is removed.")
    return DONE


@groups.command()
@click.argument("name")
@pass_invocation
def graph(invocation: Invocation, name: str) -> int:
    """Show what needs what, in the order in which it starts."""
    printer = invocation.printer
    one = targets.group(invocation.client, name)
    found = invocation.client.get(f"/groups/{segment(one['name'])}/graph")
    if printer.machine:
        printer.document(found, name="name")
        return DONE
    edges: dict[str, list[str]] = {}
    for edge in found.get("edges") or []:
        condition = edge.get("condition")
        needed = f"{_end(edge, 'to', 'target')}{f' ({condition})' if condition else ''}"
        edges.setdefault(_end(edge, "from", "source"), []).append(needed)
    order = found.get("order") or [_id(node) for node in found.get("nodes") or []]
    for level in order:
        for node in level if isinstance(level, list) else [level]:
            needs = edges.get(_id(node))
            printer.data(inert(f"{_id(node)}{' needs ' + ', '.join(needs) if needs else ''}"))
    return DONE


def _id(node: Any) -> str:
    return str(node.get("id") or node.get("name")) if isinstance(node, dict) else str(node)


def _end(edge: dict[str, Any], *names: str) -> str:
    return str(next((edge[name] for name in names if edge.get(name)), "?"))
