"""Is the database sound: its pages, its references, and its schema's revision."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cli.local import registry
from cli.local.supervision import ROOT
from settings import Settings

_LOCK_S = 5.0
_ALEMBIC_S = 60.0
_MOST = 20


def verify(settings: Settings) -> dict[str, Any]:
    """`{"database", "ok", "checks": {name: what is wrong, or "ok"}}`; nothing is changed.

    Raises:
        CliError: there is no registry that could be checked, or it is another version's.
    """
    path = settings.database.path
    _, head = registry.revisions(ROOT)
    if path is None:
        checks = {"revision": _revision_problem(_revision_by_alembic(), head)}
        return _summed("the server named by DATABASE_URL", checks)
    if not path.exists():
        return _summed(str(path), {"registry": "there is none yet; `clos init` makes it"})
    current = registry.revision_of(path)
    checks = {
        "integrity": _pragma(path, "integrity_check", lambda row: "" if row[0] == "ok" else str(row[0])),
        "foreign_keys": _pragma(path, "foreign_key_check", lambda row: f"{row[0]} row {row[1]} misses its {row[2]}"),
        "revision": _revision_problem(current, head),
    }
    return _summed(str(path), checks)


def _summed(database: str, checks: dict[str, str]) -> dict[str, Any]:
    return {"database": database, "ok": all(found == "ok" for found in checks.values()), "checks": checks}


def _pragma(path: Path, name: str, problem: Any) -> str:
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_LOCK_S)
        ) as connection:
            found = [text for row in connection.execute(f"PRAGMA {name}").fetchmany(_MOST) if (text := problem(row))]
    except sqlite3.DatabaseError as broken:
        return f"cannot be read: {broken}"
    return "; ".join(found) or "ok"


def _revision_problem(current: str | None, head: str | None) -> str:
    if current == head:
        return "ok"
    return f"{current or 'none'}, the newest is {head}; `clos up` brings it there"


def _revision_by_alembic() -> str | None:
    ran = subprocess.run(
        [sys.executable, "-m", "alembic", "current"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_ALEMBIC_S,
        check=False,
    )
    return ran.stdout.split()[0] if ran.returncode == 0 and ran.stdout.split() else None
