"""Updates: forward while all goes well, back where it does not; whoever takes over goes on in the same direction."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from domain.errors import Cancelled, ClosError, EngineUnreachable
from domain.observation import ObservedState
from domain.planning import Action, Plan
from domain.specs import RuntimeKind, ServiceSpec
from domain.states import OperationStatus, StepStatus
from domain.updating import Change, Kind, changes, plan_back, plan_settle, plan_update
from models.operations import Operation
from workers import port_scan
from workers.carrying import Subject, deadline_of, read_subject
from workers.claims import Claim
from workers.context import Context
from workers.executor import Executor, Outcome
from workers.journal import Journal
from workers.update_record import BACK, FORWARD, KEEP, SETTLE, UpdateRecord
from workers.update_steps import UpdateSteps

log = structlog.get_logger()
# The way back has time of its own: what served before was up within its own limits already.
_BACK_S = 900.0
_LOOK_S = 90.0


def carry_out(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Bring what drifted to what is wanted, or everything back to where it was.

    Raises:
        ClosError: it cannot be planned. Nothing was changed by then.
    """
    parameters = operation.parameters or {}
    subject = read_subject(context.record, parameters.get("services") or [])
    kept = UpdateRecord.of(context.record, claim, operation)
    if kept is None:
        observed = context.observer.snapshot(subject.specs, subject.health, need=not parameters.get("dry_run"))
        wanted = changes(subject.specs, observed, set(parameters.get("named") or subject.by_id))
        plan = plan_update(subject.specs, observed, wanted, prepared(context, subject, wanted), subject.groups)
        if parameters.get("dry_run"):
            journal.finish(OperationStatus.COMPLETED, {"plan": plan.as_dict()})
            return
        kept = UpdateRecord.arm(context.record, claim, wanted) if wanted else None
    if kept is None:
        journal.finish(OperationStatus.COMPLETED, {"changed": 0, "steps": 0, "services": []})
        return
    Update(context, operation, claim, journal, subject, kept).run()


def prepared(context: Context, subject: Subject, wanted: Mapping[str, Change]) -> set[str]:
    """Which of these need no pull or build. Unlike in a start, one that runs is asked about too: it runs another."""
    docker = [spec for spec in subject.specs if spec.runtime is RuntimeKind.DOCKER and spec.id in wanted]
    return {spec.id for spec in docker if context.runtimes[RuntimeKind.DOCKER].prepared(spec)}


