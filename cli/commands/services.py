"""`clos services`: what is registered, and what it is made of."""

import os
import shlex
from typing import Any

import click

from cli import targets
from cli.client import segment
from cli.command import Group
from cli.commands.status import COLUMNS, WIDE, waiting
from cli.errors import DONE, CliError
from cli.invocation import Invocation, pass_invocation
from cli.output import inert, local_time
from cli.watching import WAIT_S, conclude, watch

_EDITABLE = (
    "description", "image", "build", "command", "working_dir", "user", "environment", "volumes", "networks",
    "network_mode", "dns_servers", "labels", "restart_policy", "restart_by", "cpu_limit", "memory_limit",
    "stop_timeout", "ports", "depends_on", "health_check", "tags", "version", "owner",
)  # fmt: skip


@click.group(cls=Group)
def services() -> None:
    """Services, whatever runs them."""


@services.command("list")
@click.option("-g", "--group", help="Only this group's.")
@click.option("--status", help="running, stopped, failed … (commas: or).")
@click.option("--health", help="healthy, unhealthy … (commas: or).")
@click.option("--tag", help="With this tag.")
@click.option("--runtime", help="docker, process, external.")
@click.option("--search", "q", metavar="TEXT", help="With TEXT in its name.")
@pass_invocation
def list_(invocation: Invocation, **filters: Any) -> int:
    """List services."""
    found = list(invocation.client.pages("/services", **filters))
    if not found and not invocation.printer.machine:
        invocation.printer.data("No services fit." if any(filters.values()) else "No services are registered.")
        return DONE
    invocation.printer.objects(found, COLUMNS, wide=WIDE)
    return DONE


@services.command()
@click.argument("service")
@pass_invocation
def show(invocation: Invocation, service: str) -> int:
    """Show one service: what is wanted, and what was seen."""
    printer = invocation.printer
    one = targets.service(invocation.client, service)
    if printer.machine:
        printer.document(one)
        return DONE
    health, observed = one.get("health") or {}, one.get("observed") or {}
    printer.facts(
        [
            *((key, one.get(key)) for key in ("id", "name", "group", "description", "runtime", "status", "desired")),
            ("down", observed.get("down_cause")),
            ("waiting for", waiting(one)),
            ("health", health.get("status")),
            ("health detail", health.get("detail")),
            ("drift", "what runs is not what is wanted" if one.get("drift") else None),
            *(("drift", detail) for detail in one.get("drift_detail") or []),
            ("started", local_time(one.get("started_at"))),
            ("stopped", local_time(one.get("stopped_at"))),
            *((key.replace("_", " "), observed.get(key)) for key in ("pid", "container_id", "exit_code", "restarts")),
            ("image", one.get("image")),
            ("command", shlex.join(map(str, one.get("command") or []))),
            ("working dir", one.get("working_dir")),
            *(("port", _port(port)) for port in one.get("ports") or []),
            *(("needs", f"{need.get('service')} ({need.get('condition')})") for need in one.get("depends_on") or []),
            *(("environment", f"{key}={value}") for key, value in (one.get("environment") or {}).items()),
            *(("volume", volume) for volume in one.get("volumes") or []),
            ("restart", one.get("restart_policy")),
            ("version", one.get("spec_version")),
        ]
    )
    return DONE


def _port(port: dict[str, Any]) -> str:
    where = port.get("url") or f"{port.get('host_ip')}:{port.get('host_port')}/{port.get('protocol')}"
    inside = port.get("container_port")
    name = f"{port['name']} " if port.get("name") else ""
    return f"{name}{where}" + (f" -> {inside}" if inside and inside != port.get("host_port") else "")


@services.command()
@click.argument("name", required=False)
@click.option("-f", "--file", metavar="FILE", help="YAML or JSON; - is stdin.")
@click.option("-g", "--group", help="Its group; made if there is none.")
@click.option("--runtime", type=click.Choice(["docker", "process", "external"]))
@click.option("--image", help="For docker.")
@click.option("--command", help="What to run, as in a shell, but without one.")
@click.option("--working-dir", type=click.Path(resolve_path=True), help="For process.")
@click.option("-p", "--port", "ports", multiple=True, metavar="[HOST:]PORT", help="May be given several times.")
@click.option("-e", "--env", "environment", multiple=True, metavar="KEY=VALUE", help="May be given several times.")
@click.option("--needs", "depends_on", multiple=True, metavar="SERVICE[:CONDITION]", help="May be given several times.")
@click.option("--health-url", help="A URL, or a path on its first port.")
@pass_invocation
def add(invocation: Invocation, name: str | None, file: str | None, **given: Any) -> int:
    """Register a service, from FILE or from options."""
    body: dict[str, Any] = {}
    if file:
        from cli.definitions import read_service

        body = read_service(file)
    if name:
        body["name"] = name
    if not body.get("name"):
        raise click.UsageError("Give a NAME, or -f FILE.")
    made = invocation.client.post("/services", body | _from_options(given))
    printer = invocation.printer
    if printer.machine:
        printer.document(made)
        return DONE
    printer.data(f"Service {inert(made['id'])} is registered.")
    printer.say(f"Start it: clos start {inert(made['id'])}")
    return DONE


