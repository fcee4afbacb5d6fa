"""What the demonstration needs beside CLOS: free ports, a stranger who takes one, a look at a page."""

import contextlib
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

from cli.errors import CliError

_RANGE = range(9320, 9400)


def moves(body: dict[str, Any]) -> dict[int, int]:
    """The sample's ports that this machine has given away already, and others for them."""
    ports = [service["ports"][0]["host_port"] for service in body["services"]]
    spare = (port for port in _RANGE if is_free(port))
    return {port: next(spare) for port in ports if not is_free(port)}


def move(body: dict[str, Any], old: int, new: int) -> None:
    """The others find it by a reference, so that only its own definition changes."""
    for service in body["services"]:
        for port in service["ports"]:
            port["host_port"] = new if port["host_port"] == old else port["host_port"]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def squatter(port: int) -> Iterator[int]:
    """A process that holds the port; gone when the block ends."""
    from cli.local.supervision import ROOT

    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "shop" / "squatter.py"), str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        if process.stdout is None or process.stdout.readline() != b"held\n":
            raise CliError(f"port {port} could not be taken for the demonstration", hint="run the demo again")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def fetch(url: str) -> str | None:
    """The text of a page, tags left out."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the shop's own address
            text = answer.read(4096).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())
