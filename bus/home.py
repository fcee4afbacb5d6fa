"""The home folder: its id, and the secrets that are made on first use and kept."""

import os
import secrets
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domain.configuration import SettingsError


def home_folder(environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> Path:
    """`--home`, else CLOS_HOME, else `~/.clos`, absolute."""
    wish = (flags or {}).get("home") or environ.get("CLOS_HOME") or "~/.clos"
    return Path(os.path.abspath(expand(str(wish), environ)))


def expand(path: str, environ: Mapping[str, str]) -> str:
    """`~` as the caller's HOME, which need not be this process's."""
    if path == "~" or path.startswith("~/"):
        return environ.get("HOME", os.path.expanduser("~")) + path[1:]
    return path


def prepare_home(home: Path) -> Path:
    """Make the home (0700), its folders and its id, where they are missing.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        for folder in (home, *(home / name for name in ("keys", "logs", "run", "redis"))):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create_once(home / "instance-id", uuid.uuid4().hex.encode())
    except OSError as refused:
        raise SettingsError([f"{refused.filename or home}: {refused.strerror}"]) from refused
    return home


def instance_id(home: Path) -> str:
    """The home's id, which every container, network and process of CLOS carries; empty before `prepare_home`."""
    try:
        return (home / "instance-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def load_or_create_secret(home: Path, name: str, size: int = 32) -> bytes:
    """`size` random bytes kept in `<home>/keys/<name>` (0600); the same for all who ask, also at once.

    Raises:
        SettingsError: the file is not what this made, or cannot be read.
    """
    file = home / "keys" / name
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = _create_once(file, secrets.token_bytes(size))
    except OSError as refused:
        raise SettingsError([f"{file}: {refused.strerror}"]) from refused
    if len(key) != size:
        raise SettingsError([f"{file}: is {len(key)} bytes long instead of {size}; move it away to get a new one"])
    return key


def _create_once(file: Path, content: bytes) -> bytes:
    """Write `content` unless somebody did before, whole or not at all; give what stands there now."""
    if not file.exists():
        draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_bytes()
