"""Drift: whether what runs is what is wanted, for a page of services at a time."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, CompoundSelect, bindparam, select, union
from sqlalchemy.orm import Session

from domain import references
from domain.reachability import Consumer
from domain.references import Meaning
from domain.specs import RuntimeKind
from domain.states import UP
from models import resolved_specs
from models.ports import PortClaim, SeenListener
from models.services import Service
from models.surroundings import NOTHING, Surroundings, of_groups

if TYPE_CHECKING:
    from models.registry_views import ServiceView

_UP = frozenset(status.value for status in UP)
_HASHES_KEPT = 5000
_NO_MEANING = Meaning()
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
# Of a container the engine's word counts, of a process the sockets that it has bound.
_LISTENING: CompoundSelect[Any] = union(
    select(SeenListener.service_id.label("id"), SeenListener.protocol, SeenListener.port).where(
        SeenListener.service_id.in_(_IDS)
    ),
    select(PortClaim.owner_id, PortClaim.protocol, PortClaim.port).where(
        PortClaim.owner_id.in_(_IDS), PortClaim.source == "container", PortClaim.latent.is_(False)
    ),
)
_REDEFINED = "its definition was changed since it was started"


class _Hashes:
    """The hashes of wanted specs, by what would change them: making one takes as long as reading ten services."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}
        self._lock = threading.Lock()

    @staticmethod
    def key(view: "ServiceView", group: Surroundings, meant: Meaning) -> tuple[Any, ...]:
        """Its version and its group's say what was written through the registry; ports, its own and those of what it
        refers to, may also be moved by a resolution."""
        row = view.row
        ports = tuple((each.id, each.port, each.container_port) for each in view.claims)
        referred = (tuple(meant.values.items()), meant.joins, meant.extra_hosts) if view.texts else ()
        return row.id, row.created_at, row.spec_version, row.port, ports, referred, group.network_name, group.version

    def get(self, key: tuple[Any, ...]) -> str | None:
        """The hash, if it is known."""
        return self._known.get(key)

    def keep(self, key: tuple[Any, ...], made: str) -> None:
        """Remember one."""
        with self._lock:
            if len(self._known) >= _HASHES_KEPT:
                self._known.clear()
            self._known[key] = made


_hashes = _Hashes()


def add(session: Session, views: Iterable["ServiceView"]) -> None:
    """Say of each running service whether what runs is what is wanted, and what differs."""
    running = [view for view in views if view.row.observed_hash is not None and view.row.status in _UP]
    if not running:
        return
    around = of_groups(session, {view.row.group_name for view in running})
    meant = _meanings(session, running, around)
    keys = {
        view.row.id: _Hashes.key(view, around.get(view.row.group_name, NOTHING), meant.get(view.row.id, _NO_MEANING))
        for view in running
    }
    made: dict[str, str] = {}
    unknown = [service_id for service_id, key in keys.items() if _hashes.get(key) is None]
    if unknown:
        services = session.scalars(select(Service).where(Service.id.in_(unknown))).all()
        made = {each: spec.hash() for each, spec in resolved_specs.specs(session, services, around).items()}
        # What a write transaction sees may still be undone, and its version be given to something else.
        if not session.get_bind().get_execution_options().get("clos_write", False):
            for service_id, known in made.items():
                _hashes.keep(keys[service_id], known)
    for view in running:
        wanted = made.get(view.row.id) or _hashes.get(keys[view.row.id])
        view.drift = wanted not in (None, view.row.observed_hash)
        if view.drift:
            view.drift_detail = _why(view, meant.get(view.row.id, _NO_MEANING))
    _add_ports(session, [view for view in running if view.drift])


def _add_ports(session: Session, drifted: Sequence["ServiceView"]) -> None:
    """Where what runs listens, as last seen, if it is elsewhere than it is wanted to: its ports are shown as wanted."""
    wanted = {view.row.id: {(each.protocol, each.port) for each in view.claims if each.port} for view in drifted}
    if not any(wanted.values()):
        return
    seen: dict[str, set[tuple[str, int]]] = {}
    for row in session.execute(_LISTENING, {"ids": list(wanted)}):
        seen.setdefault(row.id, set()).add((row.protocol, row.port))
    for view in drifted:
        has = seen.get(view.row.id, set())
        if has - wanted[view.row.id] and wanted[view.row.id] - has:
            view.drift_detail.append(f"it listens on {_named(has)}, and is to listen on {_named(wanted[view.row.id])}")


def _named(ports: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{port}/{protocol}" for protocol, port in sorted(ports))


def _meanings(
    session: Session, views: Sequence["ServiceView"], around: Mapping[str, Surroundings]
) -> dict[str, Meaning]:
    """What the references of those that have some mean now: one statement for all, none where nobody has any."""
    for view in views:
        view.texts += [word for word in view.row.command or () if references.written_in(word)]
    found = {view.row.id: (view, references.find(view.texts)) for view in views if view.texts}
    wanted = {pair for view, each in found.values() for pair in references.named_by(each, view.row.group_name)}
    known = resolved_specs.providers(session, wanted)
    return {
        service_id: references.meaning(_consumer(view, around), each, known)
        for service_id, (view, each) in found.items()
    }


def _consumer(view: "ServiceView", around: Mapping[str, Surroundings]) -> Consumer:
    row = view.row
    named = view.networks or (row.container or {}).get("networks")
    crowded = bool(around.get(row.group_name, NOTHING).network_name or named)
    return Consumer(row.id, row.group_name, RuntimeKind(row.runtime), row.network_mode, crowded)


def _why(view: "ServiceView", meant: Meaning) -> list[str]:
    """What differs from what runs, as sentences; the references that its instance was made with are recorded."""
    was = view.row.resolved_references or {}
    moved = references.changes(was, meant.values)
    if moved and was.keys() == meant.values.keys():
        return moved
    return [*moved, _REDEFINED]
