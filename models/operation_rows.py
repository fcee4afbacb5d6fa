"""The rows of operations: what stands in the record of one, and what their locks are called."""

import os
import time
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Float, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from domain.errors import CutOff
from domain.planning import TRACELESS
from domain.states import OperationStatus, StepStatus
from models.base import Base, now

# Of the partial index that keeps the few active ones apart from all that ended. SQLite uses it only for statements that
# say the same words.
ACTIVE_SQL = "status NOT IN ('completed', 'failed', 'cancelled')"


def new_id() -> str:
    """A UUIDv7 (RFC 9562): its order is the order of time, which keeps lists and indexes in order."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Operation(Base):
    """One thing that was asked for, from its request to its end."""

    __tablename__ = "operations"
    __table_args__ = (
        Index("ix_operations_active", "status", "id", sqlite_where=text(ACTIVE_SQL),
              postgresql_where=text(ACTIVE_SQL)),
    )  # fmt: skip
    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    type: Mapped[str] = mapped_column(String(40), index=True)
    status: Mapped[str] = mapped_column(String(20), default=OperationStatus.PENDING.value)
    group_name: Mapped[str | None] = mapped_column(String(50), index=True)
    service_id: Mapped[str | None] = mapped_column(String(160), index=True)
    parent_id: Mapped[str | None] = mapped_column(String(36), index=True)
    parameters: Mapped[dict[str, Any] | None]
    dependencies: Mapped[list[str] | None]
    progress: Mapped[int] = mapped_column(default=0, server_default="0")
    current_step: Mapped[str | None] = mapped_column(String(250))
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    question: Mapped[dict[str, Any] | None]
    # What it has promised to undo if it fails or is cancelled, written before its first change. Never shown.
    compensation: Mapped[dict[str, Any] | None]
    initiated_by: Mapped[str | None] = mapped_column(String(100))
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    retry_of: Mapped[str | None] = mapped_column(String(36))
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
    start_time: Mapped[datetime | None]
    end_time: Mapped[datetime | None]
    # Delivery.
    not_before: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    sends: Mapped[int] = mapped_column(default=0, server_default="0")
    cancel_requested_at: Mapped[datetime | None]
    # Why nobody works on it: a list of {kind, ref, text} as services have it.
    waiting_for: Mapped[list[Any] | None]
    # The claim.
    fence: Mapped[int] = mapped_column(default=0, server_default="0")
    claimed_by: Mapped[dict[str, Any] | None]
    heartbeat_at: Mapped[datetime | None]

    steps: Mapped[list["OperationStep"]] = relationship(
        order_by="OperationStep.position", cascade="all, delete-orphan", lazy="selectin"
    )


class OperationStep(Base):
    """One step of an operation's plan, and how it went."""

    __tablename__ = "operation_steps"
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(String(250), primary_key=True)
    position: Mapped[int]
    action: Mapped[str] = mapped_column(String(20))
    target: Mapped[str] = mapped_column(String(200))
    depends_on: Mapped[list[str] | None]
    cause: Mapped[str | None]
    status: Mapped[str] = mapped_column(String(10), default=StepStatus.PENDING.value)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    # What earlier runs of it took, in seconds: its weight in the operation's progress.
    expected_s: Mapped[float | None] = mapped_column(Float)
    error: Mapped[dict[str, Any] | None]

    @property
    def is_in_doubt(self) -> bool:
        """Whether it had begun, and nobody knows how that ended: its worker was killed, and it is to be done again."""
        return self.started_at is not None and self.ended_at is None

    def leave_out(self) -> None:
        """It is not reached any more. One that is in doubt says that it may have been done."""
        in_doubt = self.is_in_doubt
        self.status, self.ended_at = StepStatus.SKIPPED.value, now()
        if in_doubt and self.action not in TRACELESS:
            self.error = CutOff(f"{self.id} had begun before and was not done again: it may have been done").as_dict()


class OperationLock(Base):
    """`target` (`service:<id>` or `group:<name>`) belongs to one active operation: the primary key says so."""

    __tablename__ = "operation_locks"
    target: Mapped[str] = mapped_column(String(200), primary_key=True)
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"), index=True)


class OperationWait(Base):
    """`operation_id` is `waiting` until `waits_for` has ended, and ended well where `must_succeed`."""

    __tablename__ = "operation_waits"
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True)
    waits_for: Mapped[str] = mapped_column(String(36), primary_key=True, index=True)
    must_succeed: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)


class StepTiming(Base):
    """How long a step of that id usually takes: a moving average over its runs, in seconds."""

    __tablename__ = "step_timings"
    step_id: Mapped[str] = mapped_column(String(250), primary_key=True)
    seconds: Mapped[float] = mapped_column(Float)
    samples: Mapped[int] = mapped_column(default=1, server_default="1")
    updated_at: Mapped[datetime] = mapped_column(default=now, index=True)


def service_target(service_id: str) -> str:
    """The lock's name of a service."""
    return f"service:{service_id}"


def group_target(name: str) -> str:
    """The lock's name of a group."""
    return f"group:{name}"
