"""`clos ports ranges`: the ports that a project's services are given."""

import re
from typing import Any

import click

from cli.client import Client
from cli.command import Group
from cli.errors import DONE, NOT_FOUND, CliError
from cli.invocation import Invocation, pass_invocation
from cli.output import Column, inert

_COLUMNS: list[Column] = [
    ("RANGE", lambda one: str(one.get("id"))),
    ("PROJECT", lambda one: one.get("project")),
    ("PORTS", lambda one: f"{one.get('start_port')}-{one.get('end_port')}"),
    ("USED", lambda one: f"{one.get('used') or 0} ({one.get('usage_percent') or 0} %)"),
    ("MAX SERVICES", lambda one: one.get("max_services")),
    ("DESCRIPTION", lambda one: one.get("description")),
]


class Span(click.ParamType[tuple[int, int]]):
    """FROM-TO, both taken along; a single port is a range of one."""

    name = "FROM-TO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", value)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not (1 <= low <= 65_535 and 1 <= high <= 65_535):
            self.fail(f"{value!r} is no range of ports: FROM-TO, each from 1 to 65535", param, ctx)
        if low > high:
            self.fail(f"{value!r} is upside down", param, ctx)
        return low, high


@click.group(cls=Group)
def ranges() -> None:
    """Port ranges of projects: a group takes those of its project."""


@ranges.command("list")
@click.option("--project", help="Only this project's.")
@pass_invocation
def list_(invocation: Invocation, project: str | None) -> int:
    """List port ranges, and how much of each is leased."""
    found = [each for each in invocation.client.pages("/port-ranges") if project in (None, each.get("project"))]
    if not found and not invocation.printer.machine:
        invocation.printer.data("No port ranges are defined.")
        invocation.printer.say("Define one: clos ports ranges add PROJECT FROM-TO")
        return DONE
    invocation.printer.objects(found, _COLUMNS, name="id")
    return DONE


@ranges.command()
@click.argument("project")
@click.argument("span", type=Span(), metavar="FROM-TO")
@click.option("--description", help="What it is for.")
@click.option("--priority", type=int, help="Of a project's ranges the highest is filled first. Default: 0.")
@click.option("--max-services", type=click.IntRange(1, 65_535), help="How many services it admits.")
@click.option("--allow-ephemeral", is_flag=True, help="Also where the system gives ports to outgoing connections.")
@pass_invocation
def add(invocation: Invocation, project: str, span: tuple[int, int], **given: Any) -> int:
    """Define a range of ports for PROJECT."""
    body = {"project": project, "start_port": span[0], "end_port": span[1]} | _given(given)
    made = invocation.client.post("/port-ranges", body)
    return _told(invocation, made, "is defined")


@ranges.command()
@click.argument("which", metavar="RANGE")
@click.option("--ports", "span", type=Span(), help="Other ports; leases outside of them stay.")
@click.option("--project", help="Another project's from now on.")
@click.option("--description", help="What it is for.")
@click.option("--priority", type=int, help="Of a project's ranges the highest is filled first.")
@click.option("--max-services", type=click.IntRange(0, 65_535), help="How many services it admits; 0: any number.")
@click.option("--allow-ephemeral", is_flag=True, help="Also where the system gives ports to outgoing connections.")
@pass_invocation
def edit(invocation: Invocation, which: str, span: tuple[int, int] | None, **given: Any) -> int:
    """Change RANGE: its id, its FROM-TO, or the only one of that project."""
    body = _given(given)
    if span is not None:
        body |= {"start_port": span[0], "end_port": span[1]}
    if body.get("max_services") == 0:
        body["max_services"] = None
    if not body:
        raise click.UsageError("Say what to change.")
    one = _range(invocation.client, which)
    return _told(invocation, invocation.client.patch(f"/port-ranges/{one['id']}", body), "is changed")


@ranges.command()
@click.argument("which", metavar="RANGE")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def rm(invocation: Invocation, which: str, yes: bool) -> int:
    """Delete RANGE (its id, its FROM-TO, or the only one of that project); its leases stay."""
    one = _range(invocation.client, which)
    if not yes and invocation.answers:
        click.confirm(f"Delete {_named(one)}, of which {one.get('used') or 0} are leased?", abort=True, err=True)
    invocation.client.delete(f"/port-ranges/{one['id']}")
    invocation.printer.say(f"{_named(one)} is deleted; its leases stay.")
    return DONE


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None and value is not False}


def _range(client: Client, which: str) -> dict[str, Any]:
    every = list(client.pages("/port-ranges"))
    for key in (lambda one: str(one["id"]), lambda one: f"{one['start_port']}-{one['end_port']}", _project):
        fitting = [each for each in every if key(each) == which]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            named = ", ".join(f"{each['id']} ({each['start_port']}-{each['end_port']})" for each in fitting)
            raise CliError(f"{which!r} has more than one range", NOT_FOUND, hint=f"say which: {inert(named)}")
    raise CliError(f"there is no port range {which!r}", NOT_FOUND, hint="clos ports ranges list")


def _project(one: dict[str, Any]) -> str:
    return str(one["project"])


def _named(one: dict[str, Any]) -> str:
    return f"Range {one['start_port']}-{one['end_port']} of {inert(one['project'])}"


def _told(invocation: Invocation, one: dict[str, Any], what: str) -> int:
    printer = invocation.printer
    if printer.machine:
        printer.document(one)
        return DONE
    printer.data(f"{_named(one)} {what}.")
    return DONE
