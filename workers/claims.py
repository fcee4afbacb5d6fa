"""The claims of this process: their heartbeat, and what the heartbeat learns (lost, cancelled)."""

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from sqlalchemy import bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from domain.errors import Cancelled, ClaimLost, ClosError, Stopping
from domain.states import CLAIMED, OperationStatus
from models import operation_cancels, operations
from models.base import now, table_of
from models.operations import Operation
from models.record import Record

log = structlog.get_logger()
HEARTBEAT_S = 2.0
# How often it is looked whether somebody wants an operation's end. Nothing is asked while nothing is worked on.
LOOK_S = 0.5
_operations = table_of(Operation)
_STANDS = select(_operations.c.fence, _operations.c.status).where(_operations.c.id == bindparam("operation"))


@dataclass
class Claim:
    """One operation that this process works on."""

    operation_id: str
    fence: int
    stopping: threading.Event
    lost: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    # A way back goes on whoever asks for the operation's end.
    steadfast: bool = False

    def for_way_back(self) -> "Claim":
        """The same claim, which no cancel breaks off."""
        return replace(self, cancelled=threading.Event(), steadfast=True)

    def check(self) -> None:
        """Called between effects and in every wait.

        Raises:
            ClaimLost: another worker has it. Write nothing more.
            Stopping: this process is asked to end. Hand the operation back.
        """
        if self.lost.is_set():
            raise ClaimLost(f"operation {self.operation_id} is no longer this worker's")
        if self.stopping.is_set():
            raise Stopping("this worker is stopping")

    def check_waiting(self) -> None:
        """Called where a step only waits: unlike an effect, a wait may be broken off by a cancel.

        Raises:
            ClaimLost, Stopping: as `check`.
            Cancelled: somebody asked for the operation's end.
        """
        self.check()
        if self.cancelled.is_set():
            raise Cancelled(f"operation {self.operation_id} was cancelled")


class Claims:
    """Takes claims and keeps them alive with one thread."""

    def __init__(
        self, record: Record, worker: dict[str, Any], stopping: threading.Event, slots: int | None = None
    ) -> None:
        self._record = record
        # How many operations this host works on at once, all its workers together; None: what they have threads for.
        self._slots = slots
        self._worker = worker
        self._stopping = stopping
        self._held: dict[str, Claim] = {}
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="clos-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def take(self, operation_id: str) -> tuple[Operation, Claim] | None:
        """Claim an operation, or one that comes before it. None if it is not to be had."""
        if self._stopping.is_set():
            return None
        with self._record.write() as session:
            operation = operations.claim(session, operation_id, self._worker, now(), self._slots)
            if operation is None:
                operation_cancels.go_on(session, operation_id)
        if operation is None:
            return None
        claim = Claim(operation.id, operation.fence, self._stopping)
        if operation.cancel_requested_at is not None:
            claim.cancelled.set()
        with self._guard:
            self._held[operation.id] = claim
        return operation, claim

    def verify(self, claim: Claim) -> None:
        """Ask the record whether a claim still holds: the heartbeat's knowledge may be as old as a frozen process.

        Raises:
            ClaimLost: another worker has it, or it has ended.
        """
        with self._record.read() as session:
            row = session.connection().execute(_STANDS, {"operation": claim.operation_id}).one_or_none()
        if row is None or row.fence != claim.fence or OperationStatus(row.status) not in CLAIMED:
            claim.lost.set()
            raise ClaimLost(f"operation {claim.operation_id} is no longer this worker's")

    def drop(self, claim: Claim) -> None:
        """Stop beating for a claim that has ended."""
        with self._guard:
            if self._held.get(claim.operation_id) is claim:
                del self._held[claim.operation_id]

    def held(self) -> int:
        """How many operations this process works on."""
        with self._guard:
            return len(self._held)

    def _beat_on(self) -> None:
        beat_at = time.monotonic() + HEARTBEAT_S
        while not self._closed.wait(min(LOOK_S, HEARTBEAT_S)):
            try:
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + HEARTBEAT_S
                    self._beat()
                else:
                    self._look()
            except (SQLAlchemyError, ClosError) as refusal:
                # A beat that could not be written is tried again; fencing covers the rest.
                log.warning("heartbeat.failed", error=str(refusal))

    def _look(self) -> None:
        """Learn of cancels sooner than with the next beat."""
        with self._guard:
            claims = {claim.operation_id: claim for claim in self._held.values() if not claim.cancelled.is_set()}
        if not claims:
            return
        asked = select(Operation.id).where(Operation.id.in_(claims), Operation.cancel_requested_at.is_not(None))
        with self._record.read() as session:
            for operation_id in session.scalars(asked):
                claims[operation_id].cancelled.set()

    def _beat(self) -> None:
        with self._guard:
            claims = list(self._held.values())
        if not claims:
            return
        ids = [claim.operation_id for claim in claims]
        with self._record.write() as session:
            lost = operations.heartbeat(session, [(c.operation_id, c.fence) for c in claims], now())
            cancelled = set(
                session.scalars(
                    select(Operation.id).where(Operation.id.in_(ids), Operation.cancel_requested_at.is_not(None))
                )
            )
        for claim in claims:
            if claim.operation_id in lost:
                claim.lost.set()
            if claim.operation_id in cancelled:
                claim.cancelled.set()

    def close(self) -> None:
        """Stop beating."""
        self._closed.set()
