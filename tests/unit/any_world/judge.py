"""What must hold in any world: the invariants I1-I7 of pitfalls 8, and what an operation's list of steps promises."""

from collections import defaultdict
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from domain.states import CLAIMED, FINAL, UP, OperationStatus, ServiceStatus
from models.events import Event
from models.operation_poison import BACK_CLAIMS, MAX_CLAIMS
from models.operations import Operation, OperationLock
from models.ports import PortLease
from models.services import Service
from tests.unit.any_world.world import World

_SILENCE = timedelta(seconds=60)
_DID = {"start": {"start", "restore"}, "stop": {"stop"}}
_NOT_DONE = ("pending", "skipped")


class Judge:
    """Looks at a world again and again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._log: list[tuple[int, str]] = []

    def meanwhile(self) -> list[str]:
        """What is wrong at a moment at which no worker is in the middle of anything."""
        world = self._world
        wrong = list(world.wrong) + self._append_only()
        if not world.strangers_are_whole():
            wrong.append("I7: a stranger was touched")
        with world.kit.record.read() as session:
            found = session.scalars(select(Operation)).all()
            for each in found:
                wrong += self._of_operation(each)
            wrong += self._leases(session, any(each.status not in FINAL for each in found))
        return wrong

    def at_the_end(self) -> list[str]:
        """What is wrong when faults have stopped and the ticks have gone on."""
        world = self._world
        wrong = self.meanwhile()
        with world.kit.record.read() as session:
            known = {each.id: each for each in session.scalars(select(Operation))}
            wrong += [f"I1: {each} was accepted and is gone" for each in world.accepted if each not in known]
            wrong += [f"I1: {each.type} is {each.status}" for each in known.values() if each.status not in FINAL]
            wrong += [f"locked for ever: {each}" for each in session.scalars(select(OperationLock.target))]
            for service in session.scalars(select(Service)):
                wrong += self._of_service(service)
        return wrong

    def _append_only(self) -> list[str]:
        with self._world.kit.record.read() as session:
            log = [(row.id, f"{row.type} {row.data}") for row in session.scalars(select(Event).order_by(Event.id))]
            progress: dict[str, int] = defaultdict(int)
            wrong = []
            for row in session.scalars(select(Event).where(Event.operation_id.is_not(None)).order_by(Event.id)):
                if (now := (row.data or {}).get("progress")) is None:
                    continue
                if now < progress[str(row.operation_id)]:
                    wrong.append(f"the progress of {row.operation_id} fell to {now}")
                progress[str(row.operation_id)] = now
        if log[: len(self._log)] != self._log:
            wrong.append("I5: the event log was changed")
        self._log = log
        return wrong

    def _of_operation(self, operation: Operation) -> list[str]:
        name = f"{operation.type} {operation.id[-4:]}"
        most = MAX_CLAIMS + (BACK_CLAIMS if operation.compensation else 0)
        wrong = [f"I4: {name} was claimed {operation.attempt} times"] if operation.attempt > most else []
        silent_since = self._world.clock.now() - _SILENCE
        if operation.status in CLAIMED and (operation.heartbeat_at or silent_since) < silent_since:
            wrong.append(f"I6: {name} has been silent for a minute")
        if operation.status not in FINAL:
            return wrong
        statuses = {step.id: step.status for step in operation.steps}
        if operation.status == OperationStatus.COMPLETED and set(statuses.values()) - {"completed"}:
            wrong.append(f"{name} completed with {statuses}")
        return wrong + self._happened(operation, name, statuses)

    def _happened(self, operation: Operation, name: str, statuses: dict[str, str]) -> list[str]:
        """A step that the list calls done was done, or was found so; what it does not name has not happened."""
        wrong = []
        done: dict[str, set[str]] = defaultdict(set)
        for what, service_id, holder in self._world.happened:
            if holder == operation.id:
                done[service_id].add(what)
        for action, calls in _DID.items():
            for service_id, whats in done.items():
                status = statuses.get(f"{action}:{service_id}", "not in the list")
                if whats & calls and status in (*_NOT_DONE, "not in the list"):
                    wrong.append(f"{name} did {action} {service_id}, and its list says {status} ({statuses})")
        if operation.status == OperationStatus.COMPLETED and operation.type.endswith(".start"):
            for step_id, status in statuses.items():
                action, service_id = step_id.split(":", 1)
                known = service_id in self._world.runtime_of
                if action == "start" and status == "completed" and known and "start" not in done[service_id]:
                    wrong.append(f"{name} says that it started {service_id}, and it did not")
        return wrong

    def _leases(self, session: Any, busy: bool) -> list[str]:
        leased: dict[str, set[int]] = defaultdict(set)
        ports: set[tuple[str, int]] = set()
        wrong = []
        for lease in session.scalars(select(PortLease)):
            if (lease.protocol, lease.port) in ports:
                wrong.append(f"I3: {lease.port} is leased twice")
            ports.add((lease.protocol, lease.port))
            leased[str(lease.service_id)].add(lease.port)
        for service_id in self._world.runtime_of:
            spec = self._world.memory_of(service_id)._specs.get(service_id)
            if busy or spec is None or not self._world.instance(service_id).alive:
                continue
            published = {port.host_port for port in spec.ports}
            if published != leased[service_id]:
                wrong.append(f"I3: {service_id} publishes {published}, and {leased[service_id]} are leased")
        return wrong

    def _of_service(self, service: Service) -> list[str]:
        instance = self._world.instance(service.id)
        status = ServiceStatus(service.status)
        if status in (ServiceStatus.STARTING, ServiceStatus.STOPPING, ServiceStatus.UNKNOWN):
            return [f"{service.id} is left {status.value}"]
        if (status in UP) != instance.alive:
            return [f"{service.id} is recorded as {status.value} and is {instance.phase.value}"]
        return []
