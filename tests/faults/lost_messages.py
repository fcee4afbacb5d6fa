"""Redis stopped, wiped, and messages delivered twice. Done when 4 of the main job."""

import time
from collections import Counter
from typing import Any

from domain.states import FINAL
from tests.faults.world import process_copies
from tests.integration.rig import Rig, rig
from tests.waiting import wait_until


def _sleepers(clos: Rig, count: int) -> list[str]:
    names = [f"job{number}" for number in range(count)]
    for name in names:
        clos.add_group(name, [{"name": "main", "runtime": "process", "command": ["sleep", "3600"], "stop_timeout": 2}])
    return names


def _all_end(clos: Rig, ids: list[str], limit_s: float) -> Counter[str]:
    wait_until(lambda: all(clos.operation(each).status in FINAL for each in ids), limit_s, "the end of all operations")
    return Counter(clos.operation(each).status for each in ids)


def redis_stopped(count: int = 100, outage_s: float = 10.0) -> dict[str, Any]:
    """Half of the operations are asked for before Redis goes, half while it is away."""
    with rig() as clos:
        clos.scheduler()
        clos.worker()
        names = _sleepers(clos, count)
        ids = [clos.ask("start", name) for name in names[: count // 2]]
        clos.redis.stop()
        away_since = time.monotonic()
        ids += [clos.ask("start", name) for name in names[count // 2 :]]
        while time.monotonic() - away_since < outage_s:
            time.sleep(0.1)  # the outage itself
        clos.redis.start()
        back_at = time.monotonic()
        ended = _all_end(clos, ids, 90)
        return {
            "ended": dict(ended),
            "after_return_s": round(time.monotonic() - back_at, 1),
            "copies": dict(Counter(process_copies(clos).values())),
            "asked": count,
        }


def redis_wiped(count: int = 100) -> dict[str, Any]:
    """FLUSHALL while operations wait in the queue."""
    with rig() as clos:
        clos.scheduler()
        clos.worker()
        names = _sleepers(clos, count)
        ids = [clos.ask("start", name) for name in names]
        clos.redis.wipe()
        wiped_at = time.monotonic()
        ended = _all_end(clos, ids, 90)
        return {
            "ended": dict(ended),
            "after_wipe_s": round(time.monotonic() - wiped_at, 1),
            "copies": dict(Counter(process_copies(clos).values())),
            "asked": count,
        }


def delivered_twice(count: int = 20) -> dict[str, Any]:
    """Every message is sent three times, to two workers."""
    with rig() as clos:
        clos.worker()
        clos.worker()
        names = _sleepers(clos, count)
        ids = [clos.ask("start", name, send=False) for name in names]
        for operation_id in ids:
            for _ in range(3):
                clos.outbox.operation(operation_id, "group.start")
        ended = _all_end(clos, ids, 60)
        starts = Counter(
            event["data"]["step"]["id"]
            for operation_id in ids
            for event in clos.events(operation_id)
            if event["type"] == "operation.progress"
            and (event["data"].get("step") or {}).get("status") == "running"
            and event["data"]["step"]["action"] == "start"
        )
        return {
            "ended": dict(ended),
            "attempts": max(clos.operation(each).attempt for each in ids),
            "starts_of_one_service": max(starts.values()),
            "copies": dict(Counter(process_copies(clos).values())),
            "asked": count,
        }
