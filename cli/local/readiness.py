"""Wait until a CLOS that was just started can be used, and say what failed if it cannot."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli.errors import UNREACHABLE, CliError
from cli.local.process_manager import STOPPED_STATES, Control

_NEEDED = {"worker": "workers", "scheduler": "scheduler"}
_TOO_OFTEN = 4
_LOG_LINES = 12


class NotReady(CliError):
    """It did not become ready; `lines` hold the end of the logs of what failed."""

    def __init__(self, message: str, lines: list[str]) -> None:
        super().__init__(message, UNREACHABLE, lines=tuple(lines))


def health(url: str, timeout_s: float = 2.0) -> dict[str, Any] | None:
    """What `GET /health` says, healthy or not; None if nobody answers it."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        found = json.loads(connection.getresponse().read(1 << 20))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return found if isinstance(found, dict) and isinstance(found.get("checks"), dict) else None


def listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def failing(seen: Mapping[str, Any] | None, programs: list[str]) -> dict[str, str]:
    """Each check that `programs` should make pass and that does not, with what the API says of it."""
    needed = ["database", "redis", *(check for name, check in _NEEDED.items() if name in programs)]
    checks = (seen or {}).get("checks", {})
    return {
        name: str(checks.get(name, {}).get("detail") or checks.get(name, {}).get("status") or "not seen yet")
        for name in needed
        if checks.get(name, {}).get("status") != "ok"
    }


def wait(
    home: Path,
    control: Control,
    api_url: str,
    gateway: tuple[str, int],
    programs: list[str],
    limit_s: float,
    alive: Callable[[], bool],
) -> None:
    """Return once the API says that everything in `programs` works. `alive` tells of the supervisor.

    Raises:
        NotReady: it does not within `limit_s`, or a program dies again and again.
    """
    deadline = time.monotonic() + limit_s
    lives: dict[str, set[int]] = {}
    seen: dict[str, Any] | None = None
    looks = 0
    while time.monotonic() < deadline:
        seen = health(api_url)
        if seen is not None and not failing(seen, programs) and ("websocket" not in programs or listens(*gateway)):
            return
        if looks % 10 == 0:
            _count_lives(control, lives)
            dying = [name for name, pids in lives.items() if len(pids) >= _TOO_OFTEN]
            if dying:
                raise NotReady(f"{', '.join(dying)} cannot start", _last_lines(home, dying))
        if not alive():
            raise NotReady("the supervisor ended", _tail(home / "logs" / "supervisord.out"))
        looks += 1
        time.sleep(0.05)
    missing = failing(seen, programs)
    what = ", ".join(f"{name}: {why}" for name, why in missing.items()) if seen else "the API does not answer"
    suspects = [name for name, check in _NEEDED.items() if check in missing] if seen else ["api"]
    raise NotReady(
        f"CLOS did not become ready within {limit_s:g} s: {what or 'the WebSocket gateway does not listen'}",
        _last_lines(home, suspects if missing else ["websocket"]),
    )


def _count_lives(control: Control, lives: dict[str, set[int]]) -> None:
    try:
        programs = control.programs()
    except OSError:
        return  # it has not opened its socket yet; whoever started it notices if it dies
    for program in programs:
        seen = lives.setdefault(program["name"], set())
        # `start` moves with each life; between two lives the pid is 0.
        seen.add(program["start"] if program["state"] not in STOPPED_STATES else -program["stop"])


def _last_lines(home: Path, programs: list[str]) -> list[str]:
    files = [file for name in programs for file in sorted((home / "logs").glob(f"{name}*.log"))]
    written = [file for file in files if file.stat().st_size]
    return [line for file in written or [home / "logs" / "supervisord.log"] for line in _tail(file)]


def _tail(file: Path) -> list[str]:
    with open(file, "rb") as log:
        log.seek(max(0, file.stat().st_size - 16_384))
        text = log.read().decode("utf-8", "replace")
    return [f"{file}:", *(f"  {line}" for line in text.splitlines()[-_LOG_LINES:])]
