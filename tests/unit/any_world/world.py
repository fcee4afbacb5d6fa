"""A whole CLOS in memory: a record, two machines, workers that die, and everything that happened, in its order."""

import itertools
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker
from sqlalchemy import select

from bus.broker import QUEUES
from bus.messages import RUN_OPERATION, TICK
from bus.schedule import STATE, WATCHDOG
from domain.errors import EngineUnreachable, OperationFinal, OperationInProgress
from domain.observation import Instance, Phase
from domain.specs import Condition, ServiceSpec
from domain.states import ACTIVE, Desired
from models import operation_requests, operations, registry_graph, registry_groups
from models.operations import Operation, OperationLock, service_target
from tests.unit.any_world.mortal import Clock, Crash, Life, MortalRecord, MortalRuntime
from tests.unit.worker_kit import Kit
from tests.waiting import wait_until
from workers import collectors, watchdog
from workers import operations as operations_queue
from workers.claims import Claims
from workers.context import Context
from workers.observer import Observer
from workers.runtimes.in_memory import Behaviour, InMemory

STRANGER = "stranger"
_LIMIT_S = 30.0
_folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


@dataclass
class Worker:
    """A worker process: its parts, its life, and the actors that its queues would call."""

    number: int
    life: Life
    context: Context
    broker: StubBroker

    def work(self, operation_id: str) -> None:
        """What Dramatiq does with a message."""
        try:
            self.broker.get_actor(RUN_OPERATION).fn(operation_id)
        except Crash:
            return

    def tick(self, name: str, slot: int) -> None:
        self.broker.get_actor(TICK).fn(name, slot)

    def beat(self) -> None:
        if not self.life.dead and not self.life.frozen.is_set():
            self.context.claims._beat()


