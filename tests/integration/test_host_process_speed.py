import os
import time
from pathlib import Path

from domain.specs import RuntimeKind, ServiceSpec
from workers.runtimes.host_process import HostProcess


def test_fifty_services_are_observed_in_ten_milliseconds(tmp_path: Path) -> None:
    runtime = HostProcess(tmp_path, tmp_path.name, os.environ)
    specs = [
        ServiceSpec(id=f"g.s{n}", name=f"s{n}", group="g", runtime=RuntimeKind.PROCESS, command=("sleep", "1000"))
        for n in range(50)
    ]

    def once() -> float:
        began = time.perf_counter()
        assert sum(found.alive for found in runtime.observe().values()) == 50
        return time.perf_counter() - began

    try:
        for spec in specs:
            runtime.start(spec)
        best = min(once() for _ in range(10))
    finally:
        for spec in specs:
            runtime.stop(spec, 0.0)
    # The budget is 10 ms on a quiet machine; a test run is not one.
    assert best < 0.03, f"{best * 1000:.1f} ms"
