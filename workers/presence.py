"""What a process of CLOS says of itself, every few seconds: what `/health` reads."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from domain.errors import ClosError
from models.base import now
from models.installation import Heartbeat
from models.record import Record

log = structlog.get_logger()
INTERVAL_S = 3.0


class Presence:
    """Writes this process's heartbeat row, and takes it away at the end."""

    def __init__(
        self, record: Record, role: str, identity: Mapping[str, Any], facts: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._record = record
        self._role = role
        self._identity = dict(identity)
        self._facts = facts
        self._id = f"{role}:{identity['boot_id'][:8]}:{identity['pid']}:{identity['start_ticks']}"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clos-presence", daemon=True)

    def start(self) -> None:
        """Say it once before returning, then keep on saying it."""
        self._beat()
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL_S):
            self._beat()

    def _beat(self) -> None:
        try:
            facts = dict(self._facts())
            with self._record.write() as session:
                session.merge(Heartbeat(id=self._id, role=self._role, identity=self._identity, facts=facts, at=now()))
        except (SQLAlchemyError, ClosError) as refusal:
            log.warning("presence.failed", error=str(refusal))

    def close(self) -> None:
        """Take the row away: this process ends on purpose."""
        self._closed.set()
        try:
            with self._record.write() as session:
                if (row := session.get(Heartbeat, self._id)) is not None:
                    session.delete(row)
        except (SQLAlchemyError, ClosError) as refusal:
            log.warning("presence.not_removed", error=str(refusal))
