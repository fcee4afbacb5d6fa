"""A foreign process grabs a service's port between plan and start. Done when 3 of the ports part."""

import contextlib
import http.client
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import select

from domain.states import OperationStatus
from models.operations import Operation
from models.ports import PortClaim, PortLease, PortRange
from tests.faults.world import container_copies, process_copies
from tests.integration.rig import Rig, container_service, free_port, rig, web_service
from tests.waiting import wait_until

END_LIMIT_S = 60.0
SERVICE = "race-api"
# Says that it is there, waits for a line "<delay in s> <address> <port>", then takes the port as soon as it can, and
# says so.
_GRABBER = """
import socket, sys, time
print("ready", flush=True)
delay_s, address, port = sys.stdin.readline().split()
time.sleep(float(delay_s))
family = socket.AF_INET6 if ":" in address else socket.AF_INET
taker = socket.socket(family)
taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if family == socket.AF_INET6:
    taker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
try:
    taker.bind((address, int(port)))
    taker.listen(16)
    print("taken", flush=True)
except OSError:
    print("late", flush=True)
sys.stdin.readline()
"""


@dataclass
class Round:
    """One race: what policy said, whether the stranger won, how the operation ended, and what was wrong."""

    number: int
    on_conflict: str
    won: bool
    ended: str
    moved: bool
    took_s: float
    wrong: list[str] = field(default_factory=list)


class Stranger:
    """A process of somebody else's that takes a port when it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _GRABBER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid
        # An interpreter that only starts while the race is on comes too late on a busy machine.
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def go(self, delay_s: float, address: str, port: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{delay_s} {address} {port}\n")

    def won(self) -> bool:
        assert self._process.stdout is not None
        return self._process.stdout.readline() == "taken\n"

    def leave(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@contextlib.contextmanager
def stranger() -> Iterator[Stranger]:
    made = Stranger()
    try:
        yield made
    finally:
        made.leave()


def campaign(rounds: int, seed: int, docker: bool) -> list[Round]:
    """Run the rounds in one installation; half of them with `migrate`, half with `fail`."""
    dice = random.Random(seed)
    make = container_service if docker else web_service
    with rig() as clos:
        with clos.record.write() as session:
            session.add(PortRange(project="development", start_port=20_000, end_port=20_999))
        clos.scheduler()
        clos.add_group("race", [make("api", free_port())])
        clos.worker()
        _uninterrupted(clos)
        # Later than that the service has its port in nearly every round.
        latest_s = (0.2 if docker else 0.6) * _uninterrupted(clos)
        return [
            _round(clos, number, dice, latest_s, "migrate" if number % 2 == 0 else "fail", docker)
            for number in range(rounds)
        ]


def _uninterrupted(clos: Rig) -> float:
    began = time.monotonic()
    operation = clos.ended(clos.ask("start", "race"), 60)
    assert operation.status == "completed", operation.error
    took_s = time.monotonic() - began
    assert clos.ended(clos.ask("stop", "race"), 60).status == "completed"
    return took_s


def _port(clos: Rig) -> int:
    port = clos.service(SERVICE).port
    assert port is not None
    return port


def _round(clos: Rig, number: int, dice: random.Random, latest_s: float, on_conflict: str, docker: bool) -> Round:
    port = _port(clos)
    address = dice.choice(["127.0.0.1", "0.0.0.0", "::"])
    with stranger() as other:
        began = time.monotonic()
        operation_id = clos.ask("start", "race", on_conflict=on_conflict)
        other.go(dice.uniform(0.0, latest_s), address, port)
        operation = clos.ended(operation_id, END_LIMIT_S)
        took_s = time.monotonic() - began
        won = other.won()
        done = Round(number, on_conflict, won, operation.status, _port(clos) != port, round(took_s, 2))
        done.wrong = [*_wrong(done, operation, other.pid), *_left_behind(clos, operation, docker)]
        if operation.status == OperationStatus.COMPLETED and not _answers(_port(clos)):
            done.wrong.append(f"nobody answers on port {_port(clos)}")
        stopped = clos.ended(clos.ask("stop", "race"), 60)
        if stopped.status != "completed":
            done.wrong.append(f"the stop ended {stopped.status}: {stopped.error}")
    return done


def _wrong(done: Round, operation: Operation, stranger_pid: int) -> list[str]:
    """What speaks against: running on a port that is its own, or failed with the stranger named."""
    error = operation.error or {}
    if done.on_conflict == "migrate":
        return [] if done.ended == "completed" else [f"it ended {done.ended}: {error}"]
    if done.ended == "completed":
        return [f"it moved to another port although policy says {done.on_conflict}"] if done.moved else []
    if not done.won:
        return [f"it failed although nobody had its port: {error}"]
    named = (error.get("holder") or {}).get("pid")
    return (
        []
        if error.get("code") == "port_held" and named == stranger_pid
        else [f"it does not name {stranger_pid}: {error}"]
    )


def _left_behind(clos: Rig, operation: Operation, docker: bool) -> list[str]:
    """A copy too many or too few, a created container, a lease that no claim names."""
    if docker:
        running, created = container_copies(clos)
    else:
        running, created = process_copies(clos), []
    wanted = 1 if operation.status == OperationStatus.COMPLETED else 0
    wrong = [] if running[SERVICE] == wanted else [f"{SERVICE} runs {running[SERVICE]} times, not {wanted}"]
    wrong += [f"{each} is left created" for each in created]
    with clos.record.read() as session:
        leased = set(session.scalars(select(PortLease.port)))
        claimed = set(session.scalars(select(PortClaim.port).where(PortClaim.source == "spec")))
    return wrong + ([] if leased == claimed else [f"leases {sorted(leased)} are not the claims {claimed}"])


def _answers(port: int) -> bool:
    def asked() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    try:
        return wait_until(asked, 5, f"an answer on port {port}")
    except AssertionError:
        return False
