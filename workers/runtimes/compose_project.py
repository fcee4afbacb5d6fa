"""A Compose project, read by the real Compose after every file that it names was looked at.

First without what `env_file` brings (nothing but the project's own files is read), then, once everything that the
result refers to is known to lie where it may, in full.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.compose.problems import ComposeRefused, Problem
from domain.container_policy import ContainerPolicy
from workers.runtimes import compose, compose_admission, compose_files, compose_lines, compose_place, compose_told
from workers.runtimes.compose_files import Files
from workers.runtimes.compose_place import Wish

# Stands in the model where a process service has none; Compose's schema wants an image.
PLACEHOLDER = "clos.invalid/process"
_VALUES = "x-clos-values"
_UNRESOLVED = "--no-env-resolution"


@dataclass(frozen=True)
class Project:
    """A project as Compose understands it. `model` is normalised, with every `$$` written `$` again.

    `left_out` are services of profiles that were not chosen; `values` what secrets and configs take from variables.
    """

    name: str
    directory: Path
    files: Files
    model: dict[str, Any]
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)


def read(wish: Wish, policy: ContainerPolicy | None = None) -> Project:
    """Read a project. `policy` is the administrator's word on what containers may take of this machine.

    Raises:
        ComposeRefused: it is not well formed, or reaches outside of its folder and what the policy allows.
        ComposeMissing, TimedOut
    """
    with tempfile.TemporaryDirectory(prefix="clos-import-") as made:
        folder = os.path.realpath(made)
        with compose_told.told_as_given(folder):
            return _read(wish, policy or ContainerPolicy(), Path(folder))


def _read(wish: Wish, policy: ContainerPolicy, folder: Path) -> Project:
    """As `read`, in a folder of our own."""
    request, roots = compose_place.request(wish, folder, tuple(Path(root) for root in policy.binds.roots))
    gathered = compose_files.gather(request.files, request.directory, roots)
    every = compose.Request(**{**vars(request), "profiles": ("*",)})
    with _located(gathered):
        first = compose.config(every, _UNRESOLVED, "--no-consistency")
        _refuse_unexpanded(first.warnings)
        compose_admission.refuse_read(first.model, policy, roots, wish.profiles)
        overlay = _overlay(first.model, folder)
        last = compose.config(compose.Request(**{**vars(request), "files": (*request.files, *overlay)}))
        compose_admission.refuse_given(last.model, policy, roots)
    if compose_files.gather(request.files, request.directory, roots).digest != gathered.digest:
        raise ComposeRefused([Problem("", "it was changed while it was read: try again", str(request.files[0]))])
    model = unescaped(last.model)
    values = model.pop(_VALUES, None) or {}
    left_out = sorted(set(first.model.get("services") or {}) - set(model.get("services") or {}))
    name = str(model.get("name") or request.directory.name)
    warnings = tuple(compose_told.as_given(last.warnings, str(folder)))
    return Project(name, request.directory, _named(gathered, folder), model, tuple(left_out), warnings, values)


def _named(files: Files, folder: Path) -> Files:
    """The files by the names under which they are told of."""
    files.folder = str(folder)
    for document in files.documents:
        document.name = compose_told.as_given(document.name, files.folder)
    return files


def unescaped(value: Any) -> Any:
    """A value of Compose's output with every `$$` written `$`."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, dict):
        return {key: unescaped(inner) for key, inner in value.items()}
    return [unescaped(inner) for inner in value] if isinstance(value, list) else value


def _refuse_unexpanded(warnings: tuple[str, ...]) -> None:
    if any("cannot expand '~'" in each for each in warnings):
        reason = "~ means nothing here: give HOME among the variables, or write the path out"
        raise ComposeRefused([Problem("", reason)])


def _overlay(model: Mapping[str, Any], folder: Path) -> list[Path]:
    """A file that gives process services an image, and asks for the values that secrets take from variables."""
    services = {
        name: {"image": PLACEHOLDER}
        for name, service in (model.get("services") or {}).items()
        if _is_no_container(service) and not service.get("image")
    }
    named = {
        each["environment"]
        for kind in ("secrets", "configs")
        for each in (model.get(kind) or {}).values()
        if isinstance(each, dict) and each.get("environment")
    }
    added: dict[str, Any] = {_VALUES: {name: f"${{{name}-}}" for name in sorted(named)}} if named else {}
    if services:
        added["services"] = services
    if not added:
        return []
    file = folder / "overlay.yaml"
    # JSON is YAML whose strings are strings in every version of it.
    file.write_text(json.dumps(added), encoding="utf-8")
    return [file]


def _is_no_container(service: Any) -> bool:
    own = service.get("x-clos") if isinstance(service, dict) else None
    return isinstance(own, dict) and own.get("runtime") in ("process", "external")


@contextmanager
def _located(files: Files) -> Iterator[None]:
    """Say of each problem inside the block on which line of which file it stands."""
    try:
        yield
    except ComposeRefused as refused:
        raise ComposeRefused(
            [compose_lines.located(files, each) for each in refused.problems], refused.hint
        ) from refused
