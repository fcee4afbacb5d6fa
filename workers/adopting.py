"""Taking over the containers of a project that Compose started, at a person's request.

A container's labels cannot be changed, so CLOS cannot make Compose's container its own: it exchanges it. Images are
had first; then Compose's containers stop, dependents first, and the group starts in order, with its health gates, on
the same volumes and networks. Only when all of it is up are the old containers removed. If it does not come up, CLOS's
own go, and the old ones are started again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from domain import graph
from domain.errors import Cancelled, EngineUnreachable
from domain.needs import edges_of
from domain.planning import Action, Plan, Step
from domain.resolving import Decision
from domain.starting import plan_start
from domain.states import Desired, OperationStatus
from domain.stopping import plan_stop
from models import operations, registry_graph, registry_imports, registry_reach
from models.operations import Operation
from workers import carrying
from workers.carrying import Subject
from workers.claims import Claim
from workers.context import Context
from workers.executor import Outcome
from workers.journal import Journal
from workers.runtimes.compose_project import Project
from workers.runtimes.docker_engine import DockerEngine

log = structlog.get_logger()
_PROJECT, _SERVICE = "com.docker.compose.project", "com.docker.compose.service"


@dataclass(frozen=True)
class Foreign:
    """A container that Compose made for a service of the project."""

    ref: str
    name: str
    service: str
    running: bool

    @property
    def target(self) -> str:
        """What a step on it is called."""
        return f"container:{self.ref[:12]}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"container_id": self.ref, "name": self.name, "service": self.service, "running": self.running}


def find(context: Context, project: Project, must: bool) -> list[Foreign]:
    """The containers that Compose made for a project. Where no engine answers there are none, unless they `must` be
    known.

    Raises:
        EngineUnreachable: they must, and it does not answer.
    """
    engine = context.runtimes.get("docker")
    if not isinstance(engine, DockerEngine):
        return []
    try:
        found = engine.foreign.labelled({_PROJECT: project.name})
    except EngineUnreachable:
        if must:
            raise
        return []
    return [
        Foreign(
            str(each["Id"]),
            next(iter(each.get("Names") or ()), "").lstrip("/"),
            str((each.get("Labels") or {}).get(_SERVICE) or ""),
            each.get("State") == "running",
        )
        for each in found
    ]


def take_over(
    context: Context,
    operation: Operation,
    claim: Claim,
    journal: Journal,
    group: str,
    foreign: Sequence[Foreign],
    result: dict[str, Any],
) -> None:
    """Exchange the project's containers for the group's, and end the operation."""
    ran = _promise(context, claim, foreign)
    subject = _subject(context, group, foreign, ran)
    plan, decision = _plan(context, subject, foreign)
    _want(context, claim, subject, Desired.RUNNING)
    journal.begin(plan)
    outcome = carrying.carry(context, operation, claim, journal, subject, plan, decision)
    if outcome.failed or outcome.cancelled:
        _go_back(context, operation, claim, journal, subject, [each for each in foreign if each.ref in ran], decision)
        result["runs"] = "the containers that Compose made"
        _end_badly(journal, outcome, result)
        return
    result["runs"] = "the containers that CLOS made"
    result["taken_over"] = [each.as_dict() for each in foreign if each.ref in ran]
    journal.finish(OperationStatus.COMPLETED, result)
    log.info("project.taken_over", operation_id=operation.id, group=group, containers=len(foreign))


def _promise(context: Context, claim: Claim, foreign: Sequence[Foreign]) -> set[str]:
    """Write down which containers ran, before the first of them is stopped; those of an earlier attempt count."""
    with context.record.write() as session:
        operation = operations.held(session, claim.operation_id, claim.fence)
        kept = (operation.compensation or {}).get("start_again")
        ran = kept if kept is not None else sorted(each.ref for each in foreign if each.running)
        operation.compensation = {"start_again": ran}
    return set(ran)


def _subject(context: Context, group: str, foreign: Sequence[Foreign], ran: set[str]) -> Subject:
    """The services whose containers ran, and what they need."""
    names = tuple(sorted({each.service for each in foreign if each.ref in ran}))
    with context.record.read() as session:
        ids = registry_imports.ids_of(session, group, names)
        taken = registry_reach.needed(session, ids)
    return carrying.read_subject(context.record, sorted(taken))


def _plan(context: Context, subject: Subject, foreign: Sequence[Foreign]) -> tuple[Plan, Decision]:
    observed = context.observer.snapshot(subject.specs, subject.health)
    images = carrying.images_ready(context, subject.specs, observed)
    start = plan_start(subject.specs, observed, set(subject.by_id), images, subject.groups)
    early = tuple(step.id for step in start.steps if step.action in (Action.PULL, Action.BUILD))
    stops = _stops(subject, [each for each in foreign if each.running], early)
    gate = stops[-1].id if stops else None
    steps = [_after(step, gate) for step in start.steps]
    waits = tuple(step.id for step in steps if step.action is Action.WAIT)
    removals = [Step(Action.REMOVE, each.target, "the group's own runs in its place", waits) for each in foreign]
    decision = Decision(containers=tuple((each.ref, each.name) for each in foreign))
    return Plan((*_early(steps), *stops, *_late(steps), *removals)), decision


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
    context: Context,
    operation: Operation,
    claim: Claim,
    journal: Journal,
    subject: Subject,
    foreign: Sequence[Foreign],
    decision: Decision,
) -> None:
    """Take the group's own away, and start what ran before."""
    claim.cancelled.clear()  # what is undone is not cancelled
    _want(context, claim, subject, Desired.STOPPED)
    observed = context.observer.snapshot(subject.specs, subject.health)
    away = plan_stop(subject.specs, observed, "the take-over did not succeed", remove=True)
    last = tuple(step.id for step in away.steps)
    back = [
        Step(Action.START, each.target, "it ran before the take-over", last, optional=frozenset(last))
        for each in foreign
    ]
    plan = Plan((*away.steps, *back))
    journal.begin(plan)
    undone = carrying.carry(context, operation, claim, journal, subject, plan, decision)
    for step, error in undone.failed.items():
        log.error("takeover.not_undone", operation_id=operation.id, step=step, error=str(error))


def _end_badly(journal: Journal, outcome: Outcome, result: Mapping[str, Any]) -> None:
    if outcome.failed:
        step, error = next(iter(outcome.failed.items()))
        journal.finish(OperationStatus.FAILED, result, error.as_dict() | {"step": step})
        return
    cancelled = Cancelled("it was cancelled; what ran before runs again")
    journal.finish(OperationStatus.CANCELLED, result, cancelled.as_dict())