class World:
    """`happened` is (what, service, operation); `wrong` is what must never be."""

    def __init__(self, parallel: int) -> None:
        self.clock = Clock()
        self.kit = Kit(Path(tempfile.mkdtemp(prefix="clos-world-", dir=_folder)), parallel=parallel)
        self.memories = {kind: InMemory(self.clock.now) for kind in ("docker", "process")}
        self.unreachable: set[str] = set()
        self.workers: list[Worker] = []
        self.accepted: list[str] = []
        self.happened: list[tuple[str, str, str | None]] = []
        self.wrong: list[str] = []
        self.usual: dict[str, Behaviour] = {}
        self.runtime_of: dict[str, str] = {}
        self.ports: dict[str, list[int]] = {}
        # Refs of instances that were started, seen healthy, or ended with 0.
        self.reached: dict[Condition, set[str]] = {condition: set() for condition in Condition}
        self._numbers, self._slots = itertools.count(1), itertools.count(1)
        self._guard = threading.Lock()
        self._strangers = self._let_in_strangers()

    def close(self) -> None:
        for worker in self.workers:
            worker.life.thaw()
        self.kit.close()
        shutil.rmtree(self.kit.path.parent, ignore_errors=True)

    def define(self, group: Mapping[str, Any]) -> None:
        """Register a group. A service without a health check that is never restarted is a job: it ends by itself."""
        with self.kit.record.write() as session:
            registry_groups.create_group(session, group)
        for service in group["services"]:
            service_id = f"{group['name']}-{service['name']}"
            self.runtime_of[service_id] = service["runtime"]
            if service["restart_policy"] == "no":
                self.usual[service_id] = Behaviour(ends_with=0)
            self.ports[service_id] = [each["host_port"] for each in service.get("ports", ())]
            self.behave(service_id)

    # The machine

    def _let_in_strangers(self) -> dict[str, Instance]:
        made = {}
        for kind, memory in self.memories.items():
            spec = ServiceSpec(f"{STRANGER}-{kind}", STRANGER, STRANGER)
            made[kind] = memory.start(spec)
        return made

    def strangers_are_whole(self) -> bool:
        return all(self.memories[kind].observe().get(each.service_id) == each for kind, each in self._strangers.items())

    def memory_of(self, service_id: str) -> InMemory:
        return self.memories[self.runtime_of[service_id]]

    def instance(self, service_id: str) -> Instance:
        return self.memory_of(service_id).observe().get(service_id) or Instance(service_id)

    def picture(self) -> dict[str, tuple[str, str | None]]:
        return {each: (self.instance(each).phase.value, self.instance(each).ref) for each in self.runtime_of}

    def behave(self, service_id: str, **fault: Any) -> None:
        self.memory_of(service_id).behave(service_id, replace(self.usual.get(service_id, Behaviour()), **fault))

    def hold(self, service_id: str) -> None:
        """A stranger takes the port of a service."""
        for port in self.ports.get(service_id, ()):
            self.memory_of(service_id).hold(port, {"kind": "process", "pid": 1, "name": STRANGER})

    def end(self, service_id: str, exit_code: int) -> None:
        if self.instance(service_id).alive:
            self.memory_of(service_id).end(service_id, exit_code)
            with self._guard:
                self.happened.append(("ended", service_id, None))

    def _reach(self, kind: str) -> None:
        if kind in self.unreachable:
            raise EngineUnreachable("the engine does not answer", hint="start it")

    def _saw(self, call: str, spec: ServiceSpec, made: Any, before: Instance | None) -> None:
        if call not in ("start", "stop", "restore"):
            return
        instance: Instance = made
        if instance == (before or Instance(spec.id)):
            return  # it was so already
        holder = self._holder(spec.id)
        with self._guard:
            self.happened.append((call, spec.id, holder))
            if instance.started_at is not None and instance.ref:
                self.reached[Condition.STARTED].add(instance.ref)
            if instance.phase is Phase.EXITED and instance.exit_code == 0 and instance.ref:
                self.reached[Condition.COMPLETED].add(instance.ref)
        if holder is None:
            self.wrong.append(f"{call} {spec.id}: no operation holds it")
        elif call == "start":
            self._judge_order(spec, holder)

    def _holder(self, service_id: str) -> str | None:
        with self.kit.record.read() as session:
            held = session.get(OperationLock, service_target(service_id))
            return None if held is None else held.operation_id

    def _judge_order(self, spec: ServiceSpec, holder: str) -> None:
        about = set((self.kit.operation(holder).parameters or {}).get("services") or ())
        for need in spec.depends_on:
            provider = self.instance(need.service)
            if need.service in about and need.required and provider.ref not in self.reached[need.condition]:
                self.wrong.append(f"{spec.id} was started before {need.service} was {need.condition.value}")

    def _healthy(self, service_id: str) -> None:
        instance = self.instance(service_id)
        if instance.ref:
            with self._guard:
                self.reached[Condition.HEALTHY].add(instance.ref)

    # Workers

    def worker(self) -> Worker:
        """A new worker process; it takes over what dead ones on its host held."""
        life = Life()
        number = next(self._numbers)
        record: Any = MortalRecord(self.kit.record, life)
        runtimes: Any = {
            kind: MortalRuntime(memory, life, lambda kind=kind: self._reach(kind), self._saw, self._healthy)
            for kind, memory in self.memories.items()
        }
        who = {"host": socket.gethostname(), "pid": number}
        context = replace(
            self.kit.context,
            record=record,
            runtimes=runtimes,
            observer=Observer(runtimes),
            claims=Claims(record, who, self.kit.stopping),
        )
        broker = StubBroker(middleware=[])
        for queue in QUEUES:
            broker.declare_queue(queue)
        operations_queue.declare(broker, context)
        collectors.declare(broker, context, lambda: True)
        made = Worker(number, life, context, broker)
        self.workers.append(made)
        return made

    def living(self) -> list[Worker]:
        self.workers = [each for each in self.workers if not each.life.dead]
        return self.workers or [self.worker()]

    def restart_worker(self) -> None:
        """Another worker starts on this host, and takes over at once what dead ones held."""
        alive = {each.number for each in self.living()}
        watchdog.take_over(self.worker().context, lambda who: who["pid"] in alive)

    # Operations

    def ask(self, verb: str, group: str, service: str | None, **parameters: Any) -> str | None:
        """Ask as the API does; None if another operation holds a target."""
        about = {"service": service} if service else {"group": group}
        with self.kit.record.write() as session:
            targets = registry_graph.targets_for(session, verb, **about)
            try:
                made = operations.create(
                    session, f"{'service' if service else 'group'}.{verb}", targets=targets.locks, group_name=group,
                    service_id=service, initiated_by="test", sent_at=self.clock.now(),
                    parameters={"services": list(targets.services), "named": list(targets.named), **parameters},
                )  # fmt: skip
            except OperationInProgress:
                return None
            wanted = Desired.STOPPED if verb in ("stop", "remove") else Desired.RUNNING
            registry_graph.want(session, targets.named if wanted is Desired.STOPPED else targets.services, wanted)
            asked = made.id, made.type
        self.accepted.append(asked[0])
        self.kit.context.outbox.operation(*asked)
        return asked[0]

    def cancel(self, operation_id: str) -> None:
        try:
            with self.kit.record.write() as session:
                operation_requests.cancel(session, operations.get(session, operation_id))
        except OperationFinal:
            return
        for worker in self.workers:
            worker.beat()

    def _types(self) -> list[str]:
        return [self.kit.operation(each).type for each in self.accepted[-3:]]

    def active(self) -> list[str]:
        with self.kit.record.read() as session:
            wanted = select(Operation.id).where(Operation.status.in_([status.value for status in ACTIVE]))
            return list(session.scalars(wanted))

    def waits_for_work(self) -> bool:
        return not self.kit.broker.queues["operations"].empty()

    def messages(self) -> list[str]:
        found: Sequence[dramatiq.Message[Any]] = self.kit.sent()
        return [str(each.args[0]) for each in found]

    def deliver(self, fate: Mapping[int, Callable[[Worker], None]] = {}, twice: bool = False) -> None:
        """Every message to a worker, all at once; `fate` befalls the first."""
        ids = self.messages()
        living = self.living()
        victim = living[0]
        victim.life.arm({number: _bound(act, victim) for number, act in fate.items()})
        ids += ids[:1] if twice else []
        doing = [(living[place % len(living)], each) for place, each in enumerate(ids)]
        threads = [threading.Thread(target=worker.work, args=(each,), daemon=True) for worker, each in doing]
        for thread in threads:
            thread.start()
        wait_until(lambda: victim.life.frozen.is_set() or not any(t.is_alive() for t in threads), _LIMIT_S, "the work")
        if victim.life.frozen.is_set():
            for thread in (t for (worker, _), t in zip(doing, threads, strict=True) if worker is not victim):
                thread.join(_LIMIT_S)
            self._outlive(victim, threads)
        victim.life.arm({})
        for thread in threads:
            thread.join(_LIMIT_S)
            if thread.is_alive():
                self.wrong.append("a worker hangs")

    def _outlive(self, frozen: Worker, threads: Sequence[threading.Thread]) -> None:
        """Others take over while one is frozen; thawed, it changes nothing any more."""
        wait_until(lambda: frozen.life.inside == 0, _LIMIT_S, "the calls that had begun")
        self.workers.remove(frozen)
        self.pass_time(7.0)
        self.tick()
        self.deliver()
        # What it is about to do when it goes on is by now the opposite of what people want.
        verb = "start" if any(each.endswith("stop") for each in self._types()) else "stop"
        for group in sorted({each.split("-")[0] for each in self.runtime_of}):
            self.ask(verb, group, None, timeout=1.5)
        self.deliver()
        before, happened = self.picture(), len(self.happened)
        frozen.life.arm({})  # whatever else was to befall it would be taken for its own doing
        frozen.life.thaw()
        for thread in threads:
            thread.join(_LIMIT_S)
        if (after := self.picture()) != before:
            changes = {each: (before[each], after[each]) for each in after if before[each] != after[each]}
            self.wrong.append(f"one that had lost its claim did {self.happened[happened:]}: {changes}")
        self.workers.append(frozen)

    def pass_time(self, seconds: float) -> None:
        """Time goes by, and living workers' hearts beat in it."""
        self.clock.ahead_s += seconds
        for worker in self.workers:
            worker.beat()

    def tick(self) -> None:
        """The watchdog's and the state collector's."""
        self.pass_time(2.0)
        worker = self.living()[-1]
        for periodic in (WATCHDOG, STATE):
            worker.tick(periodic.name, next(self._slots))

    def settle(self, rounds: int = 14) -> None:
        """Faults stop, ticks go on, until nothing is left to do."""
        self.unreachable.clear()
        for service_id in self.runtime_of:
            self.behave(service_id)
        for memory in self.memories.values():
            memory._held.clear()
        for number in range(rounds):
            self.pass_time(7.0 if number < rounds // 2 else 61.0)
            self.tick()
            self.deliver()
            if number > 2 and not self.active() and not self.messages():
                return


def _bound(act: Callable[[Worker], None], worker: Worker) -> Callable[[], None]:
    if act is die:
        return worker.life.die
    return lambda: act(worker)


def die(worker: Worker) -> None:
    worker.life.die()


def freeze(worker: Worker) -> None:
    worker.life.freeze()


def freeze_before_a_call(worker: Worker) -> None:
    worker.life.freeze_before_a_call()