def _from_options(given: dict[str, Any]) -> dict[str, Any]:
    body = {key: given[key] for key in ("group", "runtime", "image", "working_dir", "health_url") if given.get(key)}
    try:
        if given["command"]:
            body["command"] = shlex.split(given["command"])
    except ValueError as wrong:
        raise click.UsageError(f"--command: {wrong}") from wrong
    if given["ports"]:
        body["ports"] = [_wanted_port(text) for text in given["ports"]]
    if given["environment"]:
        body["environment"] = dict(_pair(text) for text in given["environment"])
    if given["depends_on"]:
        body["depends_on"] = [_need(text) for text in given["depends_on"]]
    return body


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"--env {text}: not KEY=VALUE")
    return key, value


def _need(text: str) -> dict[str, str]:
    service, _, condition = text.partition(":")
    return {"service": service, **({"condition": condition} if condition else {})}


def _wanted_port(text: str) -> dict[str, int]:
    host, colon, inside = text.rpartition(":")
    if not text.replace(":", "", 1).isascii() or not all(part.isdigit() for part in (host or "0", inside)):
        raise click.UsageError(f"--port {text}: not PORT or HOST:PORT")
    if not colon:
        return {"host_port": int(inside)}
    return {"container_port": int(inside), **({"host_port": int(host)} if host else {})}


@services.command()
@click.argument("service")
@click.option("-f", "--file", metavar="FILE", help="The changes, as YAML or JSON; - is stdin.")
@pass_invocation
def edit(invocation: Invocation, service: str, file: str | None) -> int:
    """Change what is wanted of a service, in $EDITOR or from FILE. What runs stays as it is until it is updated."""
    client, printer = invocation.client, invocation.printer
    one = targets.service(client, service)
    path = f"/services/{segment(one['id'])}"
    one, version = client.versioned(path)
    before = _definition(one)
    changes = _changes_from(file) if file else _changes_by_hand(invocation, one["id"], before)
    if not changes:
        printer.say("Nothing was changed.")
        return DONE
    changed = client.patch(path, changes, version)
    if printer.machine:
        printer.document(changed)
    else:
        printer.data(f"Service {inert(one['id'])} is changed: {inert(', '.join(changes))}.")
    if changed.get("drift"):
        printer.say(f"What runs is still the old one: clos update {inert(one['id'])}")
    return DONE


def _definition(one: dict[str, Any]) -> dict[str, Any]:
    """What may be changed, in the form in which it is given back."""
    found = {key: one[key] for key in _EDITABLE if key in one}
    for port in found.get("ports") or []:
        port.pop("url", None)
    if found.get("health_check"):
        found["health_check"] = {key: value for key, value in found["health_check"].items() if value is not None}
    return found


def _changes_from(file: str) -> dict[str, Any]:
    from cli.definitions import read_service

    return read_service(file)


def _changes_by_hand(invocation: Invocation, name: str, before: dict[str, Any]) -> dict[str, Any]:
    import yaml

    from cli.definitions import parse

    if not invocation.answers and not (os.environ.get("VISUAL") or os.environ.get("EDITOR")):
        raise CliError("there is no terminal to edit in", 2, hint="give the changes with -f FILE")
    text = f"# {name}\n" + yaml.safe_dump(before, sort_keys=False, allow_unicode=True)
    edited = click.edit(text, extension=".yaml")
    if edited is None:
        return {}
    after = parse(edited, "what was edited")
    if not isinstance(after, dict):
        raise CliError("what was edited is no mapping of keys to values", 2)
    gone = {key: None for key in before if key not in after and before[key] not in (None, [], {})}
    return {key: value for key, value in after.items() if before.get(key) != value} | gone


@services.command()
@click.argument("service")
@click.option("--force", is_flag=True, help="Also when it runs: it is stopped.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def rm(invocation: Invocation, service: str, force: bool, yes: bool) -> int:
    """Remove a service, and its stopped instance."""
    one = targets.service(invocation.client, service)
    if not yes and invocation.answers:
        click.confirm(f"Remove service {inert(one['id'])}?", abort=True, err=True)
    answer = invocation.client.delete(f"/services/{segment(one['id'])}", force="true" if force else None)
    if answer:
        code = conclude(invocation, watch(invocation, answer, WAIT_S))
        if code != DONE:
            return code
    invocation.printer.say(f"Service {inert(one['id'])} is removed.")
    return DONE
