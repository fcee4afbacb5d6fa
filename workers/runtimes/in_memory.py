"""A runtime without a machine: for demonstrations and tests. Deterministic, thread-safe, and it misbehaves on
request (`behave`, `hold`, `end`)."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from domain.errors import ClosError, PortHeld, ServiceRunning, StartFailed
from domain.observation import Instance, Phase, Sighting
from domain.specs import ServiceSpec
from workers.runtimes.fence import before_effect
from workers.runtimes.in_memory_lines import Lines
from workers.runtimes.protocol import ExecResult, LogLine, Progress, Stats


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the instances of one service act.

    `fail_on` maps a call's name (`prepare create start stop remove execute observe`) to the error it raises,
    `delay_s` makes `prepare`, `create`, `start` and `stop` slow, `ends_with` ends it right after its start.
    """

    fail_on: Mapping[str, ClosError] = field(default_factory=dict)
    delay_s: float = 0.0
    ends_with: int | None = None
    stops_with: int = 143
    unhealthy: bool = False
    executes: ExecResult = ExecResult(0, "")  # noqa: RUF009 - frozen
    stats: Stats = Stats(1.0, 10.0)  # noqa: RUF009 - frozen


class InMemory:
    """The runtime `memory`."""

    kind = "memory"

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._changed = threading.RLock()
        self._lines = Lines(now)
        self._instances: dict[str, Instance] = {}
        self._specs: dict[str, ServiceSpec] = {}
        # The other instance of a service in an update: the new one while the old one runs, then the old one.
        self._aside: dict[str, tuple[Instance, ServiceSpec]] = {}
        self._behaviours: dict[str, Behaviour] = {}
        self._held: dict[tuple[str, int], Mapping[str, object]] = {}
        self._prepared: set[str] = set()
        self._made = 0
        self.calls: list[tuple[str, str]] = []
        # Volumes by name, with their marks.
        self.volumes: dict[str, str | None] = {}
        # Who runs the instances: a test may put another engine or another boot there.
        self.seen_as = Sighting("memory")
        # Second instances of a service, by their ref, and what instances would be as services.
        self.extra: dict[str, Instance] = {}
        self.definitions: dict[str, Mapping[str, Any]] = {}

    # What a test may arrange

    def behave(self, service_id: str, behaviour: Behaviour, version: str = "") -> None:
        """From now on this service acts so, or its instances of one spec hash (`version`); `*` stands for every
        service without a behaviour of its own."""
        with self._changed:
            self._behaviours[f"{service_id}@{version}" if version else service_id] = behaviour

    def hold(self, port: int, holder: Mapping[str, object] | None, protocol: str = "tcp") -> None:
        """Let a stranger hold a port, or let go of it (None)."""
        with self._changed:
            self._held.pop((protocol, port), None)
            if holder is not None:
                self._held[protocol, port] = holder

    def end(self, service_id: str, exit_code: int, by_hand: bool = False) -> None:
        """Let a running instance end by itself, or by somebody's hand."""
        with self._changed:
            instance = self._instances.get(service_id)
            if instance and instance.alive:
                self._instances[service_id] = replace(self._ended(instance, exit_code), by_hand=by_hand)

    def lose(self, service_id: str) -> None:
        """Let an instance be gone, as if it had been removed by hand."""
        with self._changed:
            self._instances.pop(service_id, None)

    def write(self, service_id: str, text: str, stream: str = "stdout") -> None:
        """Let an instance write a line."""
        self._lines.write(service_id, text, stream)

    def aside(self) -> Mapping[str, Instance]:
        """The other instances of services that are being exchanged."""
        with self._changed:
            return {service_id: instance for service_id, (instance, _) in self._aside.items()}

    def simulated_health(self, service_id: str) -> bool:
        """Whether a probe of it passes: it runs and is not told to be unhealthy."""
        with self._changed:
            instance = self._instances.get(service_id)
            version = instance.spec_hash if instance else None
            return bool(instance and instance.alive) and not self._behaviour(service_id, version).unhealthy

    # The contract

    def observe(self) -> Mapping[str, Instance]:
        """Every instance."""
        with self._changed:
            failure = self._behaviour("*").fail_on.get("observe")
            if failure is not None:
                raise failure
            return dict(self._instances)

    def sighting(self) -> Sighting:
        """What `seen_as` says."""
        return self.seen_as

    def beside(self) -> Sequence[Instance]:
        """What a test put into `extra`."""
        return tuple(self.extra.values())

    def describe(self, ref: str) -> Mapping[str, Any]:
        """What a test put into `definitions`."""
        return self.definitions.get(ref, {"runtime": "process", "command": ["x"], "unread": []})

    def discard(self, ref: str, timeout_s: float) -> None:  # noqa: ARG002
        """Forget it."""
        before_effect()
        with self._changed:
            self.calls.append(("discard", ref))
            self.extra.pop(ref, None)
            self._instances = {key: each for key, each in self._instances.items() if each.ref != ref}

    def prepare(self, spec: ServiceSpec, progress: Progress) -> None:
        """Tell some progress."""
        self._enter("prepare", spec)
        progress(f"{spec.id} prepared")
        with self._changed:
            self._prepared.add(spec.id)

    def prepared(self, spec: ServiceSpec) -> bool:
        """Whether it was prepared, where there is anything to prepare."""
        with self._changed:
            return spec.id in self._prepared or (spec.image is None and spec.build is None)

    def create(self, spec: ServiceSpec) -> Instance:
        """Make the instance; adopt one with the same hash or that runs."""
        self._enter("create", spec)
        with self._changed:
            return self._create(spec)

    def _create(self, spec: ServiceSpec) -> Instance:
        found = self._instances.get(spec.id)
        if found and (found.alive or (found.spec_hash == spec.hash() and found.phase is Phase.CREATED)):
            return found
        before_effect()
        self._made += 1
        self._specs[spec.id] = spec
        made = Instance(spec.id, Phase.CREATED, ref=f"memory-{self._made}", spec_hash=spec.hash(), image=spec.image)
        self._instances[spec.id] = made
        return made

    def start(self, spec: ServiceSpec, keep: bool = False) -> Instance:
        """Run it; adopt one that runs."""
        behaviour = self._enter("start", spec)
        with self._changed:
            found = self._instances.get(spec.id)
            if found and found.alive:
                return found
            before_effect()
            self._refuse_taken_ports(spec)
            if keep:
                self._replace(spec)
            created = self._create(spec)
            running = replace(created, phase=Phase.RUNNING, started_at=self._now())
            self._instances[spec.id] = running
            self._lines.write(spec.id, f"{spec.id} started")
            if behaviour.ends_with is not None:
                self._instances[spec.id] = self._ended(running, behaviour.ends_with)
            return self._instances[spec.id]

    def _refuse_taken_ports(self, spec: ServiceSpec) -> None:
        for port in spec.ports:
            if port.host_port is None:
                continue
            holder = self._held.get((port.protocol, port.host_port)) or self._neighbour(spec.id, port.host_port)
            if holder is not None:
                raise PortHeld(port.host_port, port.protocol, port.host_ip, holder)

    def _neighbour(self, service_id: str, port: int) -> Mapping[str, object] | None:
        for other, spec in self._specs.items():
            if other == service_id or port not in {p.host_port for p in spec.ports}:
                continue
            if self._instances.get(other, Instance(other)).alive:
                return {"kind": "service", "name": spec.name, "service_id": other, "running": True, "own": True}
        return None

    def stop(self, spec: ServiceSpec, timeout_s: float) -> Instance:  # noqa: ARG002
        """End it with `stops_with`."""
        behaviour = self._enter("stop", spec)
        before_effect()
        with self._changed:
            found = self._instances.get(spec.id)
            if found is None:
                return Instance(spec.id)
            if found.alive:
                found = self._instances[spec.id] = self._ended(found, behaviour.stops_with)
                self._turn(spec.id)
            return found

    def replace(self, spec: ServiceSpec) -> Instance:
        """Make one beside the other."""
        self._enter("replace", spec)
        with self._changed:
            before_effect()
            return self._replace(spec)

    def _replace(self, spec: ServiceSpec) -> Instance:
        found = self._instances.get(spec.id)
        aside = self._aside.get(spec.id)
        if found is None or found.spec_hash == spec.hash():
            return found or self._create(spec)
        if aside is not None and aside[0].spec_hash == spec.hash():
            return aside[0]
        self._made += 1
        made = Instance(spec.id, Phase.CREATED, ref=f"memory-{self._made}", spec_hash=spec.hash(), image=spec.image)
        self._aside[spec.id] = (made, spec)
        self._turn(spec.id)
        return made

    def _turn(self, service_id: str) -> None:
        """The running one counts, then the newer: one that was set aside and is newer than one that ended."""
        found, aside = self._instances[service_id], self._aside.get(service_id)
        if aside is not None and not found.alive and aside[0].phase is Phase.CREATED:
            self._instances[service_id], was = aside[0], self._specs[service_id]
            self._specs[service_id], self._aside[service_id] = aside[1], (found, was)

    def restore(self, spec: ServiceSpec, ref: str | None, run: bool) -> Instance:
        """Go back to `ref`, and forget the other one."""
        self._enter("restore", spec)
        with self._changed:
            before_effect()
            found, aside = self._instances.get(spec.id), self._aside.get(spec.id)
            if ref is not None and ref not in {each.ref for each in (found, aside and aside[0]) if each}:
                raise StartFailed(f"{spec.id}: {ref} is gone", service_id=spec.id)
            self._aside.pop(spec.id, None)
            if ref is None:
                self._instances.pop(spec.id, None)
                return Instance(spec.id)
            if aside is not None and aside[0].ref == ref:
                self._instances[spec.id], self._specs[spec.id] = aside
            old = self._instances[spec.id]
            if run and not old.alive:
                self._refuse_taken_ports(self._specs[spec.id])
                self._instances[spec.id] = replace(old, phase=Phase.RUNNING, started_at=self._now(), exit_code=None)
            return self._instances[spec.id]

    def settle(self, spec: ServiceSpec) -> None:
        """Forget the earlier one."""
        self._enter("settle", spec)
        with self._changed:
            before_effect()
            if self._instances.get(spec.id, Instance(spec.id)).spec_hash == spec.hash():
                self._aside.pop(spec.id, None)

    def as_made(self, spec: ServiceSpec) -> ServiceSpec:
        """The spec with the ports of the instance that counts."""
        with self._changed:
            made = self._specs.get(spec.id)
            return replace(spec, ports=made.ports) if made is not None else spec

    def remove(self, spec: ServiceSpec, volumes: bool = False) -> None:  # noqa: ARG002
        """Forget it; its lines stay, as log files do. Raises ServiceRunning if it runs."""
        self._enter("remove", spec)
        with self._changed:
            if self._instances.get(spec.id, Instance(spec.id)).alive:
                raise ServiceRunning(f"{spec.id} runs", hint="stop it first")
            before_effect()
            self._instances.pop(spec.id, None)
            self._specs.pop(spec.id, None)
            self._aside.pop(spec.id, None)

    def remove_volume(self, name: str, mark: str) -> None:
        """Forget a volume if it carries the mark."""
        before_effect()
        with self._changed:
            if self.volumes.get(name) == mark:
                del self.volumes[name]

    def logs(self, service_id: str, tail: int, since: datetime | None = None) -> list[LogLine]:
        """The last lines."""
        return self._lines.tail(service_id, tail, since)

    def keep_logs(self, registered: Callable[[], Collection[str]]) -> None:
        """Lines are kept anyway; those of nobody's are forgotten."""
        known = set(registered())
        with self._changed:
            known |= self._instances.keys()
        self._lines.forget(known)

    def follow(self, service_id: str, stop: Callable[[], bool]) -> Iterator[LogLine | None]:
        """New lines as they are written."""
        return self._lines.follow(service_id, stop)

    def stats(self, service_ids: Sequence[str]) -> Mapping[str, Stats]:
        """What the behaviours say, for those that run."""
        with self._changed:
            running = [s for s in service_ids if self._instances.get(s, Instance(s)).alive]
            return {service_id: self._behaviour(service_id).stats for service_id in running}

    def execute(
        self,
        spec: ServiceSpec,
        argv: Sequence[str],  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002
    ) -> ExecResult:
        """What the behaviour says."""
        return self._enter("execute", spec).executes

    def own_test(self, spec: ServiceSpec) -> tuple[str, ...]:  # noqa: ARG002
        """None."""
        return ()

    def close(self) -> None:
        """Nothing is held."""

    # Inside

    def _behaviour(self, service_id: str, version: str | None = None) -> Behaviour:
        of_version = self._behaviours.get(f"{service_id}@{version}")
        return of_version or self._behaviours.get(service_id) or self._behaviours.get("*") or Behaviour()

    def _enter(self, call: str, spec: ServiceSpec) -> Behaviour:
        with self._changed:
            self.calls.append((call, spec.id))
            behaviour = self._behaviour(spec.id, spec.hash())
        if behaviour.delay_s and call != "execute":
            time.sleep(behaviour.delay_s)
        if (failure := behaviour.fail_on.get(call)) is not None:
            raise failure
        return behaviour

    def _ended(self, instance: Instance, exit_code: int) -> Instance:
        return replace(instance, phase=Phase.EXITED, exit_code=exit_code, ended_at=self._now())
