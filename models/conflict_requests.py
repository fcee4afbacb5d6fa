"""What people ask about conflicts: to look for them, to resolve one or all, to undo a resolution."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain import strategies
from domain.configuration import Conflicts
from domain.conflicts import ConflictStatus
from domain.errors import OperationInProgress, PortHeld, ValidationFailed
from domain.resolving import policy_of
from domain.specs import RuntimeKind
from domain.states import UP, Desired
from domain.strategies import Resolution, Strategy
from models import conflict_situations, operations, port_ranges, registry_conflicts, resolved_specs
from models.base import now
from models.groups import Group
from models.operations import Operation, OperationLock, service_target
from models.port_moves import UndoImpossible
from models.ports import PortConflict
from models.services import Service

_MOST_AT_ONCE = 200
SCAN, RESOLVE, UNDO = "conflict.scan", "conflict.resolve", "conflict.undo"


def resolve(
    session: Session,
    row: PortConflict,
    body: Mapping[str, Any],
    *,
    initiated_by: str,
    own_ports: Collection[int] = (),
    installation: Conflicts | None = None,
) -> Operation:
    """Ask for one conflict's resolution.

    `body` is `{strategy, service_id, port, confirm, allow_foreign, dry_run}`.

    Raises:
        ConflictClosed: somebody was quicker.
        ValidationFailed: the strategy does not fit, or what it needs is missing.
        PortHeld: the named port is leased, or was last seen to be held.
        OperationInProgress: an operation works on a service that this one would change.
    """
    registry_conflicts.require_open(row)
    strategy = str(body["strategy"])
    choice: dict[str, Any] = {
        "conflict_id": row.id,
        "strategy": strategy,
        "service_id": body.get("service_id"),
        "port": body.get("port"),
        "allow_foreign": bool(body.get("allow_foreign")),
        # Whoever has the port by the time this is done may be another one, to whom nobody said yes.
        "holder": strategies.identity(row.holder),
    }
    _check_words(session, row, body, own_ports)
    situation = conflict_situations.situation(
        session,
        row,
        own_ports,
        service_id=choice["service_id"],
        port=choice["port"],
        installation=installation,
    )
    resolver = strategies.resolver(strategy)
    if not resolver.can_resolve(situation):
        fitting = [each["strategy"] for each in strategies.options(situation)]
        raise ValidationFailed({"strategy": [f"It does not fit this conflict. Possible: {', '.join(fitting)}."]})
    resolution = resolver.resolve(situation)
    _check_confirmation(resolution, body)
    dry_run = bool(body.get("dry_run"))
    return _create(session, [(choice, resolution)], row.claimants or [], initiated_by, dry_run)


def _check_words(session: Session, row: PortConflict, body: Mapping[str, Any], own_ports: Collection[int]) -> None:
    errors: dict[str, list[str]] = {}
    mover, port = body.get("service_id"), body.get("port")
    if mover is not None and mover not in (row.claimants or []):
        errors["service_id"] = [f"It is none of the claimants: {', '.join(row.claimants or [])}."]
    if body["strategy"] == Strategy.CHANGE_PORT and port is None:
        errors["port"] = ["change_port needs the port."]
    if port is not None and body["strategy"] != Strategy.CHANGE_PORT:
        errors["port"] = ["Only change_port takes a port."]
    if port is not None and port in own_ports:
        errors["port"] = [f"{port} is CLOS's own port."]
    if port is not None and port == row.port:
        errors["port"] = [f"{port} is the port that the conflict is about."]
    if errors:
        raise ValidationFailed(errors)
    if port is not None:
        port_ranges.refuse_held(session, port, row.protocol, row.host_ip, own_ports)


def _check_confirmation(resolution: Resolution, body: Mapping[str, Any]) -> None:
    """Raises: ValidationFailed: a process would be ended and nobody has named it."""
    if resolution.process is None:
        return
    wanted = strategies.confirmation(resolution.process)
    if body.get("confirm") not in (wanted, str(resolution.process.get("pid"))):
        raise ValidationFailed({"confirm": [f"To end it, confirm which process: {wanted!r}."]})


def resolve_all(
    session: Session,
    max_risk: str,
    *,
    initiated_by: str,
    own_ports: Collection[int] = (),
    dry_run: bool = False,
    installation: Conflicts | None = None,
) -> Operation:
    """Ask for all active conflicts to be resolved that policy may resolve without asking, each in its least risky way.

    Warnings are left alone. No process that CLOS does not own is ended, whatever `max_risk` says.

    What concerns a service that another operation works on is left out: it is there to be resolved afterwards.
    """
    rows = _active(session)
    due = [(row, max_risk, None) for row in rows]
    chosen = _automatic(session, due, own_ports, installation or Conflicts())
    return _create(session, chosen, [], initiated_by, dry_run)


def resolve_of_own_accord(
    session: Session, installation: Conflicts, own_ports: Collection[int] = ()
) -> Operation | None:
    """Resolve what policy allows (`auto_resolve`) and a service waits for: it is wanted to run and does not.

    Only the one that waits is moved. None where there is nothing to do, or another operation works on it just now.
    """
    due = []
    for row in _active(session):
        if not (row.holder or {}).get("running"):
            continue
        waiting = session.execute(
            select(Service.id, Group.conflicts)
            .outerjoin(Group, Group.name == Service.group_name)
            .where(Service.id.in_(row.claimants or ()), Service.desired == Desired.RUNNING.value)
            .where(Service.status.not_in([status.value for status in UP]))
        ).all()
        policies = [policy_of(installation, each.conflicts) for each in waiting]
        if policies and all(policy.auto_resolve for policy in policies):
            due.append((row, policies[0].max_risk, waiting[0].id))
    chosen = _automatic(session, due, own_ports, installation)
    return _create(session, chosen, [], "system:conflicts", dry_run=False) if chosen else None


def _active(session: Session) -> Sequence[PortConflict]:
    return registry_conflicts.page(session, [ConflictStatus.ACTIVE.value], None, _MOST_AT_ONCE)[1]


def _automatic(
    session: Session,
    due: Iterable[tuple[PortConflict, str, str | None]],
    own_ports: Collection[int],
    installation: Conflicts,
) -> list[tuple[dict[str, Any], Resolution]]:
    """What policy does about these conflicts, each with its `max_risk` and who should move: no port is offered twice,
    no service leaves a port twice, and what another operation holds is left to it."""
    chosen: list[tuple[dict[str, Any], Resolution]] = []
    avoid: set[int] = set()
    moved: set[tuple[str, int]] = set()
    held = set(session.scalars(select(OperationLock.target)))
    for row, max_risk, wish in due:
        if conflict_situations.found_of(row).kind in strategies.LEFT_ALONE:
            continue
        situation = conflict_situations.situation(
            session, row, own_ports, service_id=wish, avoid=avoid, installation=installation
        )
        resolution = strategies.automatic(situation, max_risk)
        if resolution is None or any((move.service_id, move.from_port) in moved for move in resolution.moves):
            continue
        if not held.isdisjoint(service_target(each) for each in _changed(resolution)):
            continue
        avoid |= {move.to_port for move in resolution.moves if move.to_port is not None}
        moved |= {(move.service_id, move.from_port) for move in resolution.moves}
        mover = resolution.moves[0].service_id if resolution.moves else None
        choice: dict[str, Any] = {
            "conflict_id": row.id,
            "strategy": resolution.strategy.value,
            "service_id": mover,
            "port": None,
            "allow_foreign": False,
            "holder": strategies.identity(row.holder),
        }
        chosen.append((choice, resolution))
    return chosen


def _create(
    session: Session,
    chosen: Sequence[tuple[Mapping[str, Any], Resolution]],
    about: Collection[str],
    initiated_by: str,
    dry_run: bool,
) -> Operation:
    services = _managed(session, {each for _, resolution in chosen for each in _changed(resolution)})
    subject = services[0] if len(services) == 1 else next(iter(about), None) if len(about) == 1 else None
    targets = [] if dry_run else [service_target(each) for each in services]
    return operations.create(
        session,
        RESOLVE,
        targets=targets,
        service_id=subject,
        group_name=_group_of(session, subject),
        parameters={
            "choices": [dict(choice) for choice, _ in chosen],
            "services": services,
            "targets": targets,
            "dry_run": dry_run,
        },
        initiated_by=initiated_by,
        sent_at=now(),
    )


def _changed(resolution: Resolution) -> set[str]:
    moved = {move.service_id for move in resolution.moves}
    return moved | {*resolution.restarts, *resolution.starts, *resolution.stop_services}


def _managed(session: Session, service_ids: Collection[str]) -> list[str]:
    return sorted(
        session.scalars(
            select(Service.id).where(Service.id.in_(service_ids), Service.runtime != RuntimeKind.EXTERNAL.value)
        )
    )


def up(session: Session, service_ids: Collection[str]) -> set[str]:
    """Which of these services were last seen to run."""
    running = [status.value for status in UP]
    return set(session.scalars(select(Service.id).where(Service.id.in_(service_ids), Service.status.in_(running))))


def _group_of(session: Session, service_id: str | None) -> str | None:
    if service_id is None:
        return None
    return session.scalar(select(Service.group_name).where(Service.id == service_id))


def scan(session: Session, *, initiated_by: str) -> Operation:
    """Ask for a fresh look for conflicts; one that waits already will do."""
    waiting = session.scalar(
        select(Operation).where(Operation.type == SCAN, Operation.status == "pending").order_by(Operation.id).limit(1)
    )
    return waiting or operations.create(session, SCAN, parameters={}, initiated_by=initiated_by)


def undo(session: Session, row: PortConflict, *, initiated_by: str, own_ports: Collection[int] = ()) -> Operation:
    """Ask for a migration to be taken back.

    Raises:
        UndoImpossible: there is nothing to take back, or the old port is somebody else's by now. Nothing is changed.
        OperationInProgress: an operation works on a service that this one would change.
    """
    if not row.undo:
        raise UndoImpossible(
            f"the resolution of conflict {row.id} cannot be undone",
            hint="only a port's move that was not undone yet can be",
            conflict_id=row.id,
        )
    restores = list(row.undo["restore"])
    moved = {str(each["service_id"]) for each in restores}
    running = up(session, moved)
    for each in restores:
        service_id = str(each["service_id"])
        if session.get(Service, service_id) is None:
            raise UndoImpossible(f"{service_id} is gone", conflict_id=row.id, service_id=service_id)
        if not each.get("leased", True) and service_id not in running:
            continue  # it had claimed the port beside somebody else's lease, and may do so again
        try:
            port_ranges.refuse_held(session, each["from_port"], each["protocol"], row.host_ip, own_ports)
        except PortHeld as held:
            raise UndoImpossible(
                f"port {held.port}/{held.protocol} is taken since: {held.message}",
                hint=held.hint,
                conflict_id=row.id,
                holder=held.facts.get("holder"),
            ) from held
    services = _managed(session, moved | set(resolved_specs.referencing(session, moved, by_host_port=True)))
    locked = sorted(moved | up(session, services))
    targets = [service_target(each) for each in locked]
    subject = next(iter(moved)) if len(moved) == 1 else None
    return operations.create(
        session,
        UNDO,
        targets=targets,
        service_id=subject,
        group_name=_group_of(session, subject),
        parameters={"conflict_id": row.id, "services": locked, "targets": targets},
        initiated_by=initiated_by,
        sent_at=now(),
    )


def restart(session: Session, service_id: str, because: Sequence[str]) -> Operation | None:
    """Ask for the restart of a service that refers to services which have moved. None where another operation works on
    it: then its `drift` says that it is out of date."""
    targets = [service_target(service_id)]
    try:
        return operations.create(
            session,
            "service.restart",
            targets=targets,
            service_id=service_id,
            group_name=_group_of(session, service_id),
            parameters={
                "services": [service_id],
                "named": [service_id],
                "targets": targets,
                "no_deps": True,
                "reason": f"it refers to {', '.join(because)}, which moved",
            },
            initiated_by="system:conflicts",
            sent_at=now(),
        )
    except OperationInProgress:
        return None
