"""Where in a project's files it stands what the record refuses of it: the record knows fields, and no lines."""

from collections.abc import Iterator, Mapping
from typing import Any

from domain.compose.problems import Problem, told
from domain.errors import ClosError, DependencyCycle, RangeFull, UnknownDependency, ValidationFailed
from workers import import_rings
from workers.runtimes import compose_told
from workers.runtimes.compose_files import Files
from workers.runtimes.compose_lines import located

# The record's words for what Compose calls otherwise, in the paths of errors.
_IN_THE_FILE = {
    "container": "", "health_check": "healthcheck", "stop_timeout": "stop_grace_period", "restart_policy": "restart",
    "cpu_limit": "cpus", "memory_limit": "mem_limit", "dns_servers": "dns",
}  # fmt: skip


def place(files: Files, body: Mapping[str, Any], refusal: ClosError) -> None:
    """Let a refusal name its `problems`, each on the line where it stands, as far as the files say what is refused."""
    if problems := [located(files, each) for each in _problems(files, body, refusal)]:
        refusal.message, refusal.facts["problems"] = told(problems)
    compose_told.tell_as_given(refusal, files.folder)


def _problems(files: Files, body: Mapping[str, Any], refusal: ClosError) -> Iterator[Problem]:
    if isinstance(refusal, ValidationFailed):
        yield from (Problem(_path(files, path), reason) for path, reason in _flat(refusal.errors, ""))
    elif isinstance(refusal, UnknownDependency):
        group, _, name = str(refusal.facts["service"]).rpartition("/")
        path = f"services.{name}.x-clos.depends_on" if group else "x-clos.dependencies"
        yield Problem(path, refusal.message)
    elif isinstance(refusal, DependencyCycle):
        yield from (Problem(path, refusal.message) for path in import_rings.said(files, body, refusal.cycle))
    elif isinstance(refusal, RangeFull) and refusal.service is not None:
        yield Problem(_path(files, f"services.{refusal.service}.ports"), refusal.message)


def _flat(errors: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(errors, Mapping):
        for key, value in errors.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(errors, list):
        for value in errors:
            yield from _flat(value, path)
    else:
        yield path, str(errors)


def _path(files: Files, path: str) -> str:
    """A field's path as the file has it: `services.a.container.privileged` is the service's `privileged` there. What
    stands in `x-clos` is found there."""
    words = path.split(".")
    own = (*words[:2], "x-clos", *words[2:])
    if words[0] == "services" and any(own[:4] in document.lines for document in files.documents):
        return ".".join(own)
    return ".".join(said for word in words if (said := _IN_THE_FILE.get(word, word)))
