"""`kill -9` of a worker at a random point of a group start. Done when 3 of the main job."""

import random
import signal
import subprocess
import time
from dataclasses import dataclass

from tests.faults.world import contradictions
from tests.integration.rig import Rig, container_service, free_port, rig, web_service
from tests.waiting import wait_until

END_LIMIT_S = 20.0


@dataclass(frozen=True)
class Round:
    """One kill: when, with or without a second worker at hand, and how long the operation took to end after it."""

    number: int
    after_s: float
    spare: bool
    ended_s: float
    attempts: int
    wrong: list[str]


def _group(docker: bool) -> list[dict[str, object]]:
    make = container_service if docker else web_service
    more = {} if docker else {"delay_s": 0.15}
    return [
        make("store", free_port(), **more),
        make("cache", free_port(), **more),
        make("api", free_port(), needs=["store", "cache"], **more),
        make("jobs", free_port(), needs=["store"], **more),
        make("web", free_port(), needs=["api"], **more),
    ]


def campaign(rounds: int, seed: int, docker: bool) -> list[Round]:
    """Run the rounds in one installation; the worker that held the operation is the one that dies."""
    dice = random.Random(seed)
    with rig() as clos:
        clos.scheduler()
        clos.add_group("shop", _group(docker))
        workers = [clos.worker(), clos.worker()]
        whole_s = _uninterrupted(clos)
        done = []
        for number in range(rounds):
            # Every other time nobody stands by, and the next worker to start takes over.
            spare = number % 2 == 0
            while len(workers) < (2 if spare else 1):
                workers.append(clos.worker())
            while len(workers) > (2 if spare else 1):
                _stop(workers.pop())
            done.append(_round(clos, workers, number, dice.uniform(0.0, whole_s * 1.1), spare, docker))
        return done


def _uninterrupted(clos: Rig) -> float:
    began = time.monotonic()
    operation = clos.ended(clos.ask("start", "shop"), 60)
    assert operation.status == "completed", operation.error
    whole_s = time.monotonic() - began
    assert clos.ended(clos.ask("stop", "shop"), 60).status == "completed"
    return whole_s


def _round(
    clos: Rig, workers: list["subprocess.Popen[bytes]"], number: int, after_s: float, spare: bool, docker: bool
) -> Round:
    services = [f"shop-{name}" for name in ("store", "cache", "api", "jobs", "web")]
    operation_id = clos.ask("start", "shop")
    began = time.monotonic()
    wait_until(lambda: clos.operation(operation_id).claimed_by, 10, "the claim")
    remaining_s = after_s - (time.monotonic() - began)
    if remaining_s > 0:
        # The random moment is the fault itself, not a wait for a condition.
        time.sleep(remaining_s)
    holder = (clos.operation(operation_id).claimed_by or {}).get("pid")
    victim = next((each for each in workers if each.pid == holder), workers[0])
    victim.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    victim.wait(10)
    workers.remove(victim)
    if not spare:
        workers.append(clos.worker())
    operation = clos.ended(operation_id, 60)
    ended_s = time.monotonic() - killed_at
    wrong = contradictions(clos, services, docker)
    if operation.status != "completed":
        wrong.append(f"the operation ended {operation.status}: {operation.error}")
    if ended_s > END_LIMIT_S:
        wrong.append(f"it ended {ended_s:.1f} s after the kill")
    stopped = clos.ended(clos.ask("stop", "shop"), 60)
    if stopped.status != "completed":
        wrong.append(f"the stop ended {stopped.status}: {stopped.error}")
    return Round(number, after_s, spare, ended_s, operation.attempt, wrong)


def _stop(worker: "subprocess.Popen[bytes]") -> None:
    worker.terminate()
    worker.wait(20)
