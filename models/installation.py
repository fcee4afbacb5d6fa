"""What belongs to the installation itself: settings kept in the database, answered requests, ticks, samples."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Float, ForeignKey, Index, String, Text, select
from sqlalchemy.dialects.postgresql import insert as insert_postgres
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, BigId, now

# A process that was not heard of for so long counts as gone.
SILENT_AFTER_S = 10.0


class SystemConfig(Base):
    """A value that CLOS itself remembers."""

    __tablename__ = "system_config"
    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[dict[str, Any] | None]
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class IdempotencyKey(Base):
    """A request that was answered, so that its repetition gets the same answer. Unique by rule of the database."""

    __tablename__ = "idempotency_keys"
    principal: Mapped[str] = mapped_column(String(100), primary_key=True)
    method: Mapped[str] = mapped_column(String(10), primary_key=True)
    path: Mapped[str] = mapped_column(String(500), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_hash: Mapped[str] = mapped_column(String(64))
    status_code: Mapped[int]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(index=True)


class TickSlot(Base):
    """A periodic message's slot that was worked on: a doubled tick finds it taken."""

    __tablename__ = "tick_slots"
    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    slot: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(index=True)


def take_slot(session: Session, name: str, slot: int) -> bool:
    """Whether this tick is the first of its slot."""
    insert = insert_sqlite if session.get_bind().dialect.name == "sqlite" else insert_postgres
    taken = session.execute(
        insert(TickSlot).values(name=name, slot=slot, at=now()).on_conflict_do_nothing().returning(TickSlot.slot)
    )
    return taken.first() is not None


class ServiceMetric(Base):
    """One sample of a service's resources: CPU in percent, memory in MB, the rest in bytes, times in ms."""

    __tablename__ = "service_metrics"
    __table_args__ = (Index("ix_service_metrics_service_id_timestamp", "service_id", "timestamp"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    service_id: Mapped[str] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"))
    timestamp: Mapped[datetime]
    cpu_usage: Mapped[float | None] = mapped_column(Float)
    memory_usage: Mapped[float | None] = mapped_column(Float)
    memory_percent: Mapped[float | None] = mapped_column(Float)
    network_rx: Mapped[int | None] = mapped_column(BigId)
    network_tx: Mapped[int | None] = mapped_column(BigId)
    disk_read: Mapped[int | None] = mapped_column(BigId)
    disk_write: Mapped[int | None] = mapped_column(BigId)
    response_time: Mapped[float | None] = mapped_column(Float)


class SystemMetric(Base):
    """One sample of the host's resources."""

    __tablename__ = "system_metrics"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    timestamp: Mapped[datetime] = mapped_column(index=True)
    cpu_usage: Mapped[float | None] = mapped_column(Float)
    memory_usage: Mapped[float | None] = mapped_column(Float)
    memory_percent: Mapped[float | None] = mapped_column(Float)
    network_rx: Mapped[int | None] = mapped_column(BigId)
    network_tx: Mapped[int | None] = mapped_column(BigId)
    disk_read: Mapped[int | None] = mapped_column(BigId)
    disk_write: Mapped[int | None] = mapped_column(BigId)


class Heartbeat(Base):
    """A process of CLOS and when it was last heard of: what `/health` says of workers and scheduler."""

    __tablename__ = "process_heartbeats"
    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    role: Mapped[str] = mapped_column(String(20), index=True)
    identity: Mapped[dict[str, Any] | None]
    facts: Mapped[dict[str, Any] | None]
    at: Mapped[datetime]


def worker_threads(session: Session) -> int:
    """How many operations the workers that were heard of can work on, all together; 0 if there is none."""
    alive = select(Heartbeat.facts).where(
        Heartbeat.role == "worker", Heartbeat.at > now() - timedelta(seconds=SILENT_AFTER_S)
    )
    return sum(int((facts or {}).get("threads") or 0) for facts in session.scalars(alive))
