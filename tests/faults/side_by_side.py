"""Campaigns side by side, each in a process of its own: they mostly wait, for silences and for health checks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

Line = dict[str, Any]
# They race against time, measure it, or take the whole machine: nothing else is to go on beside them.
ALONE = ("terminated", "port_races_process", "port_races_docker", "allocations", "thirty_starts_docker")
# A full campaign of kills takes the better part of an hour, alone.
_LIMIT_S = 3 * 3600.0


def lines(names: list[str], rounds: int, seed: int, jobs: int) -> Iterator[Line]:
    """What each campaign says, in the order of their ends: first those that bear company, `jobs` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        due = [pool.submit(_line, name, rounds, seed) for name in names if name not in ALONE]
        for done in as_completed(due):
            yield done.result()
    for name in names:
        if name in ALONE:
            yield _line(name, rounds, seed)


def _line(name: str, rounds: int, seed: int) -> Line:
    command = [sys.executable, "-m", "tests.faults", "--rounds", str(rounds), "--seed", str(seed), "--only", name]
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"campaign": name, "ok": False, "broke": f"it had not ended after {_LIMIT_S:g} s"}
    return line_of(name, ended.stdout, ended.returncode)


def line_of(name: str, told: str, code: int) -> Line:
    """The campaign's line in what its process printed; one that says how that ended if there is none."""
    for text in told.splitlines():
        if text.startswith("{"):
            line: Line = json.loads(text)
            return line | {"ok": line.get("ok", False) and code == 0}
    return {"campaign": name, "ok": False, "broke": f"its process ended {code} without a word"}
