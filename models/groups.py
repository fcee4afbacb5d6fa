"""Groups of services."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from domain.errors import GroupExists, GroupNotFound
from domain.specs import GroupSpec
from models.base import Base, now


class Group(Base):
    """A named set of services that start and stop together, and whose ports come from one project's ranges."""

    __tablename__ = "service_groups"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    description: Mapped[str | None] = mapped_column(Text)
    project: Mapped[str] = mapped_column(String(50), server_default="development", default="development")
    dependencies: Mapped[list[str] | None]
    start_order: Mapped[int] = mapped_column(server_default="0", default=0)
    compose_file: Mapped[str | None] = mapped_column(Text)
    network_name: Mapped[str | None] = mapped_column(String(100))
    restart_policy: Mapped[str | None] = mapped_column(String(20))
    # Compose's top-level `networks` and `volumes`, normalised; `default` is the group's own network.
    networks: Mapped[dict[str, Any] | None]
    volumes: Mapped[dict[str, Any] | None]
    # Where relative paths count from, and what of a Compose project it was imported from.
    directory: Mapped[str | None] = mapped_column(Text)
    compose: Mapped[dict[str, Any] | None]
    # Of a clone: of which group, and until when it is kept.
    cloned_from: Mapped[str | None] = mapped_column(String(50))
    expires_at: Mapped[datetime | None] = mapped_column(index=True)
    expiry_told_at: Mapped[datetime | None]
    conflicts: Mapped[dict[str, Any] | None]
    reconcile: Mapped[dict[str, Any] | None]
    spec_version: Mapped[int] = mapped_column(server_default="1", default=1)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now, onupdate=now)

    def spec(self) -> GroupSpec:
        """The group as a value."""
        return GroupSpec(
            name=self.name,
            project=self.project,
            dependencies=tuple(self.dependencies or ()),
            start_order=self.start_order,
            network_name=self.network_name or "",
        )


def get(session: Session, name: str) -> Group:
    """The group of that name.

    Raises:
        GroupNotFound: there is none.
    """
    found = session.get(Group, name)
    if found is None:
        raise GroupNotFound(name)
    return found


def with_dependencies(session: Session, names: Collection[str]) -> list[Group]:
    """These groups and those that they depend on, however far, by name; what is not registered is left out."""
    found: dict[str, Group] = {}
    wanted = set(names)
    while wanted:
        rows = session.scalars(select(Group).where(Group.name.in_(wanted))).all()
        found |= {group.name: group for group in rows}
        wanted = {other for group in rows for other in group.dependencies or ()} - found.keys()
        if not rows:
            break
    return [found[name] for name in sorted(found)]


def add(session: Session, name: str, **fields: Any) -> Group:
    """Register a group.

    Raises:
        GroupExists: one of that name is registered.
    """
    if session.get(Group, name) is not None:
        raise GroupExists(f"there is a group {name!r} already", group=name)
    group = Group(name=name, **fields)
    session.add(group)
    session.flush()
    return group


def ensure(session: Session, name: str) -> Group:
    """The group of that name, made with defaults if there is none."""
    return session.get(Group, name) or add(session, name)


def page(session: Session, after: str | None, limit: int) -> Sequence[Group]:
    """Groups by name, from after `after`."""
    query = select(Group).order_by(Group.name).limit(limit)
    if after is not None:
        query = query.where(Group.name > after)
    return session.scalars(query).all()
