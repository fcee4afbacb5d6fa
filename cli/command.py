"""How commands are declared: lazily, with the global options in every place, helped by rich only on a terminal."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.errors import NOT_FOUND, CliError
from cli.invocation import Invocation

_LISTING = "clos.listing"
_VARIABLES = {"home": "CLOS_HOME", "config": "CLOS_CONFIG"}
FORMS = ("table", "wide", "json", "yaml", "name")


def _helps_on_terminal() -> bool:
    return sys.stdout.isatty() and (len(sys.argv) < 2 or "--help" in sys.argv or "-h" in sys.argv)


if TYPE_CHECKING or not _helps_on_terminal():
    # rich costs 60 ms, and a pipe gets plain text anyway.
    from click import Command as BaseCommand
    from click import Group as BaseGroup
else:
    from rich_click import RichCommand as BaseCommand
    from rich_click import RichGroup as BaseGroup

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "auto_envvar_prefix": None}


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, False, 0) and param.name is not None:
        ctx.ensure_object(Invocation).options[param.name] = value
        if param.name in _VARIABLES:
            # What runs without a server (cli/local), and what it starts, reads the environment.
            os.environ[_VARIABLES[param.name]] = os.path.abspath(os.path.expanduser(value))


def shared_options() -> list[click.Parameter]:
    """The options that every command takes."""

    def option(*names: str, **how: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_keep, **how)

    return [
        option("-o", "--output", type=click.Choice(FORMS), help="Form of the answer."),
        option("--home", metavar="DIR", help="CLOS's folder (default: CLOS_HOME, then ~/.clos)."),
        option("--config", metavar="FILE", help="Configuration file instead of the home's."),
        option("--url", metavar="URL", help="A CLOS elsewhere; its key is taken from CLOS_API_KEY."),
        option("--no-up", is_flag=True, help="Do not start CLOS where it is not running (exit code 6)."),
        option("--no-color", is_flag=True, help="No colours."),
        option("-q", "--quiet", is_flag=True, help="Only the answer and errors."),
        option("-v", "--verbose", count=True, help="Say more."),
    ]


def share(command: click.Command) -> None:
    """Give a command the global options, but never over one of its own."""
    taken = {name for param in command.params for name in [*param.opts, *param.secondary_opts]}
    command.params += [option for option in shared_options() if not taken.intersection(option.opts)]
    command.context_settings = {**SETTINGS, **command.context_settings}


class Command(BaseCommand):
    """A command with the global options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        share(self)


class Group(BaseGroup):
    """A group of commands with the global options; `lazy` maps a name to (module, attribute, short help)."""

    command_class = Command

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}
        share(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are declared, which is the order in which one needs them."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported when it is asked for; while listing, only its name and short help."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute, short_help = self.lazy[cmd_name]
        if ctx.meta.get(_LISTING):
            return click.Command(cmd_name, short_help=short_help, help=short_help)
        command: click.Command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, Command | Group):
            share(command)
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help without importing the commands."""
        ctx.meta[_LISTING] = True
        super().format_help(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a guess at what was meant."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            near = difflib.get_close_matches(name, self.list_commands(ctx), 3)
            guess = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"No such command '{name}'.{guess}", ctx)
        return super().resolve_command(ctx, args)


def did_you_mean(noun: str, wanted: str, known: Sequence[str]) -> CliError:
    """What is said of a name that is not there (exit code 4)."""
    near = difflib.get_close_matches(wanted, known, 3, 0.5) or [name for name in known if wanted and wanted in name][:3]
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"there is: {', '.join(sorted(known)[:10])}" if known else "nothing is registered yet"
    return CliError(f"there is no {noun} {wanted!r}", NOT_FOUND, hint=hint)
