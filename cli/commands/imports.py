"""`clos groups import | export`: Compose files in, and out again."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli import targets
from cli.client import segment
from cli.command import Command
from cli.errors import DONE, USAGE, CliError
from cli.invocation import Invocation, pass_invocation
from cli.live import Operation
from cli.output import inert
from cli.watching import WAIT_S, conclude, quietly, watch

_READ_S = 120.0
_SHORT = 60
_BY = {"file": "changed in the file", "hand": "changed by hand, kept", "both": "changed in both, the file's is taken"}


@dataclass(frozen=True, slots=True)
class _How:
    """How far an import goes: shown only, unasked, without waiting for its end."""

    dry_run: bool
    yes: bool
    no_wait: bool


@click.command(name="import", cls=Command)
@click.argument("path", default=".", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="The group's name (default: the project's).")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="Instead of the folder's own compose file.")
@click.option("--profile", "profiles", multiple=True, help="Take the services of this profile too.")
@click.option("--env-file", "env_files", multiple=True, metavar="FILE", help="Instead of the folder's .env.")
@click.option("--var", "given", multiple=True, metavar="NAME[=VALUE]", help="A variable; without a value, your own.")
@click.option("--project", help="Whose port ranges the group takes.")
@click.option("--leave-out", is_flag=True, help="Import without what CLOS does not carry out, rather than not at all.")
@click.option("--adopt", is_flag=True, help="Exchange the containers that Compose runs for CLOS's own.")
@click.option("--v1", "old", is_flag=True, help="Every template of CLOS v1 in CLOS's folder, instead of PATH.")
@click.option("--dry-run", is_flag=True, help="Show what would change, change nothing.")
@click.option("--no-wait", is_flag=True, help="Print the operation's id and return.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def import_(invocation: Invocation, path: Path, old: bool, given: Sequence[str], **asked: Any) -> int:
    """Make a group of a Compose project, or bring one up to date with it.

    PATH is a compose file or its folder. The file stays where it is and is never written; read it again with the same
    command. What was changed by hand since stays, unless the file changed it too.
    """
    body = _body(asked, given)
    how = _How(asked["dry_run"], asked["yes"], asked["no_wait"])
    if not old:
        return _import(invocation, body | {"path": str(path.resolve())}, how)
    found = _templates(invocation.home)
    if not found:
        raise CliError(f"there are no templates in {invocation.home / 'templates'}", USAGE)
    codes = [_import(invocation, body | {"path": str(file), "name": name}, how) for name, file in found]
    return max(codes)


def _templates(home: Path) -> list[tuple[str, Path]]:
    """v1's files by the group that each is of; what v1 made of a template comes after the template."""
    found: dict[str, Path] = {}
    for folder, ending in (("templates", ".template.yml"), ("compose", ".yml")):
        for file in sorted((home / folder).glob(f"*{ending}")):
            found.setdefault(file.name.removesuffix(ending), file)
    return sorted(found.items())


