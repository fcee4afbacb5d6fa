"""Which folder and files a project is read from, as Compose itself would find them.

A folder's `.env` may name the files (`COMPOSE_FILE`): then the first one's folder is the project's, and a `.env` there
says what the other one does not.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from domain.compose.problems import ComposeRefused, Problem
from workers.runtimes import compose, compose_files, compose_told
from workers.runtimes.compose_files import Roots

_ASKED = "x-clos-asked"


@dataclass(frozen=True)
class Wish:
    """What is to be read: a file or a folder, or a text and the folder that its paths count from."""

    path: Path | None = None
    content: str | None = None
    directory: Path | None = None
    name: str | None = None
    files: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def request(wish: Wish, folder: Path, more_roots: tuple[Path, ...]) -> tuple[compose.Request, Roots]:
    """What Compose is asked, and where what it reads may lie. `folder` is one of our own, for a project that is a text.

    Raises:
        ComposeRefused: there is no such file or folder, or one lies outside.
        ComposeMissing, TimedOut
    """
    home = _home(wish, folder)
    compose.refuse_variables(wish.variables)
    env_files = _env_files([home / each for each in wish.env_files] or _beside(home), Roots.of((home, *more_roots)))
    files, directory = _given(wish, home, folder), home
    if not files and (named := _named_in(env_files, home, folder) if wish.path == home else []):
        files, directory = named, named[0].parent
    files = files or compose_files.found_in(wish.path or home)
    own = (folder,) if wish.path is None else ()
    for file in files:
        _refuse_elsewhere(file, Roots.of((home, *more_roots, *own)), "files")
    roots = Roots.of((directory, *more_roots))
    if directory != home and not wish.env_files:
        # Of two files the later one counts: what the folder itself says stands above.
        env_files = (*_env_files(_beside(directory), roots), *env_files)
    return compose.Request(tuple(files), directory, wish.name, wish.profiles, env_files, wish.variables), roots


def _home(wish: Wish, folder: Path) -> Path:
    if wish.path is not None:
        return Path(wish.path) if wish.path.is_dir() else Path(wish.path).parent
    home = Path(wish.directory or folder)
    if not home.is_dir():
        raise ComposeRefused([Problem("directory", f"there is no folder {home}")])
    return home


def _given(wish: Wish, home: Path, folder: Path) -> list[Path]:
    """The files that were named, or that of the text; none where they have to be found."""
    if wish.path is not None:
        return [home / each for each in wish.files]
    file = folder / compose_told.NAME
    file.write_text(wish.content or "", encoding="utf-8")
    return [file]


def _named_in(env_files: tuple[Path, ...], home: Path, folder: Path) -> list[Path]:
    """The files that `COMPOSE_FILE` names in these. Compose itself reads them: quotes and variables are its matter."""
    if not any(b"COMPOSE_FILE" in compose_files.read_bytes(file) for file in env_files):
        return []
    asking = folder / "asked.yaml"
    asked = {"file": "${COMPOSE_FILE-}", "separator": "${COMPOSE_PATH_SEPARATOR-}"}
    asking.write_text(json.dumps({"services": {"x": {"image": "x"}}, _ASKED: asked}), encoding="utf-8")
    told = compose.config(compose.Request((asking,), home, env_files=env_files)).model.get(_ASKED) or {}
    names = str(told.get("file") or "").split(str(told.get("separator") or os.pathsep))
    for name in filter(compose_files.is_remote, names):
        why = f"COMPOSE_FILE: {name[:200]} lies on another machine: get it, and name the file"
        raise ComposeRefused([Problem("", why, str(env_files[0]))])
    return [home / name for name in names if name]


def _beside(directory: Path) -> list[Path]:
    own = directory / ".env"
    return [own] if os.path.lexists(own) else []


def _env_files(found: list[Path], roots: Roots) -> tuple[Path, ...]:
    for file in found:
        _refuse_elsewhere(file, roots, "env_files")
        compose_files.read_bytes(file)
    return tuple(found)


def _refuse_elsewhere(file: Path, roots: Roots, what: str) -> None:
    if not roots.hold(file):
        raise ComposeRefused([Problem(what, compose_files.outside(file, roots))])
