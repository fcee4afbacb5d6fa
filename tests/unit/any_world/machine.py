"""The two machines of a world, what befalls them, and everything that happened on them, in its order."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, bindparam, select

from domain.errors import EngineUnreachable
from domain.observation import Instance, Phase, Sighting
from domain.specs import Condition, ServiceSpec
from domain.states import CLAIMED, OperationStatus
from models.base import table_of
from models.operations import Operation, OperationLock, OperationStep, service_target
from models.record import Record
from tests.unit.any_world.mortal import Clock
from workers.runtimes.in_memory import Behaviour, InMemory

STRANGER = "stranger"
_KILLED = 137
_operations, _locks = table_of(Operation), table_of(OperationLock)
_HOLDER = select(_operations).join(_locks, _locks.c.operation_id == _operations.c.id).where(
    _locks.c.target == bindparam("held"))  # fmt: skip


class Machine:
    """`happened` is (what, service, operation); `wrong` is what must never be."""

    def __init__(self, clock: Clock, record: Record) -> None:
        self._clock = clock
        self._record = record
        self.memories = {kind: InMemory(clock.now) for kind in ("docker", "process")}
        # How many more calls an engine does not answer.
        self.unreachable: dict[str, int] = {}
        self.happened: list[tuple[str, str, str | None]] = []
        self.wrong: list[str] = []
        self.runtime_of: dict[str, str] = {}
        self.ports: dict[str, list[int]] = {}
        # Refs of instances that were started, seen healthy, or ended with 0.
        self.reached: dict[Condition, set[str]] = {condition: set() for condition in Condition}
        self._usual: dict[str, Behaviour] = {}
        self._versions: set[tuple[str, str]] = set()
        self._probed: set[str] = set()
        self._boots = 0
        self._guard = threading.Lock()
        self._strangers = self._let_in_strangers()

    # What is there

    def knows(self, service_id: str, service: Mapping[str, Any]) -> None:
        """A service was registered. One that is never restarted is a job: it ends by itself."""
        self.runtime_of[service_id] = service["runtime"]
        if service["restart_policy"] == "no":
            self._usual[service_id] = Behaviour(ends_with=0)
        self.ports[service_id] = [each["host_port"] for each in service.get("ports", ())]
        self.behave(service_id)

    def memory_of(self, service_id: str) -> InMemory:
        return self.memories[self.runtime_of[service_id]]

    def instance(self, service_id: str) -> Instance:
        return self.memory_of(service_id).observe().get(service_id) or Instance(service_id)

    def asides(self) -> dict[str, Instance]:
        """The other instances of services that are exchanged."""
        return {service_id: each for memory in self.memories.values() for service_id, each in memory.aside().items()}

    def picture(self) -> dict[str, tuple[str, ...]]:
        beside = self.asides()
        return {
            each: (self.instance(each).phase.value, str(self.instance(each).ref), str(beside.get(each)))
            for each in self.runtime_of
        }

    def published(self, service_id: str) -> set[int]:
        """The ports that the instance which counts was made with."""
        spec = self.memory_of(service_id)._specs.get(service_id)
        return {port.host_port for port in spec.ports if port.host_port is not None} if spec is not None else set()

    def _let_in_strangers(self) -> dict[str, Instance]:
        made = {}
        for kind, memory in self.memories.items():
            spec = ServiceSpec(f"{STRANGER}-{kind}", STRANGER, STRANGER)
            made[kind] = memory.start(spec)
        return made

    def strangers_are_whole(self) -> bool:
        return all(self.memories[kind].observe().get(each.service_id) == each for kind, each in self._strangers.items())

    # What befalls it

    def behave(self, service_id: str, version: str = "", **fault: Any) -> None:
        """From now on it acts so, or its instances of that spec hash do."""
        if version:
            self._versions.add((service_id, version))
        self.memory_of(service_id).behave(
            service_id, replace(self._usual.get(service_id, Behaviour()), **fault), version
        )

    def recover(self) -> None:
        """All engines answer, every service and version is well, and no stranger holds a port."""
        self.unreachable.clear()
        for service_id in self.runtime_of:
            self.behave(service_id)
        for service_id, version in self._versions:
            self.behave(service_id, version)
        for memory in self.memories.values():
            memory._held.clear()

    def hold(self, service_id: str) -> None:
        """A stranger takes the port of a service."""
        for port in self.ports.get(service_id, ()):
            self.memory_of(service_id).hold(port, {"kind": "process", "pid": 1, "name": STRANGER})

    def end(self, service_id: str, exit_code: int, by_hand: bool = False) -> None:
        if self.instance(service_id).alive:
            self.memory_of(service_id).end(service_id, exit_code, by_hand)
            self._note("ended", service_id)

    def lose(self, service_id: str) -> None:
        """Somebody removes it."""
        if self.instance(service_id).phase is not Phase.ABSENT:
            self.memory_of(service_id).lose(service_id)
            self._note("ended", service_id)

    def reboot(self) -> None:
        """Processes are gone, containers have ended, and it is another boot."""
        self._boots += 1
        for kind, memory in self.memories.items():
            for service_id in list(memory.observe()):
                memory.end(service_id, _KILLED)
                if kind == "process":
                    memory.lose(service_id)
                    memory._aside.pop(service_id, None)
                if service_id in self.runtime_of:
                    self._note("ended", service_id)
            memory.seen_as = Sighting(f"boot-{self._boots}", self._clock.now())
        self._strangers = self._let_in_strangers()

    def go_away(self, service_id: str, calls: int) -> None:
        """The engine of a service answers none of the next calls."""
        self.unreachable[self.runtime_of[service_id]] = calls

    def reach(self, kind: str) -> None:
        with self._guard:
            left = self.unreachable.get(kind, 0)
            self.unreachable[kind] = max(0, left - 1)
        if left:
            raise EngineUnreachable("the engine does not answer", hint="start it")

    # What workers do to it

    def _note(self, what: str, service_id: str, holder: str | None = None) -> None:
        with self._guard:
            self.happened.append((what, service_id, holder))

    def saw(self, call: str, spec: ServiceSpec, made: Any, before: Instance | None, worker: int) -> None:
        """A worker's call has come back; judged at once is what can only be judged now."""
        if call in ("create", "replace", "remove") and made != before:
            self._note(call, spec.id, (holder := self._holder(spec.id)) and str(holder.id))
        if call not in ("start", "stop", "restore"):
            return
        instance: Instance = made
        if instance == (before or Instance(spec.id)):
            return  # it was so already
        holder = self._holder(spec.id)
        self._note(call, spec.id, holder and str(holder.id))
        with self._guard:
            if instance.started_at is not None and instance.ref:
                self.reached[Condition.STARTED].add(instance.ref)
            if instance.phase is Phase.EXITED and instance.exit_code == 0 and instance.ref:
                self.reached[Condition.COMPLETED].add(instance.ref)
        if holder is None:
            self.wrong.append(f"{call} {spec.id}: no operation holds it")
            return
        if OperationStatus(holder.status) not in CLAIMED or (holder.claimed_by or {}).get("pid") != worker:
            self.wrong.append(f"{call} {spec.id}: done by worker {worker}, and {holder.claimed_by} has the claim")
        if call == "start":
            self._judge_start(spec, holder)
        elif call == "stop":
            self._judge_stop(spec, holder)

    def _holder(self, service_id: str) -> Row[Any] | None:
        with self._record.read() as session:
            return session.execute(_HOLDER, {"held": service_target(service_id)}).first()

    def _judge_start(self, spec: ServiceSpec, operation: Row[Any]) -> None:
        about = set((operation.parameters or {}).get("services") or ())
        if operation.type.endswith(".update"):
            kept = operation.compensation or {}
            # The way back waits for nobody who cannot be brought back; what is not changed is as it was.
            started = {each for each, change in (kept.get("changes") or {}).items() if change["kind"] != "replace"}
            about = started if kept.get("direction") == "forward" else set()
        for need in spec.depends_on:
            provider = self.instance(need.service) if need.service in about else None
            if provider and need.required and provider.ref not in self.reached[need.condition]:
                self.wrong.append(f"{spec.id} was started before {need.service} was {need.condition.value}")

    def _judge_stop(self, spec: ServiceSpec, operation: Row[Any]) -> None:
        """Who needs it was stopped before, or could not be."""
        if operation.fence > 1 or not operation.type.endswith((".stop", ".restart")):
            return
        named = set((operation.parameters or {}).get("named") or ())
        for service_id in named - {spec.id}:
            other = self.memory_of(service_id)._specs.get(service_id)
            needs = {need.service for need in other.depends_on} if other is not None else set()
            if spec.id not in needs or not self.instance(service_id).alive:
                continue
            with self._record.read() as session:
                step = session.get(OperationStep, (operation.id, f"stop:{service_id}"))
            if step is None or step.status != "failed":
                self.wrong.append(f"{spec.id} was stopped while {service_id}, which needs it, still ran")

    def probed(self, service_id: str, well: bool) -> bool:
        """Whether a probe of it passes: one that is well is not so at once, every other time."""
        ref = self.instance(service_id).ref
        with self._guard:
            if not well or ref is None:
                return False
            if ref not in self._probed and int(ref.rpartition("-")[2]) % 2:
                self._probed.add(ref)
                return False
            self.reached[Condition.HEALTHY].add(ref)
            return True
