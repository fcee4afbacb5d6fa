"""The logs of containers, also of those that are gone: kept when CLOS removes one, and when one is seen to have ended.

What the engine still has is read from the engine; kept lines of the same container are left out, so no line comes
twice.
"""

import json
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from docker.errors import APIError

from domain.errors import ClosError, EngineUnreachable
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_observation import Summary
from workers.runtimes.docker_reading import Reading
from workers.runtimes.docker_streams import MAX_LINES
from workers.runtimes.kept_logs import REMARK, KeptLogs
from workers.runtimes.protocol import LogLine

log = structlog.get_logger()
_SEEN = ".containers.json"
_ENDED = ("exited", "dead")
_SHORT = 12


class Keeping:
    """Keeps and reads the lines of one installation's containers."""

    def __init__(self, client: EngineClient, marks: Marks, reading: Reading, kept: KeptLogs) -> None:
        self._client = client
        self._marks = marks
        self._reading = reading
        self._kept = kept

    def logs(self, service_id: str, tail: int, since: datetime | None) -> list[LogLine]:
        """The last `tail` lines, oldest first: kept ones, and those that the engine has.

        Raises:
            EngineUnreachable: it does not answer, and nothing was kept.
        """
        tail = min(max(tail, 0), MAX_LINES)
        kept = self._kept.read(service_id)
        try:
            live = self._reading.log(service_id, tail, since)
        except EngineUnreachable:
            if not kept:
                raise
            live = None
            kept = [*kept, (REMARK, _remark("Docker's engine does not answer: this is what was kept"))]
        found = [line for ref, line in kept if live is None or ref != live[0][:_SHORT]]
        if since is not None:
            found = [line for line in found if line.at is not None and line.at >= since]
        return [*found, *(live[1] if live else ())][-tail:] if tail else []

    def before_removal(self, ref: str) -> None:
        """Keep what a container wrote: it is removed next. That it cannot be kept is no reason to leave it there."""
        try:
            inspected = self._client.api().inspect_container(ref)
            labels = (inspected.get("Config") or {}).get("Labels") or {}
            service_id = labels.get(self._marks.label("service"))
            if service_id and self._marks.ours(labels) and _has_ended(inspected.get("State") or {}):
                self._keep(service_id, str(inspected["Id"]))
                text = f"the container {ref[:_SHORT]} was removed by CLOS"
                self._remark(service_id, str(inspected["Id"]), text)
        except (APIError, ClosError, OSError) as refusal:
            log.warning("logs.not_kept", container=ref[:_SHORT], error=str(refusal))

    def look(self, registered: Callable[[], Collection[str]]) -> None:
        """Keep what ended containers wrote, say which are gone, and forget what is nobody's.

        Raises:
            EngineUnreachable: it does not answer.
        """
        try:
            with self._kept.held(".looking", limit_s=0):
                self._look(registered)
        except TimeoutError:
            return  # another worker's look is still under way

    def _look(self, registered: Callable[[], Collection[str]]) -> None:
        listed = self._reading.listed(self._marks.filters())
        known = self._known()
        now = {str(each["Id"]): each for each in listed}
        seen = {ref: self._seen(each, known.get(ref) or {}) for ref, each in now.items()}
        for ref, was in known.items():
            if ref not in now:
                self._missing(ref, was)
        if seen != known:
            self._remember(seen)
        self._kept.forget(registered, {str(each["service"]) for each in seen.values()})
        self._kept.fit()

    def _seen(self, listed: Summary, was: Mapping[str, Any]) -> dict[str, Any]:
        """What is noted of a container; its lines are kept once for each of its ends."""
        service_id = str((listed.get("Labels") or {}).get(self._marks.label("service")))
        state = str(listed.get("State"))
        if state not in _ENDED:
            return {"service": service_id, "state": "up" if state != "created" else "created"}
        if was.get("state") != "ended":
            self._keep(service_id, str(listed["Id"]))
        return {"service": service_id, "state": "ended"}

    def _missing(self, ref: str, was: Mapping[str, Any]) -> None:
        """A container is gone. Of one that ended, or that CLOS removed, all lines were kept; else the last are lost."""
        service_id = str(was["service"])
        kept = self._kept.last(service_id, ref)
        if was["state"] == "up" and not self._removed_by_us(service_id, ref):
            since = "nothing of it was kept" if kept is None else f"nothing after {kept.isoformat()} was kept"
            text = f"the container {ref[:_SHORT]} is gone, and it was not removed by CLOS: {since}"
            self._remark(service_id, ref, text)

    def _removed_by_us(self, service_id: str, ref: str) -> bool:
        return any(of == ref[:_SHORT] and line.stream == REMARK for of, line in self._kept.read(service_id))

    def _keep(self, service_id: str, ref: str) -> None:
        def behind(last: datetime | None) -> list[LogLine]:
            since = None if last is None else last + timedelta(microseconds=1)
            return self._reading.lines_of(ref, MAX_LINES, since)

        self._kept.add(service_id, ref, behind)

    def _remark(self, service_id: str, ref: str, text: str) -> None:
        self._kept.add(service_id, ref, lambda _last: [_remark(text)])

    def _known(self) -> dict[str, Any]:
        try:
            found = json.loads((self._kept.folder / _SEEN).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, seen: Mapping[str, Any]) -> None:
        self._kept.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._kept.folder / f"{_SEEN}.new"
        draft.write_text(json.dumps(seen))
        draft.replace(self._kept.folder / _SEEN)


def _has_ended(state: Mapping[str, Any]) -> bool:
    """Whether it ran, and does not any more."""
    return not state.get("Running") and not str(state.get("StartedAt") or "0001-").startswith("0001-")


def _remark(text: str) -> LogLine:
    return LogLine(text, datetime.now(UTC), REMARK)
