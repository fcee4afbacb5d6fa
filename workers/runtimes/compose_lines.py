"""On which line of which file it stands what is said of a Compose project: the real Compose names no lines, and often
no key either."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from domain.compose import keys
from domain.compose.problems import Problem
from workers.runtimes.compose_files import Files
from workers.runtimes.compose_yaml import merged

# `services.web.image`, and `services[web].image` where Compose could not read a value.
_PATH = re.compile(r"\b(?:services|networks|volumes|secrets|configs|models|include)[.\[][\w.\[\]-]+")
_SERVICE = re.compile(r'service "([^"]+)"')
_EXTENDS = re.compile(r"extends\.([\w.-]+)\.\w+ is required")
_RING = re.compile(r"dependency cycle detected: (\S+)")
_WHOLE = re.compile(
    r"(?:validating .*?: )?`?(services|networks|volumes|secrets|configs|models|include|name|version)`? must be "
)
_OF_A_PORT = re.compile(
    r"(?:invalid (?:hostPort|containerPort|IP address|proto|ranges specified)|no port specified)\b.*?: (.+)"
)
# What CLOS keeps under a service's own key may be said for a swarm.
_IN_DEPLOY = {
    "pids_limit": ("limits", "pids"),
    "cpus": ("limits", "cpus"),
    "mem_limit": ("limits", "memory"),
    "mem_reservation": ("reservations", "memory"),
    "gpus": ("reservations", "devices"),
}
_OF_A_FILE = re.compile(r"(env|label) file (\S+) not found")


def located(files: Files, problem: Problem) -> Problem:
    """A problem with the line that its path stands on, or what its reason speaks of. What it does not name at all is
    looked for by its value, and gets its path."""
    if problem.file is not None:
        return problem
    path = problem.path or _named(problem.reason)
    if not path:
        path = own = _by_value(files, problem.reason)
        problem = Problem(own, problem.reason)
    parts: list[str | int] = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]
    known = _known(files, parts)
    if problem.path and (deployed := _deployed(files, known)) is not None:
        problem, known = Problem(keys.written(deployed), problem.reason), deployed
    file, line = files.place(known)
    return Problem(problem.path, problem.reason, file, line)


def _deployed(files: Files, path: keys.Path) -> keys.Path | None:
    """Where `deploy` says what a service's own key would, if that is how the files say it."""
    instead = _IN_DEPLOY.get(str(path[2])) if path[0] == "services" and len(path) > 2 else None
    if instead is None or any(path[:3] in document.lines for document in files.documents):
        return None
    deployed = (*path[:2], "deploy", "resources", *instead, *path[3:])
    said = (*path[:2], "deploy", "resources", *instead)
    return deployed if any(said in document.lines for document in files.documents) else None


def _named(reason: str) -> str:
    """The path that a reason names, in whatever words."""
    if found := _PATH.search(reason):
        return found[0]
    if found := _SERVICE.search(reason):
        return f"services.{found[1]}"
    if found := _RING.match(reason):
        return f"services.{found[1]}.depends_on"
    if found := _EXTENDS.match(reason):
        return f"services.{found[1]}.extends"
    found = _WHOLE.match(reason)
    return found[1] if found else ""


def _by_value(files: Files, reason: str) -> str:
    """The path of the first port or file that holds the value of which a reason speaks; empty if there is none."""
    if found := _OF_A_PORT.match(reason):
        words = {"" if word == "<empty>" else word for word in found[1].split()}
        return _first(files, "ports", lambda entry: bool(words & {entry, *re.split(r"[:/]", entry)}))
    if found := _OF_A_FILE.search(reason):
        kind, named = found.groups()
        return _first(files, f"{kind}_file", lambda entry: named.endswith(f"/{entry.removeprefix('./')}"))
    return ""


def _first(files: Files, key: str, holds: Callable[[str], bool]) -> str:
    return next((keys.written(path) for path, entry in _entries(files, key) if holds(entry)), "")


def _entries(files: Files, key: str) -> Iterator[tuple[keys.Path, str]]:
    """What stands under a key of the services, in every file: a value alone, or each one of a list."""
    for document in files.documents:
        services = document.tree.get("services")
        for name, service in merged(services).items() if isinstance(services, dict) else ():
            given: Any = merged(service).get(key) if isinstance(service, dict) else None
            for place, entry in enumerate(given) if isinstance(given, list) else ():
                yield ("services", name, key, place), str(entry.get("path") if isinstance(entry, dict) else entry)
            if isinstance(given, str):
                yield ("services", name, key), given


def _known(files: Files, path: list[str | int]) -> keys.Path:
    """The path with a service's name put together again where it has dots in it."""
    for end in range(len(path), 1, -1):
        joined = (*path[:1], ".".join(map(str, path[1:end])), *path[end:])
        if any(joined[:2] in document.lines for document in files.documents):
            return joined
    return tuple(path)
