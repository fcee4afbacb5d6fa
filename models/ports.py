"""Ports: ranges per project, what services claim, what is leased, and who was last seen to listen."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, CheckConstraint, ColumnElement, ForeignKey, Index, String, Text, func, or_, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, BigId, now

THIS_NODE = "local"


class PortRange(Base):
    """The ports that a project's services are given."""

    __tablename__ = "port_ranges"
    __table_args__ = (
        CheckConstraint("start_port >= 1 AND end_port <= 65535 AND start_port <= end_port", name="order"),
        # An id must never name another row later: a client may still hold it.
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(String(50), index=True)
    start_port: Mapped[int]
    end_port: Mapped[int]
    description: Mapped[str | None] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(server_default="0", default=0)
    max_services: Mapped[int | None]
    # Where the search for a free port begins: what lies before it was taken when it was last looked at.
    next_port: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now)


class PortClaim(Base):
    """A port that a service's spec names, or that a container publishes. Claims are not unique: that is a conflict.

    `port` None means any port of the project's range; the lease fills it in. `left_open` stays true then: what was
    asked for is any port, and not the one that was leased.
    """

    __tablename__ = "port_claims"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    service_id: Mapped[str | None] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"), index=True)
    position: Mapped[int] = mapped_column(server_default="0", default=0)
    name: Mapped[str] = mapped_column(String(100), server_default=text("''"), default="")
    host_ip: Mapped[str] = mapped_column(String(45), server_default="127.0.0.1", default="127.0.0.1")
    port: Mapped[int | None] = mapped_column(index=True)
    container_port: Mapped[int | None]
    protocol: Mapped[str] = mapped_column(String(4), server_default="tcp", default="tcp")
    source: Mapped[str] = mapped_column(String(10), server_default="spec", default="spec")
    # A container's name and id, and the service of ours whose container it is. No foreign key: it was only seen.
    container_ref: Mapped[str | None] = mapped_column(String(250))
    container_id: Mapped[str | None] = mapped_column(String(64))
    owner_id: Mapped[str | None] = mapped_column(String(160))
    left_open: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    latent: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)


class PortLease(Base):
    """A port of this host that one holder has for itself. Unique by rule of the database."""

    __tablename__ = "port_leases"
    __table_args__ = (
        Index("uq_port_leases_node_protocol_port", "node", "protocol", "port", unique=True),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    node: Mapped[str] = mapped_column(String(100), server_default=THIS_NODE, default=THIS_NODE)
    protocol: Mapped[str] = mapped_column(String(4), server_default="tcp", default="tcp")
    port: Mapped[int]
    host_ip: Mapped[str] = mapped_column(String(45), server_default="127.0.0.1", default="127.0.0.1")
    project: Mapped[str] = mapped_column(String(50))
    service_id: Mapped[str | None] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"), index=True)
    port_name: Mapped[str] = mapped_column(String(100), server_default=text("''"), default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now)
    expires_at: Mapped[datetime | None] = mapped_column(index=True)


class SeenListener(Base):
    """A socket that the last scan saw bound on this host."""

    __tablename__ = "listeners"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    host_ip: Mapped[str] = mapped_column(String(45))
    port: Mapped[int] = mapped_column(index=True)
    protocol: Mapped[str] = mapped_column(String(4))
    pid: Mapped[int | None]
    name: Mapped[str | None] = mapped_column(Text)
    command: Mapped[str | None] = mapped_column(Text)
    user: Mapped[str | None] = mapped_column(String(100))
    start_ticks: Mapped[int | None] = mapped_column(BigId)
    parents: Mapped[list[Any] | None]
    service_id: Mapped[str | None] = mapped_column(String(160))
    container_id: Mapped[str | None] = mapped_column(String(64))
    container_name: Mapped[str | None] = mapped_column(String(250))
    own: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    observed_at: Mapped[datetime]


class PortHistory(Base):
    """Who had a port last: it is given to that service again, and to nobody else for two minutes."""

    __tablename__ = "port_history"
    node: Mapped[str] = mapped_column(String(100), primary_key=True, default=THIS_NODE)
    protocol: Mapped[str] = mapped_column(String(4), primary_key=True)
    port: Mapped[int] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(String(50))
    service_id: Mapped[str | None] = mapped_column(String(160), index=True)
    port_name: Mapped[str] = mapped_column(String(100), server_default=text("''"), default="")
    released_at: Mapped[datetime] = mapped_column(index=True)


class PortConflict(Base):
    """A port that two want, while it lasts and after. `status` is active, ignored or resolved."""

    __tablename__ = "port_conflicts"
    __table_args__ = (
        Index("uq_port_conflicts_active", "kind", "port", "protocol", "host_ip", unique=True,
              sqlite_where=text("status = 'active'"), postgresql_where=text("status = 'active'")),
        # An id must never name another conflict later.
        {"sqlite_autoincrement": True},
    )  # fmt: skip
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(30))
    status: Mapped[str] = mapped_column(String(10), server_default="active", default="active")
    port: Mapped[int] = mapped_column(index=True)
    host_ip: Mapped[str] = mapped_column(String(45))
    protocol: Mapped[str] = mapped_column(String(4))
    claimants: Mapped[list[str] | None]
    holder: Mapped[dict[str, Any] | None]
    options: Mapped[list[Any] | None]
    resolution: Mapped[dict[str, Any] | None]
    # Why it is a conflict, as a sentence; and what an undo of its resolution has to bring back.
    detail: Mapped[str | None] = mapped_column(Text)
    undo: Mapped[dict[str, Any] | None]
    detected_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]


def live() -> ColumnElement[bool]:
    """What a lease must be to be somebody's: not expired."""
    return or_(PortLease.expires_at.is_(None), PortLease.expires_at > now())


def lease_holder(session: Session, port: int, protocol: str = "tcp") -> PortLease | None:
    """Who has that port, if anybody; an expired lease is nobody's."""
    return session.scalar(
        select(PortLease).where(
            PortLease.node == THIS_NODE, PortLease.protocol == protocol, PortLease.port == port, live()
        )
    )


def ranges_of(session: Session, project: str) -> Sequence[PortRange]:
    """A project's ranges, the preferred first."""
    return session.scalars(
        select(PortRange).where(PortRange.project == project).order_by(PortRange.priority.desc(), PortRange.start_port)
    ).all()
