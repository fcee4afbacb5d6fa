"""`kill -9` of the worker at each single step of an update and of its way back. Done when 1 of issue 4.

Edges: `running` (the record says that the step runs) and `written` (the journal has its end).
"""

import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.changed_group import GROUP, NAMES, ChangedGroup
from tests.faults.killed_steps import END_LIMIT_S, Round
from tests.faults.step_watch import Watch, watching
from tests.integration.rig import Rig, rig
from tests.waiting import wait_until

EDGES = ("running", "written")


def _state(group: ChangedGroup, operation_id: str) -> dict[str, Any]:
    """What is to be the same as in an uninterrupted run."""
    ended = group.clos.operation(operation_id)
    services = {name: group.clos.service(f"{GROUP}-{name}") for name in NAMES}
    return {
        "operation": (ended.status, ended.progress == 100, (ended.error or {}).get("code")),
        "told": {each["service_id"]: each["runs"] for each in (ended.result or {}).get("services", ())},
        "steps": {step.id: step.status for step in ended.steps},
        "services": {
            name: (row.status, row.health_status, row.desired, row.waiting_for) for name, row in services.items()
        },
        "runs": group.running(),
        "containers": group.containers() if group.docker else None,
    }


def _uninterrupted(group: ChangedGroup) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    group.drift()
    operation_id = group.clos.ask("update", GROUP)
    ended = group.clos.ended(operation_id, 90)
    assert ended.status == ("failed" if group.deaf else "completed"), ended.error
    wait_until(lambda: _quiet(group), 10, "the engine's log")
    return [step.id for step in ended.steps], _state(group, operation_id), group.happened()


def _quiet(group: ChangedGroup) -> bool:
    """The log's last lines may still be on their way: as many containers have come as have gone or are there."""
    if group.log is None:
        return True
    happened = group.happened()
    return all(happened["create"][name] == happened["destroy"][name] for name in NAMES)


def _is_there(watch: Watch, index: int, edge: str) -> bool:
    found = watch.step(index)
    if found is None or found[1] == "pending":
        return False
    return edge == "running" or found[1] != "running"


def _strike(group: ChangedGroup, clos: Rig, workers: list[Any], index: int, edge: str) -> tuple[str, bool, float]:
    operation_id = clos.ask("update", GROUP)
    with watching(clos, operation_id) as watch:
        struck = watch.until(lambda: _is_there(watch, index, edge))
    pid = (clos.operation(operation_id).claimed_by or {}).get("pid")
    victim = next((each for each in workers if each.pid == pid), workers[0])
    victim.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    victim.wait(10)
    workers.remove(victim)
    workers.append(clos.worker())
    clos.ended(operation_id, 60)
    return operation_id, struck, time.monotonic() - killed_at


def campaign(back: bool, docker: bool, every: int = 1) -> list[Round]:
    """A kill at every `every`-th step and edge of an update; `back`: of one whose new version never serves."""
    done = []
    with rig() as clos, tempfile.TemporaryDirectory(prefix="clos-notes-") as folder:
        clos.scheduler()
        workers = [clos.worker(), clos.worker()]
        group = ChangedGroup(clos, docker, Path(folder), deaf=back)
        try:
            steps, whole, happened = _uninterrupted(group)
            for index, edge in [(index, edge) for index in range(len(steps)) for edge in EDGES][::every]:
                group.drift()
                operation_id, struck, ended_s = _strike(group, clos, workers, index, edge)
                wait_until(lambda: _quiet(group), 10, "the engine's log")
                now = _state(group, operation_id)
                wrong = [f"{what} is {now[what]} and was {each}" for what, each in whole.items() if now[what] != each]
                wrong += [
                    f"{what}: {dict(seen)}, and {dict(happened[what])} in the uninterrupted run"
                    for what, seen in group.happened().items()
                    if seen != happened[what]
                ]
                if ended_s > END_LIMIT_S:
                    wrong.append(f"it ended {ended_s:.1f} s after the kill")
                attempts = clos.operation(operation_id).attempt
                done.append(Round(steps[index], edge, struck, ended_s, attempts, wrong))
        finally:
            group.close()
    return done
