"""From resolutions to steps: what is stopped, moved and started again, in which order. Pure.

A decision is written down with the operation before anything is done, so that whoever takes over after a kill goes on
with the same one: what is done already gives no step.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from domain.configuration import Conflicts
from domain.observation import ObservedState, Phase
from domain.planning import Action, Plan, Step
from domain.specs import ServiceSpec
from domain.starting import plan_start
from domain.stopping import plan_stop
from domain.strategies import Move, Resolution


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done about some conflicts, whichever strategies it came from.

    `restarts` run now and are started again afterwards; `starts` do not run and are wanted. `restore` is what an undo
    brings back, `shown` the options that were chosen, each with its conflict's id.
    """

    moves: tuple[Move, ...] = ()
    restarts: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    stop_services: tuple[str, ...] = ()
    containers: tuple[tuple[str, str], ...] = ()
    processes: tuple[Mapping[str, Any], ...] = ()
    restore: tuple[Mapping[str, Any], ...] = ()
    shown: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def services(self) -> set[str]:
        """Every service that it changes."""
        moved = {move.service_id for move in self.moves}
        return moved | {*self.restarts, *self.starts, *self.stop_services, *(u["service_id"] for u in self.restore)}

    def moves_of(self, service_id: str) -> list[Move]:
        """What one service's `migrate_port` step does."""
        return [move for move in self.moves if move.service_id == service_id]

    def as_dict(self) -> dict[str, Any]:
        """As it is written down with its operation."""
        return {
            "moves": [[m.service_id, m.protocol, m.from_port, m.to_port, m.port_name] for m in self.moves],
            "restarts": list(self.restarts),
            "starts": list(self.starts),
            "stop_services": list(self.stop_services),
            "containers": [list(each) for each in self.containers],
            "processes": [dict(each) for each in self.processes],
            "restore": [dict(each) for each in self.restore],
            "shown": [dict(each) for each in self.shown],
        }


def decision_of(kept: Mapping[str, Any]) -> Decision:
    """A decision as it was written down."""
    return Decision(
        tuple(Move(*each) for each in kept["moves"]),
        tuple(kept["restarts"]),
        tuple(kept["starts"]),
        tuple(kept["stop_services"]),
        tuple((each[0], each[1]) for each in kept["containers"]),
        tuple(kept["processes"]),
        tuple(kept["restore"]),
        tuple(kept["shown"]),
    )


def decide(resolutions: Iterable[tuple[int | None, Resolution]]) -> Decision:
    """One decision of several resolutions, each with its conflict's id."""
    chosen = list(resolutions)
    moves = tuple(dict.fromkeys(move for _, each in chosen for move in each.moves))
    stops = tuple(dict.fromkeys(service for _, each in chosen for service in each.stop_services))
    restarts = tuple(dict.fromkeys(s for _, each in chosen for s in each.restarts if s not in stops))
    return Decision(
        moves,
        restarts,
        tuple(dict.fromkeys(s for _, each in chosen for s in each.starts if s not in restarts and s not in stops)),
        stops,
        tuple(dict.fromkeys(each.container for _, each in chosen if each.container is not None)),
        tuple({target_of(each.process): each.process for _, each in chosen if each.process is not None}.values()),
        shown=tuple(each.option() | {"conflict_id": conflict_id} for conflict_id, each in chosen),
    )


def plan_resolution(
    specs: Sequence[ServiceSpec],
    observed: ObservedState,
    decision: Decision,
    images_ready: Collection[str] = (),
    moved: Collection[Move] = (),
    restored: Collection[str] = (),
    unready: Collection[str] = (),
) -> Plan:
    """Stop what is in the way and what moves, move it, start again what ran and what is wanted.

    `specs` are as the record has them now, of every service that the decision names. `moved` are the moves that an
    earlier attempt made, `restored` the services that it moved back: when nothing of that is left, a service that runs
    as it is wanted now has been restarted already. If it is in `unready`, nobody has waited for it since.

    Raises:
        DependencyCycle: services need each other in a ring.
    """
    by_id = {spec.id: spec for spec in specs}
    all_moved = bool(moved or restored) and set(decision.moves) <= set(moved)
    all_moved = all_moved and all(each["service_id"] in restored for each in decision.restore)
    restarts = [
        each
        for each in decision.restarts
        if each in by_id
        and not (all_moved and observed.of(each).alive and observed.of(each).spec_hash == by_id[each].hash())
    ]
    moving = {move.service_id for move in decision.moves} | {str(each["service_id"]) for each in decision.restore}
    stops = _stops(by_id, observed, decision, [each for each in restarts if observed.of(each).alive], moving)
    stop_ids = tuple(step.id for step in stops)
    left = replace(decision, restore=tuple(each for each in decision.restore if each["service_id"] not in restored))
    acts = _acts(left, moved, stop_ids)
    # What has been restarted already gives no step, or its wait.
    starting = [by_id[each] for each in (*decision.restarts, *decision.starts) if each in by_id]
    starts = _starts(starting, observed, {*restarts}, images_ready, unready)
    before = (*stop_ids, *(step.id for step in acts))
    after = tuple(replace(step, depends_on=(*step.depends_on, *before)) for step in starts)
    return Plan((*stops, *acts, *after), resolutions=decision.shown)


