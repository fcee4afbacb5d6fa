"""The last look at the host's ports, as the record keeps it: who listens, what containers publish, what was unseen."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from domain import ports as decide
from domain.observation import Binding, Listener, PortFacts
from models.base import now, written
from models.installation import SystemConfig
from models.ports import PortClaim, SeenListener
from models.services import Service

_SCANNED = "listeners.scanned"
_CONTAINER = "container"
_EPHEMERAL = (32768, 60999)
_LISTENER_COLUMNS = (
    "host_ip", "port", "protocol", "pid", "start_ticks", "name", "command", "user", "service_id", "container_id",
    "container_name", "own", "parents",
)  # fmt: skip
_CLAIM_COLUMNS = ("host_ip", "port", "protocol", "container_id", "container_ref", "owner_id", "latent")


def record_facts(session: Session, seen: PortFacts, boot: Mapping[str, float] | None = None) -> None:
    """Write down what a look found; what has not changed is not written again.

    `boot` is `{at, ticks}`: when the machine was started (seconds since the epoch) and its clock ticks per second.
    """
    _write_listeners(session, seen)
    _write_bindings(session, seen)
    record_scan(session, seen.observed_at, seen, boot)


def record_scan(
    session: Session, at: datetime, seen: PortFacts | None = None, boot: Mapping[str, float] | None = None
) -> None:
    """Say that a look was taken at `at`, what it could not see, and the system's ranges."""
    row = session.get(SystemConfig, _SCANNED)
    if row is None:
        row = SystemConfig(key=_SCANNED)
        session.add(row)
    looked = seen or PortFacts(at)
    row.value = {
        "at": at.isoformat(),
        "unseen": dict(looked.unseen),
        "reserved": [list(each) for each in looked.reserved],
        "ephemeral": list(looked.ephemeral),
        "boot": dict(boot or {}),
    }


def _write_listeners(session: Session, seen: PortFacts) -> None:
    wanted = {}
    for each in seen.listeners:
        row = {name: getattr(each, name) for name in _LISTENER_COLUMNS}
        row["parents"] = [list(parent) for parent in each.parents]
        wanted[_key(row)] = row
    known = {}
    for found in session.execute(
        select(SeenListener.id, *(getattr(SeenListener, name) for name in _LISTENER_COLUMNS))
    ).mappings():
        row = {name: found[name] for name in _LISTENER_COLUMNS}
        row["parents"] = row["parents"] or []
        known[_key(row)] = found["id"]
    _exchange(session, SeenListener, known, wanted, {"observed_at": seen.observed_at})


def _write_bindings(session: Session, seen: PortFacts) -> None:
    if "containers" in seen.unseen:
        # Not known to run; but what they would take when they are started is as it was.
        session.execute(
            update(PortClaim).where(PortClaim.source == _CONTAINER, PortClaim.latent.is_(False)).values(latent=True)
        )
        return
    wanted = {}
    for each in seen.bindings:
        row = {
            "host_ip": each.host_ip,
            "port": each.port,
            "protocol": each.protocol,
            "container_id": each.container_id,
            "container_ref": each.container_name,
            "owner_id": each.service_id,
            "latent": not each.running,
        }
        wanted[_key(row)] = row
    rows = session.execute(
        select(PortClaim.id, *(getattr(PortClaim, name) for name in _CLAIM_COLUMNS)).where(
            PortClaim.source == _CONTAINER
        )
    ).mappings()
    known = {_key({name: found[name] for name in _CLAIM_COLUMNS}): found["id"] for found in rows}
    # A container without our label has no owner; one of ours has, also where its service is gone.
    _exchange(session, PortClaim, known, wanted, {"source": _CONTAINER})


def _key(row: Mapping[str, Any]) -> str:
    return repr(tuple(row.values()))


