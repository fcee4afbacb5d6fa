"""What an import was given that nobody is shown: a Compose file's text, and variables' values.

It is kept apart from the operation's parameters, which everybody may read, and only until the operation has ended.
"""

from typing import Any

from sqlalchemy import ForeignKey, Text, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from domain.states import FINAL
from models.base import Base
from models.operations import Operation


class ImportInput(Base):
    """The private part of one import's request."""

    __tablename__ = "import_inputs"
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True)
    content: Mapped[str | None] = mapped_column(Text)
    variables: Mapped[dict[str, Any] | None]


def keep(session: Session, operation_id: str, content: str | None, variables: dict[str, str]) -> None:
    """Keep it for the worker. What belongs to operations that have ended meanwhile (a cancel) goes."""
    ended = select(Operation.id).where(Operation.status.in_([status.value for status in FINAL]))
    session.execute(delete(ImportInput).where(ImportInput.operation_id.in_(ended)))
    if content is not None or variables:
        session.add(ImportInput(operation_id=operation_id, content=content, variables=variables))


def of(session: Session, operation_id: str) -> tuple[str | None, dict[str, str]]:
    """The text and the variables of an import; nothing once it has ended."""
    found = session.get(ImportInput, operation_id)
    return (found.content, dict(found.variables or {})) if found is not None else (None, {})


def forget(session: Session, operation_id: str) -> None:
    """Take it away."""
    session.execute(delete(ImportInput).where(ImportInput.operation_id == operation_id))
