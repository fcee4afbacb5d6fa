"""An operation that asks a person: it waits with no worker held, keeps its locks, and ends waiting by its own rule."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import ValidationFailed
from domain.events import EventType, Severity
from domain.states import OperationStatus
from models import events, operation_waiting
from models.base import now
from models.operations import Operation, freed, hand_back, progress

# What stands for an answer that nobody gave in time.
TIMED_OUT = "timeout"
# A choice that takes a port of the answerer's own: `change_port:9400`.
NAMES_A_PORT = "change_port"


def ask(session: Session, operation: Operation, question: Mapping[str, Any]) -> None:
    """Let an operation wait for an answer. Its worker lets go of it, which is no attempt.

    `question` is interface.md's, and `key`: what the answer is kept under in the operation's parameters.
    """
    hand_back(operation)
    operation.status = OperationStatus.WAITING.value
    operation.question = dict(question)
    operation.current_step = None
    text = f"waiting for an answer: {question['text']}"
    operation_waiting.say(session, operation, [{"kind": "answer", "ref": operation.id, "text": text}])
    session.flush()
    freed(session, operation)
    shown = {name: question[name] for name in ("text", "choices", "expires_at")}
    events.append(
        session,
        EventType.OPERATION_WAITING,
        {
            "type": operation.type,
            "status": operation.status,
            "progress": operation.progress,
            "current_step": None,
            "question": shown,
        },
        severity=Severity.WARNING,
        actor=operation.initiated_by,
        service_id=operation.service_id,
        group_name=operation.group_name,
        operation_id=operation.id,
    )


def chosen(operation: Operation, choice: str) -> Mapping[str, Any]:
    """The choice that an answer means.

    Raises:
        ValidationFailed: it is none of the question's choices, or its port is none.
    """
    choices: Sequence[Mapping[str, Any]] = (operation.question or {}).get("choices", [])
    name, colon, port = choice.partition(":")
    if colon and name == NAMES_A_PORT and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65_535):
        raise ValidationFailed({"choice": [f"Name a port from 1 to 65535: {NAMES_A_PORT}:9400."]})
    for each in choices:
        named = str(each.get("choice"))
        if choice == named and named != NAMES_A_PORT:
            return each
        if colon and name == named == NAMES_A_PORT:
            return each
    words = [
        f"{NAMES_A_PORT}:PORT" if each.get("choice") == NAMES_A_PORT else str(each.get("choice")) for each in choices
    ]
    raise ValidationFailed({"choice": [f"Must be one of: {', '.join(words)}."]})


def answer(session: Session, operation: Operation, choice: str, by: str | None = None) -> None:
    """Take the answer to an operation's question and let a worker go on with it."""
    question = operation.question or {}
    asked = dict(operation.parameters or {})
    answers = dict(asked.get("answers") or {}) | {str(question.get("key") or "question"): choice}
    operation.parameters = asked | {"answer": choice, "answers": answers} | ({"answered_by": by} if by else {})
    operation.question = None
    operation_waiting.say(session, operation, [])
    operation.status = OperationStatus.PENDING.value
    operation.not_before = None
    operation.sent_at = None
    session.flush()
    progress(session, operation)


def expired(session: Session, at: datetime | None = None) -> list[Operation]:
    """Operations whose question nobody answered in time."""
    moment = at or now()
    waiting = session.scalars(select(Operation).where(Operation.status == OperationStatus.WAITING.value)).all()
    return [
        each
        for each in waiting
        if (until := (each.question or {}).get("expires_at")) and datetime.fromisoformat(until) <= moment
    ]
