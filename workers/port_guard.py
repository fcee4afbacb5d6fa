"""Before a start: whose ports are held, and what policy does about it. After a failed one: whether to plan again.

A port that is taken between this look and the start comes back as the engine's or the process's own error; then the
start is planned again, at most twice.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from sqlalchemy.orm import Session

from domain import strategies
from domain.configuration import Conflicts
from domain.conflicts import ConflictKind, Found
from domain.errors import PortHeld
from domain.planning import Action, Plan
from domain.resolving import Decision, before_starts, decide
from domain.specs import ServiceSpec
from domain.states import StepStatus
from domain.strategies import Resolution, Situation
from models import conflict_requests, conflict_situations, questions, registry_conflicts, resolved_specs
from models.operations import Operation
from models.ports import PortConflict
from workers import port_scan
from workers.context import Context
from workers.executor import Outcome
from workers.port_questions import Asked, chosen, question
from workers.port_steps import hidden, is_free

log = structlog.get_logger()
PLANS_AGAIN = 2
_MOST_TRIES = 32


@dataclass
class Guarded:
    """A plan with what policy adds to it."""

    plan: Plan
    decision: Decision = field(default_factory=Decision)


class PortGuard:
    """Guards the starts of one operation."""

    def __init__(self, context: Context, operation: Operation) -> None:
        self._context = context
        self._asked: Mapping[str, Any] = operation.parameters or {}
        self._services = frozenset(self._asked.get("services") or ())
        # What a start itself has found taken, though no look showed it: (service, protocol, port) -> the error.
        self._refused: dict[tuple[str, str, int], PortHeld] = {}
        # What was done over all plans: the services that moved, and the options that were chosen.
        self._moved: set[str] = {
            step.target
            for step in operation.steps  # of an attempt whose worker fell silent
            if step.action == Action.MIGRATE_PORT and step.status == StepStatus.COMPLETED
        }
        self._resolutions: list[Mapping[str, Any]] = []

    def guard(self, plan: Plan, specs: Sequence[ServiceSpec]) -> Guarded:
        """The plan, and what has to be done before its starts.

        Raises:
            Asked: policy says to ask, and nobody has answered yet.
        """
        starting = {step.target for step in plan.steps if step.action is Action.START}
        claiming = {spec.id: spec for spec in specs if spec.id in starting and spec.ports}
        if not claiming:
            return Guarded(plan)
        rows = self._conflicts(claiming)
        chosen: list[tuple[int | None, Resolution]] = []
        avoid = {port for _, _, port in self._refused}
        moved: set[tuple[str, str, int]] = set()
        for row, shown in rows:
            resolution = self._choose(row, claiming, avoid)
            moves = resolution.moves if resolution is not None else ()
            # A port may be in two conflicts; its service leaves it once.
            if resolution is not None and moved.isdisjoint((m.service_id, m.protocol, m.from_port) for m in moves):
                moved |= {(move.service_id, move.protocol, move.from_port) for move in moves}
                avoid |= {move.to_port for move in moves if move.to_port is not None}
                chosen.append((row.id, resolution))
            plan = Plan(plan.steps, (*plan.conflicts, shown), plan.resolutions)
        decision = decide(chosen)
        self._resolutions += decision.shown
        return Guarded(before_starts(plan, decision), decision)

    def may_plan_again(self, outcome: Outcome, specs: Mapping[str, ServiceSpec], tries: int) -> bool:
        """Whether a port that was taken meanwhile is to be resolved, and the rest to be started, once more."""
        taken = {
            (step_id.split(":", 1)[1], error.protocol, error.port): error
            for step_id, error in outcome.failed.items()
            if isinstance(error, PortHeld)
        }
        self._refused |= taken
        moves = f"{Action.MIGRATE_PORT}:"
        self._moved |= {step.removeprefix(moves) for step in outcome.completed if step.startswith(moves)}
        if tries >= PLANS_AGAIN or outcome.cancelled or not taken:
            return False
        with self._context.record.read() as session:
            modes = [self._policy(session, service_id).on_start for service_id, _, _ in taken if service_id in specs]
        return any(mode != "fail" for mode in modes)

    def finish(self, plan: Plan, specs: Mapping[str, ServiceSpec]) -> Plan:
        """After the last plan: write down what only a start has seen, and let others follow what was moved.

        The plan, with every resolution that was chosen on the way.
        """
        if self._refused:
            self._conflicts(
                {service_id: specs[service_id] for service_id, _, _ in self._refused if service_id in specs}
            )
        if self._moved:
            self._let_follow(self._moved)
        return replace(plan, resolutions=tuple(self._resolutions))

    def _let_follow(self, moved: set[str]) -> None:
        """Services outside of this operation that refer to what was moved are restarted, or left with their `drift`, as
        policy says."""
        with self._context.record.write() as session:
            referring = resolved_specs.referencing(session, moved, by_host_port=True)
            outside = sorted(each for each in referring if each not in self._services)
            restart = [
                each
                for each in conflict_requests.up(session, outside)
                if any(self._policy(session, mover).dependents == "restart" for mover in referring[each] & moved)
            ]
            made = [
                conflict_requests.restart(session, each, sorted(referring[each] & moved)) for each in sorted(restart)
            ]
            sent = [(each.id, each.type) for each in made if each is not None]
        for operation_id, type_ in sent:
            self._context.outbox.operation(operation_id, type_)

    def _conflicts(self, claiming: Mapping[str, ServiceSpec]) -> list[tuple[PortConflict, dict[str, Any]]]:
        """What stands in the way, as the record keeps it from now on."""
        facts = port_scan.scan(self._context)
        own = self._context.own_ports
        unseen = hidden(self._context, probe=True)
        with self._context.record.read() as session:
            current = registry_conflicts.is_current(session, facts, own, unseen)
        if not current or self._refused:
            with self._context.record.write() as session:
                registry_conflicts.refresh(session, facts, own, unseen)
                held = registry_conflicts.held_before_start(session, facts, set(claiming), own)
                for each in self._refused_now(claiming, held):
                    registry_conflicts.add(session, each, own)
            self._context.feed.wake()
        with self._context.record.read() as session:
            held = registry_conflicts.held_before_start(session, facts, set(claiming), own)
            held += self._refused_now(claiming, held)
            keys = {each.key for each in held} | unseen
            rows = [row for row in registry_conflicts.open_ones(session) if registry_conflicts.key_of(row) in keys]
            rows = [row for row in rows if not set(claiming).isdisjoint(row.claimants or ())]
            found = [(row, registry_conflicts.shown(row)) for row in rows]
            session.expunge_all()
        return found

    def _refused_now(self, claiming: Mapping[str, ServiceSpec], held: Sequence[Found]) -> list[Found]:
        """What starts found taken and the look did not show: a socket that is bound only, or one that is gone again."""
        seen = {(service_id, each.protocol, each.port) for each in held for service_id in each.claimants}
        found = []
        for (service_id, protocol, port), error in self._refused.items():
            spec = claiming.get(service_id)
            claimed = (
                next((p for p in spec.ports if (p.protocol, p.host_port) == (protocol, port)), None) if spec else None
            )
            if claimed is None or (service_id, protocol, port) in seen:
                continue
            kind = (error.holder or {}).get("kind")
            found.append(
                Found(
                    ConflictKind.FOREIGN_CONTAINER if kind == "container" else ConflictKind.FOREIGN_PROCESS,
                    port,
                    claimed.host_ip,
                    protocol,
                    (service_id,),
                    error.holder,
                    error.message,
                )
            )
        return found

    def _policy(self, session: Session, service_id: str) -> Conflicts:
        asked = self._asked.get("on_conflict")
        return conflict_situations.policy_for(session, self._context.conflicts, service_id, asked)

    def _choose(
        self, row: PortConflict, claiming: Mapping[str, ServiceSpec], avoid: Collection[int]
    ) -> Resolution | None:
        """What policy says about one conflict; None: nothing, so that the start fails and names the holder."""
        with self._context.record.read() as session:
            starting = [each for each in row.claimants or () if each in claiming]
            policy = self._policy(session, starting[0] if starting else next(iter(claiming)))
            if policy.on_start == "fail":
                return None
            # Where several of them start, who has no lease moves.
            mover = starting[0] if len(starting) == 1 else None
        situation = self._free(row, mover, claiming, avoid)
        if policy.on_start == "ask":
            return self._answered(row, situation, policy)
        return self._allowed(strategies.automatic(situation, policy.max_risk))

    def _allowed(self, resolution: Resolution | None) -> Resolution | None:
        """Only what this operation holds may be changed by it."""
        if resolution is None:
            return None
        changed = {*resolution.stop_services, *(move.service_id for move in resolution.moves)}
        return resolution if changed <= self._services else None

    def _free(
        self,
        row: PortConflict,
        mover: str | None,
        claiming: Mapping[str, ServiceSpec],
        avoid: Collection[int],
    ) -> Situation:
        """The situation with ports to move to that are free at this moment, not only in the record."""
        out = set(avoid)
        host_ips = {p.host_ip for spec in claiming.values() for p in spec.ports if p.host_port == row.port}
        for _ in range(_MOST_TRIES):
            with self._context.record.read() as session:
                situation = conflict_situations.situation(
                    session,
                    row,
                    self._context.own_ports,
                    service_id=mover,
                    avoid=out,
                    installation=self._context.conflicts,
                )
            offered = {move.to_port for move in situation.moves if move.to_port is not None}
            held = {
                port for port in offered if not all(is_free(port, row.protocol, ip) for ip in host_ips or {row.host_ip})
            }
            if not held:
                return situation
            out |= held
        return situation

    def _answered(self, row: PortConflict, situation: Situation, policy: Conflicts) -> Resolution | None:
        # With who has it: an answer about one holder is none about the next.
        key = f"{row.kind}:{row.port}/{row.protocol}/{row.host_ip}:{strategies.identity(row.holder)}"
        answer = (self._asked.get("answers") or {}).get(key)
        if answer is None and self._asked.get("dry_run"):
            return None  # the plan shows the conflict; nobody is asked about what is not done
        if answer is None:
            raise Asked(question(key, situation, policy.ask_timeout_s, self._services))
        if answer == questions.TIMED_OUT:
            allowed = policy.on_timeout == "migrate"
            return self._allowed(strategies.automatic(situation, policy.max_risk)) if allowed else None
        return self._allowed(chosen(situation, str(answer)))
