"""From a POST's arrival to the worker's claim, on an idle system. Budget: p95 10 ms.

The arrival is the row's `created_at`'s request, so it is taken as the moment before the request is sent: the figure
holds the request's way in as well. The floor is the same way without CLOS: one row and one Redis push by bare Flask.
"""

import statistics
import time
from datetime import UTC, datetime
from typing import Any

from tests.performance.benchmarks.installation import Installation, installation


def measure(count: int = 100) -> dict[str, Any]:
    """Start services that run already: claimed, found as wanted, ended."""
    with installation() as clos:
        clos.up()
        body = {"name": "bench", "services": [{"name": "a", "runtime": "process", "command": ["sleep", "3600"]}]}
        assert clos.call("POST", "/groups", json=body).status_code == 201
        for _ in range(5):
            _one(clos)
        waits = sorted(_one(clos) for _ in range(count))
        return {
            "count": count,
            "median_ms": round(statistics.median(waits), 2),
            "p95_ms": round(waits[int(count * 0.95) - 1], 2),
            "max_ms": round(waits[-1], 2),
        }


def _one(clos: Installation) -> float:
    sent_at = datetime.now(UTC)
    answer = clos.call("POST", "/groups/bench/start")
    assert answer.status_code == 202, answer.text
    ended = clos.call("GET", f"/operations/{answer.json()['id']}?wait=30").json()
    time.sleep(0.02)  # idle again
    claimed_at = datetime.fromisoformat(ended["start_time"])
    return (claimed_at - sent_at).total_seconds() * 1000
