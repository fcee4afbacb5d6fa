"""Who may come in: users, their sessions and API keys, and the audit log of what they did."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ColumnElement, ForeignKey, String, Text, func, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, BigId, now


class User(Base):
    """A person or a program with a role."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    username: Mapped[str] = mapped_column(String(100), unique=True)
    password_hash: Mapped[str | None] = mapped_column(Text)
    role: Mapped[str] = mapped_column(String(20), server_default="viewer", default="viewer")
    # Raised to end every session and token of the user at once.
    token_version: Mapped[int] = mapped_column(server_default="1", default=1)
    disabled: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now)


class UserSession(Base):
    """A refresh token's family: using a token a second time ends the family."""

    __tablename__ = "user_sessions"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    refresh_jti: Mapped[str] = mapped_column(String(36), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now)
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class ApiKey(Base):
    """A key for programs. Only its SHA-256 is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditEntry(Base):
    """What somebody did. Rows are never changed or deleted (triggers say so)."""

    __tablename__ = "audit_log"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    timestamp: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(100), index=True)
    action: Mapped[str] = mapped_column(String(100))
    resource: Mapped[str | None] = mapped_column(String(250))
    outcome: Mapped[str] = mapped_column(String(20))
    request_id: Mapped[str | None] = mapped_column(String(100))
    details: Mapped[dict[str, Any] | None]


def user_named(session: Session, username: str) -> User | None:
    """The user of that name, if there is one."""
    return session.scalar(select(User).where(User.username == username))


def by_key_hash(session: Session, digest: str) -> tuple[ApiKey, User] | None:
    """The key of that SHA-256 and its user, if neither was revoked, disabled or has expired."""
    return _good_key(session, ApiKey.key_hash == digest)


def by_key_id(session: Session, key_id: str) -> tuple[ApiKey, User] | None:
    """The key of that id and its user, under the same conditions."""
    return _good_key(session, ApiKey.id == key_id)


def _good_key(session: Session, which: ColumnElement[bool]) -> tuple[ApiKey, User] | None:
    row = session.execute(
        select(ApiKey, User)
        .join(User, User.id == ApiKey.user_id)
        .where(which, ApiKey.revoked_at.is_(None), User.disabled.is_(False))
    ).first()
    if row is None or (row[0].expires_at is not None and row[0].expires_at <= now()):
        return None
    return row[0], row[1]


def live_session(session: Session, user_id: int, session_id: str) -> User | None:
    """The user of a login that has neither been ended nor expired."""
    return session.scalar(
        select(User)
        .join(UserSession, UserSession.user_id == User.id)
        .where(
            User.id == user_id,
            User.disabled.is_(False),
            UserSession.id == session_id,
            UserSession.revoked_at.is_(None),
            UserSession.expires_at > now(),
        )
    )


def end_sessions(session: Session, user: User) -> None:
    """End every login of a user at once; the tokens that are out stop working."""
    user.token_version += 1
    session.execute(
        update(UserSession)
        .where(UserSession.user_id == user.id, UserSession.revoked_at.is_(None))
        .values(revoked_at=now())
        .execution_options(synchronize_session=False)
    )


def other_admins(session: Session, user: User) -> int:
    """How many may still do everything if this user could not."""
    wanted = select(func.count()).where(User.role == "admin", User.disabled.is_(False), User.id != user.id)
    return session.scalar(wanted) or 0


def users_page(session: Session, after: int | None, limit: int) -> Sequence[User]:
    """Users by id."""
    query = select(User).order_by(User.id).limit(limit)
    return session.scalars(query if after is None else query.where(User.id > after)).all()


def keys_page(session: Session, user_id: int | None, after: str | None, limit: int) -> Sequence[tuple[ApiKey, str]]:
    """API keys that are not revoked, by id, with their users' names; one user's if `user_id` is given."""
    query = select(ApiKey, User.username).join(User, User.id == ApiKey.user_id).where(ApiKey.revoked_at.is_(None))
    if user_id is not None:
        query = query.where(ApiKey.user_id == user_id)
    if after is not None:
        query = query.where(ApiKey.id > after)
    return [(key, name) for key, name in session.execute(query.order_by(ApiKey.id).limit(limit)).all()]


def audit_page(
    session: Session,
    *,
    actors: Sequence[str] | None,
    actions: Sequence[str] | None,
    resources: Sequence[str] | None,
    since: datetime | None,
    before: int | None,
    limit: int,
) -> Sequence[AuditEntry]:
    """The audit log, newest first; several values of one field mean *or*."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditEntry.id < before)
    narrowed = ((AuditEntry.actor, actors), (AuditEntry.action, actions), (AuditEntry.resource, resources))
    for column, values in narrowed:
        if values is not None:
            query = query.where(column.in_(values))
    if since is not None:
        query = query.where(AuditEntry.timestamp >= since)
    return session.scalars(query).all()
