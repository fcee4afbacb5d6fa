"""What a service waits for, with the state of that just now: it may change often while somebody waits for it."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from domain.states import HealthStatus, ServiceStatus
from models.base import table_of
from models.services import Service

if TYPE_CHECKING:
    from models.registry_views import ServiceView

_services = table_of(Service)
_STATES = select(_services.c.id, _services.c.status, _services.c.health_status).where(
    _services.c.id.in_(bindparam("ids", expanding=True))
)


def add(session: Session, views: Iterable["ServiceView"]) -> None:
    """Say of each dependency that is waited for how it is; asks the record once, and not at all for nothing."""
    waiting = [view for view in views if view.row.waiting_for]
    refs = {each["ref"] for view in waiting for each in view.row.waiting_for if _is_bare(each)}
    states = _states(session, refs)
    for view in waiting:
        view.waiting_for = [
            each | {"text": f"{each['text']}: {states.get(each['ref'], 'not registered')}"} if _is_bare(each) else each
            for each in view.row.waiting_for
        ]


def _is_bare(reason: dict[str, Any]) -> bool:
    """Whether it only names who is waited for; that it failed is said where it did."""
    return reason.get("kind") == "dependency" and reason.get("text") == f"waiting for {reason.get('ref')}"


def _states(session: Session, ids: Collection[str]) -> dict[str, str]:
    if not ids:
        return {}
    return {row.id: _state(row) for row in session.execute(_STATES, {"ids": list(ids)})}


def _state(row: Any) -> str:
    """`starting` of one that runs and is not healthy yet."""
    waits = row.status == ServiceStatus.RUNNING.value and row.health_status == HealthStatus.STARTING.value
    return ServiceStatus.STARTING.value if waits else str(row.status)
