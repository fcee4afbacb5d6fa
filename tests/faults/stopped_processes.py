"""SIGTERM to every process under load, and one POST repeated thirty times. Done when 4 and 7 of the main job."""

import signal
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from domain.states import FINAL
from tests.faults.world import process_copies
from tests.integration.api_fixture import Api, running_api
from tests.waiting import wait_until

# What each process has until it must be gone (interface.md: all of CLOS within 10 s).
LIMITS_S = {"api.main": 10.0, "api.gateway": 5.0, "workers.main": 10.0, "scheduler.main": 5.0}


class _Load:
    """Starts groups over HTTP all the time, each with a key of its own, as a client that repeats what got no answer."""

    def __init__(self, api: Api, groups: list[str]) -> None:
        self._api = api
        self._groups = list(groups)
        self.accepted: dict[str, str] = {}
        self.strange: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]
        self._guard = threading.Lock()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float) -> None:
        for thread in self._threads:
            thread.join(timeout_s)
            assert not thread.is_alive(), "the load did not end"

    def _run(self) -> None:
        while True:
            with self._guard:
                if not self._groups:
                    return
                group = self._groups.pop()
            key = uuid.uuid4().hex
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    answer = requests.post(
                        f"{self._api.url}/api/v2/groups/{group}/start",
                        headers={"X-API-Key": self._api.key, "Idempotency-Key": key},
                        timeout=15,
                    )
                except requests.RequestException:
                    time.sleep(0.05)  # the API is down: try again, with the same key
                    continue
                if answer.status_code == 202:
                    self.accepted[group] = answer.json()["id"]
                    break
                if answer.status_code not in (503, 429):
                    self.strange.append(f"{group}: {answer.status_code} {answer.text[:200]}")
                    break
                time.sleep(0.05)


def terminated(count: int = 100) -> dict[str, Any]:
    """Under a load of starts, TERM each process in turn and start it again."""
    with running_api() as api:
        clos = api.rig
        api.start_gateway()
        worker, scheduler = clos.worker(), clos.scheduler()
        groups = [_sleeper(api, number) for number in range(count)]
        load = _Load(api, groups)
        load.start()
        took: dict[str, float] = {}
        codes: dict[str, int] = {}
        for module, process in (
            ("workers.main", worker),
            ("scheduler.main", scheduler),
            ("api.main", api.process),
            ("api.gateway", api.gateway_process),
        ):
            assert process is not None
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            codes[module] = process.wait(30)
            took[module] = round(time.monotonic() - began, 2)
            restart = {"workers.main": clos.worker, "scheduler.main": clos.scheduler, "api.main": api.start}
            restart.get(module, api.start_gateway)()
        load.join(90)
        ids = list(load.accepted.values())
        wait_until(lambda: all(clos.operation(each).status in FINAL for each in ids), 60, "the end of all operations")
        return {
            "asked": count,
            "accepted": len(ids),
            "strange": load.strange,
            "ended": dict(Counter(clos.operation(each).status for each in ids)),
            "copies": dict(Counter(process_copies(clos).values())),
            "attempts": max(clos.operation(each).attempt for each in ids),
            "stop_s": took,
            "exit_codes": codes,
            "in_time": all(took[module] <= LIMITS_S[module] for module in took),
        }


def repeated_posts(count: int = 30) -> dict[str, Any]:
    """The same POST with the same key from many threads at once, with a worker at work."""
    with running_api() as api:
        clos = api.rig
        clos.worker()
        group = _sleeper(api, 0)
        key = uuid.uuid4().hex

        def post(_number: int) -> tuple[int, str]:
            answer = requests.post(
                f"{api.url}/api/v2/groups/{group}/start",
                headers={"X-API-Key": api.key, "Idempotency-Key": key},
                timeout=30,
            )
            return answer.status_code, answer.json().get("id", answer.text[:200])

        with ThreadPoolExecutor(count) as pool:
            answers = Counter(pool.map(post, range(count)))
        (code, operation_id) = next(iter(answers))
        clos.ended(operation_id, 30)
        operations = api.get(f"/operations?group={group}").json()["items"]
        return {
            "answers": [[code, number] for (code, _id), number in answers.items()],
            "operations": len(operations),
            "one": len(answers) == 1 and code == 202 and len(operations) == 1,
            "copies": dict(Counter(process_copies(clos).values())),
        }


def _sleeper(api: Api, number: int) -> str:
    name = f"job{number}"
    body = {
        "name": name,
        "services": [{"name": "main", "runtime": "process", "command": ["sleep", "3600"], "stop_timeout": 2}],
    }
    made = api.post("/groups", body)
    assert made.status_code == 201, made.text
    return name
