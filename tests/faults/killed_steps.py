"""`kill -9` of the worker at each single step of a start and a stop, at every edge of the step. Done when 1 of issue 4.

Edges: `running` (the record says that the step runs, its effect has not happened or happens just now), `effect` (the
machine shows the effect, the journal does not have it yet) and `written` (the journal has it). Nothing in the worker
knows of this: the killer reads the record, the engine's event log, and the files that the services themselves write.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from models.ports import PortLease
from tests.faults.step_watch import EngineLog, Notes, Watch, noting_service, watching
from tests.faults.world import container_copies, process_copies
from tests.integration.rig import Rig, container_service, free_port, rig
from tests.waiting import wait_until

END_LIMIT_S = 20.0
EDGES = ("running", "effect", "written")
GROUP = "shop"
# Five processes are ten steps of a start; four containers twelve; ten of either ten steps of a stop.
_GRAPH = {
    "store": [], "cache": [], "api": ["store", "cache"], "jobs": ["store"], "web": ["api"],
    "one": ["web"], "two": ["web"], "three": ["store"], "four": ["one", "two"], "five": ["jobs"],
}  # fmt: skip


@dataclass
class Round:
    """One kill: at which step and edge, whether it struck before the operation's end, and what was wrong."""

    step: str
    edge: str
    struck: bool
    ended_s: float
    attempts: int
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """One installation, one group, one verb."""

    def __init__(self, clos: Rig, verb: str, docker: bool, folder: Path) -> None:
        self.clos = clos
        self.verb = verb
        self.docker = docker
        self.notes = Notes(folder)
        self.log = EngineLog(clos.instance_id) if docker else None
        names = list(_GRAPH)[: 10 if verb == "stop" else 4 if docker else 5]
        self.services = {name: free_port() for name in names}
        self.workers = [clos.worker(), clos.worker()]
        self._define()
        self.whole = self._uninterrupted()

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def _define(self) -> None:
        made: list[dict[str, Any]] = []
        for name, port in self.services.items():
            if self.docker:
                made.append(container_service(name, port, _GRAPH[name]))
            else:
                made.append(noting_service(sys.executable, self.notes.folder, name, port, _GRAPH[name]))
        self.clos.add_group(GROUP, made)

    def _carry_out(self, verb: str) -> None:
        ended = self.clos.ended(self.clos.ask(verb, GROUP), 90)
        assert ended.status == "completed", (verb, ended.error)

    def prepare(self) -> None:
        """As it is before the verb: for a start nothing is there, for a stop all run."""
        if self.verb == "start":
            self._carry_out("remove")
            self._define()
        else:
            self._carry_out("start")
        self.notes.clear()
        if self.log is not None:
            self.log.clear()

    def _uninterrupted(self) -> dict[str, Any]:
        if self.verb == "stop":
            self._carry_out("start")
        operation_id = self.clos.ask(self.verb, GROUP)
        self.clos.ended(operation_id, 90)
        self.steps = [(step.id, step.action) for step in self.clos.operation(operation_id).steps]
        state = self.state(operation_id)
        if self.verb == "start":
            self._carry_out("stop")
        return state

    def state(self, operation_id: str) -> dict[str, Any]:
        """What is to be the same as in an uninterrupted run: operation, record, leases, machine."""
        ended = self.clos.operation(operation_id)
        services = {name: self.clos.service(f"{GROUP}-{name}") for name in self.services}
        running, created = container_copies(self.clos) if self.docker else (process_copies(self.clos), [])
        with self.clos.record.read() as session:
            leases = {(row.service_id, row.port) for row in session.scalars(select(PortLease))}
        return {
            "operation": (ended.status, ended.progress, ended.error),
            "steps": {step.id: step.status for step in ended.steps},
            "services": {
                name: (row.status, row.health_status, row.desired, row.waiting_for, row.observed_hash, row.exit_code)
                for name, row in services.items()
            },
            "leases": leases,
            "instances": dict(running),
            "left_created": created,
        }

    def strike(self, index: int, edge: str, spare: bool) -> Round:
        """Kill at that step and edge; what was wrong afterwards."""
        step_id, _action = self.steps[index]
        operation_id = self.clos.ask(self.verb, GROUP)
        with watching(self.clos, operation_id) as watch:
            struck = watch.until(lambda: self._is_there(watch, index, step_id, edge))
        victim = self._holder(operation_id)
        victim.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        victim.wait(10)
        self.workers.remove(victim)
        if not spare:
            self.workers.append(self.clos.worker())
        ended = self.clos.ended(operation_id, 60)
        ended_s = time.monotonic() - killed_at
        wrong = self._judge(operation_id)
        if ended_s > END_LIMIT_S:
            wrong.append(f"it ended {ended_s:.1f} s after the kill")
        while len(self.workers) < 2:
            self.workers.append(self.clos.worker())
        return Round(step_id, edge, struck, ended_s, ended.attempt, wrong)

    def _is_there(self, watch: Watch, index: int, step_id: str, edge: str) -> bool:
        found = watch.step(index)
        if found is None or found[1] == "pending":
            return False
        assert found[0] == step_id, f"step {index} is {found[0]} this time, and was {step_id}"
        if edge == "running" or found[1] != "running":
            return edge == "running" or found[1] != "running"
        return edge == "effect" and self._effect(step_id)

    def _effect(self, step_id: str) -> bool:
        action, _, target = step_id.partition(":")
        name = target.partition("-")[2]
        if self.log is None:
            path = self.notes.folder / f"{name}.{'stops' if action == 'stop' else 'starts'}"
            return action != "wait" and path.exists()
        return self.log.count({"create": "create", "start": "start", "stop": "die"}.get(action, "-"))[name] > 0

    def _holder(self, operation_id: str) -> "subprocess.Popen[bytes]":
        pid = (self.clos.operation(operation_id).claimed_by or {}).get("pid")
        return next((each for each in self.workers if each.pid == pid), self.workers[0])

    def _judge(self, operation_id: str) -> list[str]:
        wrong = []
        now = self.state(operation_id)
        for what, whole in self.whole.items():
            if now[what] != whole:
                wrong.append(f"{what} is {now[what]} and was {whole} in the uninterrupted run")
        once = Counter(dict.fromkeys(self.services, 1))
        for what, seen in self._happened().items():
            expected = once if what in self._expected() else Counter()
            if seen != expected:
                wrong.append(f"{what}: {dict(seen)}")
        return wrong

    def _expected(self) -> tuple[str, ...]:
        if self.docker:
            return ("create", "start") if self.verb == "start" else ("die",)
        return ("starts",) if self.verb == "start" else ("stops",)

    def _happened(self) -> dict[str, Counter[str]]:
        if self.log is None:
            return {what: self.notes.count(what) for what in ("starts", "stops")}
        log = self.log
        # The log's last lines may still be on their way.
        wait_until(lambda: all(sum(log.count(what).values()) >= len(self.services) for what in self._expected()), 5)
        return {what: log.count(what) for what in ("create", "start", "die", "destroy")}


def campaign(verb: str, docker: bool, every: int = 1) -> list[Round]:
    """A kill at every `every`-th step and edge."""
    done = []
    with rig() as clos, tempfile.TemporaryDirectory(prefix="clos-notes-") as folder:
        clos.scheduler()
        rounds = Campaign(clos, verb, docker, Path(folder))
        try:
            places = [(index, edge) for index in range(len(rounds.steps)) for edge in EDGES]
            for number, (index, edge) in enumerate(places[::every]):
                rounds.prepare()
                # Every third time somebody stands by, and the silence has to be noticed.
                done.append(rounds.strike(index, edge, spare=number % 3 == 0))
        finally:
            rounds.close()
    return done
