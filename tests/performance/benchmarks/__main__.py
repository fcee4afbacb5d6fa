"""`make bench`: every benchmark, a table on the screen, and a file under tests/performance/results."""

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.conftest import missing
from tests.performance.benchmarks import group_start, pick_up, port_scan, scaling, start_up

RESULTS = Path(__file__).parents[1] / "results"
_WITH_DOCKER = ("group_start", "group_start_30", "chain", "port_scan")


def main() -> int:
    """Measure what was asked for."""
    words = argparse.ArgumentParser(prog="python -m tests.performance.benchmarks")
    words.add_argument("--only", default="")
    asked = words.parse_args()
    every = {
        "start_up": start_up.measure,
        "pick_up": pick_up.measure,
        "group_start": group_start.measure,
        "group_start_30": group_start.measure_30,
        "chain": group_start.measure_chain,
        "port_scan": port_scan.measure,
        "scaling": scaling.measure,
    }
    found: dict[str, object] = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for name, measure in every.items():
        if asked.only not in name:
            continue
        if name in _WITH_DOCKER and (why := missing("docker")):
            print(f"{name}: left out, {why}")
            continue
        found[name] = measure()
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    if not asked.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
