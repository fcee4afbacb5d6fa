"""`clos completion SHELL`: print the script that the shell loads."""

import click
from click.shell_completion import BashComplete, get_completion_class

from cli.command import Command
from cli.errors import DONE, CliError


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print a completion script.

    \b
    bash:  eval "$(clos completion bash)"      in ~/.bashrc
    zsh:   eval "$(clos completion zsh)"       in ~/.zshrc
    fish:  clos completion fish | source       in ~/.config/fish/config.fish
    """
    from cli.main import root

    found = get_completion_class(shell)
    if found is None:
        raise CliError(f"no completion for {shell}", 2)
    if found is BashComplete:
        # click asks bash for its version, and fails where there is none; the script itself needs no bash.
        BashComplete._check_version = staticmethod(lambda: None)  # type: ignore[method-assign]
    click.echo(found(root, {}, "clos", "_CLOS_COMPLETE").source())
    return DONE
