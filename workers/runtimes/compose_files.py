"""Which files a Compose project is made of, and that none of them lies outside of where it may reach.

`include` and `extends` are followed here before Compose sees them, because Compose reads (and would fetch) whatever
they name. What only interpolation can tell is looked at in between (`compose_project`).
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.compose import keys
from domain.compose.ports import too_many
from domain.compose.problems import ComposeRefused, Problem
from workers.runtimes import compose_yaml
from workers.runtimes.compose_yaml import MAX_BYTES, Document, merged

NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_OVERRIDES = {name: tuple(f"{Path(name).stem}.override{suffix}" for suffix in (".yaml", ".yml")) for name in NAMES}
_REMOTE = re.compile(r"(?i)[a-z][a-z0-9+.-]*://|git@|oci:|github\.com/")
_MOST_FILES = 50


@dataclass(frozen=True)
class Roots:
    """The folders that a project may read from and mount, without links in their paths."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, folders: Iterable[Path]) -> "Roots":
        """Made of folders as they are written."""
        return cls(tuple(Path(os.path.realpath(folder)) for folder in folders))

    def hold(self, path: Path) -> bool:
        """Whether an absolute path, with its links followed, lies in one of them."""
        if not path.is_absolute():
            return False
        real = Path(os.path.realpath(path))
        return any(real == folder or folder in real.parents for folder in self.folders)


@dataclass
class Files:
    """The files of a project as they were read, in the order in which Compose reads them.

    `folder` is one of our own, in which a text lay while it was read: nobody is told of it (`compose_told`).
    """

    documents: list[Document] = field(default_factory=list)
    digest: str = ""
    folder: str = ""

    def place(self, path: keys.Path) -> tuple[str | None, int | None]:
        """File and line of a path of the merged model: where the most of it is written."""
        best: tuple[int, str, int] | None = None
        for document in self.documents:
            for length in range(len(path), 0, -1):
                if (line := document.lines.get(path[:length])) is not None:
                    if best is None or length >= best[0]:
                        best = (length, document.name, line)
                    break
        return (best[1], best[2]) if best else (self.documents[0].name if self.documents else None, None)


def is_remote(text: str) -> bool:
    """Whether it names something on another machine."""
    return _REMOTE.match(text) is not None


def found_in(path: Path) -> list[Path]:
    """The files that are meant by a folder, with its override file, or by a file.

    Raises:
        ComposeRefused: there is none.
    """
    if not path.is_dir():
        return [path]
    for name in NAMES:
        if (path / name).is_file():
            further = [path / each for each in _OVERRIDES[name] if (path / each).is_file()]
            return [path / name, *further[:1]]
    raise ComposeRefused([Problem("", f"there is no {', '.join(NAMES)} in it", str(path))])


def read_bytes(path: Path) -> bytes:
    """A regular file of at most 256 KiB.

    Raises:
        ComposeRefused: it is no such file, or cannot be read.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ComposeRefused([Problem("", "not a regular file", str(path))])
            data = opened.read(MAX_BYTES + 1)
    except OSError as refusal:
        raise ComposeRefused([Problem("", f"it cannot be read: {refusal.strerror}", str(path))]) from refusal
    if len(data) > MAX_BYTES:
        raise ComposeRefused([Problem("", f"larger than {MAX_BYTES // 1024} KiB", str(path), 1)])
    return data


def gather(files: Sequence[Path], directory: Path, roots: Roots) -> Files:
    """Read the project's files and all that they include and extend, and check each.

    Raises:
        ComposeRefused: one is not well formed, has keys that Compose does not know, reaches outside, or to the network.
    """
    found, digest = Files(), hashlib.sha256()
    waiting = [(file, directory) for file in files]
    seen: set[Path] = set()
    while waiting:
        file, folder = waiting.pop(0)
        if (real := Path(os.path.realpath(file))) in seen:
            continue
        if len(seen) >= _MOST_FILES:
            raise ComposeRefused([Problem("", f"more than {_MOST_FILES} files are included", str(file))])
        seen.add(real)
        # Compose reads the variables beside whatever is included.
        if not roots.hold(folder / ".env"):
            raise ComposeRefused([Problem("", outside(folder / ".env", roots), str(file), 1)])
        data = read_bytes(file)
        digest.update(hashlib.sha256(data).digest())
        document = compose_yaml.read(data, str(file))
        _refuse_unknown(document)
        _refuse_ranges(document)
        found.documents.append(document)
        waiting += _further(document, folder, roots)
    found.digest = digest.hexdigest()
    return found


def _refuse_unknown(document: Document) -> None:
    wrong = [document.problem(path, reason) for path, reason in keys.unknown(document.tree)]
    if wrong:
        raise ComposeRefused(wrong, hint="keys of your own begin with x-")


def _refuse_ranges(document: Document) -> None:
    services = document.tree.get("services")
    wrong = []
    for name, service in merged(services).items() if isinstance(services, dict) else ():
        ports = merged(service).get("ports") if isinstance(service, dict) else None
        if reason := too_many(ports):
            wrong.append(document.problem(("services", name, "ports"), reason))
    if wrong:
        raise ComposeRefused(wrong)


def _further(document: Document, folder: Path, roots: Roots) -> list[tuple[Path, Path]]:
    found = []
    for path, text, base in _references(document, folder):
        file = _local(document, path, text, base, roots)
        if path[-1] in ("env_file", "project_directory") or "env_file" in path:
            continue
        found.append((file, _folder_of(document, path, file, folder)))
    return found


def _folder_of(document: Document, path: keys.Path, file: Path, folder: Path) -> Path:
    """What the relative paths of a further file count from."""
    if path[0] != "include":
        return file.parent
    entry = document.tree["include"][path[1]] if len(path) > 1 else None
    given = merged(entry).get("project_directory") if isinstance(entry, dict) else None
    return folder / given if isinstance(given, str) else file.parent


def _references(document: Document, folder: Path) -> Iterator[tuple[keys.Path, str, Path]]:
    included = document.tree.get("include")
    for place, entry in enumerate(included if isinstance(included, list) else []):
        path: keys.Path = ("include", place)
        if isinstance(entry, str):
            yield path, entry, folder
        elif isinstance(entry, dict):
            for key in ("path", "project_directory", "env_file"):
                yield from ((p, t, folder) for p, t in _texts(merged(entry).get(key), (*path, key)))
    services = document.tree.get("services")
    for name, service in merged(services).items() if isinstance(services, dict) else ():
        extended = merged(service).get("extends") if isinstance(service, dict) else None
        if isinstance(extended, dict) and isinstance(extended.get("file"), str):
            yield ("services", name, "extends", "file"), extended["file"], folder


def _texts(value: Any, path: keys.Path) -> Iterator[tuple[keys.Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        yield from (((*path, place), each) for place, each in enumerate(value) if isinstance(each, str))


def _local(document: Document, path: keys.Path, text: str, folder: Path, roots: Roots) -> Path:
    file, why = folder / text, None
    if is_remote(text):
        why = f"{text[:200]} lies on another machine: get it, and name the file"
    elif "$" in text:
        why = "a variable in what is included or extended: write the path out"
    elif not roots.hold(file):
        why = outside(file, roots)
    if why is not None:
        raise ComposeRefused([document.problem(path, why)])
    return file


def outside(path: Path, roots: Roots) -> str:
    """Why a path is not taken, as a sentence."""
    allowed = ", ".join(str(folder) for folder in roots.folders)
    return f"{path} lies outside of {allowed} (configure security.containers.bind_roots to allow more)"
