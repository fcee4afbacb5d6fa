"""What each action does, through a runtime. The executor decides when; nothing here decides what."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from domain.errors import PortHeld, StartFailed, TimedOut
from domain.observation import Instance
from domain.planning import Action, Step
from domain.specs import RuntimeKind, ServiceSpec
from domain.states import HealthStatus
from models.record import outside_transaction
from workers.claims import Claim
from workers.observer import Observer
from workers.port_steps import PortSteps
from workers.readiness import Readiness
from workers.runtimes import fence, listeners
from workers.runtimes.protocol import Runtime

_NOTE_EVERY_S = 0.5


@dataclass(frozen=True)
class Done:
    """What a step left behind."""

    instance: Instance | None = None
    health: HealthStatus | None = None
    references: Mapping[str, str] | None = None


class Steps:
    """Carries out steps of one operation."""

    def __init__(
        self,
        specs: Mapping[str, ServiceSpec],
        runtimes: Mapping[str, Runtime],
        observer: Observer,
        claim: Claim,
        note: Callable[[Step, str], None],
        verify: Callable[[], None],
        stop_timeout_s: float | None = None,
        port_steps: PortSteps | None = None,
    ) -> None:
        self._specs = specs
        self._port_steps = port_steps
        self._runtimes = runtimes
        self._observer = observer
        self._claim = claim
        self._note = note
        self._verify = verify
        self._stop_timeout_s = stop_timeout_s

    def run(self, step: Step, deadline: float) -> Done:
        """Do it.

        Raises:
            ClosError: what a runtime or a wait says.
        """
        self._claim.check()
        outside_transaction()
        if self._port_steps is not None and self._port_steps.does(step):
            with fence.guarded(self._verify):
                self._port_steps.run(step, self._specs.get(step.target))
            return Done()
        spec = self._specs[step.target]
        runtime = self._runtime(spec)
        actions: dict[Action, Callable[[], Done]] = {
            Action.PULL: lambda: self._prepare(step, spec, runtime, deadline),
            Action.BUILD: lambda: self._prepare(step, spec, runtime, deadline),
            Action.CREATE: lambda: Done(runtime.create(spec)),
            Action.START: lambda: self._start(spec, runtime),
            Action.WAIT: lambda: self._wait(step, spec, runtime, deadline),
            Action.STOP: lambda: self._stop(spec, runtime),
            Action.REMOVE: lambda: self._remove(spec, runtime),
        }
        try:
            with fence.guarded(self._verify):
                return actions[step.action]()
        finally:
            if step.action is not Action.WAIT:
                self._observer.changed(spec.runtime.value)

    def replace(self, specs: Mapping[str, ServiceSpec]) -> None:
        """Services were moved: from now on they are started as they are wanted now."""
        self._specs = specs

    def knows(self, target: str) -> bool:
        """Whether a step's target is a service."""
        return target in self._specs

    def spec(self, service_id: str) -> ServiceSpec:
        """The spec of a step's target."""
        return self._specs[service_id]

    def is_managed(self, service_id: str) -> bool:
        """Whether CLOS runs it, rather than only watch it."""
        return self._specs[service_id].runtime is not RuntimeKind.EXTERNAL

    def runtime_of(self, service_id: str) -> Runtime:
        """The runtime of a step's target."""
        return self._runtime(self._specs[service_id])

    def _runtime(self, spec: ServiceSpec) -> Runtime:
        # An external service is only probed; any runtime can do that.
        kind = spec.runtime.value if spec.runtime is not RuntimeKind.EXTERNAL else RuntimeKind.PROCESS.value
        return self._runtimes[kind]

    def _prepare(self, step: Step, spec: ServiceSpec, runtime: Runtime, deadline: float) -> Done:
        told_at = 0.0

        def tell(text: str) -> None:
            nonlocal told_at
            self._claim.check_waiting()
            if time.monotonic() >= deadline:
                raise TimedOut(f"the operation's time was up while {text}", hint="give it a longer timeout")
            if time.monotonic() - told_at >= _NOTE_EVERY_S:
                told_at = time.monotonic()
                self._note(step, text)

        runtime.prepare(spec, tell)
        return Done()

    def _start(self, spec: ServiceSpec, runtime: Runtime) -> Done:
        try:
            instance = runtime.start(spec)
            return Done(instance, HealthStatus.STARTING if spec.health_check else HealthStatus.NONE, spec.references)
        except PortHeld as held:
            if held.holder is not None:
                raise
            raise PortHeld(held.port, held.protocol, held.host_ip, _holder(held)) from held

    def _wait(self, step: Step, spec: ServiceSpec, runtime: Runtime, deadline: float) -> Done:
        try:
            instance, health = Readiness(spec, runtime, self._observer, self._claim).wait(step, deadline)
        except StartFailed as ended:
            raise self._bind_failure(spec) or ended from ended
        return Done(instance, health)

    @staticmethod
    def _bind_failure(spec: ServiceSpec) -> PortHeld | None:
        """A process that ended because its port was taken meanwhile: the holder is the cause worth naming."""
        if spec.runtime is not RuntimeKind.PROCESS:
            return None
        for port in spec.ports:
            if port.host_port is None:
                continue
            if found := listeners.holders(port.host_port, port.protocol, port.host_ip):
                return PortHeld(port.host_port, port.protocol, port.host_ip, found[0])
        return None

    def _stop(self, spec: ServiceSpec, runtime: Runtime) -> Done:
        timeout_s = self._stop_timeout_s if self._stop_timeout_s is not None else spec.stop_timeout_s
        return Done(runtime.stop(spec, timeout_s))

    @staticmethod
    def _remove(spec: ServiceSpec, runtime: Runtime) -> Done:
        runtime.remove(spec)
        return Done(Instance(spec.id))


def _holder(held: PortHeld) -> Mapping[str, Any] | None:
    found = listeners.holders(held.port, held.protocol, held.host_ip or None)
    return found[0] if found else None
