"""What somebody did, in the transaction that did it."""

from typing import Any

from flask import g, request
from sqlalchemy import insert
from sqlalchemy.orm import Session

from api.parts import parts
from models.access import AuditEntry
from models.base import now, table_of

_INSERT = insert(table_of(AuditEntry))


def note(**details: Any) -> None:
    """What the current request's entry says beside who, what and where."""
    g.audit_details = {**g.get("audit_details", {}), **details}


def write(session: Session, outcome: str = "ok", *, actor: str | None = None, details: Any = None) -> None:
    """Add the current request to the audit log."""
    shared = parts()
    if not shared.settings.security.audit_log:
        return
    asked_by = g.get("principal")
    entry = {
        "timestamp": now(),
        "actor": (actor or g.get("actor") or (asked_by.name if asked_by else "nobody"))[:100],
        "action": str(request.endpoint or "unknown")[:100],
        "resource": request.path[:250],
        "outcome": outcome,
        "request_id": g.get("request_id"),
        "details": details if details is not None else g.get("audit_details"),
    }
    session.execute(_INSERT, entry)
