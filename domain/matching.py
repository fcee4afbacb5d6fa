"""Which groups and services a glob means: `web*` groups, `web/*` and `*/db` services."""

from collections.abc import Iterable
from fnmatch import fnmatchcase


def groups(pattern: str, names: Iterable[str]) -> list[str]:
    """The groups that a pattern without a slash means."""
    return [] if "/" in pattern else [name for name in names if fnmatchcase(name, pattern)]


def services(pattern: str, named: Iterable[tuple[str, str, str]]) -> list[str]:
    """The ids of the services, given as (group, name, id), that a pattern with a slash means."""
    group, slash, name = pattern.rpartition("/")
    if not slash:
        return []
    return [each[2] for each in named if fnmatchcase(each[0], group) and fnmatchcase(each[1], name)]
