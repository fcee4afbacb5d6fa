"""`kill -9` of the worker at each moment of an import that takes a project over from Compose, and of one that drops a
service: nothing is lost and nothing doubled. The project is taken over, or as it was.

Edges of a step: `running` (the record says that it runs) and `written` (the journal has its end). Before the first
step: `claimed`, and `promised` (the group and what is promised to its containers are written).
"""

import signal
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import select

from domain.states import CLAIMED
from models import import_inputs, operations
from models.groups import Group
from models.ports import PortRange
from models.services import Service
from tests.faults.killed_steps import END_LIMIT_S, Round
from tests.faults.step_watch import Watch, watching
from tests.images import IMAGE, client, test_image
from tests.integration.real_compose import RealCompose
from tests.integration.rig import Rig, free_port, rig

# What happens: a project is taken over, does not come up and is given back, or its file drops a service that runs.
ADOPT, BACK, DROP = "adopt", "back", "drop"


class Project:
    """A project with something in its volume. Compose runs it, or, where its file is to drop a service, CLOS does."""

    def __init__(self, clos: Rig, folder: Path, what: str) -> None:
        self.clos = clos
        self.name = f"kill{uuid.uuid4().hex[:8]}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.compose = RealCompose(self.folder, self.name)
        self._port = free_port()
        self.write(("db", "web"))
        self.before = self.compose.up()
        self._keep_a_note()
        if what == BACK:
            self.write(("db", "web"), ill=True)
        elif what == DROP:
            self._complete(self.imports(adopt=True))
            self.write(("db", "extra"))

    def _complete(self, operation_id: str) -> None:
        ended = self.clos.ended(operation_id, 90)
        assert ended.status == "completed", ended.error

    def _keep_a_note(self) -> None:
        engine = client()
        engine.containers.get(self.before["db"]["Id"]).exec_run(["sh", "-c", "echo kept > /data/note"])
        engine.close()

    def write(self, names: tuple[str, ...], ill: bool = False) -> None:
        """The file, of these services; `ill`: as CLOS starts it, `web` ends at once."""
        services: dict[str, Any] = {
            "db": {
                "image": IMAGE,
                "command": "serve 8000",
                "volumes": ["data:/data"],
                "healthcheck": {"test": ["CMD", "test", "-e", "/data"], "interval": "1s", "start_period": "10s"},
                "stop_grace_period": "2s",
            },
            "web": {
                "image": IMAGE,
                "command": ["sh", "-c", "exit 3"] if ill else "serve 8000",
                "ports": [f"127.0.0.1:{self._port}:8000"],
                "depends_on": {"db": {"condition": "service_healthy"}},
                "stop_grace_period": "2s",
            },
            "extra": {"image": IMAGE, "stop_grace_period": "2s"},
        }
        text = {"services": {name: services[name] for name in names}, "volumes": {"data": {}}}
        (self.folder / "compose.yaml").write_text(yaml.safe_dump(text, sort_keys=False))

    def imports(self, **asked: Any) -> str:
        with self.clos.record.write() as session:
            parameters = {"path": str(self.folder), **asked}
            made = operations.create(session, "group.import", parameters=parameters, initiated_by="test")
            import_inputs.keep(session, made.id, None, {})
            operation_id = made.id
        self.clos.outbox.operation(operation_id, "group.import")
        return operation_id

    def ours(self) -> dict[str, list[str]]:
        """CLOS's containers of the project, by service: their states."""
        found: dict[str, list[str]] = {}
        engine = client()
        try:
            for each in engine.api.containers(all=True, filters={"label": f"clos.instance={self.clos.instance_id}"}):
                group, _, name = each["Labels"]["clos.service"].partition("-")
                if group == self.name:
                    found.setdefault(name, []).append(each["State"])
            return found
        finally:
            engine.close()

    def note(self) -> str:
        """What stands in the volume."""
        engine = client()
        try:
            told: bytes = engine.containers.run(
                IMAGE, ["cat", "/data/note"], volumes=[f"{self.name}_data:/data"], remove=True
            )
            return told.decode().strip()
        finally:
            engine.close()

    def state(self, operation_id: str) -> dict[str, Any]:
        """What is to be the same as in an uninterrupted run."""
        ended = self.clos.operation(operation_id)
        result, error = ended.result or {}, ended.error or {}
        with self.clos.record.read() as session:
            rows = session.scalars(select(Service).where(Service.group_name == self.name))
            members = {row.name: (row.status, row.health_status, row.desired) for row in rows}
        theirs = self.compose.inspected()
        return {
            "operation": (ended.status, error.get("code"), str(error.get("step")).partition("-")[2]),
            "told": (result.get("runs"), sorted(each["service"] for each in result.get("taken_over") or ())),
            "diff": {key: value for key, value in (result.get("diff") or {}).items() if value},
            "steps": Counter((step.action, step.status) for step in ended.steps),
            "services": members,
            "ours": self.ours(),
            "theirs": {
                name: (each["Id"] == self.before[name]["Id"], each["State"]["Running"]) for name, each in theirs.items()
            },
            "note": self.note(),
        }

    def close(self) -> None:
        with self.clos.record.read() as session:
            there = session.get(Group, self.name) is not None
        if there:
            self.clos.ended(self.clos.ask("remove", self.name), 60)
        self.compose.down()


