"""What every command needs: the global options, the printer, the way to CLOS."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.errors import Unreachable
from cli.output import Printer

if TYPE_CHECKING:
    from cli.client import Client, Credentials

T = TypeVar("T")


@dataclass
class Invocation:
    """One run of `clos`. Options may stand before or after the command; the later one counts."""

    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def printer(self) -> Printer:
        """Made on first use, when all options have been read."""
        return Printer(
            self.options.get("output"),
            colour=False if self.options.get("no_color") else None,
            quiet=bool(self.options.get("quiet")),
            verbose=int(self.options.get("verbose") or 0),
        )

    @cached_property
    def home(self) -> Path:
        """CLOS's folder: `--home`, `CLOS_HOME`, `~/.clos`."""
        given = self.options.get("home") or os.environ.get("CLOS_HOME") or "~/.clos"
        return Path(given).expanduser().absolute()

    @property
    def url(self) -> str | None:
        """`--url` or `CLOS_URL`: a CLOS that this command never starts."""
        return self.options.get("url") or os.environ.get("CLOS_URL")

    @cached_property
    def client(self) -> "Client":
        """A client that answers: CLOS is brought up where nothing runs on this home.

        Raises:
            Unreachable: it does not run, and may not or cannot be started.
        """
        from cli.client import Client, elsewhere, read_credentials

        own = read_credentials(self.home)
        if self.url:
            return Client(elsewhere(self.url, own))
        if own is not None:
            client = Client(own)
            try:
                client.connect()
                return client
            except OSError as gone:
                if not isinstance(gone, ConnectionRefusedError):
                    raise client.unreachable(gone) from gone
        return Client(self._bring_up())

    def _bring_up(self) -> "Credentials":
        where = f"CLOS is not running on {self.home}"
        if self.options.get("no_up"):
            raise Unreachable(where, hint="start it with `clos up -d`, or leave out --no-up")
        from cli.client import read_credentials
        from cli.local import supervision

        config = self.options.get("config") or os.environ.get("CLOS_CONFIG")
        supervision.ensure_up(self.home, quiet=self.printer.quiet, config=config)
        credentials = read_credentials(self.home)
        if credentials is None:
            raise Unreachable(f"CLOS came up on {self.home} but left no credentials", hint="see `clos doctor`")
        return credentials

    @property
    def terminal(self) -> bool:
        """Whether a person sees both streams: then progress may redraw itself."""
        return sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def answers(self) -> bool:
        """Whether somebody can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty()


def pass_invocation(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the run that it belongs to as its first argument."""

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> T:
        return command(click.get_current_context().ensure_object(Invocation), *args, **kwargs)

    return called