def _body(asked: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    lists = {key: list(asked[key]) for key in ("files", "profiles") if asked[key]}
    words = {key: asked[key] for key in ("name", "project") if asked[key]}
    body: dict[str, Any] = lists | words
    if asked["env_files"]:
        body["env_files"] = [str(Path(each).resolve()) for each in asked["env_files"]]
    if asked["files"]:
        body["files"] = [str(Path(each).resolve()) for each in asked["files"]]
    if variables := dict(_variable(each) for each in given):
        body["variables"] = variables
    if asked["leave_out"]:
        body["on_unsupported"] = "leave_out"
    return body | ({"adopt": True} if asked["adopt"] else {})


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise click.UsageError(f"--var {name}: you have no such variable; give NAME=VALUE.")
    return name, os.environ[name]


def _import(invocation: Invocation, body: dict[str, Any], how: _How) -> int:
    client, printer = invocation.client, invocation.printer
    planned = quietly(invocation, client.post("/groups/import", body | {"dry_run": True}), _READ_S)
    result = planned.get("result") or {}
    if how.dry_run and printer.machine:
        printer.document(planned)
        return DONE
    if not printer.machine:
        _show(invocation, result, bool(body.get("adopt")), how.no_wait)
    if how.dry_run:
        return DONE
    if _is_empty(result) and not body.get("adopt"):
        printer.say(f"Group {inert(result.get('group'))} is as its file says.")
        return DONE
    if not how.yes and invocation.answers:
        click.confirm(_question(result, bool(body.get("adopt"))), abort=True, err=True)
    asked = client.post("/groups/import", body)
    if how.no_wait:
        if printer.form in ("json", "yaml"):
            printer.document(asked)
        else:
            printer.data(asked["id"])
        return DONE
    ended = watch(invocation, asked, WAIT_S)
    if printer.machine:
        printer.document(ended)
    code = conclude(invocation, ended)
    if code == DONE and not printer.machine:
        _told(invocation, ended)
    return code


def _is_empty(result: dict[str, Any]) -> bool:
    diff = result.get("diff") or {}
    news = [each for each in diff.get("changed") or () if each.get("by") != "hand"]
    return not (news or diff.get("added") or diff.get("removed") or diff.get("added_again"))


def _question(result: dict[str, Any], adopt: bool) -> str:
    if adopt and result.get("containers"):
        return "Stop these containers and run CLOS's own in their place? What they wrote outside of volumes is lost"
    removed = (result.get("diff") or {}).get("removed") or []
    return f"Do that{', and stop and remove ' + inert(', '.join(removed)) if removed else ''}?"


def _show(invocation: Invocation, result: dict[str, Any], adopt: bool, only_id: bool) -> None:
    printer = invocation.printer
    # Where the answer is to be the operation's id, the difference is a message.
    tell = printer.say if only_id else printer.data
    for line in lines_of(result, adopt):
        tell(inert(line))
    for warning in result.get("warnings") or ():
        printer.say(f"note: {inert(warning)}")


def lines_of(result: dict[str, Any], adopt: bool = False) -> Iterable[str]:
    """What an import would change, one line each."""
    diff = result.get("diff") or {}
    yield f"Group {result.get('group')}:"
    yield from (f"  + {name}" for name in diff.get("added") or ())
    yield from (f"  + {name} (was deleted by hand)" for name in diff.get("added_again") or ())
    yield from (f"  - {name} (stopped and removed)" for name in diff.get("removed") or ())
    for each in diff.get("changed") or ():
        where = f"{each['service']}.{each['field']}" if each.get("service") else each["field"]
        if "names" in each:
            yield f"  ~ {where}: {', '.join(each['names'])} ({_BY[each['by']]})"
        else:
            yield f"  ~ {where}: {_shown(each['record'])} -> {_shown(each[each['taken']])} ({_BY[each['by']]})"
    left_out = result.get("left_out") or {}
    if left_out.get("profiles"):
        yield f"  left out, of other profiles: {', '.join(left_out['profiles'])}"
    for each in left_out.get("unsupported") or ():
        yield f"  left out: {each['path']}: {each['reason']}"
    doing = "is exchanged" if adopt else "is left alone; its ports stay taken while it runs"
    for each in result.get("containers") or ():
        yield f"  {each['name']} was started by Compose and {doing}"


def _shown(value: Any) -> str:
    text = "nothing" if value in (None, [], {}) else str(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def _told(invocation: Invocation, ended: Operation) -> None:
    result = ended.get("result") or {}
    group = inert(result.get("group"))
    printer = invocation.printer
    if result.get("taken_over"):
        printer.data(f"Group {group} was taken over from Compose and runs.")
        return
    printer.data(f"Group {group} is imported with {len(result.get('services') or [])} services.")
    changed = {each["service"] for each in (result.get("diff") or {}).get("changed") or () if each.get("service")}
    verb = "update" if changed else "start"
    printer.say(f"{'Bring it up to date' if changed else 'Start it'}: clos {verb} {group}")


@click.command(name="export", cls=Command)
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["compose", "json"]), default="json", help="In which form.")
@pass_invocation
def export(invocation: Invocation, name: str, form: str) -> int:
    """Write a group as a Compose file, or as the JSON that `clos groups add -f` takes. Secrets' values are left out."""
    one = targets.group(invocation.client, name)
    printer = invocation.printer
    found = invocation.client.get(f"/groups/{segment(one['name'])}/export", format=form)
    if form == "compose" and not printer.machine:
        printer.data(str(found.get("compose", "")).rstrip("\n"))
    elif form == "json" and not printer.machine:
        import json

        printer.data(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        printer.document(found, name="name")
    services = invocation.client.pages("/services", group=one["name"])
    if left_out := [f"{each['name']}.{key}" for each in services for key in each.get("secrets") or ()]:
        printer.say(f"left out, as they are secret: {inert(', '.join(left_out))}")
    return DONE
