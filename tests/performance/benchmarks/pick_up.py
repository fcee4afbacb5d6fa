"""From a POST's arrival to the worker's claim, on an idle system. Budget: p95 10 ms.

The arrival is taken as the moment at which the client hands the whole request to its socket, so the figure holds the
way over loopback as well.
"""

import http.client
import json
import statistics
import time
from datetime import UTC, datetime
from typing import Any

from tests.performance.benchmarks.installation import Installation, installation

# Longer than a pick-up takes, so that the client sleeps while one happens: the figure is that of an idle system.
_QUIET_S = 0.05


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
    """One start. The request is ready beforehand, so that nothing of the client's own work is measured."""
    key = clos.session.headers["X-API-Key"]
    connection = http.client.HTTPConnection("127.0.0.1", clos.port, timeout=30)
    connection.connect()
    request = f"POST /api/v2/groups/bench/start HTTP/1.1\r\nHost: 127.0.0.1:{clos.port}\r\nX-API-Key: {key!s}\r\n\r\n"
    time.sleep(0.02)  # idle again
    arrived_at = datetime.now(UTC)
    connection.sock.sendall(request.encode())
    answer = http.client.HTTPResponse(connection.sock)
    answer.begin()
    body = json.loads(answer.read())
    connection.close()
    assert answer.status == 202, body
    time.sleep(_QUIET_S)  # what this client does next must not compete with the worker that is being timed
    ended = clos.call("GET", f"/operations/{body['id']}?wait=30").json()
    claimed_at = datetime.fromisoformat(ended["start_time"])
    return (claimed_at - arrived_at).total_seconds() * 1000
