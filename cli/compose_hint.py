"""What is said to somebody who starts something in a folder with a compose file: Compose would know what is meant."""

from pathlib import Path

from cli.errors import NOT_FOUND, USAGE, CliError
from cli.invocation import Invocation

# As Compose looks for them.
_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


def nothing_named(invocation: Invocation) -> CliError | None:
    """What is said of a start of nothing. None: this folder has no compose file."""
    found = _of_this_folder(invocation)
    return CliError("name a group or a service", USAGE, hint=found) if found else None


def with_hint(invocation: Invocation, missing: CliError) -> CliError:
    """The same error, with what this folder's compose file may have to do with it."""
    if missing.exit_code != NOT_FOUND or (found := _of_this_folder(invocation)) is None:
        return missing
    hint = f"{missing.hint}; {found}" if missing.hint else found
    return CliError(missing.message, missing.exit_code, hint=hint, lines=missing.lines)


def _of_this_folder(invocation: Invocation) -> str | None:
    folder = Path.cwd()
    name = next((name for name in _NAMES if (folder / name).is_file()), None)
    if name is None:
        return None
    for group in invocation.client.pages("/groups"):
        file = group.get("compose_file")
        if file and Path(file).parent == folder:
            return f"the {name} of this folder is the group {group['name']}: clos start {group['name']}"
    return f"the {name} of this folder is not registered: clos groups import ."
