"""Several TARGETs in one command: what is asked of `POST /operations`, and how its end is told."""

from collections.abc import Sequence
from typing import Any

import click

from cli import targets
from cli.client import Client, segment
from cli.errors import DONE
from cli.invocation import Invocation
from cli.live import Operation
from cli.output import Column, inert, seconds
from cli.progress import reason

CHILDREN: list[Column] = [
    ("ID", lambda one: one.get("id")),
    ("TYPE", lambda one: one.get("type")),
    ("TARGET", lambda one: one.get("service_id") or one.get("group_name")),
    ("STATUS", lambda one: one.get("status")),
    ("%", lambda one: str(one.get("progress") or 0)),
    ("TOOK", lambda one: seconds(one.get("start_time"), one.get("end_time"))),
    ("WHY", lambda one: reason(one.get("error")) or said(one)),
]


def asked(client: Client, verb: str, named: Sequence[str], how: dict[str, Any]) -> dict[str, Any]:
    """The body of a request for several targets."""
    found = [targets.find(client, each) for each in named]
    body: dict[str, Any] = {"action": verb}
    groups = [each.name for each in found if each.kind == "group"]
    services = [each.name for each in found if each.kind == "service"]
    selected = {"groups": groups, "services": services, "tags": list(how["tag"]), "match": list(how["match"])}
    body |= {name: values for name, values in selected.items() if values}
    if how["each"]:
        _refuse_with_each(how)
        body["together"] = False
    if how["services"]:
        raise click.UsageError("--services is for one group.")
    return body


def _refuse_with_each(how: dict[str, Any]) -> None:
    """The API refuses these too, in words of its own (`together`)."""
    if given := [option for option, name in (("--dry-run", "dry_run"), ("--after", "after")) if how[name]]:
        raise click.UsageError(f"{given[0]} is for one plan over all; leave out --each.")


def is_one(named: Sequence[str], how: dict[str, Any]) -> bool:
    """Whether one group or service is meant, rather than several.

    Raises:
        click.UsageError: nothing is.
    """
    if not named and not how["tag"] and not how["match"]:
        raise click.UsageError("Name a group or a service, or select some with --tag or --match.")
    return len(named) == 1 and not how["tag"] and not how["match"] and not how["each"]


def children(client: Client, parent: Operation) -> list[dict[str, Any]]:
    """The operations of a batch; none of an operation that is none."""
    if not is_batch(parent):
        return []
    return list(client.pages("/operations", parent=segment(parent["id"])))[::-1]


def is_batch(operation: Operation) -> bool:
    """Whether it has one operation per target."""
    asked_for = operation.get("parameters") or {}
    return str(operation.get("type", "")).startswith("batch.") and asked_for.get("together") is False


def said(operation: Operation) -> str:
    """What an operation waits for, in a line."""
    return inert("; ".join(str(each.get("text")) for each in operation.get("waiting_for") or []))


def summary(invocation: Invocation, ended: Operation, done_word: str) -> int:
    """Tell how several targets ended well."""
    printer = invocation.printer
    told = ended.get("parameters") or {}
    names = [*(told.get("groups") or []), *(told.get("chosen") or [])]
    nothing = "" if ended.get("steps") or is_batch(ended) else " (nothing to do)"
    printer.say(f"{inert(', '.join(map(str, names)))} {done_word}{nothing}")
    if is_batch(ended):
        printer.table(children(invocation.client, ended), CHILDREN)
    return DONE
