"""What an operation did, written down: one short transaction and its events per step, then the readers are woken.

Every write names the claim's fence, so a worker that lost its claim writes nothing.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from bus.feed import Feed
from domain.errors import ClosError, DatabaseBusy, DependencyFailed, describe_holder
from domain.observation import Instance, ObservedState, Phase, status_of
from domain.planning import Action, Plan, Step
from domain.progress import Tally, weight_s
from domain.specs import Condition
from domain.states import STEP_FINAL, Desired, HealthStatus, OperationStatus, ServiceStatus, StepStatus
from models import operation_steps, operations, questions, step_timings
from models.base import now
from models.operation_steps import Standing
from models.operations import Operation, OperationStep
from models.record import Record
from models.service_states import ServiceState
from models.services import Service
from workers.claims import Claim
from workers.service_rows import Done, ServiceRows, rows_for

_SERVICE_WHILE = {
    Action.START: ServiceStatus.STARTING,
    Action.WAIT: ServiceStatus.STARTING,
    Action.STOP: ServiceStatus.STOPPING,
    Action.WITHDRAW: ServiceStatus.STOPPING,
    Action.CONFIRM: ServiceStatus.STARTING,
}
# The steps of another service that one waits for; its state is added when somebody reads (`registry_waiting`).
_GATES = (Action.START, Action.WAIT)
# Left out of a plan where the look shows that they are done. What is done to ports and strangers does not show.
_SHOWN_BY_A_LOOK = frozenset(Action) - {Action.LEASE, Action.RELEASE, Action.MIGRATE_PORT, Action.TERMINATE}
# What changes a service on an update's way forward.
_CHANGES = (Action.CREATE, Action.STOP, Action.START, Action.WAIT)


class Journal:
    """Writes for one claim."""

    def __init__(self, record: Record, feed: Feed, claim: Claim) -> None:
        self._record = record
        self._feed = feed
        self._claim = claim
        # What the steps weigh, all and ended: counted here, so that a write need not load them all.
        self._tally = Tally({})
        # What its steps took; learned at the end, at once.
        self._took: dict[str, float] = {}
        self._guard = threading.Lock()

    def _held(self, session: Session) -> Operation:
        operation = operations.held(session, self._claim.operation_id, self._claim.fence)
        self._is_to_end(operation)
        return operation

    def _row_of(self, session: Session, step: Step) -> OperationStep:
        return session.get_one(OperationStep, (self._claim.operation_id, step.id))

    def _advance(self, operation: Operation, step_id: str) -> None:
        """A step has ended. 100 is for the end alone; progress never falls, even if a new attempt has more steps."""
        operation.progress = max(operation.progress, self._come(step_id))

    def _come(self, step_id: str) -> int:
        with self._guard:
            return self._tally.end(step_id)

    def begin(
        self,
        plan: Plan,
        decision: Mapping[str, Any] | None = None,
        done: Collection[str] = frozenset(),
        anew: bool = False,
    ) -> None:
        """Write the plan's steps. What an earlier attempt had begun and this plan no longer needs was done. `anew`: so
        was what had failed or was skipped then: this is an attempt's first plan, and it looked at what there is.

        `done` are steps that were done: if the operation was cancelled, nobody does them again, and they are told.
        `decision` is kept with the operation: whoever takes over goes on with it.
        """
        planned = {step.id for step in plan.steps}
        with self._record.write() as session:
            operation = self._held(session)
            if decision is not None:
                operation.parameters = (operation.parameters or {}) | {"decision": dict(decision)}
            known = {step.id: step for step in operation.steps}
            anew = anew and operation.cancel_requested_at is None
            for row in known.values():
                over = StepStatus(row.status) in STEP_FINAL and not (anew and _was_in_vain(row))
                if row.id not in planned and not over:
                    self._no_longer_needed(operation, row)
            position = max((row.position + 1 for row in known.values()), default=0)
            for step in plan.steps:
                if (again := known.get(step.id)) is not None:
                    ends = operation.cancel_requested_at is not None
                    if ends and step.id in done:
                        again.status, again.ended_at = StepStatus.COMPLETED.value, again.ended_at or now()
                    if ends and again.status in (StepStatus.COMPLETED, StepStatus.FAILED):
                        continue
                    # That it has begun and when that ended stays, until it begins again: what is known is in no doubt.
                    again.status, again.error = StepStatus.PENDING.value, None
                    again.depends_on, again.cause = list(step.depends_on), step.cause
                    continue
                operation.steps.append(_row(step, position))
                position += 1
            self._weigh(session, operation.steps)
            with rows_for(session, operation) as services:
                self._name_what_is_waited_for(services, plan)
            operations.progress(session, operation)
        self._feed.wake()

    @staticmethod
    def _no_longer_needed(operation: Operation, row: OperationStep) -> None:
        """What an earlier attempt had planned is as wanted without being done now."""
        if row.action in _SHOWN_BY_A_LOOK or (row.started_at is not None and operation.cancel_requested_at is None):
            # What nobody had begun was found done: it has no `started_at`.
            row.status, row.error, row.ended_at = StepStatus.COMPLETED.value, None, now()
        elif row.started_at is not None:
            row.leave_out()
        else:
            operation.steps.remove(row)  # the port is free, or the stranger gone, without anybody's doing

    def _weigh(self, session: Session, rows: Sequence[OperationStep]) -> None:
        expected = step_timings.expected(session, [row.id for row in rows])
        for row in rows:
            row.expected_s = expected.get(row.id, row.expected_s)
        weights = {row.id: weight_s(row.action, row.expected_s) for row in rows}
        with self._guard:
            self._tally = Tally(weights, (row.id for row in rows if StepStatus(row.status) in STEP_FINAL))

    def expected(self, plan: Plan) -> dict[str, float]:
        """What the steps of a plan that is only shown are expected to take."""
        with self._record.read() as session:
            return step_timings.expected(session, [step.id for step in plan.steps])

    @staticmethod
    def _name_what_is_waited_for(services: ServiceRows, plan: Plan) -> None:
        by_id = {step.id: step for step in plan.steps}
        for step in plan.steps:
            if step.action not in (Action.START, Action.CREATE) or not step.depends_on:
                continue
            gates = [by_id[need] for need in step.depends_on if need in by_id]
            providers = sorted({gate.target for gate in gates if gate.action in _GATES} - {step.target})
            if providers and (service := services.of(step.target)) is not None:
                service.waiting_for = [
                    {"kind": "dependency", "ref": each, "text": f"waiting for {each}"} for each in providers
                ]

    def started(self, steps: Sequence[Step], anyway: bool = False) -> bool:
        """These steps run now. Whether they do: not where somebody has asked for an end, unless `anyway`."""
        with self._record.write() as session, session.no_autoflush:
            operation = operation_steps.advance(session, self._fenced, following=steps[-1].id, anyway=anyway)
            goes_on = anyway or not self._is_to_end(operation)
            with rows_for(session, operation) as services:
                for step in steps if goes_on else ():
                    self._begin_step(session, services, operation, step)
        self._feed.wake(ends=False)
        return goes_on

    @property
    def _fenced(self) -> tuple[str, int]:
        return self._claim.operation_id, self._claim.fence

    def _is_to_end(self, operation: Operation | Standing) -> bool:
        if operation.cancel_requested_at is not None:
            self._claim.cancelled.set()  # sooner than the heartbeat learns of it
        return operation.cancel_requested_at is not None

    @staticmethod
    def _begin_step(session: Session, services: ServiceRows, operation: Standing, step: Step) -> None:
        row = operation_steps.begin(session, operation.id, step.id)
        if (status := _SERVICE_WHILE.get(step.action)) is not None:
            services.set_status(step.target, status, step.cause, waiting=[])
        # Of those that begin together, each tells of itself.
        operations.progress(session, replace(operation, current_step=step.id), operation_steps.shown(row))

    def completed(self, step: Step, done: Done, following: Step | None = None, at_once: Done | None = None) -> bool:
        """A step is done. Whether `following` runs now: not where somebody has asked for the operation's end meanwhile.
        `at_once`: that is done as soon as it begins."""
        come = self._come(step.id)
        with self._record.write() as session, session.no_autoflush:
            operation = operation_steps.advance(session, self._fenced, come, following.id if following else None)
            goes_on = following is not None and not self._is_to_end(operation)
            with rows_for(session, operation) as services:
                self._end_step(session, services, operation, step, done)
                if following is not None and goes_on:
                    self._begin_step(session, services, operation, following)
                    if at_once is not None:
                        operation = operation_steps.advance(session, self._fenced, self._come(following.id))
                        self._end_step(session, services, operation, following, at_once)
        self._feed.wake(ends=False)
        return goes_on

    def _end_step(self, session: Session, services: ServiceRows, operation: Standing, step: Step, done: Done) -> None:
        row = operation_steps.complete(session, operation.id, step.id)
        if row.started_at is not None:
            self._took[step.id] = (row.ended_at - row.started_at).total_seconds()
        services.set_done(step, done)
        operations.progress(session, operation, operation_steps.shown(row))

    def failed(self, step: Step, error: ClosError, instance: Instance | None = None) -> None:
        """A step failed; its service says so."""
        with self._record.write() as session:
            operation = self._held(session)
            row = self._row_of(session, step)
            row.status, row.ended_at = StepStatus.FAILED.value, now()
            row.error = error.as_dict()
            self._advance(operation, row.id)
            with rows_for(session, operation) as services:
                self._service_failed(services, step, error, instance)
            operations.progress(session, operation, operation_steps.shown(row))
        self._feed.wake()

    @staticmethod
    def _service_failed(services: ServiceRows, step: Step, error: ClosError, instance: Instance | None) -> None:
        alive = instance is not None and instance.alive
        if step.action is Action.STOP:
            status = ServiceStatus.RUNNING if alive else ServiceStatus.UNKNOWN
        elif step.condition is Condition.COMPLETED and alive:
            status = ServiceStatus.RUNNING  # it was to end; nothing says that it is ill
        else:
            status = ServiceStatus.UNHEALTHY if alive else ServiceStatus.FAILED
        waiting: list[dict[str, Any]] = []
        if error.code == "port_held":
            port, holder = error.facts.get("port"), describe_holder(error.facts.get("holder"))
            text = f"waiting for port {port}, held by {holder}"
            waiting = [{"kind": "port", "ref": f"port:{port}", "text": text}]
        elif error.code == "engine_unreachable":
            waiting = [{"kind": "engine", "ref": "docker", "text": error.message}]
        if instance is not None:
            # Else the next look would take it for well, and only the health round would find it ill again.
            ill = HealthStatus.UNHEALTHY if alive and error.code == "unhealthy" else None
            services.record_instance(step.target, instance, ill)
        services.set_status(step.target, status, error.message, waiting=waiting)

    def skipped(self, steps: Sequence[tuple[Step, str]], running: Collection[str]) -> None:
        """Steps that were not attempted, each with the step because of which. `running` are the services that run: they
        go on as they ran (a restart could not stop one, or it lives in another one's container)."""
        with self._record.write() as session:
            operation = self._held(session)
            with rows_for(session, operation) as services:
                for step, because in steps:
                    self._skip(session, services, operation, step, because, step.target in running)
            operations.progress(session, operation)
        self._feed.wake()

    def _skip(
        self, session: Session, services: ServiceRows, operation: Operation, step: Step, because: str, runs: bool
    ) -> None:
        row = self._row_of(session, step)
        again = " again: it had begun before, and may have been done" if row.is_in_doubt else ""
        row.status, row.ended_at = StepStatus.SKIPPED.value, now()
        error = DependencyFailed(f"{step.target} was not attempted{again}; {because} failed", step=because)
        row.error = error.as_dict()
        self._advance(operation, row.id)
        service = services.of(step.target) if step.action in (Action.START, Action.CREATE) else None
        if service is not None and runs:
            service.waiting_for = None
        elif service is not None:
            provider = because.split(":", 1)[1]
            waiting = [{"kind": "dependency", "ref": provider, "text": f"waiting for {provider}: it failed"}]
            services.set_status(service.id, ServiceStatus.STOPPED, error.message, waiting)

    def steps(self) -> list[OperationStep]:
        """The operation's steps, of all attempts, as they stand."""
        with self._record.read() as session:
            of = select(OperationStep).where(OperationStep.operation_id == self._claim.operation_id)
            found = list(session.scalars(of.order_by(OperationStep.position)))
            session.expunge_all()
            return found

    def taken_away(self, step: Step, instance: Instance) -> None:
        """What a step had made is taken away again, and was never used."""
        with self._record.write() as session:
            operation = self._held(session)
            row = self._row_of(session, step)
            row.status, row.ended_at = StepStatus.UNDONE.value, row.ended_at or now()
            self._advance(operation, row.id)
            with rows_for(session, operation) as services:
                services.record_instance(step.target, instance)
            operations.progress(session, operation, operation_steps.shown(row))
        self._feed.wake()

    def note(self, step: Step, text: str) -> None:
        """Say what a running step is doing (the lines of a pull or a build). A busy database costs the line only."""
        try:
            with self._record.write() as session:
                operation = self._held(session)
                shown = operation_steps.shown(self._row_of(session, step)) | {"note": text[:500]}
                operations.progress(session, operation, shown)
        except DatabaseBusy:
            return
        self._feed.wake(ends=False)

    def unsettled(self, service_ids: Iterable[str]) -> list[str]:
        """Which of these services are still recorded as on their way."""
        with self._record.read() as session:
            on_their_way = select(Service.id).where(
                Service.id.in_(list(service_ids)), Service.status.in_(("starting", "stopping"))
            )
            return sorted(session.scalars(on_their_way))

    def begun(self, actions: Sequence[Action] = _CHANGES) -> set[str]:
        """The targets of which such a step has begun, in whatever attempt."""
        with self._record.read() as session:
            rows = select(OperationStep.target).where(
                OperationStep.operation_id == self._claim.operation_id,
                OperationStep.action.in_([action.value for action in actions]),
                # Whatever it is by now: one that a killed worker had begun may have been left out since.
                OperationStep.started_at.is_not(None),
            )
            return set(session.scalars(rows))

    def ended(self, action: Action, well: bool = False) -> set[str]:
        """The targets of which such a step is done, or has failed (not if `well`), in whatever attempt."""
        ends = (StepStatus.COMPLETED,) if well else (StepStatus.COMPLETED, StepStatus.FAILED)
        return {row.target for row in self.steps() if row.action == action and row.status in ends}

    def turn_back(self, plan: Plan) -> None:
        """Write the steps of a way back. What has not begun of the way forward is left out."""
        planned = {step.id for step in plan.steps}
        with self._record.write() as session:
            operation = self._held(session)
            for row in operation.steps:
                if row.id not in planned and StepStatus(row.status) not in STEP_FINAL:
                    row.leave_out()
        self.begin(plan)

    def undone(self, service_ids: Collection[str]) -> None:
        """What was done to these services is taken back."""
        with self._record.write() as session:
            operation = self._held(session)
            for row in operation.steps:
                if row.target in service_ids and row.action in _CHANGES and row.status == StepStatus.COMPLETED.value:
                    row.status = StepStatus.UNDONE.value
            operations.progress(session, operation)
        self._feed.wake()

    def settle(self, touched: Iterable[str], observed: ObservedState, everyone: bool = False) -> None:
        """Take back `starting` and `stopping` from services that the operation did not get to the end with; or write
        down of all of them what was seen (`everyone`)."""
        with self._record.write() as session:
            operation = self._held(session)
            with rows_for(session, operation) as services:
                for service_id in touched:
                    service = services.of(service_id)
                    if service is not None and (everyone or service.status in ("starting", "stopping")):
                        self._settle(services, service, observed.of(service_id))
        self._feed.wake()

    @staticmethod
    def _settle(services: ServiceRows, service: ServiceState, instance: Instance) -> None:
        if instance.phase is not Phase.UNKNOWN:
            services.record_instance(service.id, instance)
        status = status_of(instance, service.desired == Desired.RUNNING.value, HealthStatus(service.health_status))
        services.set_status(service.id, status, "the operation ended", [])

    def ask(self, question: Mapping[str, Any]) -> bool:
        """Let the operation wait for a person's answer; its services say so. False: somebody wants it to end, so
        nobody is asked."""
        with self._record.write() as session:
            operation = self._held(session)
            asks = operation.cancel_requested_at is None
            if asks:
                step_timings.learn(session, self._took)
                questions.ask(session, operation, question)
        self._feed.wake()
        return asks

    def hand_back(self) -> None:
        """Give the operation back to whoever comes next."""
        with self._record.write() as session:
            operation = self._held(session)
            step_timings.learn(session, self._took)
            operations.hand_back(operation)
            operations.progress(session, operation)
        self._feed.wake()

    def finish(
        self,
        status: OperationStatus,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        last: Callable[[Session], None] | None = None,
    ) -> None:
        """End the operation; `last` is done in the same transaction, so that both happen or neither."""
        with self._record.write() as session:
            operation = self._held(session)
            if last is not None:
                last(session)
            step_timings.learn(session, self._took)
            operations.finish(
                session, operation, status, result=dict(result or {}), error=dict(error) if error else None
            )
        self._feed.wake()


def _was_in_vain(row: OperationStep) -> bool:
    return row.status in (StepStatus.FAILED, StepStatus.SKIPPED) and row.action in _SHOWN_BY_A_LOOK


def _row(step: Step, position: int) -> OperationStep:
    return OperationStep(
        id=step.id,
        position=position,
        action=step.action.value,
        target=step.target,
        depends_on=list(step.depends_on),
        cause=step.cause,
        status=StepStatus.PENDING.value,
    )