class Update:
    """One update, from wherever it stands to its end."""

    def __init__(
        self,
        context: Context,
        operation: Operation,
        claim: Claim,
        journal: Journal,
        subject: Subject,
        kept: UpdateRecord,
    ) -> None:
        self._context = context
        self._operation = operation
        self._claim = claim
        # A cancel turns it round; the rest of the way nothing breaks off.
        self._steadfast = replace(claim, cancelled=threading.Event())
        self._journal = journal
        self._subject = subject
        self._kept = kept
        self._wanted = {each: change for each, change in kept.changes.items() if each in subject.by_id}
        self._outcome = Outcome()
        self._not_undone: dict[str, ClosError] = {}
        self._steps = 0

    def run(self) -> None:
        """Go on, turn where it has to, and end the operation."""
        if self._kept.direction == FORWARD:
            self._forward()
        if self._kept.direction == BACK:
            self._back()
        elif self._kept.direction in (SETTLE, KEEP):
            self._settle()
        self._end()

    def _forward(self) -> None:
        try:
            plan = self._plan()
        except EngineUnreachable as refusal:
            self._turn(refusal, cancelled=False)
            return
        self._journal.begin(plan)
        self._steps = len(plan.steps)
        # The way back has no such limit: it is to succeed, however long it takes.
        limit_s = (self._operation.parameters or {}).get("step_timeout")
        executor = self._executor(replace(plan, steps=_without_removals(plan)), self._claim, limit_s)
        outcome = self._outcome = executor.run(deadline_of(self._context, self._operation))
        if not outcome.cancelled and not outcome.failed:
            executor.last_observation(outcome)
        if outcome.failed:
            self._turn(next(iter(outcome.failed.values())), cancelled=False, step=next(iter(outcome.failed)))
        elif outcome.cancelled and len(outcome.completed) < len(_without_removals(plan)):
            self._turn(Cancelled("it was cancelled between two steps"), cancelled=True)
        else:
            self._kept.turn(SETTLE)

    def _plan(self) -> Plan:
        observed = self._look()
        ready = prepared(self._context, self._subject, self._wanted)
        return plan_update(
            self._subject.specs, observed, self._wanted, ready, self._subject.groups, _stopped(self._operation)
        )

    def _turn(self, error: ClosError, cancelled: bool, step: str | None = None) -> None:
        keep = (self._operation.parameters or {}).get("on_failure") == "keep"
        shown = error.as_dict() | ({"step": step, "failed_steps": sorted(self._outcome.failed)} if step else {})
        self._kept.turn(KEEP if keep else BACK, shown, cancelled)
        log.info("update.turned", operation_id=self._operation.id, direction=self._kept.direction, code=error.code)

    def _back(self) -> None:
        begun = self._journal.begun() & self._wanted.keys()
        plan = plan_back(self._subject.specs, self._wanted, begun, self._subject.groups)
        self._journal.turn_back(plan)
        outcome = self._executor(plan, self._steadfast).run(time.monotonic() + _BACK_S)
        self._not_undone = outcome.failed
        self._journal.undone({step.target for step in plan.steps if step.id in outcome.completed})

    def _settle(self) -> None:
        """The new ones stand. Of an update that failed and is kept, those whose new instance was started."""
        keeps = self._kept.direction == KEEP
        started = self._journal.begun((Action.START,)) if keeps else set(self._wanted)
        ordered = [each for each in sorted(self._wanted) if each in started]
        plan = plan_settle(ordered, self._wanted)
        if keeps:
            self._journal.turn_back(plan)
        else:
            self._journal.begin(plan)
        outcome = self._executor(plan, self._steadfast).run(time.monotonic() + _BACK_S)
        self._outcome.completed |= outcome.completed
        self._outcome.failed |= outcome.failed
        if keeps:
            self._put_aside(set(self._wanted) - started)

    def _put_aside(self, unstarted: set[str]) -> None:
        """Kept as it is: an instance that was made and never started is nobody's."""
        observed = self._look()
        for service_id in sorted(unstarted & self._journal.begun()):
            change, spec = self._wanted[service_id], self._subject.by_id[service_id]
            if change.kind is Kind.RESTART:
                continue
            try:
                self._context.claims.verify(self._claim)
                runtime = self._context.runtimes[spec.runtime.value]
                runtime.restore(spec, change.ref, observed.of(service_id).alive)
            except ClosError as refusal:
                log.warning("update.left", service=service_id, error=str(refusal))

    def _executor(self, plan: Plan, claim: Claim, step_timeout_s: float | None = None) -> Executor:
        context = self._context
        steps = UpdateSteps(
            self._kept,
            self._subject.by_id,
            context.runtimes,
            context.observer,
            claim,
            self._journal.note,
            lambda: context.claims.verify(self._claim),
            partial(port_scan.holders_now, context),
        )
        parallel = context.limits.parallel_steps
        return Executor(plan, steps, self._journal, claim, context.observer, parallel, step_timeout_s)

    def _look(self) -> ObservedState:
        """What is there. An engine that is being restarted is waited for.

        Raises:
            EngineUnreachable: for too long.
        """
        until = time.monotonic() + _LOOK_S
        while True:
            try:
                return self._context.observer.snapshot(self._subject.specs, self._subject.health, need=True)
            except EngineUnreachable:
                self._claim.check()
                if time.monotonic() >= until:
                    raise
                self._claim.stopping.wait(1.0)

    def _end(self) -> None:
        observed = self._context.observer.snapshot(self._subject.specs, self._subject.health)
        self._journal.settle(self._wanted, observed, everyone=True)
        result: dict[str, Any] = {
            "changed": len(self._outcome.completed),
            "steps": self._steps,
            "services": [self._told(each, observed) for each in sorted(self._wanted)],
        }
        if self._kept.direction == BACK:
            result["undone"] = sorted(self._journal.begun((Action.RESTORE,)) - {_of(e) for e in self._not_undone})
        if self._not_undone:
            result["not_undone"] = {_of(each): error.as_dict() for each, error in self._not_undone.items()}
        error = self._kept.error
        if error is None and self._outcome.failed:
            step, refusal = next(iter(self._outcome.failed.items()))
            error = refusal.as_dict() | {"step": step}
        status = OperationStatus.COMPLETED if error is None else OperationStatus.FAILED
        self._journal.finish(OperationStatus.CANCELLED if self._kept.cancelled else status, result, error)
        log.info("operation.ended", operation_id=self._operation.id, direction=self._kept.direction)

    def _told(self, service_id: str, observed: ObservedState) -> dict[str, Any]:
        """Which version of a service runs, and how long none did."""
        change, instance = self._wanted[service_id], observed.of(service_id)
        began, ended = self._kept.window(service_id)
        return {
            "service_id": service_id,
            "change": change.kind.value,
            "runs": _which(change, self._subject.by_id[service_id], instance.alive, instance.spec_hash),
            "image": instance.image if instance.alive else None,
            "unavailable_s": self._kept.unavailable_s(service_id),
            "unavailable_from": began,
            "unavailable_until": ended,
        }


def _which(change: Change, spec: ServiceSpec, alive: bool, hash_: str | None) -> str:
    if not alive:
        return "none"
    if hash_ == change.hash and change.kind is not Kind.RESTART:
        return "old"
    return "new" if hash_ == spec.hash() else "old"


def _of(step_id: str) -> str:
    return step_id.split(":", 1)[1]


def _without_removals(plan: Plan) -> tuple[Any, ...]:
    return tuple(step for step in plan.steps if step.action is not Action.REMOVE)


def _stopped(operation: Operation) -> set[str]:
    """What an earlier attempt had stopped or begun to start."""
    begun: Sequence[Any] = (StepStatus.RUNNING, StepStatus.COMPLETED)
    return {
        step.target
        for step in operation.steps
        if (step.action == Action.STOP and step.status == StepStatus.COMPLETED)
        or (step.action == Action.START and step.status in begun)
    }
