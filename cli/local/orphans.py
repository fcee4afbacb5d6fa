"""How many orphans the registry knows of, for `clos doctor`."""

import contextlib
import sqlite3
from urllib.parse import quote

from settings import Settings

_LIMIT_S = 2.0


def count(settings: Settings) -> int | None:
    """How many there are as last seen; None where that cannot be told (another database, or none yet)."""
    path = settings.database.path
    if path is None or not path.exists():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_LIMIT_S)
        ) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM orphans").fetchone()[0])
    except sqlite3.Error:
        return None
