"""`clos demo`: the main job on the sample group, with one port taken on purpose."""

import shutil
import sys
import time
from typing import Any

import click

from cli.client import Client
from cli.command import Command
from cli.commands.operate import address
from cli.commands.status import COLUMNS
from cli.conflict_texts import held_by, resolution, settled_by
from cli.definitions import read_group
from cli.errors import DONE, FAILED, ApiError, CliError
from cli.invocation import Invocation, pass_invocation
from cli.live import Operation
from cli.local.stage import fetch, move, moves, squatter
from cli.output import inert
from cli.resolving import look
from cli.watching import conclude, watch

GROUP = "shop"
_START_S = 120.0
_HEALTHY_S = 20.0


@click.command(cls=Command)
@pass_invocation
def demo(invocation: Invocation) -> int:
    """See the main job on a sample group: order, progress, a taken port, who moves for it, and the way back.

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
        for old, new in moves(body).items():
            self.tell(f"port {old} is taken on this machine; the demo uses {new}")
            move(body, old, new)
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
        """Show what a start does when somebody else has a port of it, and the way back; left out where something runs.

        False: it failed.
        """
        found = {one["name"]: one for one in self.services()}
        taken = found.get("api")
        if taken is None or any(one.get("status") != "stopped" for one in found.values()):
            return True
        port = taken["ports"][0]["host_port"]
        with squatter(port) as pid:
            self.title(f"A stranger (pid {pid}) has taken port {port}, which api needs. Starting {GROUP}:")
            ended = self._start(on_conflict="migrate")
            if conclude(self._invocation, ended) != DONE or not self._is_well():
                return False
            settled = settled_by(self._client, ended)
            self._tell_moves(settled)
            self.title(f"The stranger goes, port {port} is free")
        return all(self._undo(one) for one in settled if one.get("undoable"))

    def _tell_moves(self, settled: list[dict[str, Any]]) -> None:
        self.title("The conflict, and what was done about it (on_conflict: migrate)")
        for one in settled:
            self.tell(f"conflict {one['id']} ({one.get('kind')}): {one.get('detail')}")
            self.tell(f"held by {held_by(one)}")
            self.tell(f"resolved by {resolution(one)}, operation {one['resolution'].get('operation_id')}")
        if not settled:
            self.tell("There was none: the stranger was gone before the start.")
        for one in self.services():
            wanted = [f"{key}={value}" for key, value in (one.get("environment") or {}).items()]
            self.tell(f"{one['name']:<6} answers at {address(one)}  {' '.join(wanted)}")
        self.tell(self._page() or "the shop's page cannot be fetched")

    def _undo(self, one: dict[str, Any]) -> bool:
        """Take a move back and wait until all of it is well again."""
        self.title(f"Taking the move back: clos conflicts undo {one['id']}")
        look(self._invocation)
        asked = self._client.post(f"/conflicts/{one['id']}/undo")
        if conclude(self._invocation, watch(self._invocation, asked, _START_S)) != DONE or not self._is_well():
            return False
        back = next(each for each in self.services() if each["id"] in one["claimants"])
        self.tell(f"{back['name']} is back at {address(back)}, and what refers to it follows")
        return True

    def start(self) -> bool:
        """Start the group where it does not run yet, and wait until all of it is healthy."""
        if self.all_healthy():
            return True
        self.title(f"Starting {GROUP}: each service when what it needs is healthy")
        return conclude(self._invocation, self._start()) == DONE and self._is_well()

    def _is_well(self) -> bool:
        """Wait until all of it is healthy.

        Raises:
            CliError: it does not become so.
        """
        deadline = time.monotonic() + _HEALTHY_S
        while not self.all_healthy():
            if time.monotonic() > deadline:
                self._printer.table(self.services(), COLUMNS)
                raise CliError("the shop was started and is not healthy", hint=f"clos logs {GROUP}")
            time.sleep(0.1)
        return True

    def _start(self, **how: str) -> Operation:
        try:
            asked = self._client.post(f"/groups/{GROUP}/start", how)
        except ApiError as refused:
            if refused.code != "operation_in_progress":
                raise
            # Somebody has started it already, perhaps a demo that was interrupted.
            asked = {"id": refused.problem["operation_id"]}
        return watch(self._invocation, asked, _START_S)

    def _page(self) -> str | None:
        """What the shop's page says."""
        web = next((one for one in self.services() if one["name"] == "web"), None)
        url = address(web) if web else None
        said = fetch(url) if url else None
        return f"The shop answers at {url}: {said}" if said is not None else None

    def farewell(self) -> int:
        """Say where everything is. The exit code tells whether the shop works."""
        found = self.services()
        self._printer.table(found, [*COLUMNS, ("URL", address)])
        said = self._page()
        if said is None or len(found) < 3:
            raise CliError("the shop's page cannot be fetched", hint=f"clos logs {GROUP}")
        base = self._client.credentials.url
        self._printer.data("")
        self.tell(said)
        self.tell(f"The API is at {base}/api/v2, its documentation at {base}/docs")
        self.tell(
            f"Look further: clos status -w | clos logs {GROUP} | clos events -f | clos check 9311 | clos conflicts"
        )
        self.tell(f"Everything goes on running. clos stop {GROUP} stops the shop, clos down stops CLOS.")
        return DONE


def _is_healthy(one: dict[str, Any]) -> bool:
    return one.get("status") == "running" and (one.get("health") or {}).get("status") == "healthy"
