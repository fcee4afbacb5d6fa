"""Taking over the containers of a project that Compose started, at a person's request.

A container's labels cannot be changed, so CLOS cannot make Compose's container its own: it exchanges it. Images are
had first; then Compose's containers stop, dependents first, and the group starts in order, with its health gates, on
the same volumes and networks. Only when all of it is up are the old containers removed. If it does not come up, CLOS's
own go, and the old ones are started again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import structlog

from domain import graph
from domain.errors import Cancelled
from domain.needs import edges_of
from domain.planning import Action, Plan, Step
from domain.resolving import Decision
from domain.starting import plan_start
from domain.states import Desired, OperationStatus, StepStatus
from domain.stopping import plan_stop
from models import operations, registry_graph, registry_imports, registry_reach
from models.operation_takeovers import OURS, PART, THEIRS
from models.operations import Operation
from workers import adoption_record, carrying, earlier
from workers.adoption_record import Foreign, Promise
from workers.carrying import Subject
from workers.claims import Claim
from workers.context import Context
from workers.executor import Outcome
from workers.journal import Journal

log = structlog.get_logger()


def take_over(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Exchange the project's containers for the group's as it was promised, and end the operation."""
    promised = adoption_record.read(context, claim)
    subject = _subject(context, promised)
    end = promised.back
    if end is None:
        end = _forward(context, operation, claim, journal, subject, promised)
        if end is None:
            return
        adoption_record.turn_back(context, claim, end)
    result = promised.result | _go_back(context, operation, claim, journal, subject, promised)
    journal.finish(OperationStatus(end["status"]), result, end["error"])


def _forward(
    context: Context, operation: Operation, claim: Claim, journal: Journal, subject: Subject, promised: Promise
) -> dict[str, Any] | None:
    """The way forward. None: the operation has ended; else how it is to end once all is as it was."""
    plan, decision = _plan(context, operation, subject, promised)
    _want(context, claim, subject, Desired.RUNNING)
    journal.begin(plan, anew=True)
    outcome = carrying.carry(context, operation, claim, journal, subject, plan, decision)
    carrying.settle(context, journal, subject)
    removed = _removed(journal)
    result = promised.result | {"runs": OURS}
    if not outcome.failed and not outcome.broken_off(plan):
        result["taken_over"] = [each.as_dict() for each in promised.ran]
        journal.finish(OperationStatus.COMPLETED, result)
        log.info("project.taken_over", operation_id=operation.id, group=promised.group, containers=len(removed))
        return None
    end = _bad_end(outcome, "what was left of Compose's is stopped" if removed else "what ran before runs again")
    if not removed:
        return end
    # There is nothing to go back to any more: the group's own runs, and all that is left of the old ones is told.
    result["left"] = [each.as_dict() for each in promised.containers if each.target not in removed]
    journal.finish(OperationStatus(end["status"]), result, end["error"])
    return None


def _removed(journal: Journal) -> set[str]:
    done = [row for row in journal.steps() if row.status == StepStatus.COMPLETED and row.action == Action.REMOVE]
    return {row.target for row in done if row.target.startswith("container:")}


def _subject(context: Context, promised: Promise) -> Subject:
    """The services whose containers ran, and what they need."""
    names = tuple(sorted({each.service for each in promised.ran}))
    with context.record.read() as session:
        ids = registry_imports.ids_of(session, promised.group, names)
        taken = registry_reach.needed(session, ids)
    return carrying.read_subject(context.record, sorted(taken))


def _plan(context: Context, operation: Operation, subject: Subject, promised: Promise) -> tuple[Plan, Decision]:
    known = {each.ref for each in promised.containers}
    foreign = [each for each in adoption_record.find(context, promised.project, must=True) if each.ref in known]
    observed = context.observer.snapshot(subject.specs, subject.health)
    images = carrying.images_ready(context, subject.specs, observed)
    # What an earlier attempt has started is to be waited for all the same: nothing else gates the removals, after which
    # there is no way back.
    unready = earlier.unready(operation)
    start = plan_start(subject.specs, observed, set(subject.by_id), images, subject.groups, unready=unready)
    early = tuple(step.id for step in start.steps if step.action in (Action.PULL, Action.BUILD))
    stops = _stops(subject, [each for each in foreign if each.running], early)
    gate = stops[-1].id if stops else None
    steps = [_after(step, gate) for step in start.steps]
    waits = tuple(step.id for step in steps if step.action is Action.WAIT)
    removals = [Step(Action.REMOVE, each.target, "the group's own runs in its place", waits) for each in foreign]
    return Plan((*_early(steps), *stops, *_late(steps), *removals)), promised.decision


