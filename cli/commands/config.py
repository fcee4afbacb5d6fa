"""`clos config`: what CLOS is told, and whether its database is sound."""

import os
from typing import Any

import click

from cli.command import Command
from cli.errors import DONE, FAILED
from cli.invocation import Invocation, pass_invocation
from cli.output import inert


@click.command(cls=Command)
@click.option("--verify-db", is_flag=True, help="Check the database's pages, references and schema instead.")
@pass_invocation
def config(invocation: Invocation, verify_db: bool) -> int:
    """Print port ranges, database, Redis, Docker's host and the addresses, without any secret."""
    from cli.local import supervision

    os.environ["CLOS_HOME"] = str(invocation.home)
    settings = supervision.read_settings(os.environ)
    if verify_db:
        return _verify(invocation, settings)
    from cli.local.configuration import described

    _show(invocation, described(settings))
    return DONE


def _show(invocation: Invocation, found: dict[str, Any]) -> None:
    printer = invocation.printer
    if printer.machine:
        printer.document(found, name="home")
        return
    printer.facts(
        [
            ("home", found["home"]),
            ("file", found["config_file"] or "none: defaults and environment"),
            ("environment", found["environment"]),
            ("database", found["database"]),
            ("redis", found["redis"]),
            ("docker host", found["docker_host"]),
            ("api", found["api"]),
            ("websocket", found["websocket"]),
            ("dashboard", found["dashboard"]),
            ("workers", f"{found['workers']['processes']} x {found['workers']['threads']} threads"),
            ("on conflict", found["conflicts"]["on_start"]),
        ]
    )
    printer.data("")
    printer.table(
        found["port_ranges"],
        [
            ("PROJECT", lambda one: one["project"]),
            ("PORTS", lambda one: f"{one['start_port']}-{one['end_port']}"),
        ],
    )
    for warning in found["warnings"]:
        printer.say(f"warning: {inert(warning)}")


def _verify(invocation: Invocation, settings: Any) -> int:
    from cli.local.verify_db import verify

    printer = invocation.printer
    found = verify(settings)
    if printer.machine:
        printer.document(found, name="database")
    else:
        printer.facts([("database", found["database"]), *found["checks"].items()])
        printer.say("The database is sound." if found["ok"] else "The database is not sound.")
    return DONE if found["ok"] else FAILED
