"""What carries our mark and is no service's: kept by the collector, adopted or removed only where somebody asks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.errors import OrphanNotAdoptable, OrphanNotFound
from domain.observation import Instance, Phase
from domain.states import Desired
from models import operations, registry
from models.base import now
from models.groups import Group
from models.operations import Operation
from models.orphans import Orphan
from models.services import Service

REMOVE = "orphan.remove"


def get(session: Session, ref: str) -> Orphan:
    """The orphan of that ref.

    Raises:
        OrphanNotFound: there is none.
    """
    found = session.get(Orphan, ref)
    if found is None:
        raise OrphanNotFound(ref)
    return found


def page(session: Session, after: str | None, limit: int) -> Sequence[Orphan]:
    """Orphans by ref, from after `after`."""
    query = select(Orphan).order_by(Orphan.ref).limit(limit)
    return session.scalars(query if after is None else query.where(Orphan.ref > after)).all()


def count(session: Session) -> int:
    """How many there are."""
    return session.scalar(select(func.count()).select_from(Orphan)) or 0


def refresh(
    session: Session,
    kinds: Collection[str],
    found: Mapping[str, tuple[str, Instance]],
    new: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write down which there are of the runtimes `kinds`: by ref, with runtime and instance. `new` are the definitions
    of those that were not known. What is none any more is dropped."""
    known = {row.ref: row for row in session.scalars(select(Orphan))}
    for ref, orphan in known.items():
        if orphan.runtime in kinds and ref not in found:
            session.delete(orphan)
    for ref, (kind, instance) in found.items():
        if (row := known.get(ref)) is not None:
            if row.phase != instance.phase.value:
                row.phase, row.observed_at = instance.phase.value, now()
        elif ref in new:
            detail = dict(new[ref])
            session.add(
                Orphan(
                    ref=ref,
                    runtime=kind,
                    service_id=instance.service_id,
                    group_name=detail.pop("group", None),
                    name=detail.pop("container_name", None),
                    phase=instance.phase.value,
                    detail=detail,
                )
            )


def definition(session: Session, orphan: Orphan, name: str | None, group: str | None) -> dict[str, Any]:
    """The fields of the service that this orphan becomes. Its id stays what the mark says: so the instance is its own.

    Raises:
        OrphanNotAdoptable: something of it cannot be read, or its mark is another service's.
    """
    reasons = [f"{each} cannot be kept" for each in (orphan.detail or {}).get("unread") or ()]
    if session.get(Service, orphan.service_id) is not None:
        reasons.append(f"the service {orphan.service_id} has another instance")
    group = group or orphan.group_name or _group_of(session, orphan.service_id)
    name = name or orphan.service_id.removeprefix(f"{group}-")
    if f"{group}-{name}" != orphan.service_id:
        reasons.append(f"its mark says {orphan.service_id}, which is not service {name!r} of group {group!r}")
    if reasons:
        raise OrphanNotAdoptable(orphan.ref, reasons)
    fields = {key: value for key, value in (orphan.detail or {}).items() if key != "unread"}
    return fields | {"name": name, "group": group}


def _group_of(session: Session, service_id: str) -> str:
    """The longest group's name with which an id begins, or what stands before its first dash."""
    names = [each for each in session.scalars(select(Group.name)) if service_id.startswith(f"{each}-")]
    return max(names, key=len, default=service_id.partition("-")[0])


def adopt(
    session: Session, ref: str, name: str | None, group: str | None, reserved: Collection[int] = registry.NO_PORTS
) -> Service:
    """Register the service that an orphan is an instance of. It goes on as it is.

    Raises:
        OrphanNotFound, OrphanNotAdoptable: see `definition`.
        ServiceExists, PortHeld, ValidationFailed …: as when it is defined by hand.
    """
    orphan = get(session, ref)
    made = registry.create_service(session, definition(session, orphan, name, group), reserved)
    if made.id != orphan.service_id:
        raise OrphanNotAdoptable(ref, [f"its mark says {orphan.service_id}, and that name gives {made.id}"])
    made.desired = (Desired.RUNNING if orphan.phase == Phase.RUNNING else Desired.STOPPED).value
    session.delete(orphan)
    session.flush()
    return made


def remove(session: Session, ref: str, initiated_by: str) -> Operation:
    """Ask for an orphan's end.

    Raises:
        OrphanNotFound: there is none.
        OperationInProgress: somebody has asked for it already.
    """
    orphan = get(session, ref)
    return operations.create(
        session,
        REMOVE,
        targets=[f"orphan:{ref}"],
        parameters={"ref": ref, "runtime": orphan.runtime, "of": orphan.service_id, "targets": [f"orphan:{ref}"]},
        initiated_by=initiated_by,
        sent_at=now(),
    )
