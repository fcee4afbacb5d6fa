"""200 starts with one, two and four worker processes, in the same run and alternating.

Each start is an operation of its own, and its service is healthy when a server has answered, which takes its time: what
is measured is how many such waits the workers hold at once, and what each start costs besides. Budget: four workers do
3.2 times what one does.
"""

import asyncio
import contextlib
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from tests.performance.benchmarks.installation import Installation, cpu_seconds, installation

# Four workers' share of two cores has to do for the starts that end in that time.
_ANSWERS_AFTER_S = 2.0
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
# As many requests at once as a handful of people send.
_CLIENTS = 4
_LIMIT_S = 120.0


def measure(starts: int = 200, workers: Sequence[int] = (1, 2, 4), rounds: int = 5) -> dict[str, Any]:
    """Medians of `rounds`, and the medians of the rounds' ratios to one worker."""
    took: dict[int, list[float]] = defaultdict(list)
    cores: dict[int, list[float]] = defaultdict(list)
    with installation() as clos, _slow_server() as url:
        clos.up()
        names = _define(clos, starts, url)
        for _ in range(rounds):
            for count in workers:
                clos.down()
                clos.up("--workers", str(count))
                seconds, used = _start_all(clos, names)
                took[count].append(seconds)
                cores[count].append(used / seconds)
                _stop_all(clos)
    return {
        "starts": starts,
        "rounds": rounds,
        **{f"workers_{count}_s": round(statistics.median(took[count]), 2) for count in workers},
        **{f"workers_{count}_cores": round(statistics.median(cores[count]), 2) for count in workers},
        **{f"workers_{count}_to_one": _ratio(took[workers[0]], took[count]) for count in workers[1:]},
    }


def _ratio(one: Sequence[float], several: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(one, several, strict=True)), 2)


def _define(clos: Installation, starts: int, url: str) -> list[str]:
    check = {"type": "http", "url": url, "interval": 30, "timeout": 20}
    services = [
        {"name": f"s{number}", "runtime": "process", "command": ["sleep", "3600"], "health_check": check}
        for number in range(starts)
    ]
    answer = clos.call("POST", "/groups", json={"name": "bench", "services": services})
    assert answer.status_code == 201, answer.text
    return list(answer.json()["services"])


def _start_all(clos: Installation, names: Sequence[str]) -> tuple[float, float]:
    """Seconds from the first request to the end of the last operation; and what CLOS used of the CPU meanwhile."""
    processes = clos.processes()
    used = cpu_seconds(processes)
    with ThreadPoolExecutor(_CLIENTS) as clients:
        asked = list(clients.map(lambda name: clos.call("POST", f"/services/{name}/start"), names))
    assert all(each.status_code == 202 for each in asked), asked[0].text
    ended = _ends(clos, [each.json()["id"] for each in asked])
    used = cpu_seconds(processes) - used
    wrong = [each for each in ended if each["status"] != "completed"]
    assert not wrong, wrong[0]["error"]
    began = min(datetime.fromisoformat(each["created_at"]) for each in ended)
    return (max(datetime.fromisoformat(each["end_time"]) for each in ended) - began).total_seconds(), used


def _ends(clos: Installation, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Wait for the newest first: by then most have ended, and the rest is asked once each."""
    deadline = time.monotonic() + _LIMIT_S
    found: dict[str, dict[str, Any]] = {}
    for operation_id in reversed(ids):
        while time.monotonic() < deadline:
            answer = clos.call("GET", f"/operations/{operation_id}?wait=30").json()
            if answer["end_time"]:
                found[operation_id] = answer
                break
    assert len(found) == len(ids), f"{len(ids) - len(found)} have not ended after {_LIMIT_S:g} s"
    return list(found.values())


def _stop_all(clos: Installation) -> None:
    operation_id = clos.call("POST", "/groups/bench/stop").json()["id"]
    deadline = time.monotonic() + _LIMIT_S
    while (ended := clos.call("GET", f"/operations/{operation_id}?wait=60").json())["end_time"] is None:
        assert time.monotonic() < deadline
    assert ended["status"] == "completed", ended["error"]


@contextlib.contextmanager
def _slow_server() -> Iterator[str]:
    """The URL of a server that takes its time, on a thread of its own."""
    loop = asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readline()
            await asyncio.sleep(_ANSWERS_AFTER_S)
            writer.write(_ANSWER)
            await writer.drain()
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, name="slow-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()
