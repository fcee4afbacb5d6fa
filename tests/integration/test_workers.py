"""Real worker processes: stopped, killed, asked twice, and left alone with a dead or hanging engine."""

import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from domain.errors import OperationInProgress
from models import operation_requests, operations
from tests.faults.world import process_copies
from tests.integration.rig import Rig, free_port, rig, web_service
from tests.waiting import wait_until


@pytest.fixture
def clos() -> Iterator[Rig]:
    with rig() as made:
        yield made


def _sleeper(name: str, **more) -> dict:
    return {"name": name, "runtime": "process", "command": ["sleep", "3600"], "stop_timeout": 2, **more}


def _step(clos: Rig, operation_id: str, step: str) -> str | None:
    return next((each.status for each in clos.operation(operation_id).steps if each.id == step), None)


def test_a_stopped_worker_hands_back_and_another_continues_without_counting_it(clos):
    first = clos.worker()
    clos.add_group("shop", [_sleeper("store"), web_service("web", free_port(), needs=(), delay_s=4.0)])
    operation_id = clos.ask("start", "shop")
    wait_until(lambda: _step(clos, operation_id, "wait:shop-web") == "running", 15)
    wait_until(lambda: clos.service("shop-store").pid, 10)
    pid = clos.service("shop-store").pid
    first.terminate()
    assert first.wait(15) == 0
    assert clos.operation(operation_id).status == "pending"
    os.kill(pid, 0)  # it goes on

    clos.worker()
    ended = clos.ended(operation_id, 30)

    assert (ended.status, ended.attempt) == ("completed", 1), ended.error
    assert clos.service("shop-store").pid == pid
    assert process_copies(clos) == Counter({"shop-store": 1, "shop-web": 1})


def test_a_crash_is_answered_by_a_restart_and_counted_unless_the_policy_says_no(clos):
    clos.scheduler()
    clos.worker()
    clos.add_group(
        "shop",
        [_sleeper("kept"), _sleeper("left", restart_policy="no"),
         _sleeper("failing", restart_policy="on-failure", command=[sys.executable, "-c", _WAITS_FOR_USR1])],
    )  # fmt: skip
    assert clos.ended(clos.ask("start", "shop")).status == "completed"
    before = {name: clos.service(f"shop-{name}").pid for name in ("kept", "left", "failing")}
    _signal(before["failing"], signal.SIGUSR1)  # ends with 0
    _signal(before["kept"], signal.SIGKILL)
    _signal(before["left"], signal.SIGKILL)

    wait_until(lambda: clos.service("shop-kept").restarts == 1, 20)
    wait_until(lambda: clos.service("shop-kept").status == "running", 20)
    wait_until(lambda: clos.service("shop-left").status == "failed", 20)
    wait_until(lambda: clos.service("shop-failing").status == "stopped", 20)
    assert clos.service("shop-kept").pid != before["kept"]
    assert clos.service("shop-left").restarts == 0
    assert clos.service("shop-failing").restarts == 0


def _signal(pid: int, number: int) -> None:
    """To the command itself: the recorded pid is its wrapper's."""
    psutil.Process(pid).children()[0].send_signal(number)


_WAITS_FOR_USR1 = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
while True:
    signal.pause()
"""


@pytest.mark.fault
def test_an_operation_that_kills_three_workers_is_poison_and_frees_its_locks(clos):
    clos.add_group("shop", [web_service("web", free_port(), delay_s=60.0)])
    operation_id = clos.ask("start", "shop")
    for attempt in range(1, operations.MAX_CLAIMS + 1):
        worker = clos.worker()
        wait_until(lambda attempt=attempt: clos.operation(operation_id).attempt == attempt, 20)
        worker.send_signal(signal.SIGKILL)
        worker.wait(10)
    clos.worker()

    ended = clos.ended(operation_id, 20)

    assert (ended.status, ended.error["code"]) == ("failed", "poison")
    assert clos.ended(clos.ask("stop", "shop")).status == "completed"


def test_a_cancel_skips_what_was_not_reached_and_keeps_what_runs(clos):
    clos.worker()
    clos.add_group("shop", [web_service("slow", free_port(), delay_s=60.0), web_service("late", free_port(), ["slow"])])
    operation_id = clos.ask("start", "shop")
    wait_until(lambda: _step(clos, operation_id, "wait:shop-slow") == "running", 15)
    with clos.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))

    ended = clos.ended(operation_id, 10)

    assert ended.status == "cancelled"
    assert {step.id: step.status for step in ended.steps}["start:shop-late"] == "skipped"
    assert process_copies(clos) == Counter({"shop-slow": 1})


def test_thirty_rivals_for_one_group_make_one_operation(clos):
    clos.worker()
    clos.add_group("shop", [_sleeper("web")])
    made, refused = [], []

    def ask() -> None:
        try:
            made.append(clos.ask("start", "shop", send=False))
        except OperationInProgress as rival:
            refused.append(rival.operation_id)

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
    assert refused == made * 29
    for _ in range(3):
        clos.outbox.operation(made[0], "group.start")

    assert clos.ended(made[0]).attempt == 1
    assert process_copies(clos) == Counter({"shop-web": 1})


def test_an_engine_that_is_not_there_fails_the_operation_with_a_hint(clos, tmp_path):
    clos.worker(DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    clos.add_group("shop", [{"name": "web", "runtime": "docker", "image": "x:1"}])

    failed = clos.ended(clos.ask("start", "shop"), 20)

    assert (failed.status, failed.error["code"]) == ("failed", "engine_unreachable")
    assert failed.error["hint"]


@pytest.mark.fault
def test_an_engine_that_hangs_costs_its_timeout_and_no_more(clos, tmp_path):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/s")
        silent.listen(64)
        clos.worker(DOCKER_HOST=f"unix://{tmp_path}/s", CLOS_DOCKER__TIMEOUT="1s")
        clos.add_group("shop", [{"name": "web", "runtime": "docker", "image": "x:1"}])
        clos.add_group("plain", [_sleeper("main")])

        failed = clos.ended(clos.ask("start", "shop"), 15)

        assert (failed.status, failed.error["code"]) == ("failed", "engine_unreachable")
        assert clos.ended(clos.ask("start", "plain"), 15).status == "completed"


def test_a_check_that_turns_bad_is_told_after_its_retries_and_its_recovery_at_once(clos, tmp_path):
    clos.scheduler()
    clos.worker()
    well = tmp_path / "well"
    well.touch()
    check = {"type": "exec", "test": ["test", "-e", str(well)], "interval": 1.0, "timeout": 1.0, "retries": 2,
             "start_period": 0.0}  # fmt: skip
    clos.add_group("shop", [_sleeper("web", health_check=check)])
    assert clos.ended(clos.ask("start", "shop")).status == "completed"

    well.unlink()
    wait_until(lambda: clos.service("shop-web").status == "unhealthy", 20)
    well.touch()
    wait_until(lambda: clos.service("shop-web").health_status == "healthy", 20)
    assert clos.service("shop-web").status == "running"
