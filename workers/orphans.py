"""Orphans: seen beside the services at each look, and removed where somebody asked for exactly that."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import ClosError, NotAnOrphan
from domain.observation import Instance, Phase
from domain.planning import Action, Plan, Step
from domain.specs import RuntimeKind
from domain.states import OperationStatus
from models import registry_orphans
from models.operations import Operation, service_target
from models.orphans import Orphan
from models.services import Service
from workers.claims import Claim
from workers.context import Context
from workers.journal import Journal
from workers.runtimes import fence
from workers.service_rows import Done

log = structlog.get_logger()
# So many that were never seen are inspected at one look; the next one sees the rest.
_NEW_PER_LOOK = 20
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Stranger:
    """Something with our mark. `beside`: its service has another instance that counts."""

    kind: str
    instance: Instance
    beside: bool


Found = dict[str, Stranger]


def find(context: Context, seen: Mapping[str, Mapping[str, Instance]], registered: Collection[str]) -> Found:
    """By ref: what a look found that is no registered service's one instance."""
    found: Found = {}
    for kind, instances in seen.items():
        strangers = [Stranger(kind, each, False) for key, each in instances.items() if key not in registered]
        strangers += [Stranger(kind, each, True) for each in context.runtimes[kind].beside()]
        for one in strangers:
            ref = one.instance.ref
            # Of a process that has ended only a folder is left, which the next start of that name uses.
            if ref and (kind != RuntimeKind.PROCESS.value or one.instance.phase is Phase.RUNNING):
                found.setdefault(ref, one)
    return found


def describe(context: Context, found: Found, known: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """The definitions of those that are not known yet."""
    made: dict[str, Mapping[str, Any]] = {}
    for ref in sorted(found):
        if ref in known or len(made) == _NEW_PER_LOOK:
            continue
        try:
            detail = context.runtimes[found[ref].kind].describe(ref)
        except ClosError as refusal:
            log.warning("orphan.not_described", ref=ref, error=str(refusal))
            continue
        if detail:
            made[ref] = detail
    return made


def known(session: Session) -> dict[str, str]:
    """The refs that are recorded, each with its runtime."""
    return {row.ref: row.runtime for row in session.execute(select(Orphan.ref, Orphan.runtime))}


def note(
    session: Session,
    kinds: Collection[str],
    found: Found,
    new: Mapping[str, Mapping[str, Any]],
    locked: Collection[str],
) -> None:
    """Write down which there are. What was registered since, and what an operation works on, is none."""
    ids = set(session.scalars(select(Service.id)))
    left = {
        ref: (one.kind, one.instance)
        for ref, one in found.items()
        if service_target(one.instance.service_id) not in locked and (one.beside or one.instance.service_id not in ids)
    }
    registry_orphans.refresh(session, kinds, left, new)


def remove(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Stop and remove exactly what was asked for.

    Raises:
        NotAnOrphan: it is a registered service's by now. Nothing is done.
        ClosError: its runtime refuses.
    """
    asked = operation.parameters or {}
    ref, kind, of = str(asked["ref"]), str(asked["runtime"]), str(asked["of"])
    _refuse_if_adopted(context, ref, of)
    step = Step(Action.REMOVE, _target(kind, ref), f"its removal was asked for; its mark says {of}")
    journal.begin(Plan((step,)))
    journal.started([step], anyway=True)
    try:
        with fence.guarded(lambda: context.claims.verify(claim)):
            context.runtimes[kind].discard(ref, _STOP_TIMEOUT_S)
    except ClosError as refusal:
        journal.failed(step, refusal)
        raise
    context.observer.changed(kind)
    journal.completed(step, Done())
    journal.finish(OperationStatus.COMPLETED, {"changed": 1, "steps": 1}, last=lambda session: _forget(session, ref))


def _target(kind: str, ref: str) -> str:
    return f"container:{ref}" if kind == RuntimeKind.DOCKER.value else f"process:{ref.partition(':')[0]}"


def _refuse_if_adopted(context: Context, ref: str, of: str) -> None:
    with context.record.read() as session:
        service = session.get(Service, of)
        if service is None or session.get(Orphan, ref) is not None:
            return
    raise NotAnOrphan(f"{ref[:20]} is an instance of {of} by now", hint=f"clos stop {of}", service_id=of)


def _forget(session: Session, ref: str) -> None:
    if (row := session.get(Orphan, ref)) is not None:
        session.delete(row)


WORK = {registry_orphans.REMOVE: remove}
