"""What an operation on services does between its claim and its end: observe, plan, execute, journal."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from domain.errors import Cancelled, GroupNotFound, PortHeld, ServiceNotFound, UnknownOperation
from domain.observation import ObservedState
from domain.planning import Action, Plan
from domain.resolving import Decision
from domain.specs import GroupSpec, RuntimeKind, ServiceSpec
from domain.starting import plan_start
from domain.states import HealthStatus, OperationStatus
from domain.stopping import plan_restart, plan_stop
from models import groups, registry, registry_groups, resolved_specs, surroundings
from models.operations import Operation
from models.record import Record
from models.services import Service
from workers import earlier, port_scan, undoing
from workers.claims import Claim
from workers.clones import VolumeSteps
from workers.context import Context
from workers.executor import Executor, Outcome
from workers.journal import Journal
from workers.port_guard import Guarded, PortGuard
from workers.port_steps import PortSteps
from workers.steps import Steps

log = structlog.get_logger()


@dataclass(frozen=True)
class Subject:
    """What an operation is about, read from the record once."""

    specs: tuple[ServiceSpec, ...]
    health: Mapping[str, HealthStatus]
    groups: tuple[GroupSpec, ...] = ()
    # Of what they need: what is no longer registered.
    gone: frozenset[str] = frozenset()
    # When each was last recorded to have ended.
    last_ends: Mapping[str, datetime | None] = field(default_factory=dict)

    @property
    def by_id(self) -> dict[str, ServiceSpec]:
        """The specs by service id."""
        return {spec.id: spec for spec in self.specs}


def read_subject(record: Record, service_ids: Sequence[str]) -> Subject:
    """The specs of these services; what is no longer registered is left out."""
    with record.read() as session:
        services = session.scalars(select(Service).where(Service.id.in_(service_ids)).order_by(Service.id)).all()
        concerned = groups.with_dependencies(session, {service.group_name for service in services})
        around = {group.name: surroundings.of(group) for group in concerned}
        specs = tuple(resolved_specs.specs(session, services, around).values())
        health = {service.id: HealthStatus(service.health_status) for service in services}
        gone = _gone(session, specs)
        last_ends = {service.id: service.stopped_at for service in services}
        return Subject(specs, health, tuple(group.spec() for group in concerned), gone, last_ends)


def _gone(session: Session, specs: Sequence[ServiceSpec]) -> frozenset[str]:
    needed = {each.service for spec in specs for each in spec.depends_on} - {spec.id for spec in specs}
    if not needed:
        return frozenset()
    return frozenset(needed - set(session.scalars(select(Service.id).where(Service.id.in_(needed)))))


def carry_out(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Observe, plan, execute, and end the operation. A start that runs into a port which was taken meanwhile is planned
    again where policy says so."""
    parameters = operation.parameters or {}
    guard = PortGuard(context, operation)
    starts = operation.type.endswith((".start", ".restart"))
    until = deadline_of(context, operation)
    for tries in count():
        if tries:
            # What the plan before has done counts like what an earlier attempt has.
            set_committed_value(operation, "steps", journal.steps())
        subject = read_subject(context.record, parameters.get("services") or [])
        observed = context.observer.snapshot(subject.specs, subject.health, need=not parameters.get("dry_run"))
        plan = make_plan(context, operation, subject, observed, again=tries > 0)
        # One that is to end does nothing more: nobody need be asked about that.
        guards = starts and not claim.cancelled.is_set()
        guarded = guard.guard(plan, subject.specs) if guards else Guarded(plan)
        if parameters.get("dry_run"):
            journal.finish(OperationStatus.COMPLETED, {"plan": guarded.plan.as_dict(journal.expected(guarded.plan))})
            return
        done = earlier.done(operation, observed, subject.last_ends)
        journal.begin(guarded.plan, done=done, anew=tries == 0)
        outcome = carry(context, operation, claim, journal, subject, guarded.plan, guarded.decision, until=until)
        if not starts or not guard.may_plan_again(outcome, subject.by_id, tries):
            break
        log.info("operation.planned_again", operation_id=operation.id, failed=sorted(outcome.failed))
    plan = guard.finish(guarded.plan, subject.by_id) if starts else guarded.plan
    conclude(context, journal, operation, subject, plan, outcome)


