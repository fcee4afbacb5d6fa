"""The registry before anything runs: is it ours to change, and is its schema the newest.

The look is read-only and goes before everything else: a registry of v1 is never changed by `up`.
"""

import contextlib
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from cli.errors import CliError

_MIGRATE_S = 120.0
_LOCK_S = 2.0
_MIGRATED = "alembic_version"


class V1RegistryFound(CliError):
    """The registry has tables that CLOS v2 did not make."""

    code = "v1_registry_found"


def revision_of(path: Path) -> str | None:
    """The schema's revision in a SQLite registry; None where there is no registry yet.

    Raises:
        V1RegistryFound: it has tables, and none of v2's making.
        CliError: it is not SQLite, damaged, locked, or may not be read or written.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK):
        raise CliError(f"{path} is read-only for this user", hint="CLOS writes into it; give its owner the right")
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_LOCK_S)
        ) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if _MIGRATED in tables:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                return str(row[0]) if row else None
    except sqlite3.OperationalError as refused:
        raise CliError(
            f"{path} cannot be read: {refused}", hint="another program may hold it; end that and try again"
        ) from refused
    except sqlite3.DatabaseError as broken:
        raise CliError(
            f"{path} is no SQLite database: {broken}", hint="restore it from a backup, or move it away"
        ) from broken
    if not any(not name.startswith("sqlite_") for name in tables):
        return None
    raise V1RegistryFound(
        f"v1_registry_found: {path} was made by another version and stays untouched",
        hint="`clos migrate` takes it over; --dry-run shows what it would do",
    )


def revisions(root: Path) -> tuple[set[str], str | None]:
    """Every revision in `migrations/versions` and the newest, read as text: importing Alembic costs half a second."""
    known, parents = set(), set()
    for file in (root / "migrations" / "versions").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        if made := re.search(r"^revision\b.*?=\s*[\"']([^\"']+)[\"']", text, re.MULTILINE):
            known.add(made[1])
        if parent := re.search(r"^down_revision\b.*?=\s*[\"']([^\"']+)[\"']", text, re.MULTILINE):
            parents.add(parent[1])
    heads = known - parents
    return known, heads.pop() if len(heads) == 1 else None


def bring_up_to_date(
    root: Path, python: str, path: Path | None, environ: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Run Alembic unless a SQLite registry has the newest schema already; keep a copy of what it changes.

    Raises:
        CliError: the registry is newer than this CLOS, or the migration failed.
    """
    known, head = revisions(root)
    current = revision_of(path) if path else None
    if current is not None and current == head:
        return
    if current is not None and current not in known:
        raise CliError(
            f"{path} has revision {current}, which this CLOS does not know",
            hint="it was written by a newer CLOS: upgrade, or restore a backup",
        )
    if path is not None and current is not None:
        say(f"registry: from {current} to {head}; the copy before it: {_backup(path, current)}")
    try:
        ran = subprocess.run(
            [python, "-m", "alembic", "upgrade", "head"],
            cwd=root,
            env=dict(environ),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MIGRATE_S,
            umask=0o077,
            check=False,
        )
    except subprocess.TimeoutExpired as endless:
        raise CliError(
            f"the registry was not migrated within {_MIGRATE_S:g} s",
            hint="another program may hold it; see `clos doctor`",
        ) from endless
    if ran.returncode:
        raise CliError("the registry could not be migrated", lines=tuple((ran.stderr or ran.stdout).splitlines()[-5:]))


def _backup(path: Path, revision: str) -> Path:
    folder = path.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / f"{path.stem}-{revision}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.db"
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT, 0o600))
    with (
        contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_LOCK_S)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return copy
