"""Operations on conflicts: look for them, resolve them, take a resolution back."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm.attributes import set_committed_value

from domain import strategies
from domain.conflicts import ConflictStatus
from domain.errors import ClosError, HolderChanged, UnresolvedConflict
from domain.resolving import Decision, decide, decision_of, plan_again, plan_resolution
from domain.states import Desired, OperationStatus
from domain.strategies import Move, Resolution, Situation, Strategy
from models import (
    conflict_requests,
    conflict_situations,
    operations,
    questions,
    registry_conflicts,
    registry_graph,
    resolved_specs,
)
from models.conflict_requests import RESOLVE, UNDO
from models.operations import Operation
from models.port_moves import UndoImpossible
from models.ports import PortClaim, PortConflict
from workers import carrying, earlier, port_scan
from workers.carrying import Subject
from workers.claims import Claim
from workers.context import Context
from workers.journal import Journal
from workers.port_guard import PLANS_AGAIN
from workers.port_questions import Asked, chosen, question
from workers.port_steps import hidden, is_free, refuse_held
from workers.runtimes import termination

log = structlog.get_logger()
_MOST_TRIES = 32


def note(context: Context, probe: bool = True) -> registry_conflicts.Changes:
    """Look afresh at the host's ports, and write down which conflicts began and ended."""
    facts = port_scan.scan(context)
    unseen = hidden(context, probe)
    with context.record.read() as session:
        if registry_conflicts.is_current(session, facts, context.own_ports, unseen):
            return registry_conflicts.Changes()
    with context.record.write() as session:
        changes = registry_conflicts.refresh(session, facts, context.own_ports, unseen)
    context.feed.wake()
    return changes


def scan(context: Context, _operation: Operation, _claim: Claim, journal: Journal) -> None:
    """Look for conflicts, and say which there are."""
    changes = note(context)
    with context.record.read() as session:
        _, rows = registry_conflicts.page(session, [ConflictStatus.ACTIVE.value], None, 1000)
        result = {
            "opened": list(changes.opened),
            "closed": list(changes.closed),
            "conflicts": [registry_conflicts.shown(row) for row in rows],
        }
    journal.finish(OperationStatus.COMPLETED, result)


def tick(context: Context) -> None:
    """The scheduled look. What policy may resolve without asking is resolved, where somebody waits for it."""
    note(context, probe=False)
    with context.record.write() as session:
        made = conflict_requests.resolve_of_own_accord(session, context.conflicts, context.own_ports)
        sent = None if made is None else (made.id, made.type)
    if sent is not None:
        context.outbox.operation(*sent)
        context.feed.wake()