def carry(
    context: Context,
    operation: Operation,
    claim: Claim,
    journal: Journal,
    subject: Subject,
    plan: Plan,
    decision: Decision,
    removes: bool = False,
    until: float | None = None,
) -> Outcome:
    """Do a plan's steps. `removes`: what it is about is forgotten afterwards. `until` is on the monotonic clock; None:
    for as long as such an operation may take."""
    parameters = operation.parameters or {}
    ids = sorted(subject.by_id)
    steps = Steps(
        subject.by_id,
        context.runtimes,
        context.observer,
        claim,
        journal.note,
        lambda: context.claims.verify(claim),
        partial(port_scan.holders_now, context),
        stop_timeout_s=_seconds(parameters.get("timeout")) if operation.type.endswith(".stop") else None,
        port_steps=PortSteps(
            context, claim, decision, lambda: steps.replace(read_subject(context.record, ids).by_id)
        ),
        volume_steps=VolumeSteps.of(context, operation),
    )  # fmt: skip
    executor = Executor(
        plan,
        steps,
        journal,
        claim,
        context.observer,
        context.limits.parallel_steps,
        _seconds(parameters.get("step_timeout")),
    )
    outcome = executor.run(deadline_of(context, operation) if until is None else until)
    if outcome.broken_off(plan):
        outcome.told = undoing.undo(plan, steps, journal, context.observer)
    elif (removes or operation.type.endswith(".remove")) and not outcome.failed:
        _take_rest_away(plan, subject.specs, steps)
    elif not operation.type.endswith((".stop", ".remove")):
        executor.last_observation(outcome)
    return outcome


def _take_rest_away(plan: Plan, specs: Sequence[ServiceSpec], steps: Steps) -> None:
    """A container that somebody else removed has left its networks, and nothing knows of them once it is forgotten."""
    removed = {step.target for step in plan.steps if step.action is Action.REMOVE}
    for spec in specs:
        if spec.runtime is RuntimeKind.DOCKER and spec.id not in removed:
            steps.take_away(spec.id)


def was_taken(outcome: Outcome) -> bool:
    """Whether a port that was free when it was planned was taken by the time it was needed."""
    return not outcome.cancelled and any(isinstance(error, PortHeld) for error in outcome.failed.values())


def deadline_of(context: Context, operation: Operation) -> float:
    """Until when an operation may take, on the monotonic clock."""
    parameters = operation.parameters or {}
    limit_s = context.limits.operation_timeout_s
    if not operation.type.endswith(".stop"):
        limit_s = _seconds(parameters.get("timeout")) or limit_s
    return time.monotonic() + limit_s


def _seconds(value: Any) -> float | None:
    return float(value) if value is not None else None


def make_plan(
    context: Context, operation: Operation, subject: Subject, observed: ObservedState, again: bool = False
) -> Plan:
    """The plan of an operation, from what was seen. `again`: what a restart had to stop is stopped by now.

    Raises:
        UnknownOperation: a newer CLOS has asked for it.
    """
    verb = operation.type.rsplit(".", 1)[1]
    if verb in ("stop", "remove"):
        plan = plan_stop(subject.specs, observed, f"{verb} was asked for", verb == "remove", subject.groups)
        volumes = VolumeSteps.of(context, operation)
        return plan if volumes is None else volumes.after(plan)
    images = images_ready(context, subject.specs, observed)
    parameters = operation.parameters or {}
    named = set(parameters.get("named") or _named(operation, subject.specs))
    # With `no_deps` nothing that is needed is asked about.
    gone = () if parameters.get("no_deps") else subject.gone
    once_more = _named_itself(operation, named) - earlier.run(operation, observed, subject.last_ends)
    unready = earlier.unready(operation)
    if verb == "restart" and not again:
        return plan_restart(
            subject.specs,
            observed,
            named,
            images,
            subject.groups,
            once_more,
            gone,
            earlier.restarted(operation, observed),
            unready,
        )
    if verb in ("start", "restart"):
        return plan_start(subject.specs, observed, named, images, subject.groups, once_more, gone, unready)
    raise UnknownOperation(f"this worker knows no operation {operation.type}", hint="is an older worker still running?")


