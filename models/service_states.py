"""How a service is, without what it is defined by: what is read and written at each step of an operation, in two
statements that are built once. The session's book-keeping took longer than they do (`operation_steps.py` likewise)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from models.base import table_of
from models.services import Service


@dataclass(slots=True)
class ServiceState:
    """The columns of a service that an operation looks at or changes; see `Service`."""

    id: str
    group_name: str
    runtime: str
    desired: str
    status: str
    health_status: str
    health_detail: str | None
    health_failures: int
    last_health_check: datetime | None
    container_id: str | None
    pid: int | None
    exit_code: int | None
    observed_hash: str | None
    observed_at: datetime | None
    started_at: datetime | None
    stopped_at: datetime | None
    down_cause: str | None
    down_since: datetime | None
    resolved_references: dict[str, Any] | None
    waiting_for: list[Any] | None


_services = table_of(Service)
_NAMES = tuple(ServiceState.__dataclass_fields__)
_facts = attrgetter(*_NAMES)
_DEFINED = ("id", "group_name", "runtime", "desired")
_READ = select(*(_services.c[name] for name in _NAMES)).where(_services.c.id == bindparam("service"))
_WRITE = (
    update(_services)
    .where(_services.c.id == bindparam("service"))
    .values({name: bindparam(f"new_{name}", type_=_services.c[name].type) for name in _NAMES if name not in _DEFINED})
)


class ServiceStates:
    """The states that one write transaction has asked for. Use `states_in`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asked: dict[str, ServiceState | None] = {}
        self._read: dict[str, tuple[Any, ...]] = {}

    def of(self, service_id: str) -> ServiceState | None:
        """How a service is, to be changed in place; None if it is not registered."""
        if service_id not in self._asked:
            row = self._session.connection().execute(_READ, {"service": service_id}).one_or_none()
            self._asked[service_id] = None if row is None else ServiceState(*row)
            if row is not None:
                self._read[service_id] = tuple(row)
        return self._asked[service_id]

    def write(self) -> None:
        """Write what was changed."""
        for state in self._asked.values():
            if state is not None and _facts(state) != self._read[state.id]:
                facts = {f"new_{name}": getattr(state, name) for name in _NAMES if name not in _DEFINED}
                self._session.connection().execute(_WRITE, facts | {"service": state.id})


@contextmanager
def states_in(session: Session) -> Iterator[ServiceStates]:
    """What was changed of these states inside the block is written at its end, in the same transaction.

    Nobody else writes meanwhile (`Record.write`). Rows of `Service` that the session has loaded itself do not learn of
    it, so one transaction changes them one way or the other.
    """
    states = ServiceStates(session)
    yield states
    states.write()
