"""What an operation works on: computed anew when its turn comes, taken with its locks, and given back unreached."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from domain.errors import ServiceNotFound
from domain.states import Desired, StepStatus
from models import registry_graph
from models.base import table_of
from models.operation_rows import Operation, OperationLock
from models.registry_graph import Targets
from models.services import Service

# An update keeps what was wanted.
DESIRED = {"start": Desired.RUNNING, "restart": Desired.RUNNING, "stop": Desired.STOPPED, "remove": Desired.STOPPED}
_services = table_of(Service)
_locks = table_of(OperationLock)
_GIVE_BACK = update(_services).where(_services.c.id == bindparam("of_id"), _services.c.desired == bindparam("wanted"))


def verb_of(operation: Operation) -> str:
    """`start` of `group.start`."""
    return operation.type.rpartition(".")[2]


def of(session: Session, operation: Operation) -> Targets:
    """What an operation works on as the registry is now: who needs whom may have changed since it was asked for.

    Raises:
        GroupNotFound, ServiceNotFound: what it was asked for is gone.
    """
    asked = operation.parameters or {}
    noun = operation.type.partition(".")[0]
    single: list[str] = list(asked.get("chosen") or ())
    only: list[str] | None = None
    if noun == "service":
        single = [str(operation.service_id)]
    elif asked.get("narrowed"):
        only = list(asked.get("named") or ())
    _refuse_gone(session, {*single, *(only or ())})
    return registry_graph.targets_for(
        session,
        verb_of(operation),
        group=operation.group_name if noun == "group" else None,
        groups=asked.get("groups") or () if noun == "batch" else (),
        services=single,
        only=only,
        with_dependencies=not asked.get("no_deps", False),
        cascade=bool(asked.get("cascade", False)),
    )


def _refuse_gone(session: Session, ids: Collection[str]) -> None:
    if not ids:
        return
    known = set(session.scalars(select(Service.id).where(Service.id.in_(ids))))
    for each in sorted(set(ids) - known):
        raise ServiceNotFound(each)


def parameters(targets: Targets) -> dict[str, Any]:
    """What an operation's parameters keep of its targets."""
    kept: dict[str, Any] = {
        "targets": list(targets.locks),
        "services": list(targets.services),
        "named": list(targets.named),
    }
    if targets.running_dependents:
        kept["running_dependents"] = list(targets.running_dependents)
    if targets.narrowed:
        kept["narrowed"] = True
    return kept


def before(targets: Targets, verb: str) -> dict[str, str]:
    """What the services that `verb` wants otherwise were wanted to be."""
    wanted = DESIRED.get(verb)
    return {each: was for each, was in targets.desired.items() if wanted is not None and was != wanted.value}


def take(session: Session, operation: Operation, targets: Targets) -> None:
    """Hold the targets of an operation whose turn has come, and want what it wants."""
    verb = verb_of(operation)
    operation.parameters = (operation.parameters or {}) | parameters(targets) | {"before": before(targets, verb)}
    session.flush()
    if targets.locks:
        session.execute(insert(_locks), [{"target": each, "operation_id": operation.id} for each in targets.locks])
    if verb in DESIRED:
        registry_graph.want(session, targets.services, DESIRED[verb])


def give_back(session: Session, operation: Operation) -> None:
    """What a cancelled operation did not reach is wanted as before, so that nothing brings it up or down later."""
    was: dict[str, str] = (operation.parameters or {}).get("before") or {}
    wanted = DESIRED.get(verb_of(operation))
    if not was or wanted is None:
        return
    reached = {step.target for step in operation.steps if reaches(step.action, step.status)}
    session.flush()
    for service_id in sorted(was.keys() - reached):
        session.execute(_GIVE_BACK, {"of_id": service_id, "wanted": wanted.value, "desired": was[service_id]})


def reaches(action: str, status: str) -> bool:
    """Whether a step has made its service what is wanted of it, or tried to. One that still runs when its operation
    ends was broken off before it had any effect."""
    return status in (StepStatus.COMPLETED, StepStatus.FAILED) and action in ("start", "stop", "remove")
