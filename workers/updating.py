"""Updates: forward while all goes well, back where it does not; whoever takes over goes on in the same direction."""

import time
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any

import structlog

from domain.errors import Cancelled, ClaimLost, ClosError, EngineUnreachable, Stopping
from domain.going_back import plan_back
from domain.observation import Instance, ObservedState, Phase
from domain.planning import Action, Plan
from domain.states import OperationStatus
from domain.updating import Direction, Kind, plan_settle, plan_update
from models.operations import Operation
from workers import earlier, port_scan
from workers.carrying import Subject, deadline_of, read_subject
from workers.claims import Claim
from workers.context import Context
from workers.executor import Executor, Outcome
from workers.journal import Journal
from workers.update_record import UpdateRecord
from workers.update_steps import UpdateSteps
from workers.update_world import drifted, prepared, told

log = structlog.get_logger()
# The way back has time of its own: what served before was up within its own limits already.
_BACK_S = 900.0
_LOOK_S = 90.0
_ASK_AGAIN_S = 1.0
_OF_WAY_BACK = (f"{Action.RESTORE}:", f"{Action.CONFIRM}:")


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
        wanted = drifted(context, subject, observed, set(parameters.get("named") or subject.by_id))
        plan = plan_update(subject.specs, observed, wanted, prepared(context, subject, wanted), subject.groups)
        if parameters.get("dry_run"):
            journal.finish(OperationStatus.COMPLETED, {"plan": plan.as_dict(journal.expected(plan))})
            return
        kept = UpdateRecord.arm(context.record, claim, wanted) if wanted else None
    if kept is None:
        journal.finish(OperationStatus.COMPLETED, {"changed": 0, "steps": 0, "services": []})
        return
    Update(context, operation, claim, journal, subject, kept).run()


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
        self._steadfast = claim.for_way_back()
        self._journal = journal
        self._subject = subject
        self._kept = kept
        self._wanted = {each: change for each, change in kept.changes.items() if each in subject.by_id}
        self._outcome = Outcome()
        self._not_undone: dict[str, ClosError] = {}
        self._steps = 0

    def run(self) -> None:
        """Go on, turn where it has to, and end the operation."""
        if self._kept.direction is Direction.FORWARD:
            self._forward()
        if self._kept.direction is Direction.BACK:
            self._back()
        elif self._kept.direction in (Direction.SETTLE, Direction.KEEP):
            self._settle()
        self._end()

    def _forward(self) -> None:
        try:
            plan = self._plan()
        except (ClaimLost, Stopping):
            raise
        except ClosError as refusal:
            self._turn(refusal, cancelled=False)
            return
        self._journal.begin(plan, anew=True)
        self._steps = len(plan.steps)
        # The way back has no such limit: it is to succeed, however long it takes.
        limit_s = (self._operation.parameters or {}).get("step_timeout")
        forward = Plan(tuple(step for step in plan.steps if step.action is not Action.REMOVE))
        executor = self._executor(forward, self._claim, limit_s)
        outcome = self._outcome = executor.run(deadline_of(self._context, self._operation))
        if not outcome.cancelled and not outcome.failed:
            executor.last_observation(outcome)
        if outcome.failed:
            self._turn(next(iter(outcome.failed.values())), cancelled=False, step=next(iter(outcome.failed)))
        elif outcome.broken_off(forward):
            self._turn(Cancelled("it was cancelled between two steps"), cancelled=True)
        else:
            self._kept.turn(Direction.SETTLE)

    def _plan(self) -> Plan:
        observed = self._look()
        ready = prepared(self._context, self._subject, self._wanted)
        operation, subject = self._operation, self._subject
        done = earlier.stopped_or_begun(operation)
        ran = earlier.run(operation, observed, subject.last_ends)
        return plan_update(subject.specs, observed, self._wanted, ready, subject.groups, done, ran)

    def _turn(self, error: ClosError, cancelled: bool, step: str | None = None) -> None:
        keep = (self._operation.parameters or {}).get("on_failure") == "keep"
        shown = error.as_dict() | ({"step": step, "failed_steps": sorted(self._outcome.failed)} if step else {})
        self._kept.turn(Direction.KEEP if keep else Direction.BACK, shown, cancelled)
        log.info("update.turned", operation_id=self._operation.id, direction=self._kept.direction, code=error.code)

    def _back(self) -> None:
        self._journal.turn_back(plan := self._plan_back(self._wanted.keys()))
        self._note_way_back(plan, self._executor(plan, self._steadfast).run(time.monotonic() + _BACK_S))

    def _plan_back(self, of: AbstractSet[str]) -> Plan:
        begun = self._journal.begun() & of
        disturbed = begun & (self._kept.were_interrupted() | self._journal.begun((Action.START,)))
        # Of what is kept nothing new was started: whatever runs of these is what ran before.
        keeps = self._kept.direction is Direction.KEEP
        withdrawn = begun if keeps else self._journal.ended(Action.WITHDRAW)
        return plan_back(self._subject.specs, self._wanted, begun, disturbed, self._subject.groups, withdrawn)

    def _note_way_back(self, plan: Plan, outcome: Outcome) -> None:
        # What could not be stopped is stopped by its restoration, or fails that too.
        failed = {each: why for each, why in outcome.failed.items() if each.startswith(_OF_WAY_BACK)}
        self._not_undone = {_of(each): why for each, why in failed.items()}
        restored = {step.target for step in plan.steps if step.action is Action.RESTORE}
        self._journal.undone(restored - self._not_undone.keys())

    def _settle(self) -> None:
        """The new ones stand. Of an update that failed and is kept, those whose new instance was started; the others
        are back as they were."""
        keeps = self._kept.direction is Direction.KEEP
        started = self._were_started() if keeps else set(self._wanted)
        plan = plan_settle([each for each in sorted(self._wanted) if each in started], self._wanted)
        if keeps:
            plan = Plan((*plan.steps, *self._plan_back(self._wanted.keys() - started).steps))
            self._journal.turn_back(plan)
        else:
            self._journal.begin(plan)
        outcome = self._executor(plan, self._steadfast).run(time.monotonic() + _BACK_S)
        self._outcome.completed |= outcome.completed
        self._outcome.failed |= {each: why for each, why in outcome.failed.items() if not each.startswith(_OF_WAY_BACK)}
        self._note_way_back(plan, outcome)

    def _were_started(self) -> set[str]:
        """Whose new instance was started. A start that is on record as begun may not have been done, nor one that
        failed: the machine tells, and where it does not answer, the old ones of these are to run."""
        begun = self._journal.begun((Action.START,))
        unsure = (begun - self._journal.ended(Action.START, well=True)) & self._wanted.keys()
        if not unsure:
            return begun
        try:
            observed = self._look()
        except EngineUnreachable:
            return begun - unsure
        return begun - {each for each in unsure if not self._has_run(each, observed.of(each))}

    def _has_run(self, service_id: str, instance: Instance) -> bool:
        if self._wanted[service_id].kind is Kind.RESTART:
            return earlier.ran(instance, self._subject.last_ends.get(service_id))
        has_run = instance.phase in (Phase.RUNNING, Phase.EXITED)
        return has_run and instance.spec_hash == self._subject.by_id[service_id].hash()

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
                self._claim.stopping.wait(_ASK_AGAIN_S)

    def _end(self) -> None:
        observed = self._context.observer.snapshot(self._subject.specs, self._subject.health)
        started = self._journal.begun((Action.START,))
        self._journal.settle(self._wanted, observed, everyone=True)
        result: dict[str, Any] = {
            "changed": len(self._outcome.completed),
            "steps": self._steps,
            "services": [
                told(self._kept, self._subject.by_id[each], self._wanted[each], observed.of(each), each in started)
                for each in sorted(self._wanted)
            ],
        }
        restored = self._journal.begun((Action.RESTORE,)) - self._not_undone.keys()
        if self._kept.direction is Direction.BACK or restored:
            result["undone"] = sorted(restored)
        if self._not_undone:
            result["not_undone"] = {each: error.as_dict() for each, error in self._not_undone.items()}
        error = self._kept.error
        if error is None and self._outcome.failed:
            step, refusal = next(iter(self._outcome.failed.items()))
            error = refusal.as_dict() | {"step": step}
        status = OperationStatus.COMPLETED if error is None else OperationStatus.FAILED
        self._journal.finish(OperationStatus.CANCELLED if self._kept.cancelled else status, result, error)
        log.info("operation.ended", operation_id=self._operation.id, direction=self._kept.direction)


def _of(step_id: str) -> str:
    return step_id.split(":", 1)[1]