def _moments(steps: list[str], what: str) -> list[tuple[int, str, str]]:
    before = ["claimed"] if what == DROP else ["claimed", "promised"]
    at_steps = [(index, step, edge) for index, step in enumerate(steps) for edge in ("running", "written")]
    return [*((-1, "-", edge) for edge in before), *at_steps]


def _is_there(clos: Rig, watch: Watch, operation_id: str, index: int, edge: str) -> bool:
    if edge == "claimed":
        return clos.operation(operation_id).status in CLAIMED
    if edge == "promised":
        return bool(clos.operation(operation_id).compensation)
    found = watch.step(index)
    return found is not None and found[1] != "pending" and (edge == "running" or found[1] != "running")


def _ask(project: Project, what: str) -> str:
    return project.imports(adopt=True) if what != DROP else project.imports()


def _uninterrupted(clos: Rig, folder: Path, what: str) -> tuple[list[str], dict[str, Any]]:
    project = Project(clos, folder, what)
    try:
        operation_id = _ask(project, what)
        ended = clos.ended(operation_id, 90)
        assert ended.status == ("failed" if what == BACK else "completed"), ended.error
        return [step.action for step in ended.steps], project.state(operation_id)
    finally:
        project.close()


def _strike(
    clos: Rig, folder: Path, what: str, workers: list[Any], moment: tuple[int, str, str], whole: dict[str, Any]
) -> Round:
    index, step, edge = moment
    project = Project(clos, folder, what)
    try:
        operation_id = _ask(project, what)
        with watching(clos, operation_id) as watch:
            struck = watch.until(lambda: _is_there(clos, watch, operation_id, index, edge))
        pid = (clos.operation(operation_id).claimed_by or {}).get("pid")
        victim = next((each for each in workers if each.pid == pid), workers[0])
        victim.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        victim.wait(10)
        workers.remove(victim)
        workers.append(clos.worker())
        ended = clos.ended(operation_id, 60)
        ended_s = time.monotonic() - killed_at
        now = project.state(operation_id)
        wrong = [f"{which} is {now[which]} and was {each}" for which, each in whole.items() if now[which] != each]
        if ended_s > END_LIMIT_S:
            wrong.append(f"it ended {ended_s:.1f} s after the kill")
        return Round(step, edge, struck, ended_s, ended.attempt, wrong)
    finally:
        project.close()


def campaign(what: str, every: int = 1) -> list[Round]:
    """A kill at every `every`-th moment."""
    test_image()
    with rig() as clos, tempfile.TemporaryDirectory(prefix="clos-adopts-") as folder:
        with clos.record.write() as session:
            session.add(PortRange(project="development", start_port=9000, end_port=9999))
        clos.scheduler()
        workers = [clos.worker(), clos.worker()]
        steps, whole = _uninterrupted(clos, Path(folder), what)
        return [_strike(clos, Path(folder), what, workers, moment, whole) for moment in _moments(steps, what)[::every]]
