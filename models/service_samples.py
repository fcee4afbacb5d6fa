"""A service's samples over a period, averaged so that an answer has at most a few hundred points."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.orm import Session

from models.base import now
from models.installation import ServiceMetric

_MOST_POINTS = 240
_FINEST_S = 10
_GAUGES = ("cpu_usage", "memory_usage", "memory_percent", "response_time")
# Counters only grow while an instance lives: of those the last one counts.
_COUNTERS = ("network_rx", "network_tx", "disk_read", "disk_write")


def over(session: Session, service_id: str, period_s: int) -> tuple[int, Iterator[Any]]:
    """The seconds between two points, and the points, oldest first."""
    resolution_s = max(_FINEST_S, period_s // _MOST_POINTS)
    if session.get_bind().dialect.name == "sqlite":
        second: Any = cast(func.strftime("%s", ServiceMetric.timestamp), Integer)
    else:
        second = cast(func.floor(func.extract("epoch", ServiceMetric.timestamp)), Integer)
    slot = (second // resolution_s).label("slot")
    query = (
        select(
            slot,
            *(func.avg(getattr(ServiceMetric, name)).label(name) for name in _GAUGES),
            *(func.max(getattr(ServiceMetric, name)).label(name) for name in _COUNTERS),
        )
        .where(
            ServiceMetric.service_id == service_id,
            ServiceMetric.timestamp > now() - timedelta(seconds=period_s),
        )
        .group_by("slot")
        .order_by("slot")
    )
    rows = session.execute(query).all()
    return resolution_s, (
        SimpleNamespace(
            timestamp=datetime.fromtimestamp(row.slot * resolution_s, UTC),
            **{name: getattr(row, name) for name in (*_GAUGES, *_COUNTERS)},
        )
        for row in rows
    )
