"""What must hold in any world: the invariants I1-I7 of pitfalls 8, and what operations promise."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import lazyload

from domain.states import FINAL, UP, ServiceStatus
from models.base import table_of
from models.operations import Operation
from models.ports import PortLease
from models.services import Service
from tests.unit.any_world import judged_batches, judged_operations, judged_queues, judged_updates
from tests.unit.any_world.judged_history import History
from tests.unit.any_world.world import World

# Without their steps: only those that have just ended are read whole.
_EVERY = select(Operation).options(lazyload(Operation.steps)).order_by(Operation.created_at, Operation.id)


_LEASES = table_of(PortLease)


class Judge:
    """Looks at a world again and again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._history = History(world.kit.record)
        self._judged: set[str] = set()

    def meanwhile(self) -> list[str]:
        """What is wrong at a moment at which no worker is in the middle of anything."""
        world = self._world
        wrong = list(world.machine.wrong) + self._history.goes_on()
        if not world.machine.strangers_are_whole():
            wrong.append("I7: a stranger was touched")
        with world.kit.record.read() as session:
            every = session.scalars(_EVERY).all()
            for each in every:
                wrong += self._of_operation(each)
            wrong += judged_queues.wrong(session, every)
            wrong += judged_batches.wrong(every)
            wrong += self._leases(session, every)
        return wrong

    def at_the_end(self) -> list[str]:
        """What is wrong when faults have stopped and the ticks have gone on."""
        world = self._world
        wrong = self.meanwhile() + self._history.whole()
        with world.kit.record.read() as session:
            known = {each.id: each for each in session.scalars(_EVERY)}
            wrong += [f"I1: {each} was accepted and is gone" for each in world.people.accepted if each not in known]
            wrong += [
                f"I1: {each.type} {each.id[-4:]} is {each.status}"
                for each in known.values()
                if each.status not in FINAL
            ]
            # An old one is known to be no longer needed only beside the one of the present definition.
            told = judged_updates.left_beside(known.values()) | world.people.redefined
            for service in session.scalars(select(Service)):
                wrong += self._of_service(service, told)
        return wrong

    def _of_operation(self, operation: Operation) -> list[str]:
        if operation.id in self._judged:
            return []  # that it stays as it was is for the history to say
        wrong = judged_operations.always(operation, self._world.clock.now())
        if operation.status in FINAL:
            self._judged.add(operation.id)
            wrong += judged_operations.ended(operation, self._world)
            wrong += judged_updates.ended(operation, self._world)
        return wrong

    def _leases(self, session: Any, every: Sequence[Operation]) -> list[str]:
        leased: dict[str, set[int]] = defaultdict(set)
        ports: set[tuple[str, int]] = set()
        wrong = []
        for lease in session.execute(select(_LEASES)):
            if (lease.protocol, lease.port) in ports:
                wrong.append(f"I3: {lease.port} is leased twice")
            ports.add((lease.protocol, lease.port))
            leased[str(lease.service_id)].add(lease.port)
        if any(each.status not in FINAL for each in every):
            return wrong
        machine = self._world.machine
        taken: dict[int, str] = {}
        for service_id in machine.runtime_of:
            instance = machine.instance(service_id)
            if not instance.alive:
                continue
            if not (published := machine.published(service_id)) and not leased[service_id]:
                continue
            wrong += [f"I3: {each} is published by {taken[each]} and {service_id}" for each in published & taken.keys()]
            taken |= dict.fromkeys(published, service_id)
            drifted = instance.spec_hash != self._world.people.wanted_hash(service_id)
            if published != leased[service_id] and not drifted:
                wrong.append(f"I3: {service_id} publishes {published}, and {leased[service_id]} are leased")
        return wrong

    def _of_service(self, service: Service, told: Collection[str]) -> list[str]:
        instance = self._world.machine.instance(service.id)
        status = ServiceStatus(service.status)
        wrong = []
        if status in (ServiceStatus.STARTING, ServiceStatus.STOPPING, ServiceStatus.UNKNOWN):
            wrong.append(f"{service.id} is left {status.value}")
        elif (status in UP) != instance.alive:
            wrong.append(f"{service.id} is recorded as {status.value} and is {instance.phase.value}")
        if instance.ref is not None and instance.alive and service.observed_hash != instance.spec_hash:
            wrong.append(f"{service.id} is recorded as {service.observed_hash}, and {instance.spec_hash} runs")
        beside = self._world.machine.asides().get(service.id)
        if beside is not None and service.id not in told:
            wrong.append(f"I2: beside {service.id} stands another instance of it, {beside.phase.value}")
        down = service.desired == "running" and service.down_cause in ("engine", "host") and not instance.alive
        if down and not service.waiting_for:
            wrong.append(f"{service.id} went down with its {service.down_cause} and nothing says why it is not back")
        return wrong
