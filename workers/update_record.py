"""What an update has promised to undo, and how far it is: kept with its operation, for whoever continues it."""

import threading
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from domain.updating import Change, Direction, change_of
from models import operations
from models.base import now, written
from models.operations import Operation
from models.record import Record
from workers.claims import Claim


class UpdateRecord:
    """Written before the first change, in a transaction of its own. `direction` decides how another worker goes on."""

    def __init__(self, record: Record, claim: Claim, kept: Mapping[str, Any]) -> None:
        self._record = record
        self._claim = claim
        self._guard = threading.Lock()
        self._kept: dict[str, Any] = dict(kept)

    @classmethod
    def of(cls, record: Record, claim: Claim, operation: Operation) -> "UpdateRecord | None":
        """What an earlier attempt has written; None if there was none."""
        kept = operation.compensation
        return cls(record, claim, kept) if kept and kept.get("changes") else None

    @classmethod
    def arm(cls, record: Record, claim: Claim, changes: Mapping[str, Change]) -> "UpdateRecord":
        """Write it down, before anything is done."""
        made = cls(
            record,
            claim,
            {
                "direction": Direction.FORWARD.value,
                "changes": {each: change.as_dict() for each, change in changes.items()},
                "windows": {},
                "error": None,
                "cancelled": False,
            },
        )
        made._write()
        return made

    def _write(self) -> None:
        with self._record.write() as session:
            operation = operations.held(session, self._claim.operation_id, self._claim.fence)
            operation.compensation = dict(self._kept)

    @property
    def changes(self) -> dict[str, Change]:
        """What was there, by service id."""
        return {each: change_of(kept) for each, kept in self._kept["changes"].items()}

    @property
    def direction(self) -> Direction:
        """Which way it goes."""
        return Direction(self._kept["direction"])

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it does not go forward."""
        error: dict[str, Any] | None = self._kept["error"]
        return error

    @property
    def cancelled(self) -> bool:
        """Whether it was a person who said so."""
        return bool(self._kept["cancelled"])

    def turn(self, direction: Direction, error: Mapping[str, Any] | None = None, cancelled: bool = False) -> None:
        """From now on it goes this way, whoever works on it."""
        with self._guard:
            self._kept |= {
                "direction": direction.value,
                "error": dict(error) if error else None,
                "cancelled": cancelled,
            }
            self._write()

    def interrupted(self, service_ids: Collection[str]) -> None:
        """What serves of these is about to be stopped or cut off: what came first counts, until it serves again."""
        with self._guard:
            known, at = self._kept["windows"], written(now())
            opened = {each: known.get(each, {"from": at}) | {"until": None} for each in service_ids}
            if any(known.get(each) != opened[each] for each in opened):
                self._kept["windows"] = known | opened
                self._write()

    def serves(self, service_id: str) -> None:
        """Something serves again: what came last counts."""
        with self._guard:
            window = self._kept["windows"].get(service_id)
            if window is not None:
                ended = window | {"until": written(now())}
                self._kept["windows"] = self._kept["windows"] | {service_id: ended}
                self._write()

    def were_interrupted(self) -> set[str]:
        """Those of which what served was stopped or cut off, or was about to be."""
        return set(self._kept["windows"])

    def window(self, service_id: str) -> tuple[str | None, str | None]:
        """From when until when nothing served; the end is None while nothing does."""
        window = self._kept["windows"].get(service_id) or {}
        return window.get("from"), window.get("until")

    def unavailable_s(self, service_id: str) -> float | None:
        """How long nothing served, from the first interruption; None where nothing serves since."""
        began, ended = self.window(service_id)
        if began is None:
            return 0.0
        if ended is None:
            return None
        return round((datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds(), 3)
