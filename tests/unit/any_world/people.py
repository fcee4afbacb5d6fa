"""What people do: they register, change, ask, queue, and cancel. Asked as the API asks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from domain.errors import OperationFinal, OperationInProgress
from domain.states import ACTIVE
from models import operation_requests, operations, registry, registry_graph, registry_groups
from models.operation_requests import Each
from models.operations import Operation, OperationLock, service_target
from tests.unit.any_world.machine import Machine
from tests.unit.worker_kit import Kit
from workers.carrying import read_subject

AT_ONCE = 2
_TIMEOUT_S = 1.5


class People:
    """`accepted` are the ids that they were given."""

    def __init__(self, kit: Kit, machine: Machine) -> None:
        self._kit = kit
        self._machine = machine
        self.groups: list[str] = []
        self.accepted: list[str] = []
        # How much had happened when an operation was asked for.
        self.asked_at: dict[str, int] = {}
        # What was to be begun only after another one has completed.
        self.after: dict[str, str] = {}
        # What was changed while an operation held it.
        self.redefined: set[str] = set()
        self._versions = 1

    # The registry

    def define(self, group: Mapping[str, Any]) -> None:
        with self._kit.record.write() as session:
            registry_groups.create_group(session, group)
        self.groups.append(group["name"])
        for service in group["services"]:
            self._machine.knows(f"{group['name']}-{service['name']}", service)

    def change(self, service_id: str, port: int | None = None, **fault: Any) -> None:
        """Another version of a service is wanted from now on, which has this fault; or another port."""
        self._versions += 1
        fields: dict[str, Any] = {"environment": {"VERSION": str(self._versions)}}
        if port is not None and self._machine.ports[service_id]:
            inside = {"container_port": 80} if self._machine.runtime_of[service_id] == "docker" else {}
            fields["ports"] = [{"host_port": port, **inside}]
            self._machine.ports[service_id] = [port]
        with self._kit.record.write() as session:
            if session.get(OperationLock, service_target(service_id)) is not None:
                self.redefined.add(service_id)
            registry.change_service(session, registry.get(session, service_id), fields)
        if fault:
            self._machine.behave(service_id, self.wanted_hash(service_id), **fault)

    def wanted_hash(self, service_id: str) -> str:
        return read_subject(self._kit.record, [service_id]).by_id[service_id].hash()

    # Operations

    def ask(self, verb: str, of: str, place: int, ways: Collection[str] = ()) -> str | None:
        """Ask for `verb` of a service, some or all of a group, or several groups in one plan. None: it was refused."""
        type_, about, named = self._about(verb, of, place)
        body: dict[str, Any] = {"timeout": _TIMEOUT_S} | named
        body |= {"wait_for": True} if "wait" in ways else {}
        body |= {"dependencies": self.accepted[-1:]} if "after" in ways and self.accepted else {}
        body |= {"on_failure": "keep"} if "keep" in ways and verb == "update" else {}
        body |= {"cascade": True} if "cascade" in ways and verb == "stop" else {}
        fields = {"group_name": about.get("group"), "service_id": about.get("service")}
        with self._kit.record.write() as session:
            targets = registry_graph.targets_for(session, verb, **about, cascade=bool(body.get("cascade")))
            held = set(session.scalars(select(OperationLock.target))) & set(targets.locks)
            try:
                made = operation_requests.ask(session, type_, body, targets, initiated_by="test", **fields)
            except OperationInProgress:
                if not held:
                    self._machine.wrong.append(f"{type_} was refused, and nobody holds any of {targets.locks}")
                return None
            if held and made.status == "pending":
                self._machine.wrong.append(f"{type_} was accepted beside another one, which holds {held}")
            asked = made.id, made.type, made.status
        self._accept(*asked)
        if body.get("dependencies"):
            self.after[asked[0]] = body["dependencies"][0]
        return asked[0]

    def _about(self, verb: str, of: str, place: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
        services = sorted(self._machine.runtime_of)
        service = services[place % len(services)]
        group = service.split("-")[0]
        if of == "service":
            return f"service.{verb}", {"service": service}, {}
        if of == "some":
            only = [each for at, each in enumerate(services) if each.startswith(f"{group}-") and (at + place) % 2 == 0]
            return f"group.{verb}", {"group": group, "only": only or [service]}, {}
        if of == "groups":
            several = self.groups[place % len(self.groups) :] or self.groups
            return f"batch.{verb}", {"groups": several}, {"groups": several, "chosen": []}
        return f"group.{verb}", {"group": group}, {}

    def ask_each(self, verb: str, places: Sequence[int]) -> None:
        """A batch: a parent, and a child per group or service."""
        services = sorted(self._machine.runtime_of)
        each = [Each(f"group.{verb}", name) for name in self.groups]
        for place in sorted(set(places)):
            service = services[place % len(services)]
            each.append(Each(f"service.{verb}", service.split("-")[0], service))
        with self._kit.record.write() as session:
            body = {"timeout": _TIMEOUT_S}
            made = operation_requests.ask_each(
                session, f"batch.{verb}", body, each, at_once=AT_ONCE, initiated_by="test"
            )
            asked = made.id, made.type, made.status
        self._accept(*asked)

    def _accept(self, operation_id: str, type_: str, status: str) -> None:
        self.accepted.append(operation_id)
        self.asked_at[operation_id] = len(self._machine.happened)
        if status == "pending":
            self._kit.context.outbox.operation(operation_id, type_)

    def ask_for_the_opposite(self) -> None:
        """Of what was asked for last, of everything."""
        types = [self._kit.operation(each).type for each in self.accepted[-3:]]
        verb = "start" if any(each.endswith("stop") for each in types) else "stop"
        for place in range(len(self._machine.runtime_of)):
            self.ask(verb, "group", place)

    def active(self) -> list[str]:
        with self._kit.record.read() as session:
            wanted = select(Operation.id).where(Operation.status.in_([status.value for status in ACTIVE]))
            return list(session.scalars(wanted.order_by(Operation.id)))

    def cancel(self, place: int) -> bool:
        """Cancel one of those that have not ended."""
        active = self.active()
        if not active:
            return False
        try:
            with self._kit.record.write() as session:
                operation_requests.cancel(session, operations.get(session, active[place % len(active)]))
        except OperationFinal:
            return False
        return True
