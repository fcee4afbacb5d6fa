"""Three Compose projects with processes in them: twelve services in one graph, and when each began and was ready.

Every service leaves a mark in its project's folder when it is ready, or has done its work: what waits for it must not
have begun before that.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.clos_home import Home
from tests.images import IMAGE
from tests.private_engine import PrivateEngine
from workers.runtimes.docker_observation import parse_time

# So long each service takes to get ready: a gate that is not waited at shows.
READY_S = 0.4
# A file's time is that of the kernel's last tick.
_TICK_S = 0.01
_STARTED, _HEALTHY, _COMPLETED = "service_started", "service_healthy", "service_completed_successfully"
_CHECK = {"interval": "1s", "timeout": "5s", "retries": 3, "start_period": "30s"}


# What follows on it, a service does once it is ready.
_THEN = "; : ready; "


def _script(mark: str, then: str) -> list[str]:
    # A `$` that Compose is not to read is written twice.
    return ["/bin/sh", "-c", f"rm -f {mark}; sleep {READY_S}; touch {mark}{_THEN}{then}"]


def _service(needs: Mapping[str, str], far: Mapping[str, str]) -> dict[str, Any]:
    """What it needs of its own project as Compose says it, of others as CLOS does."""
    found: dict[str, Any] = {"stop_grace_period": "3s"}
    if needs:
        found["depends_on"] = {name: {"condition": condition} for name, condition in needs.items()}
    if far:
        words = {_STARTED: "started", _HEALTHY: "healthy", _COMPLETED: "completed"}
        found["x-clos"] = {"depends_on": [{"service": each, "condition": words[how]} for each, how in far.items()]}
    return found


def container(name: str, needs: Mapping[str, str] | None = None, far: Mapping[str, str] | None = None) -> Any:
    """A container that takes a while to get healthy."""
    mark = f"/marks/{name}"
    return _service(needs or {}, far or {}) | {
        "image": IMAGE,
        "command": _script(mark, "exec /bin/idle"),
        "volumes": ["./marks:/marks"],
        "healthcheck": _CHECK | {"test": ["CMD", "test", "-e", mark]},
    }


def process(name: str, needs: Mapping[str, str] | None = None, far: Mapping[str, str] | None = None) -> Any:
    """The same as a process of the host."""
    made = _service(needs or {}, far or {})
    mark = f"marks/{name}"
    stay = f"trap 'rm -f {mark}; exit 0' TERM; while :; do sleep 3600 & wait $$!; done"
    return made | {
        "command": _script(mark, stay),
        "healthcheck": _CHECK | {"test": ["CMD", "test", "-e", mark]},
        "x-clos": made.get("x-clos", {}) | {"runtime": "process", "working_dir": "."},
    }


def _once(service: dict[str, Any]) -> dict[str, Any]:
    """A service that does its work and ends."""
    shell, option, script = service["command"]
    kept = {key: value for key, value in service.items() if key != "healthcheck"}
    return kept | {"command": [shell, option, script.partition(_THEN)[0]], "restart": "no"}


PROJECTS: dict[str, dict[str, Any]] = {
    "data": {
        "services": {
            "db": container("db"),
            "cache": container("cache"),
            "queue": process("queue", {"db": _HEALTHY}),
            "search": container("search", {"db": _HEALTHY, "cache": _STARTED}),
        },
    },
    "core": {
        "services": {
            "migrate": _once(container("migrate", far={"data/db": _HEALTHY})),
            "api": process("api", {"migrate": _COMPLETED}, {"data/cache": _HEALTHY, "data/queue": _HEALTHY}),
            "jobs": container("jobs", {"api": _STARTED}, {"data/queue": _STARTED, "data/search": _HEALTHY}),
            "mail": container("mail", {"jobs": _HEALTHY}),
        },
    },
    # All of it comes after all of `core`.
    "edge": {
        "x-clos": {"dependencies": ["core"]},
        "services": {
            "seed": _once(process("seed")),
            "web": container("web", {"seed": _COMPLETED}, {"core/api": _HEALTHY}),
            "admin": process("admin", {"web": _STARTED}),
            "proxy": container("proxy", {"web": _HEALTHY, "admin": _HEALTHY}),
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class Edge:
    """`service` waits for `need`, until `condition`."""

    service: str
    need: str
    condition: str


def edges() -> list[Edge]:
    """All of the three projects, by the services' ids."""
    return [edge for group, project in PROJECTS.items() for edge in _edges_of(group, project)]


