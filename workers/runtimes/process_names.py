"""What a process is called: its command line, and the user that it runs as."""

import pwd
from functools import lru_cache

from workers.runtimes.process_identity import PROC, read_bytes

COMMAND_LIMIT = 300


def command_of(pid: int, proc: str = PROC) -> str | None:
    """Its command line, at most 300 characters; None where it has none or cannot be seen."""
    raw = read_bytes(f"{proc}/{pid}/cmdline", COMMAND_LIMIT * 4) or b""
    return raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()[:COMMAND_LIMIT] or None


@lru_cache(maxsize=256)
def user_name(uid: int) -> str:
    """A user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
