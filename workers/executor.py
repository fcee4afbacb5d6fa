"""Walks a plan: ready steps in parallel, dependents of a failure skipped. It decides nothing."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from domain.errors import Cancelled, ClaimLost, ClosError, DatabaseBusy, StartFailed, Stopping, TimedOut
from domain.observation import Instance, Phase
from domain.planning import WAITS, Action, Plan, Step, blocked_by, ready
from domain.specs import Condition
from workers.claims import Claim
from workers.journal import Journal
from workers.observer import Observer
from workers.readiness import died, ended_well
from workers.service_rows import Done
from workers.steps import Steps

log = structlog.get_logger()
_LOOK_UP_S = 0.25
# Waits cost next to nothing and may last: beside each step that does something so many may wait.
_WAITS_PER_STEP = 8


@dataclass
class Outcome:
    """How a plan ended."""

    completed: set[str] = field(default_factory=set)
    # Step id -> why, in the order in which they failed.
    failed: dict[str, ClosError] = field(default_factory=dict)
    # Step id -> the failed step because of which it was not attempted.
    skipped: dict[str, str] = field(default_factory=dict)
    cancelled: bool = False
    # Of a cancelled one: what was undone, and what is left as it is.
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> set[str]:
        """Steps that will not be completed."""
        return set(self.failed) | set(self.skipped)

    def broken_off(self, plan: Plan) -> bool:
        """Whether a cancel kept steps of its plan from being done. One that came as the last of them was under way did
        not: what was asked for is done then, and nothing is left to be undone or told."""
        return self.cancelled and len(self.completed) < len(plan.steps)


@dataclass(frozen=True, slots=True)
class _End:
    """How a step ended: with the next one of its target begun, or, if that had nothing to wait for, done too."""

    following: Step | None = None
    done_too: bool = False


class Executor:
    """Carries out one plan for one claim."""

    def __init__(
        self,
        plan: Plan,
        steps: Steps,
        journal: Journal,
        claim: Claim,
        observer: Observer,
        parallel: int,
        step_timeout_s: float | None = None,
    ) -> None:
        self._plan = plan
        self._steps = steps
        self._journal = journal
        self._claim = claim
        self._observer = observer
        self._parallel = parallel
        self._step_timeout_s = step_timeout_s
        # What waits for one step of the same target and for nothing else is begun as that one ends.
        self._next = {each.depends_on[0]: each for each in plan.steps if _only_waits_for_its_own(each)}
        self._waiting = 0
        self._ended: SimpleQueue[Future[_End]] = SimpleQueue()

    def run(self, deadline: float) -> Outcome:
        """Do all steps. `deadline` is on the monotonic clock.

        Raises:
            ClaimLost, Stopping: nothing more was begun; what was begun has ended.
            DatabaseBusy, SQLAlchemyError: the same, because what was done could not be written down.
        """
        outcome = Outcome()
        running: dict[Future[_End], Step] = {}
        to_do = {step.id: step for step in self._plan.steps}
        # Each step that does something may become one more wait than there is room for (`_following`).
        with ThreadPoolExecutor(self._parallel * (2 + _WAITS_PER_STEP), "clos-step") as pool:
            begin = partial(self._begin, pool, running, to_do, deadline)
            try:
                while True:
                    self._skip_blocked(to_do, outcome)
                    self._begin_ready(begin, running, to_do, outcome, deadline)
                    if not running:
                        return outcome
                    for future in self._next_ended():
                        end = self._record(running.pop(future), future, outcome)
                        if end.following is not None and end.done_too:
                            del to_do[end.following.id]
                            outcome.completed.add(end.following.id)
                        elif end.following is not None:
                            begin(end.following)
            except BaseException:
                # Every wait inside a step looks at the claim, so these end by themselves.
                self._claim.lost.set()
                wait(running)
                raise

    def _begin(
        self,
        pool: ThreadPoolExecutor,
        running: "dict[Future[_End], Step]",
        to_do: dict[str, Step],
        deadline: float,
        step: Step,
    ) -> None:
        del to_do[step.id]
        future = pool.submit(self._one, step, deadline)
        running[future] = step
        future.add_done_callback(self._ended.put)

    def _next_ended(self) -> list["Future[_End]"]:
        """What has ended; nothing, if nothing does for a while. Cheaper than to wait for all that run, each time."""
        found: list[Future[_End]] = []
        with suppress(Empty):
            found.append(self._ended.get(timeout=_LOOK_UP_S))
            while True:
                found.append(self._ended.get_nowait())
        return found

    def _begin_ready(
        self,
        begin: Callable[[Step], None],
        running: Mapping["Future[_End]", Step],
        to_do: Mapping[str, Step],
        outcome: Outcome,
        deadline: float,
    ) -> None:
        self._claim.check()
        if self._claim.cancelled.is_set():
            outcome.cancelled = True
            return
        found = self._with_room(running, ready(to_do.values(), outcome.completed, outcome.lost))
        in_time = time.monotonic() < deadline
        # Put on record together: one write for all that can begin.
        if found and in_time and not self._journal.started(found, anyway=self._claim.steadfast):
            outcome.cancelled = True
            return
        for step in found:
            begin(step)

    def _with_room(self, running: Mapping["Future[_End]", Step], steps: Iterable[Step]) -> list[Step]:
        """The first of these steps, as many as may run beside what runs."""
        self._waiting = waiting = sum(step.action in WAITS for step in running.values())
        room = {True: self._parallel * _WAITS_PER_STEP - waiting, False: self._parallel - len(running) + waiting}
        found = []
        for step in steps:
            waits = step.action in WAITS
            if room[waits] > 0:
                room[waits] -= 1
                found.append(step)
        return found

    def _one(self, step: Step, deadline: float) -> "_End":
        """Do a step that is on record as begun, and what of the next one is on record with its end."""
        if time.monotonic() >= deadline:
            raise TimedOut("the operation's time was up before this step", hint="give it a longer timeout")
        began = time.monotonic()
        done = self._within_its_time(step, deadline)
        following = self._following(step, deadline)
        at_once = None if following is None else self._steps.at_once(following)
        goes_on = self._journal.completed(step, done, following, at_once)
        log.info(
            "step.completed",
            operation_id=self._claim.operation_id,
            step=step.id,
            duration_ms=round((time.monotonic() - began) * 1000, 1),
        )
        return _End(following, at_once is not None) if goes_on else _End()

    def _following(self, step: Step, deadline: float) -> Step | None:
        """The step that has waited for this one only: one write ends this and begins that."""
        found = self._next.get(step.id)
        over = self._claim.lost.is_set() or self._claim.stopping.is_set() or self._claim.cancelled.is_set()
        if found is None or over or time.monotonic() >= deadline:
            return None
        room = found.action not in WAITS or self._waiting < self._parallel * _WAITS_PER_STEP
        return found if room else None

    def _within_its_time(self, step: Step, deadline: float) -> Done:
        if self._step_timeout_s is None or time.monotonic() + self._step_timeout_s >= deadline:
            return self._steps.run(step, deadline)
        try:
            return self._steps.run(step, time.monotonic() + self._step_timeout_s)
        except TimedOut as late:
            raise TimedOut(
                f"{step.id} had {self._step_timeout_s:g} s (step_timeout): {late.message}",
                hint="look at its logs, or give its steps a longer step_timeout",
                step=step.id,
                step_timeout=self._step_timeout_s,
                **{name: value for name, value in late.facts.items() if name not in ("step", "step_timeout")},
            ) from late

    def _record(self, step: Step, future: "Future[_End]", outcome: Outcome) -> "_End":
        """Note how a step ended."""
        refusal = future.exception()
        if refusal is None:
            outcome.completed.add(step.id)
            return future.result()
        if isinstance(refusal, ClaimLost | Stopping | DatabaseBusy | SQLAlchemyError):
            # An unwritten step is no failed step: whoever continues looks at the world again.
            raise refusal
        if isinstance(refusal, Cancelled):
            outcome.cancelled = True  # it only waited; `finish` marks it skipped
            return _End()
        if not isinstance(refusal, ClosError):
            log.error("step.broke", operation_id=self._claim.operation_id, step=step.id, exc_info=refusal)
            refusal = StartFailed(f"{step.id} broke: {refusal}", hint="this is a defect of CLOS: see the worker's log")
        outcome.failed[step.id] = refusal
        log.info("step.failed", operation_id=self._claim.operation_id, step=step.id, code=refusal.code)
        self._journal.failed(step, refusal, self._last_look(step))
        return _End()

    def _last_look(self, step: Step) -> Instance | None:
        looked_at = (Action.START, Action.STOP, Action.RESTORE, Action.WITHDRAW, *WAITS)
        if step.action not in looked_at or not self._steps.knows(step.target):
            return None
        return self._observer.instance(self._steps.spec(step.target), max_age_s=0.0)

    def _skip_blocked(self, to_do: dict[str, Step], outcome: Outcome) -> None:
        skipped: list[tuple[Step, str]] = []
        for step in list(to_do.values()) if outcome.failed else ():
            if (because := blocked_by(step, outcome.lost)) is not None:
                # What is told is the failure at the root, not the last of those that it took along.
                outcome.skipped[step.id] = outcome.skipped.get(because, because)
                skipped.append((to_do.pop(step.id), outcome.skipped[step.id]))
        if skipped:
            self._journal.skipped(skipped, {step.target for step, _ in skipped if self._runs(step)})

    def _runs(self, step: Step) -> bool:
        return self._steps.knows(step.target) and self._observer.instance(self._steps.spec(step.target)).alive

    def last_observation(self, outcome: Outcome) -> None:
        """The operation's last act: what died meanwhile fails its step."""
        for step in self._plan.steps:
            if step.action is not Action.WAIT or step.id not in outcome.completed:
                continue
            if step.condition is Condition.COMPLETED:
                continue
            spec = self._steps.spec(step.target)
            instance = self._observer.instance(spec, max_age_s=0.2)
            lost = instance.phase in (Phase.EXITED, Phase.ABSENT) and not ended_well(spec, instance)
            if lost and self._steps.is_managed(step.target):
                error = died(spec, self._steps.runtime_of(step.target), instance)
                outcome.failed[step.id] = error
                self._journal.failed(step, error, instance)


def _only_waits_for_its_own(step: Step) -> bool:
    return len(step.depends_on) == 1 and step.depends_on[0].partition(":")[2] == step.target