def _early(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.action in (Action.PULL, Action.BUILD)]


def _late(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.action not in (Action.PULL, Action.BUILD)]


def _after(step: Step, gate: str | None) -> Step:
    if gate is None or step.action is not Action.START:
        return step
    return replace(step, depends_on=tuple(sorted({*step.depends_on, gate})))


def _stops(subject: Subject, running: Sequence[Foreign], early: tuple[str, ...]) -> list[Step]:
    """One after the other, dependents first: as Compose itself would."""
    order = {subject.by_id[each].name: place for place, each in enumerate(graph.order(edges_of(subject.specs)))}
    found: list[Step] = []
    for each in sorted(running, key=lambda one: (-order.get(one.service, 0), one.name)):
        before = (found[-1].id,) if found else early
        found.append(Step(Action.STOP, each.target, "its service is taken over from Compose", before))
    return found


def _want(context: Context, claim: Claim, subject: Subject, desired: Desired) -> None:
    with context.record.write() as session:
        operations.held(session, claim.operation_id, claim.fence)
        registry_graph.want(session, sorted(subject.by_id), desired)


def _go_back(
    context: Context, operation: Operation, claim: Claim, journal: Journal, subject: Subject, promised: Promise
) -> dict[str, Any]:
    """Take the group's own away, and start what ran before. No cancel breaks off the way back. What runs then."""
    steadfast = claim.for_way_back()
    # What it needed of other groups may have run before, and is none of the project's.
    subject = replace(subject, specs=tuple(spec for spec in subject.specs if spec.group == promised.group))
    _want(context, claim, subject, Desired.STOPPED)
    observed = context.observer.snapshot(subject.specs, subject.health)
    away = plan_stop(subject.specs, observed, "the take-over did not succeed", remove=True)
    plan = _back(away, promised, _half_stopped(context, journal, promised))
    journal.begin(plan)
    undone = carrying.carry(context, operation, steadfast, journal, subject, plan, promised.decision)
    journal.settle(subject.by_id, context.observer.snapshot(subject.specs, subject.health), everyone=True)
    if not undone.failed:
        return {"runs": THEIRS}
    log.error("takeover.not_undone", operation_id=operation.id, steps=sorted(undone.failed))
    names = {each.target: each.name for each in promised.containers}
    targets = {step: step.partition(":")[2] for step in undone.failed}
    told = {names.get(targets[step], targets[step]): error.as_dict() for step, error in undone.failed.items()}
    return {"runs": PART, "not_undone": told}


def _half_stopped(context: Context, journal: Journal, promised: Promise) -> set[str]:
    """Those that run, though their stop was begun: the engine goes on with that, also when who asked for it is dead.
    One that an earlier attempt has started again runs for good: its stop had ended before that."""
    rows = [row for row in journal.steps() if row.started_at is not None]
    begun = {row.target for row in rows if row.action == Action.STOP}
    begun -= {row.target for row in rows if row.action == Action.START}
    return {each.target for each in adoption_record.find(context, promised.project, must=True) if each.running} & begun


def _back(away: Plan, promised: Promise, half_stopped: set[str]) -> Plan:
    """Once the group's own are away, what ran is started; what is being stopped must have ended before that."""
    ran = [each.target for each in promised.ran]
    ends = [Step(Action.STOP, each, "its stop was begun") for each in ran if each in half_stopped]
    last = tuple(step.id for step in (*away.steps, *ends))
    starts = [Step(Action.START, each, "it ran before the take-over", last, optional=frozenset(last)) for each in ran]
    return Plan((*away.steps, *ends, *starts))


def _bad_end(outcome: Outcome, now: str) -> dict[str, Any]:
    """How the operation ends: its status and error."""
    if outcome.failed:
        step, error = next(iter(outcome.failed.items()))
        return {"status": OperationStatus.FAILED.value, "error": error.as_dict() | {"step": step}}
    cancelled = Cancelled(f"it was cancelled; {now}")
    return {"status": OperationStatus.CANCELLED.value, "error": cancelled.as_dict()}
