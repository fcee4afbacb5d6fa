"""`clos demo`: the main job on the sample group, with one port taken on purpose."""

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import click

from cli.client import Client
from cli.command import Command
from cli.commands.operate import address
from cli.commands.status import COLUMNS
from cli.definitions import read_group
from cli.errors import CONFLICT, DONE, FAILED, ApiError, CliError
from cli.invocation import Invocation, pass_invocation
from cli.live import Operation
from cli.output import inert
from cli.watching import conclude, watch

GROUP = "shop"
_START_S = 120.0
_HEALTHY_S = 20.0
_RANGE = range(9320, 9400)


@click.command(cls=Command)
@pass_invocation
def demo(invocation: Invocation) -> int:
    """See the main job on a sample group: order, progress, a taken port, and how it is freed.

    Brings CLOS up in the background if it does not run, and leaves everything running. A second run finds all of it
    running and changes nothing.
    """
    scene = _Scene(invocation)
    scene.register()
    if scene.all_healthy():
        scene.title("The shop is running and healthy already; nothing was changed")
        return scene.farewell()
    return scene.farewell() if scene.start_with_a_taken_port() and scene.start() else FAILED


class _Scene:
    """What the parts of the demonstration share."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._client: Client = invocation.client
        self._printer = invocation.printer
        self._printer.one_stream = True
        self._number = 0
        self.title(f"CLOS is up on {invocation.home}")

    def title(self, text: str) -> None:
        """The next part begins."""
        self._number += 1
        self._printer.data(f"\n{self._printer.paint(f'{self._number}. {inert(text)}', 'cyan')}")

    def tell(self, text: str) -> None:
        """A line of the story."""
        self._printer.data(f"   {inert(text)}")

    def register(self) -> None:
        """Register the sample group, unless it is."""
        from cli.local.supervision import ROOT

        file = ROOT / "examples" / "shop" / "shop.yaml"
        try:
            self._client.get(f"/groups/{GROUP}")
            return
        except ApiError as missing:
            if missing.status != 404:
                raise
        body = read_group(str(file))
        for old, new in _moves(body).items():
            self.tell(f"port {old} is taken on this machine; the demo uses {new}")
            _move(body, old, new)
        for service in body["services"]:
            if not shutil.which(service["command"][0]):
                service["command"][0] = sys.executable
        self._client.post("/groups", body)
        self.title(f"Registered the group {GROUP} from {file}")
        for service in body["services"]:
            needs = ", ".join(need["service"] for need in service.get("depends_on", []))
            self.tell(f"{service['name']:<6} port {service['ports'][0]['host_port']}  needs {needs or 'nothing'}")

    def services(self) -> list[dict[str, Any]]:
        """The sample's services as they are now."""
        return list(self._client.pages("/services", group=GROUP))

    def all_healthy(self) -> bool:
        """Whether there is nothing to show."""
        found = self.services()
        return bool(found) and all(_is_healthy(one) for one in found)

    def start_with_a_taken_port(self) -> bool:
        """Show what a start does when somebody else has a port of it; left out where something runs already.

        False: it failed for another reason.
        """
        found = {one["name"]: one for one in self.services()}
        taken = found.get("api")
        if taken is None or any(one.get("status") != "stopped" for one in found.values()):
            return True
        port = taken["ports"][0]["host_port"]
        with _squatter(port) as pid:
            self.title(f"A stranger (pid {pid}) has taken port {port}, which api needs. Starting {GROUP}:")
            ended = self._start()
            if conclude(self._invocation, ended) not in (DONE, CONFLICT):
                return False
            if ended["status"] == "failed":
                self.tell("The start failed and says who is to blame. What did not depend on that port is running.")
            self.title(f"The stranger goes, port {port} is free")
        return True

    def start(self) -> bool:
        """Start the group and wait until all of it is healthy."""
        self.title(f"Starting {GROUP}: each service when what it needs is healthy")
        if conclude(self._invocation, self._start()) != DONE:
            return False
        deadline = time.monotonic() + _HEALTHY_S
        while not self.all_healthy():
            if time.monotonic() > deadline:
                self._printer.table(self.services(), COLUMNS)
                raise CliError("the shop was started and is not healthy", hint=f"clos logs {GROUP}")
            time.sleep(0.1)
        return True

    def _start(self) -> Operation:
        try:
            asked = self._client.post(f"/groups/{GROUP}/start")
        except ApiError as refused:
            if refused.code != "operation_in_progress":
                raise
            # Somebody has started it already, perhaps a demo that was interrupted.
            asked = {"id": refused.problem["operation_id"]}
        return watch(self._invocation, asked, _START_S)

    def farewell(self) -> int:
        """Say where everything is. The exit code tells whether the shop works."""
        found = self.services()
        self._printer.table(found, [*COLUMNS, ("URL", address)])
        web = next((one for one in found if one["name"] == "web"), None)
        url = address(web) if web else None
        said = _fetch(url) if url else None
        if said is None or len(found) < 3:
            raise CliError("the shop's page cannot be fetched", hint=f"clos logs {GROUP}")
        base = self._client.credentials.url
        self._printer.data("")
        self.tell(f"The shop answers at {url}: {said}")
        self.tell(f"The API is at {base}/api/v2, its documentation at {base}/docs")
        self.tell(f"Look further: clos status -w | clos logs {GROUP} | clos events -f | clos restart {GROUP}")
        self.tell(f"Everything goes on running. clos stop {GROUP} stops the shop, clos down stops CLOS.")
        return DONE


def _is_healthy(one: dict[str, Any]) -> bool:
    return one.get("status") == "running" and (one.get("health") or {}).get("status") == "healthy"


def _moves(body: dict[str, Any]) -> dict[int, int]:
    """The sample's ports that this machine has given away already, and others for them."""
    ports = [service["ports"][0]["host_port"] for service in body["services"]]
    spare = (port for port in _RANGE if _is_free(port))
    return {port: next(spare) for port in ports if not _is_free(port)}


def _move(body: dict[str, Any], old: int, new: int) -> None:
    for service in body["services"]:
        for port in service["ports"]:
            port["host_port"] = new if port["host_port"] == old else port["host_port"]
        for name, value in service.get("environment", {}).items():
            service["environment"][name] = value.replace(f":{old}", f":{new}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _squatter(port: int) -> Iterator[int]:
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


def _fetch(url: str) -> str | None:
    """The text of a page, tags left out."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the shop's own address
            text = answer.read(4096).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())
