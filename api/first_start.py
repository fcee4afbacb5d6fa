"""What the first start of a home makes: the administrator, a key for the command line, the port ranges.

Several processes may start at once: what exists is decided in one write transaction, files are replaced whole.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select

from api.passwords import hash_password, new_key
from models.access import ApiKey, User, user_named
from models.base import now
from models.ports import PortRange
from models.record import Record
from settings import Settings

ADMIN = "admin"
_KEY_NAME = "clos"
_log = structlog.get_logger()


def prepare(settings: Settings, record: Record) -> None:
    """Make what is missing; change nothing that is there, but keep the addresses in `credentials.json` right.

    Raises:
        OSError: the home cannot be written.
    """
    password = secrets.token_urlsafe(18)
    kept = hash_password(password) if _needs_admin(record) else None
    key = new_key()
    known = _read(settings.home / "credentials.json")
    with record.write() as session:
        user = user_named(session, ADMIN)
        if user is None and kept is not None and session.scalar(select(User.id).limit(1)) is None:
            user = User(username=ADMIN, password_hash=kept, role="admin", disabled=False)
            session.add(user)
            session.flush()
            # Inside the transaction: a password that nobody can read must not be committed.
            write_secret(settings.home / "initial-password", password + "\n")
        if user is not None and not known.get("api_key"):
            session.add(ApiKey(id=key.id, user_id=user.id, name=_KEY_NAME, key_hash=key.digest, created_at=now()))
            known = {"username": ADMIN, "api_key": key.text}
            _write_credentials(settings, known)
        if session.scalar(select(PortRange.id).limit(1)) is None:
            session.add_all(
                PortRange(project=each.project, start_port=each.start, end_port=each.end)
                for each in settings.port_ranges
            )
    if known.get("api_key"):
        _write_credentials(settings, known)


def _needs_admin(record: Record) -> bool:
    with record.read() as session:
        return session.scalar(select(User.id).limit(1)) is None


def _write_credentials(settings: Settings, known: dict[str, Any]) -> None:
    file = settings.home / "credentials.json"
    wanted = known | {"url": settings.api.public_url, "websocket_url": settings.websocket.public_url}
    shown = {name: wanted[name] for name in ("url", "websocket_url", "username", "api_key")}
    if _read(file) != shown:
        write_secret(file, json.dumps(shown, indent=2) + "\n")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_secret(file: Path, text: str) -> None:
    """Put `text` into a file that only its owner may read, whole or not at all."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


def forget_initial_password(home: Path) -> None:
    """Remove the file: the password in it is no longer the one."""
    (home / "initial-password").unlink(missing_ok=True)