def _edges_of(group: str, project: Mapping[str, Any]) -> Iterator[Edge]:
    behind = (project.get("x-clos") or {}).get("dependencies") or ()
    for name, service in project["services"].items():
        own = f"{group}-{name}"
        for need, how in (service.get("depends_on") or {}).items():
            yield Edge(own, f"{group}-{need}", how["condition"])
        for far in (service.get("x-clos") or {}).get("depends_on") or ():
            words = {"started": _STARTED, "healthy": _HEALTHY, "completed": _COMPLETED}
            yield Edge(own, far["service"].replace("/", "-"), words[far["condition"]])
        for other in behind:
            for need, needed in PROJECTS[other]["services"].items():
                yield Edge(own, f"{other}-{need}", _HEALTHY if "healthcheck" in needed else _COMPLETED)


class ThreeProjects:
    """The projects on disk, imported into one CLOS."""

    def __init__(self, clos: Home, engine: PrivateEngine, folder: Path) -> None:
        self.clos, self.engine, self.folder = clos, engine, folder
        named = {f"{group}-{name}": one for group, each in PROJECTS.items() for name, one in each["services"].items()}
        self.ids = set(named)
        self.containers = {each for each, one in named.items() if "image" in one}
        self.once = {each for each, one in named.items() if "healthcheck" not in one}
        for group, project in PROJECTS.items():
            (folder / group / "marks").mkdir(parents=True)
            (folder / group / "compose.yaml").write_text(yaml.safe_dump({"name": group, **project}, sort_keys=False))

    def services(self) -> dict[str, dict[str, Any]]:
        """All of them, as `clos status` tells."""
        found: Any = self.clos.json("status")
        return {one["id"]: one for one in found}

    def settled(self) -> bool:
        """Whether all run and are healthy, or have done their work."""
        seen = self.services()
        return all(
            one["status"] == "stopped" and one["observed"]["exit_code"] == 0
            if each in self.once
            else (one["status"], one["health"]["status"]) == ("running", "healthy")
            for each, one in seen.items()
        )

    def began(self) -> dict[str, datetime]:
        """When each began: of containers as the engine tells, of processes as their launch was recorded."""
        told = self.services()
        found = {}
        for each in self.ids:
            at = told[each]["started_at"]
            if each in self.containers:
                at = self.engine.inspect(each)["State"]["StartedAt"]
            found[each] = parse_time(at) if at else None
        assert all(found.values()), found
        return {each: at for each, at in found.items() if at is not None}

    def ready(self, each: str) -> datetime:
        """When it left its mark."""
        group, _, name = each.partition("-")
        return datetime.fromtimestamp(os.stat(self.folder / group / "marks" / name).st_mtime, UTC)

    def wipe_marks_of_what_ran(self) -> None:
        """As a restart of the host would, were they in /run. What was done stays done."""
        for each in self.ids - self.once:
            group, _, name = each.partition("-")
            (self.folder / group / "marks" / name).unlink(missing_ok=True)

    def pids(self) -> dict[str, int]:
        """Of the processes that run."""
        seen = self.services()
        return {each: seen[each]["observed"]["pid"] for each in self.ids - self.containers - self.once}

    def check_order(self, what: str, changed: set[str], since: datetime) -> None:
        """Those that began since then are these, and every edge and every gate of them was respected."""
        began = self.began()
        assert {each for each, at in began.items() if at >= since} == changed
        for edge in edges():
            if edge.service not in changed:
                continue
            opened = began[edge.need] if edge.condition == _STARTED else self.ready(edge.need)
            gap_s = (began[edge.service] - opened).total_seconds()
            assert gap_s >= (0 if edge.condition == _STARTED else -_TICK_S), (what, edge, gap_s)
            if edge.need in changed and edge.condition != _STARTED:
                whole_s = (began[edge.service] - began[edge.need]).total_seconds()
                assert whole_s >= READY_S, (what, edge, whole_s)
        last_s = (max(began[each] for each in changed) - since).total_seconds()
        print(f"{what}: {len(changed)} services, last begun {last_s:.2f} s after it", file=sys.stderr)