def _named_itself(operation: Operation, named: set[str]) -> set[str]:
    """What was asked for by its own name, rather than with its group: what completed is run again then."""
    parameters = operation.parameters or {}
    if operation.service_id is not None or parameters.get("narrowed"):
        return named
    groups = {operation.group_name, *(parameters.get("groups") or ())}
    return named if groups == {None} else set()


def _named(operation: Operation, specs: Sequence[ServiceSpec]) -> list[str]:
    if operation.service_id is not None:
        return [operation.service_id]
    return [spec.id for spec in specs if spec.group == operation.group_name]


def images_ready(context: Context, specs: Sequence[ServiceSpec], observed: ObservedState) -> set[str]:
    """Which container services need no pull or build; one that runs is not asked about, one image asked for once."""
    ready: set[str] = set()
    known: dict[str, bool] = {}
    for spec in specs:
        if spec.runtime is not RuntimeKind.DOCKER:
            continue
        # A policy of its own (`pull_policy`), or another platform: then it is asked for by itself.
        key = spec.id if spec.build or spec.container or not spec.image else spec.image
        if not observed.of(spec.id).alive and key not in known:
            known[key] = context.runtimes[RuntimeKind.DOCKER].prepared(spec)
        if observed.of(spec.id).alive or known[key]:
            ready.add(spec.id)
    return ready


def _forget(session: Session, operation: Operation) -> None:
    """The end of a removal. Somebody may have been quicker, which is as good."""
    with contextlib.suppress(ServiceNotFound, GroupNotFound):
        if operation.service_id is not None:
            registry.delete_service(session, operation.service_id)
        elif operation.group_name is not None:
            registry_groups.delete_group(session, operation.group_name)


def settle(context: Context, journal: Journal, subject: Subject) -> None:
    """Write down how services are that the operation did not get to the end with, and what an earlier attempt had begun
    and this one found done."""
    if unsettled := journal.unsettled([spec.id for spec in subject.specs]):
        left = [spec for spec in subject.specs if spec.id in unsettled]
        journal.settle(unsettled, context.observer.snapshot(left, subject.health))


def conclude(
    context: Context, journal: Journal, operation: Operation, subject: Subject, plan: Plan, outcome: Outcome
) -> None:
    settle(context, journal, subject)
    result: dict[str, Any] = {"changed": len(outcome.completed), "steps": len(plan.steps)}
    if plan.resolutions:
        result["resolutions"] = [dict(each) for each in plan.resolutions]
    if outcome.broken_off(plan):
        cancelled = Cancelled("it was cancelled; result.undone and result.left say what was undone and what is left")
        journal.finish(OperationStatus.CANCELLED, result | outcome.told, cancelled.as_dict())
    elif outcome.failed:
        first = next(iter(outcome.failed.items()))
        error = first[1].as_dict() | {"step": first[0], "failed_steps": sorted(outcome.failed)}
        journal.finish(OperationStatus.FAILED, result, error)
    elif operation.type.endswith(".remove"):
        journal.finish(OperationStatus.COMPLETED, result, last=lambda session: _forget(session, operation))
    else:
        journal.finish(OperationStatus.COMPLETED, result)
    log.info("operation.ended", operation_id=operation.id, failed=len(outcome.failed), done=len(outcome.completed))
