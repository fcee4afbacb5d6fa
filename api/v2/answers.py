"""Who may give which answer to an operation's question."""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from api import audit
from api.auth import principal
from api.v2.asking import own_ports
from domain.errors import ValidationFailed
from models import port_ranges, questions
from models.operations import Operation

# The right to end a process that CLOS does not own.
TERMINATE = "ports:terminate"


def check(session: Session, operation: Operation, body: Mapping[str, Any]) -> None:
    """Refuse an answer that its giver may not give, or that cannot be meant.

    Raises:
        ValidationFailed: it is no choice, or ends a process without its confirmation.
        Forbidden: it ends a process, and that is not theirs to do.
        PortHeld: it names a port that is another's.
    """
    answer = str(body["choice"])
    choice = questions.chosen(operation, answer)
    wanted = choice.get("confirm")
    if wanted is not None:
        principal().require(TERMINATE)
        _check_confirmation(str(wanted), body.get("confirm"))
        audit.note(choice=answer, process=str(wanted), operation_id=operation.id)
    name, _, port = answer.partition(":")
    if name == questions.NAMES_A_PORT:
        _check_port(session, operation, int(port))


def _check_confirmation(wanted: str, given: str | None) -> None:
    named = re.search(r"\(pid ([0-9]+)\)\Z", wanted)
    if given is None or given not in (wanted, named[1] if named else wanted):
        raise ValidationFailed({"confirm": [f"To end it, confirm which process: {wanted!r}."]})


def _check_port(session: Session, operation: Operation, port: int) -> None:
    if port in own_ports():
        raise ValidationFailed({"choice": [f"{port} is CLOS's own port."]})
    asked = operation.question or {}
    if port == asked["port"]:
        raise ValidationFailed({"choice": [f"{port} is the port that the conflict is about."]})
    port_ranges.refuse_held(session, port, asked["protocol"], asked["host_ip"], own_ports())