def settle(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Resolve what was chosen, or take a resolution back.

    Raises:
        Asked: the chosen strategy is to ask.
        ClosError: it cannot be done; nothing was changed by then.
    """
    asked = operation.parameters or {}
    before: Decision | None = None
    for tries in range(PLANS_AGAIN + 1):
        decision, moved, restored = _decision(context, operation, before)
        subject = carrying.read_subject(context.record, sorted({*decision.services, *asked.get("services", ())}))
        observed = context.observer.snapshot(subject.specs, subject.health, need=not asked.get("dry_run"))
        images = carrying.images_ready(context, subject.specs, observed)
        plan = plan_resolution(subject.specs, observed, decision, images, moved, restored, earlier.unready(operation))
        if asked.get("dry_run"):
            journal.finish(OperationStatus.COMPLETED, {"plan": plan.as_dict(journal.expected(plan))})
            return
        if before is None and not moved and not restored:
            _refuse_taken(context, decision, subject)
        _write_down(context, operation, claim, decision)
        journal.begin(plan, decision.as_dict(), anew=before is None)
        outcome = carrying.carry(context, operation, claim, journal, subject, plan, decision)
        if tries == PLANS_AGAIN or not carrying.was_taken(outcome):
            break
        before = decision
        # What the plan before has begun counts like what an earlier attempt has.
        set_committed_value(operation, "steps", journal.steps())
        log.info("conflict.planned_again", operation_id=operation.id, failed=sorted(outcome.failed))
    if outcome.failed and not outcome.cancelled:
        outcome.failed |= _start_again(context, operation, claim, journal, decision)
    note(context)
    carrying.conclude(context, journal, operation, subject, plan, outcome)


def _refuse_taken(context: Context, decision: Decision, subject: Subject) -> None:
    """A last look before the first service is stopped.

    Raises:
        PortHeld: a port that a service is to get is taken by now. Nothing was changed.
    """
    for move in decision.moves:
        ports = subject.by_id[move.service_id].ports if move.service_id in subject.by_id else ()
        host_ip = next((port.host_ip for port in ports if port.host_port == move.from_port), "")
        refuse_held(context, move.to_port or 0, move.protocol, host_ip)
    for each in decision.restore:
        if each["service_id"] in decision.restarts:
            refuse_held(context, int(each["from_port"]), str(each["protocol"]), str(each.get("host_ip") or ""))


def _write_down(context: Context, operation: Operation, claim: Claim, decision: Decision) -> None:
    """What is wanted from now on, and what is left alone."""
    asked = operation.parameters or {}
    left_alone = {Strategy.IGNORE} | (
        {Strategy.ASK} if Strategy.IGNORE in (asked.get("answers") or {}).values() else set()
    )
    with context.record.write() as session:
        operations.held(session, claim.operation_id, claim.fence)
        registry_graph.want(session, decision.stop_services, Desired.STOPPED)
        for choice in asked.get("choices") or ():
            if choice["strategy"] in left_alone:
                row = registry_conflicts.get(session, int(choice["conflict_id"]))
                registry_conflicts.ignore(session, row, operation.id)


def _start_again(
    context: Context, operation: Operation, claim: Claim, journal: Journal, decision: Decision
) -> dict[str, ClosError]:
    """A resolution that failed leaves running what ran before it. What failed of that."""
    subject = carrying.read_subject(context.record, sorted(decision.restarts))
    observed = context.observer.snapshot(subject.specs, subject.health)
    down = [each for each in decision.restarts if not observed.of(each).alive]
    images = carrying.images_ready(context, subject.specs, observed)
    plan = plan_again(subject.specs, observed, down, images)
    if not plan.steps:
        return {}
    journal.begin(plan)
    return carrying.carry(context, operation, claim.for_way_back(), journal, subject, plan, Decision()).failed


def _decision(context: Context, operation: Operation, before: Decision | None) -> tuple[Decision, list[Move], set[str]]:
    """What an earlier attempt had decided, with the moves that are made and the services that are moved back; else a
    new decision, from a fresh look.

    `before` is what this attempt has decided and could not do to the end, because a port was taken meanwhile: what it
    has stopped is started again by the new one.
    """
    asked = operation.parameters or {}
    if before is None and asked.get("decision") is not None:
        kept = decision_of(asked["decision"])
        again = tuple({**each, "again": True} for each in kept.processes)
        return replace(kept, processes=again), *_made(context, kept)
    if operation.type == UNDO:
        return before or _undo(context, int(asked["conflict_id"])), [], set()
    note(context)
    resolutions: list[tuple[int | None, Resolution]] = []
    for choice in asked["choices"]:
        given = {move.to_port for _, each in resolutions for move in each.moves if move.to_port is not None}
        if (found := _resolution(context, operation, choice, given)) is not None:
            resolutions.append(found)
    decision = _within(decide(resolutions), frozenset(asked["services"]))
    if before is not None:
        left = dict.fromkeys((*before.restarts, *decision.restarts))
        decision = replace(decision, restarts=tuple(left), shown=(*before.shown, *decision.shown))
    return decision, [], set()


def _within(decision: Decision, held: frozenset[str]) -> Decision:
    """Without restarts of services that this operation does not hold: they came up since it was asked for, and say by
    their `drift` that they are out of date."""
    return replace(decision, restarts=tuple(each for each in decision.restarts if each in held))


def _made(context: Context, decision: Decision) -> tuple[list[Move], set[str]]:
    services = [move.service_id for move in decision.moves] + [str(each["service_id"]) for each in decision.restore]
    with context.record.read() as session:
        claims = session.execute(
            select(PortClaim.service_id, PortClaim.protocol, PortClaim.port).where(
                PortClaim.service_id.in_(services), PortClaim.source == "spec"
            )
        ).all()
    there = {(each.service_id, each.protocol, each.port) for each in claims}
    moved = [move for move in decision.moves if (move.service_id, move.protocol, move.to_port) in there]
    back = {
        str(each["service_id"])
        for each in decision.restore
        if (each["service_id"], each["protocol"], each["from_port"]) in there
    }
    return moved, back


def _undo(context: Context, conflict_id: int) -> Decision:
    with context.record.read() as session:
        row = registry_conflicts.get(session, conflict_id)
        restores = list((row.undo or {}).get("restore") or ())
        if not restores:
            raise UndoImpossible("it was undone already", conflict_id=conflict_id)
        moved = {str(each["service_id"]) for each in restores}
        followers = [
            each for each in resolved_specs.referencing(session, moved, by_host_port=True) if each not in moved
        ]
        up = conflict_requests.up(session, [*moved, *followers])
    return Decision(restarts=tuple(sorted(up)), restore=tuple(restores))


def _resolution(
    context: Context, operation: Operation, choice: Mapping[str, Any], avoid: Collection[int]
) -> tuple[int | None, Resolution] | None:
    with context.record.read() as session:
        row = registry_conflicts.get(session, int(choice["conflict_id"]))
        if (row.resolution or {}).get("operation_id") == operation.id:
            return None  # done by this very operation, before a port was taken from under another of its moves
        registry_conflicts.require_open(row)
        session.expunge(row)
    _refuse_another(row, choice)
    situation = _situation(context, row, choice, avoid)
    if choice["strategy"] == Strategy.IGNORE:
        return None
    if choice["strategy"] == Strategy.ASK:
        found = _answer(context, operation, row, situation)
        return None if found is None else (row.id, _identified(found, choice))
    resolver = strategies.resolver(str(choice["strategy"]))
    if not resolver.can_resolve(situation):
        raise UnresolvedConflict(
            f"{choice['strategy']} does not fit conflict {row.id} any more: {row.detail}",
            hint="look at its options: clos conflicts show " + str(row.id),
            conflict_id=row.id,
        )
    return row.id, _identified(resolver.resolve(situation), choice)


def _refuse_another(row: PortConflict, choice: Mapping[str, Any]) -> None:
    """Raises: HolderChanged: what would be stopped or ended is not what was chosen."""
    if choice["strategy"] not in (Strategy.KILL_PROCESS, Strategy.STOP_CONTAINER):
        return
    if choice.get("holder") != strategies.identity(row.holder):
        raise HolderChanged(
            f"port {row.port}/{row.protocol} is held by another one than was chosen: {row.detail}",
            hint="look at it, and choose again",
            conflict_id=row.id,
            holder=row.holder,
        )


def _answer(context: Context, operation: Operation, row: PortConflict, situation: Situation) -> Resolution | None:
    key = f"conflict:{row.id}:{strategies.identity(row.holder)}"
    with context.record.read() as session:
        policy = conflict_situations.policy_for(session, context.conflicts, next(iter(row.claimants or ()), ""))
    answer = ((operation.parameters or {}).get("answers") or {}).get(key)
    if answer is None and (operation.parameters or {}).get("dry_run"):
        return None
    if answer is None:
        raise Asked(question(key, situation, policy.ask_timeout_s))
    if answer == questions.TIMED_OUT:
        if policy.on_timeout == "migrate":
            return strategies.automatic(situation, policy.max_risk)
        raise UnresolvedConflict(f"nobody answered in time: {row.detail}", hint="clos resolve", conflict_id=row.id)
    return chosen(situation, str(answer))


def _identified(resolution: Resolution, choice: Mapping[str, Any]) -> Resolution:
    """A process is ended as the one that it was when this was decided, not as whoever has its pid then.

    Raises:
        HolderChanged: it is another one already.
    """
    if resolution.process is None:
        return resolution
    holder = dict(resolution.process)
    found = termination.identify(int(holder["pid"]))
    if holder.get("start_ticks") is None and found is not None:
        holder["start_ticks"] = found.start_ticks
    return replace(resolution, process=holder | {"allow_foreign": bool(choice.get("allow_foreign"))})


def _situation(
    context: Context, row: PortConflict, choice: Mapping[str, Any], avoid: Collection[int] = ()
) -> Situation:
    """The situation with a port to move to that is free at this moment, and that no other move has taken."""
    out = set(avoid)
    for _ in range(_MOST_TRIES):
        with context.record.read() as session:
            situation = conflict_situations.situation(
                session,
                row,
                context.own_ports,
                service_id=choice.get("service_id"),
                port=choice.get("port"),
                avoid=out,
                installation=context.conflicts,
            )
        offered = {move.to_port for move in situation.moves if move.to_port is not None}
        held = {port for port in offered if not is_free(port, row.protocol, row.host_ip)}
        if not held:
            break
        out |= held
    return situation


WORK = {RESOLVE: settle, UNDO: settle}
