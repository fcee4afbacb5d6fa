"""Runtimes → ObservedState: one snapshot of the world, shared by those who ask at nearly the same time."""

import threading
import time
from collections.abc import Iterable, Mapping

from domain.errors import ClosError, EngineUnreachable
from domain.observation import Instance, ObservedState, Phase
from domain.specs import RuntimeKind, ServiceSpec
from domain.states import HealthStatus
from models.base import now
from workers.runtimes.protocol import Runtime


class Observer:
    """Looks at the runtimes. Thread-safe."""

    def __init__(self, runtimes: Mapping[str, Runtime]) -> None:
        self._runtimes = runtimes
        self._guards = {kind: threading.Lock() for kind in runtimes}
        self._looks: dict[str, tuple[float, Mapping[str, Instance]]] = {}
        self._changed_at: dict[str, float] = {}
        self._refusals: dict[str, tuple[float, ClosError]] = {}

    def changed(self, kind: str) -> None:
        """Something was done through this runtime: a look that began before no longer shows what is."""
        self._changed_at[kind] = time.monotonic()

    def looked_within(self, kind: str, age_s: float) -> bool:
        """Whether this runtime was asked in the last `age_s`, with or without an answer."""
        at = max(self._looks.get(kind, (0.0, {}))[0], self._refusals.get(kind, (0.0, None))[0])
        return at > 0 and time.monotonic() - at < age_s

    def look(self, kind: str, max_age_s: float = 0.0) -> Mapping[str, Instance]:
        """Every instance of a runtime; a look that is at most `max_age_s` old will do.

        Raises:
            EngineUnreachable: the runtime cannot be asked.
        """
        asked_at = time.monotonic()
        with self._guards[kind]:
            at, seen = self._looks.get(kind, (0.0, {}))
            # One that began after we asked is as good as our own.
            if at > self._changed_at.get(kind, 0.0) and (at >= asked_at or asked_at - at <= max_age_s):
                return seen
            refused_at, refusal = self._refusals.get(kind, (0.0, None))
            if refusal is not None and refused_at >= asked_at:
                # Who waited for a look at a hanging engine has waited long enough for its answer.
                raise refusal
            began = time.monotonic()
            try:
                seen = self._runtimes[kind].observe()
            except ClosError as refusal:
                self._refusals[kind] = (time.monotonic(), refusal)
                raise
            self._looks[kind] = (began, seen)
            return seen

    def instance(self, spec: ServiceSpec, max_age_s: float = 0.1) -> Instance:
        """One service's instance; its phase is UNKNOWN if its runtime cannot be asked."""
        if spec.runtime is RuntimeKind.EXTERNAL:
            return Instance(spec.id)
        try:
            return self.look(spec.runtime.value, max_age_s).get(spec.id) or Instance(spec.id)
        except ClosError as refusal:
            return Instance(spec.id, Phase.UNKNOWN, detail=refusal.message)

    def snapshot(
        self, specs: Iterable[ServiceSpec], health: Mapping[str, HealthStatus], need: bool = False
    ) -> ObservedState:
        """What is there of these services now. `need`: a runtime that cannot be asked is an error.

        Raises:
            EngineUnreachable: with `need`.
        """
        observed_at = now()
        wanted = list(specs)
        instances: dict[str, Instance] = {}
        unseen: dict[str, str] = {}
        for kind in sorted({spec.runtime.value for spec in wanted if spec.runtime is not RuntimeKind.EXTERNAL}):
            mine = [spec for spec in wanted if spec.runtime.value == kind]
            try:
                seen = self.look(kind)
                instances |= {spec.id: seen[spec.id] for spec in mine if spec.id in seen}
            except EngineUnreachable as refusal:
                if need:
                    raise
                unseen[kind] = refusal.message
                instances |= {spec.id: Instance(spec.id, Phase.UNKNOWN, detail=refusal.message) for spec in mine}
        return ObservedState(observed_at, instances, dict(health), unseen)
