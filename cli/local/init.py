"""`clos init`: make CLOS's folder and a first configuration; safe to repeat."""

from pathlib import Path

import click

from cli.command import Command
from cli.errors import CliError
from cli.invocation import Invocation, pass_invocation
from cli.local import registry, supervision
from cli.local.embedded_redis import write_private
from settings import SettingsError, prepare_home

CONFIG = """# CLOS's configuration. Everything here is optional; what is commented out shows the default.
# A variable beats this file (CLOS_<SECTION>__<KEY>, such as CLOS_API__PORT), a flag beats both.
version: 2
# environment: dev
# environments:
#   prod: {api: {host: 0.0.0.0}}

# database: {path: registry.db, timeout: 10s}      # or url: postgresql://…
# redis: {url: redis://127.0.0.1:6379/0}           # left out: CLOS runs its own
# api: {host: 127.0.0.1, port: 8081, cors: []}
# websocket: {port: 8082, max_clients: 1000}
# workers: {processes: 1, threads: 8}
# performance: {max_parallel_steps: 8}           # max_concurrent_operations: what the workers have threads for
# monitoring: {intervals: {state: 5s, health: 5s}, retention: {events: 30d}}
# conflicts: {auto_resolve: false, max_risk: low, on_start: fail}
# docker: {host: "unix:///var/run/docker.sock", timeout: 15s, network_name: clos-network}
# logging: {level: info, format: text}

port_ranges:
  - {project: core, start_port: 5000, end_port: 5999}
  - {project: candlefish-frontend, start_port: 3000, end_port: 3099}
  - {project: security-dashboard, start_port: 3100, end_port: 3199}
  - {project: pkb, start_port: 3200, end_port: 3299}
  - {project: apis, start_port: 4000, end_port: 4999}
  - {project: monitoring, start_port: 8000, end_port: 8099}
  - {project: development, start_port: 9000, end_port: 9999}
"""


@click.command(cls=Command)
@pass_invocation
def init(invocation: Invocation) -> None:
    """Make CLOS's folder, a first configuration and the registry. Safe to repeat: nothing there is changed."""
    environ = supervision.environ_of(invocation.home, invocation.options.get("config"))
    config = invocation.home / "config.yaml"
    fresh = [path for path in (invocation.home, config) if not path.exists()]
    try:
        prepare_home(invocation.home)
        if config in fresh:
            write_private(config, CONFIG)
    except SettingsError as refused:
        raise CliError(str(refused), hint="choose another CLOS_HOME") from refused
    database = supervision.read_settings(environ).database
    had_registry = database.path is None or registry.revision_of(database.path) is not None
    supervision.migrate(environ)
    if database.path and not had_registry:
        fresh.append(database.path)
    _tell([invocation.home, config, *([database.path] if database.path else [])], fresh)


def _tell(paths: list[Path], fresh: list[Path]) -> None:
    for path in paths:
        click.echo(f"{'made ' if path in fresh else 'there'}  {path}")
    click.echo("Next: `clos up -d`, then `clos groups add -f FILE`.", err=True)