def _exchange(
    session: Session,
    table: type[SeenListener | PortClaim],
    known: Mapping[str, int],
    wanted: Mapping[str, Mapping[str, Any]],
    also: Mapping[str, Any],
) -> None:
    gone = [known[key] for key in known.keys() - wanted.keys()]
    new = [{**wanted[key], **also} for key in wanted if key not in known]
    for start in range(0, len(gone), 500):
        session.execute(delete(table).where(table.id.in_(gone[start : start + 500])))
    if new:
        session.execute(insert(table), new)


def scanned_at(session: Session) -> datetime | None:
    """When the host was last looked at; None if never."""
    value = _scan_row(session)
    if value:
        return datetime.fromisoformat(value["at"])
    return session.scalar(select(func.max(SeenListener.observed_at)))


def _scan_row(session: Session) -> dict[str, Any] | None:
    row = session.get(SystemConfig, _SCANNED)
    return row.value if row is not None else None


def facts(session: Session, port: int | None = None) -> PortFacts | None:
    """The last look, of one port or of all; None if nobody has looked yet."""
    at = scanned_at(session)
    if at is None:
        return None
    value = _scan_row(session) or {}
    listeners = select(SeenListener).order_by(SeenListener.id)
    claims = select(PortClaim).where(PortClaim.source == _CONTAINER).order_by(PortClaim.id)
    if port is not None:
        listeners, claims = listeners.where(SeenListener.port == port), claims.where(PortClaim.port == port)
    low, high = value.get("ephemeral") or _EPHEMERAL
    return PortFacts(
        at,
        tuple(listener_of(row) for row in session.scalars(listeners)),
        tuple(_binding_of(row) for row in session.scalars(claims)),
        value.get("unseen") or {},
        tuple((first, last) for first, last in value.get("reserved") or ()),
        (low, high),
    )


def listener_of(row: SeenListener) -> Listener:
    """A recorded socket as a value."""
    return Listener(
        row.host_ip,
        row.port,
        row.protocol,
        row.pid,
        row.name,
        row.command,
        row.user,
        row.start_ticks,
        tuple((pid, name) for pid, name in row.parents or ()),
        row.service_id,
        row.container_id,
        row.container_name,
        bool(row.own),
    )


def _binding_of(row: PortClaim) -> Binding:
    return Binding(
        row.host_ip,
        row.port or 0,
        row.protocol,
        row.container_id or "",
        row.container_ref or "",
        not row.latent,
        row.owner_id is not None,
        row.owner_id,
    )


def names(session: Session, ids: Collection[str]) -> dict[str, str]:
    """The names of services, by id; those that are gone are left out."""
    if not ids:
        return {}
    return {row.id: row.name for row in session.execute(select(Service.id, Service.name).where(Service.id.in_(ids)))}


def names_in(session: Session, looked: PortFacts | None, port: int) -> dict[str, str]:
    """The names of the services that have to do with a port."""
    if looked is None:
        return {}
    every: list[Listener | Binding] = [*looked.listeners, *looked.bindings]
    return names(session, {each.service_id for each in every if each.port == port and each.service_id is not None})


def listeners_on(session: Session, port: int) -> list[Listener]:
    """Who was last seen to listen on a port."""
    found = facts(session, port)
    return [] if found is None else list(found.listeners)


def holders(
    session: Session, port: int, listeners: Sequence[Listener], own_ports: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Who stands behind some listeners of a port (interface.md, Holder)."""
    seen = PortFacts(now(), tuple(listeners))
    called = names_in(session, seen, port)
    found: list[dict[str, Any]] = []
    for each in listeners:
        shown = decide.holder(each, called, own_ports)
        if shown not in found:
            found.append(shown)
    return dated(session, found)


def dated(session: Session, found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Holders with the time at which their process began, reckoned from the last look's boot time."""
    boot = (_scan_row(session) or {}).get("boot") or {}
    shown = []
    for each in found:
        ticks = each.get("start_ticks")
        if ticks is None or not boot or each.get("started_at"):
            shown.append(dict(each))
            continue
        at = datetime.fromtimestamp(boot["at"], UTC) + timedelta(seconds=ticks / boot["ticks"])
        shown.append(dict(each) | {"started_at": written(at)})
    return shown
