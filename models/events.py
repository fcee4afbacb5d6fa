"""The event log: the feed's only source. An event's id is its row, so the order of commits is the order of ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Index, String, func, insert, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from domain.events import EventType, Severity
from models.base import Base, BigId, now, table_of, written


class Event(Base):
    """Something that happened. Rows are never changed (a trigger says so), only aged out."""

    __tablename__ = "system_events"
    __table_args__ = (
        Index("ix_system_events_operation_id", "operation_id"),
        # An id must never be given twice, not even after the newest row was aged out.
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    type: Mapped[str] = mapped_column(String(40), index=True)
    severity: Mapped[str] = mapped_column(String(10), server_default="info", default="info")
    actor: Mapped[str | None] = mapped_column(String(100))
    service_id: Mapped[str | None] = mapped_column(String(160))
    group_name: Mapped[str | None] = mapped_column(String(50))
    operation_id: Mapped[str | None] = mapped_column(String(36))
    data: Mapped[dict[str, Any] | None]
    timestamp: Mapped[datetime] = mapped_column(index=True)

    def as_dict(self) -> dict[str, Any]:
        """The form in which clients get it."""
        return {
            "id": self.id,
            "type": self.type,
            "severity": self.severity,
            "actor": self.actor,
            "service_id": self.service_id,
            "group_name": self.group_name,
            "operation_id": self.operation_id,
            "data": self.data or {},
            "timestamp": written(self.timestamp),
        }


_INSERT = insert(table_of(Event)).returning(table_of(Event).c.id)


def append(
    session: Session,
    type_: EventType,
    data: dict[str, Any],
    *,
    severity: Severity = Severity.INFO,
    actor: str | None = None,
    service_id: str | None = None,
    group_name: str | None = None,
    operation_id: str | None = None,
) -> int:
    """Write an event in the transaction that changes what it tells of. Its id."""
    facts = {
        "type": type_.value,
        "severity": severity.value,
        "actor": actor,
        "service_id": service_id,
        "group_name": group_name,
        "operation_id": operation_id,
        "data": data,
        "timestamp": now(),
    }
    # A row that nobody changes needs none of the session's book-keeping, and what is changed besides can be written
    # once, at the end: this is on the way of every write.
    return int(session.connection().execute(_INSERT, facts).scalar_one())


def last_id(session: Session) -> int:
    """The newest event's id; 0 if there is none."""
    return session.scalar(select(func.max(Event.id))) or 0


def first_id(session: Session) -> int:
    """The oldest kept event's id; 0 if there is none."""
    return session.scalar(select(func.min(Event.id))) or 0


def after(session: Session, event_id: int, limit: int = 500) -> Sequence[Event]:
    """What came after `event_id`, oldest first."""
    return session.scalars(select(Event).where(Event.id > event_id).order_by(Event.id).limit(limit)).all()


@dataclass(frozen=True)
class Filter:
    """What a list of events is narrowed to; None narrows nothing. `readable` are the types that may be seen at all."""

    readable: Sequence[str]
    types: Sequence[str] | None = None
    severities: Sequence[str] | None = None
    service_ids: Sequence[str] | None = None
    group_names: Sequence[str] | None = None
    since: datetime | None = None


def page(session: Session, wanted: Filter, *, edge: int | None, ascending: bool, limit: int) -> Sequence[Event]:
    """Events from behind `edge`: newest first, or oldest first if `ascending`."""
    query = select(Event).order_by(Event.id if ascending else Event.id.desc()).limit(limit)
    query = query.where(Event.type.in_(wanted.readable))
    if edge is not None:
        query = query.where(Event.id > edge if ascending else Event.id < edge)
    if wanted.types is not None:
        query = query.where(Event.type.in_(wanted.types))
    if wanted.severities is not None:
        query = query.where(Event.severity.in_(wanted.severities))
    if wanted.service_ids is not None:
        query = query.where(Event.service_id.in_(wanted.service_ids))
    if wanted.group_names is not None:
        query = query.where(Event.group_name.in_(wanted.group_names))
    if wanted.since is not None:
        query = query.where(Event.timestamp >= wanted.since)
    return session.scalars(query).all()
