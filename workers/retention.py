"""What grows is aged out, a bounded number of rows at a time."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import InstrumentedAttribute

from domain.conflicts import ConflictStatus
from domain.states import FINAL
from models import leases
from models.base import Base, now
from models.events import Event
from models.installation import Heartbeat, IdempotencyKey, ServiceMetric, SystemMetric, TickSlot
from models.operations import Operation, StepTiming
from models.ports import PortConflict, PortHistory
from models.record import Record
from workers.context import Context

_AT_ONCE = 2000
_ROUNDS = 50
_DAY_S = 86400.0


def age_out(context: Context) -> None:
    """Delete what is older than it is kept, and end what was lent for a time that is over."""
    _expire(context.record)
    kept = context.retention_s
    table = (
        (Event, Event.timestamp, kept.get("events", 30 * _DAY_S)),
        (ServiceMetric, ServiceMetric.timestamp, kept.get("metrics", 30 * _DAY_S)),
        (SystemMetric, SystemMetric.timestamp, kept.get("metrics", 30 * _DAY_S)),
        (IdempotencyKey, IdempotencyKey.created_at, _DAY_S),
        (TickSlot, TickSlot.at, 3600.0),
        (Heartbeat, Heartbeat.at, 3600.0),
        (PortHistory, PortHistory.released_at, 365 * _DAY_S),
        (StepTiming, StepTiming.updated_at, 90 * _DAY_S),
    )
    for mapped, column, age_s in table:
        _delete(context.record, mapped, column, age_s)
    _delete(
        context.record,
        Operation,
        Operation.end_time,
        kept.get("operations", 30 * _DAY_S),
        Operation.status.in_([status.value for status in FINAL]),
    )
    _delete(
        context.record,
        PortConflict,
        PortConflict.resolved_at,
        kept.get("events", 30 * _DAY_S),
        PortConflict.status == ConflictStatus.RESOLVED.value,
    )


def _expire(record: Record) -> None:
    for _round in range(_ROUNDS):
        with record.write() as session:
            ended = leases.expire(session, _AT_ONCE)
        if ended < _AT_ONCE:
            return


def _delete(
    record: Record, mapped: type[Base], column: InstrumentedAttribute[Any], age_s: float, *also: ColumnElement[bool]
) -> None:
    keys = list(mapped.__mapper__.primary_key)
    for _round in range(_ROUNDS):
        with record.write() as session:
            old = session.execute(
                select(*keys).where(column < now() - timedelta(seconds=age_s), *also).limit(_AT_ONCE)
            ).all()
            for row in old:
                session.execute(delete(mapped).where(*(key == value for key, value in zip(keys, row, strict=True))))
        if len(old) < _AT_ONCE:
            return
