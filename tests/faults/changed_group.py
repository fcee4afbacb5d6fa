"""A group that runs, and whose definition has changed since: what updates are asked for. Two services, of which one
needs the other; where it is to go back, the second one's new version never serves.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from models import registry
from tests.faults.step_watch import EngineLog, Notes, noting_service
from tests.images import client
from tests.integration.rig import Rig, container_service, free_port

GROUP = "shop"
NAMES = ("store", "api")
_CHECK = {"type": "http", "url": "/", "interval": 0.5, "timeout": 1.0, "retries": 2, "start_period": 1.0}
STOP_TIMEOUT_S = 5.0


class ChangedGroup:
    """Two services on one installation, in one runtime."""

    def __init__(self, clos: Rig, docker: bool, folder: Path, deaf: bool) -> None:
        self.clos = clos
        self.docker = docker
        self.deaf = deaf
        self.notes = Notes(folder)
        self.log = EngineLog(clos.instance_id) if docker else None
        self._version = 0
        clos.add_group(GROUP, [self._service("store"), self._service("api", "store")])
        # How long it took to start, in seconds.
        self.start_s = self.carry_out("start")

    def _service(self, name: str, *needs: str) -> dict[str, Any]:
        if self.docker:
            made = container_service(name, free_port(), needs)
        else:
            made = noting_service(sys.executable, self.notes.folder, name, free_port(), needs)
        return made | {"health_check": _CHECK, "stop_timeout": STOP_TIMEOUT_S}

    def carry_out(self, verb: str) -> float:
        """Do it, undisturbed. How long it took, in seconds."""
        ended = self.clos.ended(self.clos.ask(verb, GROUP), 90)
        assert ended.status == "completed", (verb, ended.error)
        return (ended.end_time - ended.start_time).total_seconds() if ended.start_time and ended.end_time else 0.0

    def _want(self, deaf: bool) -> None:
        self._version += 1
        version = {"VERSION": str(self._version)}
        with self.clos.record.write() as session:
            for name in NAMES:
                row = registry.get(session, f"{GROUP}-{name}")
                ill = deaf and name == "api"
                fields: dict[str, Any] = {"environment": version}
                if self.docker:
                    fields["command"] = ["idle"] if ill else ["serve", "80"]
                else:
                    notes = {"NOTES": str(self.notes.folder / name)}
                    fields["environment"] = version | notes | ({"DEAF": "1"} if ill else {})
                registry.change_service(session, row, fields)

    def drift(self) -> None:
        """All run as wanted; then something else is wanted. Nothing of before is in the notes."""
        self._want(deaf=False)
        self.carry_out("update")
        self.carry_out("start")
        self._want(self.deaf)
        self.notes.clear()
        if self.log is not None:
            self.log.clear()

    def running(self) -> dict[str, str | None]:
        """By service: which version of it is recorded to run (`new` is the wanted one), None for none."""
        found: dict[str, str | None] = {}
        with self.clos.record.read() as session:
            for name in NAMES:
                row = registry.get(session, f"{GROUP}-{name}")
                new = row.observed_hash == row.spec().hash()
                found[name] = None if row.status != "running" else "new" if new else "old"
        return found

    def containers(self) -> dict[str, list[str]]:
        """By service: its containers' names and states, as the engine has them."""
        found: dict[str, list[str]] = {name: [] for name in NAMES}
        engine = client()
        try:
            wanted = {"label": f"clos.instance={self.clos.instance_id}"}
            for each in engine.api.containers(all=True, filters=wanted):
                name = each["Labels"]["clos.service"].partition("-")[2]
                # A replacement bears the beginning of its hash until it has taken the place of the other.
                canonical = each["Names"][0].endswith(f"{GROUP}-{name}")
                found[name].append(f"{each['State']}{'' if canonical else ', named as a replacement'}")
        finally:
            engine.close()
        return {name: sorted(each) for name, each in found.items()}

    def happened(self) -> dict[str, Counter[str]]:
        """What the engine's event log, or the services' own notes, say was done to each service."""
        if self.log is None:
            return {what: self.notes.count(what) for what in ("starts", "stops")}
        return {what: self.log.count(what) for what in ("create", "start", "die", "destroy")}

    def close(self) -> None:
        if self.log is not None:
            self.log.close()
