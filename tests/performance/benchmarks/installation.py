"""A whole CLOS by `clos up` in a folder of its own: what a user has."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.integration.rig import free_port

ROOT = Path(__file__).parents[3]


class Installation:
    """A home, and the commands of the command line on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.ws_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def clos(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `clos` as a user does."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "cli", *words],
            cwd=ROOT,
            env={**os.environ, "CLOS_HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def up(self, *words: str) -> float:
        """Bring it up, with more flags if need be; the seconds that took."""
        began = time.monotonic()
        self.clos("up", "-d", "--port", str(self.port), "--ws-port", str(self.ws_port), *words)
        took_s = time.monotonic() - began
        key = json.loads((self.home / "credentials.json").read_text())["api_key"]
        self.session = requests.Session()
        self.session.headers["X-API-Key"] = key
        return took_s

    def down(self) -> float:
        """Take it down; the seconds that took."""
        began = time.monotonic()
        self.clos("down")
        return time.monotonic() - began

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """Call the API."""
        return self.session.request(method, f"{self.url}/api/v2{path}", timeout=70, **more)

    def processes(self) -> list[psutil.Process]:
        """CLOS's own processes: everything below its process manager, which holds this home."""
        manager = json.loads((self.home / "run" / "supervisor.json").read_text())["pid"]
        head = psutil.Process(manager)
        return [head, *head.children(recursive=True)]


def usage(processes: Sequence[psutil.Process]) -> dict[str, Any]:
    """Unique memory in MB of each process, and their sum."""
    each = {
        f"{p.pid} {' '.join(p.cmdline()[-2:])[-40:]}": round(p.memory_full_info().uss / 2**20, 1) for p in processes
    }
    return {"uss_mb": round(sum(each.values()), 1), "each": each}


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """What these have used so far."""
    return sum(p.cpu_times().user + p.cpu_times().system for p in processes)


@contextlib.contextmanager
def installation() -> Iterator[Installation]:
    """One, taken down afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="clos-bench-"))
    made = Installation(folder / "home")
    try:
        yield made
    finally:
        if made.clos("down", "--services", check=False).returncode:
            made.clos("down", check=False)
        shutil.rmtree(folder, ignore_errors=True)
