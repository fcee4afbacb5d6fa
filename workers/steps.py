"""What each action does, through a runtime. The executor decides when; nothing here decides what."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from domain.errors import PortHeld, StartFailed, TimedOut, Unhealthy
from domain.observation import Instance
from domain.planning import WAITS, Action, Step
from domain.specs import Condition, RuntimeKind, ServiceSpec
from domain.states import HealthStatus
from models.record import outside_transaction
from workers.claims import Claim
from workers.clones import VolumeSteps
from workers.observer import Observer
from workers.port_steps import PortSteps
from workers.readiness import Readiness
from workers.runtimes import fence
from workers.runtimes.probes import default_ready
from workers.runtimes.protocol import Runtime
from workers.service_rows import Done

_NOTE_EVERY_S = 0.5
# As old as a look may be that a wait shares with others.
_JUST_STARTED_S = 0.1


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
        holders: Callable[[str, str, int], list[dict[str, Any]]],
        stop_timeout_s: float | None = None,
        port_steps: PortSteps | None = None,
        volume_steps: VolumeSteps | None = None,
    ) -> None:
        self._specs = specs
        self._port_steps = port_steps
        self._volume_steps = volume_steps
        self._runtimes = runtimes
        self._observer = observer
        self._claim = claim
        self._note = note
        self._verify = verify
        self._holders = holders
        self._stop_timeout_s = stop_timeout_s
        # When a start ended, and what it showed.
        self._started: dict[str, tuple[float, Instance]] = {}

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
        if self._volume_steps is not None and self._volume_steps.does(step):
            with fence.guarded(self._verify):
                self._volume_steps.run(step)
            return Done()
        spec = self._specs[step.target]
        runtime = self._runtime(spec)
        if step.action in (Action.CREATE, Action.START):
            _refuse_unresolved(spec)
        actions = self._actions(step, spec, runtime, deadline)
        try:
            with fence.guarded(self._verify):
                return actions[step.action]()
        finally:
            if step.action not in WAITS:
                self._observer.changed(spec.runtime.value)

    def at_once(self, step: Step) -> Done | None:
        """A wait for what was started a moment ago, if it holds at the first look. None: it has to be waited for.

        Only where that look takes no time: a service without a health check.
        """
        if step.action is not Action.WAIT or step.condition is Condition.COMPLETED:
            return None
        spec, (_, seen) = self._specs[step.target], self._started.get(step.target, (0.0, None))
        runtime = self._runtime(spec)
        # A process takes a moment until it listens, and whoever answers on its port may be a stranger.
        if seen is None or spec.health_check is not None or _may_meet_strangers(spec, runtime):
            return None
        return Done(seen, HealthStatus.NONE) if default_ready(spec, runtime, seen).ok else None

    def _actions(
        self, step: Step, spec: ServiceSpec, runtime: Runtime, deadline: float
    ) -> dict[Action, Callable[[], Done]]:
        """What each action does to a service."""
        return {
            Action.PULL: lambda: self._prepare(step, spec, runtime, deadline),
            Action.BUILD: lambda: self._prepare(step, spec, runtime, deadline),
            Action.CREATE: lambda: Done(runtime.create(spec)),
            Action.START: lambda: self._start(spec, runtime),
            Action.WAIT: lambda: self._wait(step, spec, runtime, deadline),
            Action.STOP: lambda: self._stop(spec, runtime),
            Action.REMOVE: lambda: self._remove(spec, runtime),
        }

    def take_away(self, service_id: str) -> Instance:
        """Remove an instance that was made and never started."""
        self._claim.check()
        outside_transaction()
        spec = self._specs[service_id]
        try:
            with fence.guarded(self._verify):
                self._runtime(spec).remove(spec)
        finally:
            self._observer.changed(spec.runtime.value)
        return Instance(service_id)

    def replace(self, specs: Mapping[str, ServiceSpec]) -> None:
        """Services were moved: from now on they are started as they are wanted now."""
        self._specs = specs

    @property
    def specs(self) -> Mapping[str, ServiceSpec]:
        """The specs of all services that it may be about, by their ids."""
        return self._specs

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
            instance = self._run_up(spec, runtime)
            self._started[spec.id] = time.monotonic(), instance
            return Done(instance, HealthStatus.STARTING if spec.health_check else HealthStatus.NONE, spec.references)
        except PortHeld as held:
            known = held.holder or {}
            if known.get("kind") in ("process", "service", "clos") or known.get("container_id"):
                raise
            found = self._holders(held.host_ip, held.protocol, held.port)
            raise PortHeld(held.port, held.protocol, held.host_ip, found[0] if found else held.holder) from held

    def _run_up(self, spec: ServiceSpec, runtime: Runtime) -> Instance:
        return runtime.start(spec)

    def _wait(self, step: Step, spec: ServiceSpec, runtime: Runtime, deadline: float) -> Done:
        try:
            seen = self._seen_at_start(spec)
            instance, health = Readiness(spec, runtime, self._observer, self._claim, seen).wait(step, deadline)
        except (StartFailed, TimedOut, Unhealthy) as ended:
            raise self._stranger(spec, runtime) or ended from ended
        if (held := self._stranger(spec, runtime, instance)) is not None:
            raise held
        return Done(instance, health)

    def _seen_at_start(self, spec: ServiceSpec) -> Instance | None:
        at, instance = self._started.pop(spec.id, (0.0, None))
        return instance if time.monotonic() - at <= _JUST_STARTED_S else None

    def _stranger(self, spec: ServiceSpec, runtime: Runtime, instance: Instance | None = None) -> PortHeld | None:
        """Somebody else who has a port of a process service: the cause that is worth naming, whatever the wait said.

        A probe is answered by whoever listens. One that does not end when it cannot bind is ended here, so that it does
        not stay behind without its port. Who came after it may be a child of its own that left its session.
        """
        if not _may_meet_strangers(spec, runtime):
            return None
        for port in spec.ports:
            found = self._holders(port.host_ip, port.protocol, port.host_port) if port.host_port is not None else []
            if not found or any(each.get("service_id") == spec.id for each in found):
                continue
            if instance is not None and not all(_was_there_before(each, instance) for each in found):
                continue
            if self._observer.instance(spec, max_age_s=0.0).alive:
                runtime.stop(spec, spec.stop_timeout_s)
                self._observer.changed(runtime.kind)
            return PortHeld(port.host_port or 0, port.protocol, port.host_ip, found[0])
        return None

    def _stop(self, spec: ServiceSpec, runtime: Runtime) -> Done:
        timeout_s = self._stop_timeout_s if self._stop_timeout_s is not None else spec.stop_timeout_s
        return Done(runtime.stop(spec, timeout_s))

    def _remove(self, spec: ServiceSpec, runtime: Runtime) -> Done:
        runtime.remove(spec, volumes=self._volume_steps is not None)
        return Done(Instance(spec.id))


def _refuse_unresolved(spec: ServiceSpec) -> None:
    """Raises: StartFailed: a reference of it means nothing; only rows that were written past the registry have such."""
    for text, reason in spec.unresolved.items():
        raise StartFailed(
            f"{spec.id} refers to {text}: {reason}", hint="correct its definition", service_id=spec.id, reference=text
        )


def _may_meet_strangers(spec: ServiceSpec, runtime: Runtime) -> bool:
    return spec.runtime is RuntimeKind.PROCESS and runtime.kind == RuntimeKind.PROCESS.value


def _was_there_before(holder: Mapping[str, Any], instance: Instance) -> bool:
    if holder.get("service_id") is not None:
        return True  # another service of ours is no child of this one, whenever it was started
    began = holder.get("started_at")
    return bool(began) and instance.started_at is not None and datetime.fromisoformat(str(began)) < instance.started_at
