"""The steps that settle conflicts: a service moves or moves back, a foreign container is stopped, a process ended.

What a step changes in the record and the end of the conflict that it settles are one transaction.
"""

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from sqlalchemy.orm import Session

from domain import strategies
from domain.errors import HolderChanged, PortHeld, StartFailed
from domain.planning import Action, Step
from domain.resolving import Decision, target_of
from domain.specs import ServiceSpec
from domain.strategies import Move
from models import operations, port_moves, registry, registry_conflicts
from models.base import now
from models.groups import Group
from models.ports import PortConflict
from workers import port_scan
from workers.claims import Claim
from workers.context import Context
from workers.runtimes import termination
from workers.runtimes.bind_probe import can_bind
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.fence import before_effect

log = structlog.get_logger()
_STOP_CONTAINER_S = 10.0


class PortSteps:
    """Carries out what a decision says. `reload` is called when services were moved: their specs are others now."""

    def __init__(self, context: Context, claim: Claim, decision: Decision, reload: Callable[[], None]) -> None:
        self._context = context
        self._claim = claim
        self._decision = decision
        self._reload = reload

    def does(self, step: Step) -> bool:
        """Whether a step is one of these."""
        return step.action in (Action.MIGRATE_PORT, Action.RESTORE, Action.TERMINATE) or step.target.startswith(
            "container:"
        )

    def run(self, step: Step, spec: ServiceSpec | None) -> None:
        """Do it.

        Raises:
            PortHeld: the new port was taken meanwhile.
            HolderChanged, TerminationRefused: the process is another one by now, or must not be ended.
            ClosError: what the record or the engine says.
        """
        if step.action is Action.MIGRATE_PORT and spec is not None:
            self._migrate(spec)
        elif step.action is Action.RESTORE:
            self._restore(step.target)
        elif step.action is Action.TERMINATE:
            self._terminate(step.target)
        else:
            self._on_container(step)

    def _migrate(self, spec: ServiceSpec) -> None:
        moves = self._decision.moves_of(spec.id)
        for move in moves:
            host_ip = next((p.host_ip for p in spec.ports if p.host_port == move.from_port), "")
            refuse_held(self._context, move.to_port or 0, move.protocol, host_ip)
        with self._context.record.write() as session:
            operations.held(session, self._claim.operation_id, self._claim.fence)
            service = registry.get(session, spec.id)
            group = session.get(Group, service.group_name)
            project = group.project if group is not None else "development"
            for move in moves:
                if move.to_port is None:
                    raise StartFailed(
                        f"{spec.id} has no port to move to", hint="name one, or widen the project's range"
                    )
                kept = port_moves.move(
                    session, service, move.protocol, move.from_port, move.to_port, project, self._context.own_ports
                )
                for shown in [each for each in self._decision.shown if _is_move(each, move)]:
                    self._close(session, shown, move.from_port, move.to_port, {"restore": [kept]})
        self._reload()
        self._context.feed.wake()
        log.info("port.migrated", service=spec.id, operation_id=self._claim.operation_id)

    def _restore(self, service_id: str) -> None:
        restores = [each for each in self._decision.restore if each["service_id"] == service_id]
        for each in restores:
            if each.get("leased", True) or service_id in self._decision.restarts:
                host_ip = str(each.get("host_ip") or "")
                refuse_held(self._context, int(each["from_port"]), str(each["protocol"]), host_ip)
        with self._context.record.write() as session:
            operations.held(session, self._claim.operation_id, self._claim.fence)
            for each in restores:
                port_moves.restore(session, dict(each))
                row = session.get(PortConflict, each.get("conflict_id"))
                if row is not None:
                    row.undo = None
                    row.resolution = (row.resolution or {}) | {"undone_by": self._claim.operation_id}
        self._reload()
        self._context.feed.wake()

    def _terminate(self, target: str) -> None:
        holder = next(each for each in self._decision.processes if target_of(each) == target)
        found = termination.identify(int(holder["pid"]))
        if found is None and holder.get("again"):
            # An attempt whose worker fell silent has sent it TERM, or it has gone by itself since: it is gone.
            self._settled(lambda each: each.get("confirm") == strategies.confirmation(holder))
            return
        if found is None or found.start_ticks != holder.get("start_ticks"):
            raise HolderChanged(
                f"{strategies.confirmation(holder)} has ended, or its pid is another process's by now",
                hint="look again: clos conflicts scan",
                holder=dict(holder),
            )
        before_effect()
        did = termination.terminate(found, allow_foreign=bool(holder.get("allow_foreign")))
        log.info("process.terminated", pid=found.pid, did=did, operation_id=self._claim.operation_id)
        self._settled(lambda each: each.get("confirm") == strategies.confirmation(holder))

    def _on_container(self, step: Step) -> None:
        """Another's container: it is stopped for its port's sake, or exchanged for ours (`adopting`)."""
        ref = next(ref for ref, _name in self._decision.containers if step.target == f"container:{ref[:12]}")
        engine = self._context.runtimes["docker"]
        if not isinstance(engine, DockerEngine):
            raise StartFailed(f"nothing can be done to {step.target}: there is no engine")
        if step.action is Action.START:
            engine.foreign.start(ref)
            return
        if step.action is Action.REMOVE:
            engine.foreign.remove(ref)
            return
        engine.stop_container(ref, _STOP_CONTAINER_S)
        self._settled(lambda each: each.get("container_id") == ref)

    def _settled(self, is_it: Callable[[Mapping[str, Any]], bool]) -> None:
        with self._context.record.write() as session:
            operations.held(session, self._claim.operation_id, self._claim.fence)
            for shown in filter(is_it, self._decision.shown):
                self._close(session, shown, None, None, None)
        self._context.feed.wake()

    def _close(
        self,
        session: Session,
        shown: Mapping[str, Any],
        from_port: int | None,
        to_port: int | None,
        undo: dict[str, Any] | None,
    ) -> None:
        row = session.get(PortConflict, shown["conflict_id"]) if shown.get("conflict_id") is not None else None
        if row is None:
            return
        if undo is not None:
            for each in undo["restore"]:
                each |= {"conflict_id": row.id, "host_ip": row.host_ip}
            row.undo = undo
        resolution = {
            "strategy": shown["strategy"],
            "from_port": from_port,
            "to_port": to_port,
            "operation_id": self._claim.operation_id,
        }
        registry_conflicts.close(session, row, now(), resolution)


def _is_move(shown: Mapping[str, Any], move: Move) -> bool:
    return (shown.get("service_id"), shown.get("from_port")) == (move.service_id, move.from_port)


def refuse_held(context: Context, port: int, protocol: str, host_ip: str) -> None:
    """A last look before a service is given a port.

    Raises:
        PortHeld: a bind to it fails now.
    """
    if is_free(port, protocol, host_ip):
        return
    raise PortHeld(port, protocol, host_ip, port_scan.blocking_now(context, host_ip, protocol, port))


def is_free(port: int, protocol: str, host_ip: str) -> bool:
    """Whether a bind to it is not sure to fail now."""
    return can_bind(host_ip, port, protocol)[0] != "held"


def hidden(context: Context, probe: bool) -> set[registry_conflicts.Key]:
    """Conflicts with a holder that no look shows, as far as they last. Without `probe` (the scheduled look binds
    nothing) all of them are taken to last."""
    with context.record.read() as session:
        rows = registry_conflicts.without_a_face(session)
        places = {registry_conflicts.key_of(row): (row.host_ip, row.port, row.protocol) for row in rows}
    return {key for key, (ip, port, protocol) in places.items() if not probe or not is_free(port, protocol, ip)}
