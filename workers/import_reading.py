"""What an import reads: a Compose project, what it comes to as a group, and what the group remembers of it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from domain.compose import extension
from domain.compose.difference import Difference
from domain.compose.problems import ComposeRefused, Problem
from domain.compose.reading import Imported, read_group
from domain.container_policy import PolicyDenied
from models.groups import Group
from workers import import_places
from workers.context import Context
from workers.runtimes import compose_admission, compose_lines, compose_project, compose_told
from workers.runtimes.compose_place import Wish
from workers.runtimes.compose_project import Project

_LEAVE_OUT = "change the file, or import without these: clos groups import --leave-out (API: on_unsupported leave_out)"


@dataclass(frozen=True)
class Read:
    """A project as it was read, and what it comes to."""

    project: Project
    imported: Imported
    left_out: tuple[Problem, ...] = ()
    # Whether it goes by the names that Compose gave its networks.
    adopted: bool = False

    @property
    def name(self) -> str:
        """The group's name."""
        return str(self.imported.body["name"])

    @property
    def services(self) -> list[str]:
        """The names of its services."""
        return [str(each["name"]) for each in self.imported.body["services"]]

    def result(self, changed: Difference, shared: list[str]) -> dict[str, Any]:
        """What the operation tells of it."""
        return {
            "group": self.name,
            "services": self.services,
            "diff": changed.as_dict(),
            "warnings": [*self.project.warnings, *self._warnings(), *shared],
            "left_out": {
                "profiles": list(self.project.left_out),
                "unsupported": [each.as_dict() for each in self.left_out],
            },
            "files": [document.name for document in self.project.files.documents],
        }

    def _warnings(self) -> list[str]:
        return list(compose_told.as_given(self.imported.warnings, self.project.files.folder))

    def remembered(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the group keeps of its project: enough to read it again, and no variable's value."""
        files = [os.path.abspath(document.name) for document in self.project.files.documents]
        return {
            "path": asked.get("path"),
            "content": bool(asked.get("content")),
            "directory": None
            if str(self.project.directory) == self.project.files.folder
            else str(self.project.directory),
            "files": files if asked.get("path") else [],
            "given_files": list(asked.get("files") or ()),
            "profiles": list(asked.get("profiles") or ()),
            "env_files": list(asked.get("env_files") or ()),
            "variables": list(asked.get("variables") or ()),
            "project_name": self.project.name,
            "project": asked.get("project"),
            "on_unsupported": asked.get("on_unsupported") or "refuse",
            "adopted": self.adopted,
            "digest": self.project.files.digest,
            "left_out": list(self.project.left_out),
        }


def read(context: Context, asked: Mapping[str, Any], content: str | None, variables: Mapping[str, str]) -> Read:
    """Read the project that is asked for.

    Raises:
        ComposeRefused: it is not well formed, or asks for what CLOS does not do; what the policy forbids as well.
        PolicyDenied: the policy forbids what it asks for, and nothing else is wrong with it.
        ComposeMissing, TimedOut
    """
    keep = bool(asked.get("adopt")) or _was_adopted(context, asked.get("name"))
    wish = _wish(asked, content, variables, keep)
    project = compose_project.read(wish, context.policy)
    # What is read of a text names the folder in which it lay: nobody is told of that.
    with compose_told.told_as_given(project.files.folder):
        found = _come_to(context, asked, project, wish, keep)
        _refuse(context, found, leave_out=asked.get("on_unsupported") == "leave_out")
    return found


def _come_to(context: Context, asked: Mapping[str, Any], project: Project, wish: Wish, keep: bool) -> Read:
    """What a project comes to as a group, with whatever is wrong with it."""
    directory = str(project.directory) if wish.path is not None or wish.directory is not None else None
    name = str(asked.get("name") or extension.of(project.model).get("name") or _own_name(project))
    keep = keep or _was_adopted(context, name)
    imported = read_group(project.model, name, directory, project.values, keep_network_names=keep)
    if asked.get("project"):
        imported.body["project"] = asked["project"]
    wrong = (compose_lines.located(project.files, each) for each in imported.problems)
    left_out = (replace(each, reason=compose_told.as_given(each.reason, project.files.folder)) for each in wrong)
    return Read(project, imported, tuple(left_out), keep)


def _own_name(project: Project) -> str:
    """What a project calls itself, or its folder.

    Raises:
        ComposeRefused: it is a text, whose folder nobody has named.
    """
    if project.name == Path(project.files.folder).name:
        raise ComposeRefused(
            [Problem("name", "it names no project, and a text has no folder to be named after", "compose.yaml")],
            hint="write `name: …` into it, or say how the group is to be called: clos groups import --name (API: name)",
        )
    return project.name


def _refuse(context: Context, found: Read, leave_out: bool) -> None:
    """All that is wrong is told at once: who mends a file need not find out one by one."""
    files, model = found.project.files, found.project.model
    if found.left_out and not leave_out:
        denied = (compose_lines.located(files, each) for each in compose_admission.denied(model, context.policy))
        raise ComposeRefused([*found.left_out, *denied], hint=_LEAVE_OUT)
    if violations := compose_admission.violations_of(model, context.policy):
        refusal = PolicyDenied.of_group(found.name, violations)
        import_places.place(files, found.imported.body, refusal)
        raise refusal


def _wish(asked: Mapping[str, Any], content: str | None, variables: Mapping[str, str], keep: bool) -> Wish:
    # Compose names volumes and networks after its project: a group of another name has its own.
    named = re.sub(r"[^a-z0-9_-]", "", str(asked.get("name") or "").lower()).lstrip("_-")
    return Wish(
        path=Path(asked["path"]) if asked.get("path") else None,
        content=content,
        directory=Path(asked["directory"]) if asked.get("directory") else None,
        name=named if named and not keep else None,
        files=tuple(asked.get("files") or ()),
        profiles=tuple(asked.get("profiles") or ()),
        env_files=tuple(asked.get("env_files") or ()),
        variables=dict(variables),
    )


def _was_adopted(context: Context, name: str | None) -> bool:
    """Whether a group was taken over from Compose: then it goes on using the names that Compose gave."""
    with context.record.read() as session:
        group = session.get(Group, name) if name else None
        return bool(group and (group.compose or {}).get("adopted"))
