"""Which boot of the host and which engine were last seen: what tells a restart of theirs from a service's own death.

Kept in `system_config`, so that it also tells what happened while CLOS was down.
"""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from domain.observation import Sighting
from domain.reconciling import World
from models.base import written
from models.installation import SystemConfig

_BOOT = "boot"


def note_boot(session: Session, boot_id: str | None, at: datetime) -> datetime | None:
    """Remember the host's boot. Since when it is known that it is another than before; None if none was before."""
    known = _read(session, _BOOT)
    if boot_id is not None and known.get("id") != boot_id:
        since = written(at) if known.get("id") else None
        known = _write(session, _BOOT, {"id": boot_id, "since": since})
    return _time(known.get("since"))


def note_engine(session: Session, kind: str, seen: Sighting | None, host_since: datetime | None, at: datetime) -> World:
    """Remember how a runtime's engine was seen (None: it did not answer), and what that tells of deaths."""
    key = f"engine:{kind}"
    known = _read(session, key)
    if seen is None:
        if known and not known.get("silent_since"):
            _write(session, key, known | {"silent_since": written(at)})
        return World()
    fresh = known | {
        "id": seen.id,
        "since": written(seen.since),
        "answered_at": written(at),
        "silent_since": None,
    }
    if known.get("id") and seen.id and known["id"] != seen.id:
        fresh["new_since"] = written(at)
    if known.get("silent_since"):
        fresh["away"] = [known.get("answered_at") or known["silent_since"], written(at)]
    _write(session, key, fresh)
    away = [_time(each) for each in fresh.get("away") or ()]
    return World(
        host_since=host_since if seen.local else None,
        engine_since=seen.since,
        engine_new_since=_time(fresh.get("new_since")),
        away=(away[0], away[1]) if len(away) == 2 and away[0] and away[1] else None,
    )


def _read(session: Session, key: str) -> dict[str, Any]:
    found = session.get(SystemConfig, key)
    return dict(found.value or {}) if found is not None else {}


def _write(session: Session, key: str, value: dict[str, Any]) -> dict[str, Any]:
    found = session.get(SystemConfig, key)
    if found is None:
        session.add(SystemConfig(key=key, value=value))
    elif found.value != value:
        found.value = value
    return value


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
