"""What carries this installation's mark and belongs to no service of the registry any more."""

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, now


class Orphan(Base):
    """One container or process. `ref` is a container's id, or `pid:start_ticks`; `service_id` what its mark says."""

    __tablename__ = "orphans"
    ref: Mapped[str] = mapped_column(String(100), primary_key=True)
    runtime: Mapped[str] = mapped_column(String(20))
    service_id: Mapped[str] = mapped_column(String(160), index=True)
    group_name: Mapped[str | None] = mapped_column(String(50))
    name: Mapped[str | None] = mapped_column(String(250))
    phase: Mapped[str] = mapped_column(String(20))
    detail: Mapped[dict[str, Any] | None]
    first_seen_at: Mapped[datetime] = mapped_column(default=now)
    observed_at: Mapped[datetime] = mapped_column(default=now)
