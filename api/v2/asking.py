"""Asking for an operation on services: who is meant, what is held, and what is wanted from now on."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import principal
from api.parts import parts
from domain.configuration import Conflicts
from domain.errors import ValidationFailed
from domain.states import Desired
from models import operations, registry_graph
from models.base import now
from models.operations import Operation
from models.registry_graph import Targets
from models.services import Service

_DESIRED = {"start": Desired.RUNNING, "restart": Desired.RUNNING, "stop": Desired.STOPPED, "remove": Desired.STOPPED}


def own_ports() -> frozenset[int]:
    """The ports that CLOS itself listens on; no service is given one."""
    settings = parts().settings
    return frozenset({settings.api.port, settings.websocket.port})


def conflicts_policy() -> Conflicts:
    """What this installation does about conflicts; a group's own policy comes before it."""
    return parts().settings.conflicts


def refuse_what_is_not_there_yet(body: Mapping[str, Any]) -> None:
    """Say so where a request asks for what a later part brings.

    Raises:
        ValidationFailed: naming the field.
    """
    if body.get("wait_for"):
        queueing = "Queueing behind another operation comes with durable orchestration (issue 4)."
        raise ValidationFailed({"wait_for": [queueing]})


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
    nothing.

    Raises:
        OperationInProgress: another operation holds one of its targets.
        ValidationFailed: it asks for what is not there yet.
    """
    refuse_what_is_not_there_yet(body)
    dry_run = bool(body.get("dry_run"))
    parameters: dict[str, Any] = dict(body)
    parameters |= {
        "targets": [] if dry_run else list(targets.locks),
        "services": list(targets.services),
        "named": list(targets.named),
    }
    if targets.running_dependents:
        parameters["running_dependents"] = list(targets.running_dependents)
    operation = operations.create(
        session,
        f"{'group' if group is not None else 'service'}.{verb}",
        targets=parameters["targets"],
        # Whoever follows a group hears of its services' operations too.
        group_name=group if service is None else _group_of(session, service),
        service_id=service,
        parameters=parameters,
        initiated_by=principal().name,
        sent_at=now(),  # at once, so that `accepted` need not write the row a second time
    )
    if not dry_run and verb in _DESIRED:
        registry_graph.want(session, targets.services, _DESIRED[verb])
    return operation


def _group_of(session: Session, service_id: str) -> str | None:
    return session.scalar(select(Service.group_name).where(Service.id == service_id))
