"""Containers as instances. Listing is cheap and inspecting is not: what an inspect told is kept while it holds."""

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from domain.observation import Instance, Phase
from domain.states import HealthStatus
from workers.runtimes.docker_errors import reason
from workers.runtimes.docker_names import Marks

Summary = Mapping[str, Any]

_PHASES = {
    "created": Phase.CREATED,
    "running": Phase.RUNNING,
    "paused": Phase.RUNNING,
}
_AGE = re.compile(r"(?P<less>Less than a second)|About (?:a|an) (?P<one>minute|hour)|(?P<n>\d+) (?P<unit>[a-z]+?)s?\b")
_UNIT_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}
# How far the engine's rounding and clock may be from ours before a kept inspect is doubted.
_SLACK_S = 2.0
# A start by hand that fails leaves it `created`, with an error that a summary does not show.
_CREATED_KEPT = timedelta(seconds=30)


def parse_time(text: str | None) -> datetime | None:
    """The engine's time (nanoseconds, `0001-…` for never) as an aware one."""
    if not text or text.startswith("0001-"):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def health_of(status: str) -> HealthStatus:
    """The verdict in a summary's status: `Up 5 seconds (health: starting)`."""
    if "(healthy)" in status:
        return HealthStatus.HEALTHY
    if "(unhealthy)" in status:
        return HealthStatus.UNHEALTHY
    return HealthStatus.STARTING if "(health: starting)" in status else HealthStatus.NONE


def age_at_most_s(status: str) -> float:
    """The longest age that `Up 5 minutes` or `Exited (0) About an hour ago` can mean."""
    found = _AGE.search(re.sub(r"\(.*?\)", "", status))
    if not found:
        return 0.0
    if found["less"]:
        return 1.0
    unit = _UNIT_S.get(found["one"] or found["unit"], 0)
    # The engine rounds hours to the nearest and cuts off the rest: one more unit is above both.
    return float((int(found["n"] or 1) + 1) * unit)


def instance_of(inspected: Mapping[str, Any], marks: Marks) -> Instance:
    """What an inspect says of one container."""
    state = inspected.get("State") or {}
    labels = (inspected.get("Config") or {}).get("Labels") or {}
    phase = _PHASES.get(state.get("Status", ""), Phase.EXITED)
    ended = phase is Phase.EXITED
    health = ((state.get("Health") or {}).get("Status") or "none").lower()
    return Instance(
        service_id=labels.get(marks.label("service"), ""),
        phase=phase,
        ref=inspected.get("Id"),
        pid=state.get("Pid") or None,
        exit_code=state.get("ExitCode") if ended else None,
        started_at=parse_time(state.get("StartedAt")),
        ended_at=parse_time(state.get("FinishedAt")) if ended else None,
        spec_hash=labels.get(marks.label("spec_hash")),
        health=HealthStatus(health) if health in set(HealthStatus) and not ended else HealthStatus.NONE,
        oom_killed=bool(state.get("OOMKilled")),
        image=(inspected.get("Config") or {}).get("Image"),
        address=_address(inspected.get("NetworkSettings") or {}) if not ended else None,
        detail=_detail(state),
    )


def _address(settings: Mapping[str, Any]) -> str | None:
    endpoints = (settings.get("Networks") or {}).values()
    return next((str(each["IPAddress"]) for each in endpoints if each.get("IPAddress")), None)


def _detail(state: Mapping[str, Any]) -> str | None:
    if state.get("Error"):
        return reason(str(state["Error"]))
    return state["Status"] if state.get("Status") in ("paused", "restarting", "removing", "dead") else None


@dataclass(slots=True)
class _Kept:
    state: str
    code: str
    since: datetime
    instance: Instance


class Observation:
    """Turns summaries into instances, inspecting only those that changed since the last look."""

    def __init__(self, marks: Marks, inspect: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._marks = marks
        self._inspect = inspect
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()
        # Of the last look: containers of a service of which another one counts.
        self.beside: tuple[Instance, ...] = ()

    def instances(self, summaries: Iterable[Summary]) -> dict[str, Instance]:
        """By service id. Of two containers of one service (in an update, or by hand) the running one counts, then the
        newer."""
        found: dict[str, Instance] = {}
        beside: list[Instance] = []
        seen = set()
        for summary in sorted(summaries, key=rank):
            seen.add(summary["Id"])
            service_id = (summary.get("Labels") or {}).get(self._marks.label("service"))
            instance = self.instance(summary) if service_id else None
            if service_id and instance:
                beside += [found[service_id]] if service_id in found else []
                found[service_id] = instance
        self.beside = tuple(beside)
        with self._lock:
            self._kept = {key: kept for key, kept in self._kept.items() if key in seen}
        return found

    def instance(self, summary: Summary, created_kept: timedelta = _CREATED_KEPT) -> Instance | None:
        """The instance of a summary, inspected if it changed; one that is merely created counts for `created_kept`."""
        status = str(summary.get("Status", ""))
        kept = self._kept.get(summary["Id"])
        if kept and self._holds(kept, summary, status, created_kept):
            return replace(kept.instance, health=health_of(status))
        return self.look(summary["Id"])

    def look(self, ref: str) -> Instance | None:
        """A container as an inspect shows it now, which is kept; None if there is none."""
        inspected = self._inspect(ref)
        if inspected is None:
            return None
        instance = instance_of(inspected, self._marks)
        self._keep(inspected, instance)
        return instance

    def made(self, ref: str, service_id: str, spec_hash: str) -> Instance:
        """A container that was created just now: what it is need not be asked. An inspect would wait, too, where its
        start has begun: the engine holds a container for as long as that takes."""
        instance = Instance(service_id, Phase.CREATED, ref=ref, spec_hash=spec_hash)
        with self._lock:
            self._kept[ref] = _Kept("created", "", datetime.now(UTC), instance)
        return instance

    def forget(self, ref: str) -> None:
        """A container is not what it was: whoever asks next has it looked at."""
        with self._lock:
            self._kept.pop(ref, None)

    def _holds(self, kept: _Kept, summary: Summary, status: str, created_kept: timedelta) -> bool:
        if kept.state != summary.get("State") or kept.code != exit_code_in(status):
            return False
        if kept.state == "created":
            return datetime.now(UTC) - kept.since < created_kept
        # Same state, but younger than what was inspected: it was restarted in between.
        age = datetime.now(UTC) - kept.since
        return age <= timedelta(seconds=age_at_most_s(status) + _SLACK_S)

    def _keep(self, inspected: Mapping[str, Any], instance: Instance) -> None:
        state = inspected["State"]["Status"]
        since = instance.ended_at if instance.phase is Phase.EXITED else instance.started_at
        if state == "created":
            since = datetime.now(UTC)
        if state in ("created", "running", "exited") and since and instance.ref:
            code = str(instance.exit_code) if state == "exited" else ""
            with self._lock:
                self._kept[instance.ref] = _Kept(state, code, since, instance)


def exit_code_in(status: str) -> str:
    """`137` of `Exited (137) 2 seconds ago`."""
    found = re.match(r"Exited \((-?\d+)\)", status)
    return found[1] if found else ""


def rank(summary: Summary) -> tuple[bool, int, int]:
    """Sorts the container that counts to the end. Of two made in the same second (the engine tells no finer), the one
    that is to replace the other has the longer name."""
    name = max(summary.get("Names") or ("",), key=len)
    return (summary.get("State") in ("running", "paused"), int(summary.get("Created") or 0), len(name))
