"""After a cancel: what a start had only prepared is taken away again, and everything else that was done is told."""

from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from domain.errors import ClosError
from domain.observation import Instance, Phase
from domain.planning import Action, Plan, Step
from domain.specs import ServiceSpec
from domain.states import StepStatus
from models.operations import OperationStep
from workers.journal import Journal
from workers.observer import Observer
from workers.steps import Steps

log = structlog.get_logger()
_LEFT = {
    Action.PULL: "its image was pulled and stays",
    Action.BUILD: "its image was built and stays",
    Action.CREATE: "it was made and stays, not started",
    Action.START: "it was started and is left running",
    Action.STOP: "it was stopped and is left stopped",
    Action.REMOVE: "its instance was removed",
    Action.MIGRATE_PORT: "its port was moved and stays moved",
    Action.TERMINATE: "it was ended",
}


def undo(plan: Plan, steps: Steps, journal: Journal, observer: Observer) -> dict[str, Any]:
    """Take away what a cancelled start or restart made and did not start.

    `undone` and `left` of the operation's result: what was undone, and what is left as it is now.
    """
    undone = []
    # What was left made by another operation is none of this one's.
    begun = {row.id for row in journal.steps() if row.started_at is not None}
    for step in reversed(plan.steps):
        if (
            step.action is Action.CREATE
            and step.id in begun
            and _was_never_started(step, steps, observer)
            and _took_away(step, steps, journal)
        ):
            undone.append(_told(step.id, step.target, "what was made for it is removed again: it was not started"))
    return {"undone": undone, "left": left(journal.steps(), steps.specs, observer)}


def left(rows: Iterable[OperationStep], specs: Mapping[str, ServiceSpec], observer: Observer) -> list[dict[str, Any]]:
    """What an operation's completed steps, of this and earlier attempts, leave as it is."""
    by_id = {row.id: row for row in rows}
    found = []
    for row in by_id.values():
        if row.status != StepStatus.COMPLETED.value:
            continue
        seen = observer.instance(specs[row.target]) if row.target in specs else None
        if (text := _text(row, by_id, seen)) is not None:
            found.append(_told(row.id, row.target, text))
    return found


def _text(row: OperationStep, by_id: Mapping[str, OperationStep], seen: Instance | None) -> str | None:
    started = by_id.get(f"{Action.START}:{row.target}")
    waited = by_id.get(f"{Action.WAIT}:{row.target}")
    if row.action == Action.CREATE and started is not None and started.status == StepStatus.COMPLETED.value:
        return None  # its start tells of it
    text = _LEFT.get(Action(row.action))
    if row.action == Action.START and seen is not None and not seen.alive:
        return f"it was started{_what_became_of(seen)}"
    if row.action == Action.START and waited is not None and waited.status != StepStatus.COMPLETED.value:
        return f"{text}; nobody waited until it was ready"
    if row.action == Action.STOP and started is not None:
        return None if started.status == StepStatus.COMPLETED.value else f"{text}; it was to be started again"
    return text


def _what_became_of(seen: Instance) -> str:
    if seen.phase is Phase.UNKNOWN:
        return "; whether it runs cannot be seen now"
    if seen.phase is Phase.EXITED and seen.exit_code is not None:
        return f", and has ended since with exit code {seen.exit_code}"
    return ", and does not run any more"


def _was_never_started(step: Step, steps: Steps, observer: Observer) -> bool:
    # One that ran before is no work of this operation, and holds its last lines.
    return observer.instance(steps.spec(step.target), max_age_s=0.0).phase is Phase.CREATED


def _took_away(step: Step, steps: Steps, journal: Journal) -> bool:
    try:
        journal.taken_away(step, steps.take_away(step.target))
    except ClosError as refusal:
        if refusal.code in ("claim_lost", "stopping"):
            raise
        log.warning("step.not_undone", step=step.id, error=refusal.message)
        return False
    return True


def _told(step_id: str, target: str, text: str) -> dict[str, Any]:
    return {"step": step_id, "target": target, "text": text}