def plan_again(
    specs: Sequence[ServiceSpec], observed: ObservedState, down: Sequence[str], images_ready: Collection[str] = ()
) -> Plan:
    """A resolution has failed: start again what ran before it. The steps have ids of their own, so that those which
    failed still say so."""
    plan = plan_resolution(specs, observed, Decision(restarts=tuple(down)), images_ready)
    anew = {step.id: replace(step, after_failure=True) for step in plan.steps}
    why = "the resolution failed, and it ran before"
    return Plan(
        tuple(
            replace(
                step,
                cause=step.cause if step.action is Action.WAIT else why,
                depends_on=tuple(anew[need].id for need in step.depends_on),
                optional=frozenset(anew[need].id for need in step.optional),
            )
            for step in anew.values()
        )
    )


def before_starts(plan: Plan, decision: Decision) -> Plan:
    """A start's plan with what has to be done first: no service starts before all moves, since what refers to a moved
    one is told its new port when it starts."""
    acts = _acts(decision, (), ())
    if not acts:
        return plan
    ids = tuple(step.id for step in acts)
    effects = (Action.CREATE, Action.START)
    steps = [
        replace(step, depends_on=(*step.depends_on, *ids)) if step.action in effects else step for step in plan.steps
    ]
    return replace(plan, steps=(*acts, *steps), resolutions=decision.shown)


def _stops(
    by_id: Mapping[str, ServiceSpec],
    observed: ObservedState,
    decision: Decision,
    restarts: Sequence[str],
    moving: Collection[str],
) -> tuple[Step, ...]:
    named = {*restarts, *decision.stop_services}
    plan = plan_stop([spec for spec in by_id.values() if spec.id in named], observed, "")
    causes = dict.fromkeys(decision.stop_services, "it has the port that another one needs")
    causes |= dict.fromkeys(restarts, "it refers to a service that moves")
    causes |= {service_id: "it moves to another port" for service_id in restarts if service_id in moving}
    return tuple(replace(step, cause=causes[step.target]) for step in plan.steps)


def _acts(decision: Decision, moved: Collection[Move], before: tuple[str, ...]) -> list[Step]:
    acts = [
        Step(Action.STOP, f"container:{ref[:12]}", f"the container {name} has the port that a service needs")
        for ref, name in decision.containers
    ]
    acts += [
        Step(Action.TERMINATE, target_of(each), f"{each.get('name')} (pid {each.get('pid')}) has the port")
        for each in decision.processes
    ]
    by_service: dict[str, list[Move]] = {}
    for move in decision.moves:
        if move not in moved:
            by_service.setdefault(move.service_id, []).append(move)
    for service_id, moves in by_service.items():
        ways = ", ".join(f"{move.from_port} to {move.to_port}" for move in moves)
        acts.append(Step(Action.MIGRATE_PORT, service_id, f"its port is taken: from {ways}", before))
    for service_id in dict.fromkeys(str(each["service_id"]) for each in decision.restore):
        acts.append(Step(Action.RESTORE, service_id, "its move is undone", before))
    return acts


def target_of(holder: Mapping[str, Any]) -> str:
    """The target of a `terminate` step."""
    return f"process:{holder.get('pid')}"


def _starts(
    specs: Sequence[ServiceSpec],
    observed: ObservedState,
    down: Collection[str],
    images_ready: Collection[str],
    unready: Collection[str],
) -> tuple[Step, ...]:
    """The start of these, as if `down` had been stopped."""
    after = {
        spec.id: replace(instance, phase=Phase.EXITED, exit_code=None)
        if spec.id in down and instance.phase not in (Phase.ABSENT, Phase.UNKNOWN)
        else instance
        for spec in specs
        for instance in (observed.of(spec.id),)
    }
    health = {service_id: seen for service_id, seen in observed.health.items() if service_id not in down}
    simulated = replace(observed, instances=after, health=health)
    return plan_start(specs, simulated, {spec.id for spec in specs}, images_ready, unready=unready).steps


def policy_of(installation: Conflicts, group: Mapping[str, Any] | None, on_conflict: str | None = None) -> Conflicts:
    """What holds for one group's services: the request's word before the group's, the group's before the
    installation's. With `auto_resolve`, a start resolves what it may instead of failing."""
    chosen = {name: value for name, value in (group or {}).items() if value is not None}
    merged = replace(installation, **chosen)
    if on_conflict is not None:
        return replace(merged, on_start=on_conflict)
    if merged.auto_resolve and merged.on_start == "fail":
        return replace(merged, on_start="migrate")
    return merged
