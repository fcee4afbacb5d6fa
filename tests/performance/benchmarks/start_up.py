"""`clos up` and `clos down`, memory and idle CPU. Budgets: 4 s, 3 s, 250 MB, 3 % of one core."""

import statistics
import time
from typing import Any

from tests.performance.benchmarks.installation import cpu_seconds, installation, usage


def measure(rounds: int = 5, idle_s: float = 20.0) -> dict[str, Any]:
    """Medians of `rounds`; the first, with migrations, apart."""
    with installation() as clos:
        ups, downs = [], []
        for _ in range(rounds):
            ups.append(clos.up())
            downs.append(clos.down())
        clos.up()
        time.sleep(3.0)  # what start-up still does is not idling
        processes = clos.processes()
        before, began = cpu_seconds(processes), time.monotonic()
        time.sleep(idle_s)
        idle = 100 * (cpu_seconds(processes) - before) / (time.monotonic() - began)
        return {
            "up_first_s": round(ups[0], 2),
            "up_median_s": round(statistics.median(ups[1:]), 2),
            "down_median_s": round(statistics.median(downs), 2),
            "idle_cpu_percent": round(idle, 2),
            **usage(processes),
        }
