"""Asking for an operation on services: who is meant, what is held, and what is wanted from now on."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import principal
from api.parts import parts
from domain.configuration import Conflicts
from models import operation_requests as queued
from models.operations import Operation
from models.registry_graph import Targets
from models.services import Service


def own_ports() -> frozenset[int]:
    """The ports that CLOS itself listens on; no service is given one."""
    settings = parts().settings
    return frozenset({settings.api.port, settings.websocket.port})


def conflicts_policy() -> Conflicts:
    """What this installation does about conflicts; a group's own policy comes before it."""
    return parts().settings.conflicts


def ask(
    session: Session,
    verb: str,
    body: Mapping[str, Any],
    targets: Targets,
    *,
    group: str | None = None,
    service: str | None = None,
) -> Operation:
    """Write the operation `group.<verb>` or `service.<verb>`, and what its services are wanted to be.

    Its parameters are the request's fields, and: `targets` (the locks), `services` (ids of all that it works on),
    `named` (ids of those that were asked for) and, of a stop, `running_dependents`. A dry run holds nothing and wants
    nothing; nor does what waits, until its turn comes.

    Raises:
        OperationInProgress: another operation holds one of its targets, and it is not to wait for it.
        ValidationFailed: it is to wait for an operation that does not exist.
        QueueFull: too many wait already.
    """
    return queued.ask(
        session,
        f"{'group' if group is not None else 'service'}.{verb}",
        body,
        targets,
        # Whoever follows a group hears of its services' operations too.
        group_name=group if service is None else _group_of(session, service),
        service_id=service,
        initiated_by=principal().name,
    )


def _group_of(session: Session, service_id: str) -> str | None:
    return session.scalar(select(Service.group_name).where(Service.id == service_id))
