"""What an update's actions do: instances made beside one another, exchanged, restored."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from domain.errors import ClosError, EngineUnreachable, PortHeld, StartFailed
from domain.needs import residents
from domain.observation import Instance
from domain.planning import Action, Step
from domain.specs import RuntimeKind, ServiceSpec
from domain.updating import Change, Kind
from workers.readiness import Readiness
from workers.runtimes.protocol import Runtime
from workers.service_rows import Done
from workers.steps import Steps
from workers.update_record import UpdateRecord

log = structlog.get_logger()
# How long the way back waits for an engine that was restarted in the middle.
_ENGINE_BACK_S = 90.0
_ASK_AGAIN_S = 1.0


class UpdateSteps(Steps):
    """Carries out steps of one update."""

    def __init__(self, kept: UpdateRecord, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._kept = kept
        self._changes: Mapping[str, Change] = kept.changes

    def _actions(
        self, step: Step, spec: ServiceSpec, runtime: Runtime, deadline: float
    ) -> dict[Action, Callable[[], Done]]:
        return super()._actions(step, spec, runtime, deadline) | {
            Action.CREATE: lambda: self._replace(spec, runtime),
            Action.STOP: lambda: self._exchange(spec, runtime),
            Action.WAIT: lambda: self._wait_to_serve(step, spec, runtime, deadline),
            Action.REMOVE: lambda: self._settle(spec, runtime),
            Action.WITHDRAW: lambda: self._withdraw(spec, runtime),
            Action.RESTORE: lambda: self._restore(spec, runtime),
            Action.CONFIRM: lambda: self._confirm(step, spec, runtime, deadline),
        }

    def _run_up(self, spec: ServiceSpec, runtime: Runtime) -> Instance:
        # Nothing is kept of one that is only restarted, even if it was defined anew since: nobody would settle it.
        return runtime.start(spec, keep=self._changes[spec.id].kind is not Kind.RESTART)

    def _replace(self, spec: ServiceSpec, runtime: Runtime) -> Done:
        self._refuse_held(spec, runtime)
        made = runtime.replace(spec)
        # Beside one that runs it is no news: what the record shows is what serves.
        shows = self._changes[spec.id].kind is Kind.REPLACE and spec.runtime is RuntimeKind.DOCKER
        return Done(made) if shows else Done()

    def _refuse_held(self, spec: ServiceSpec, runtime: Runtime) -> None:
        """A port that it had not before and that somebody else has fails the update before anything is stopped.

        Raises:
            PortHeld: naming who has it.
        """
        had = {(port.protocol, port.host_port) for port in runtime.as_made(spec).ports}
        for port in spec.ports:
            if port.host_port is None or (port.protocol, port.host_port) in had:
                continue
            found = self._holders(port.host_ip, port.protocol, port.host_port)
            # One that is exchanged in the same update may be about to leave it.
            if found and found[0].get("service_id") not in self._changes:
                raise PortHeld(port.host_port, port.protocol, port.host_ip, found[0])

    def _exchange(self, spec: ServiceSpec, runtime: Runtime) -> Done:
        self._interrupt(spec)
        return self._stop(spec, runtime)

    def _interrupt(self, spec: ServiceSpec) -> None:
        """Who lives in its container is away from now on too, until it serves itself: a later stop of its own is none
        to count from. What did not run before has nothing that could be missed."""
        away = {spec.id, *residents(list(self._specs.values()), {spec.id})} & self._changes.keys()
        self._kept.interrupted(sorted(each for each in away if self._changes[each].ran))

    def at_once(self, step: Step) -> Done | None:
        """As `Steps.at_once`; how long a service was away ends there."""
        done = super().at_once(step)
        if done is not None:
            self._kept.serves(step.target)
        return done

    def _wait_to_serve(self, step: Step, spec: ServiceSpec, runtime: Runtime, deadline: float) -> Done:
        done = self._wait(step, spec, runtime, deadline)
        self._kept.serves(spec.id)
        return done

    @staticmethod
    def _settle(spec: ServiceSpec, runtime: Runtime) -> Done:
        runtime.settle(spec)
        return Done()

    def _withdraw(self, spec: ServiceSpec, runtime: Runtime) -> Done:
        self._interrupt(spec)
        return Done(self._patiently(lambda: runtime.stop(spec, spec.stop_timeout_s)))

    def _restore(self, spec: ServiceSpec, runtime: Runtime) -> Done:
        change = self._changes[spec.id]
        if change.kind is Kind.RESTART:
            return Done(self._patiently(lambda: runtime.start(spec)))
        try:
            return Done(self._patiently(lambda: runtime.restore(spec, change.ref, change.ran)))
        except StartFailed:
            self._leave_the_new_one(spec, runtime)
            raise

    def _leave_the_new_one(self, spec: ServiceSpec, runtime: Runtime) -> None:
        """What was there before is gone: better the new one than none."""
        there = self._observer.instance(spec, max_age_s=0.0)
        if there.spec_hash != spec.hash() or there.alive:
            return
        try:
            runtime.start(spec, keep=True)
        except ClosError as refusal:
            log.warning("update.neither_runs", service=spec.id, error=refusal.message)

    def _confirm(self, step: Step, spec: ServiceSpec, runtime: Runtime, deadline: float) -> Done:
        # It listens where it listened before, wherever it is wanted to by now.
        as_made = runtime.as_made(spec)
        instance, health = Readiness(as_made, runtime, self._observer, self._claim).wait(step, deadline)
        self._kept.serves(spec.id)
        return Done(instance, health)

    def _patiently(self, act: Callable[[], Instance]) -> Instance:
        """Going back is promised: an engine that is being restarted is waited for."""
        until = time.monotonic() + _ENGINE_BACK_S
        while True:
            try:
                return act()
            except EngineUnreachable:
                self._claim.check()
                if time.monotonic() >= until:
                    raise
                self._claim.stopping.wait(_ASK_AGAIN_S)
