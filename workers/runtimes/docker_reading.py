"""What comes out of a container: its log, a command's output, its counters, its health test."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from docker.errors import APIError

from domain.errors import EngineUnreachable, StartFailed, TimedOut
from domain.specs import ServiceSpec
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_errors import BROKEN, status, translated
from workers.runtimes.docker_observation import Summary
from workers.runtimes.docker_streams import MAX_LINES, FrameReader, LineAssembler, read_lines
from workers.runtimes.log_text import plain_text
from workers.runtimes.protocol import ExecResult, LogLine

MAX_OUTPUT_BYTES = 4096
_PAUSE_S = 0.5
_MOST_KNOWN = 2000


class Reading:
    """Reads from containers that `find` finds by service id."""

    def __init__(self, client: EngineClient, find: Callable[[str], Summary | None]) -> None:
        self._client = client
        self._find = find
        self._terminals: dict[str, bool] = {}

    def log(self, service_id: str, tail: int, since: datetime | None) -> tuple[str, list[LogLine]] | None:
        """The last `tail` lines of a service's container, oldest first, and its id; None where there is none.

        Raises:
            EngineUnreachable: the engine does not answer.
        """
        with translated(f"read the log of {service_id}", base_url=self._client.base_url, looking=True):
            found = self._find(service_id)
        return (str(found["Id"]), self.lines_of(str(found["Id"]), tail, since)) if found else None

    def lines_of(self, ref: str, tail: int, since: datetime | None) -> list[LogLine]:
        """The last `tail` lines (at most 5000, 1 MiB) of a container; none where it is gone.

        Raises:
            EngineUnreachable: the engine does not answer.
        """
        with translated(f"read the log of the container {ref[:12]}", base_url=self._client.base_url, looking=True):
            response = self._open(ref, tail, since, follow=False) if tail > 0 else None
            if response is None:
                return []
            return read_lines(response, min(tail, MAX_LINES), self._client.timeout_s, self._has_terminal(ref))

    def listed(self, filters: Mapping[str, Any]) -> list[Summary]:
        """The containers that a filter finds, running or not.

        Raises:
            EngineUnreachable: the engine does not answer.
        """
        with translated("look at the containers", base_url=self._client.base_url, looking=True):
            return list(self._client.api().containers(all=True, filters=filters))

    def follow(self, service_id: str, stop: Callable[[], bool]) -> Iterator[LogLine | None]:
        """New lines from now on. A silent stream is opened again after `timeout_s`, from its last line on."""
        since = datetime.now(UTC)
        while not stop():
            try:
                with translated(f"follow the log of {service_id}", looking=True):
                    found = self._find(service_id)
                    response = self._open(found["Id"], None, since, follow=True) if found else None
            except EngineUnreachable:
                return
            if found and response is not None:
                terminal = self._has_terminal(found["Id"])
                for line in self._lines(response, stop, terminal):
                    if line and line.at:
                        since = line.at + timedelta(microseconds=1)
                    yield line
            time.sleep(0 if stop() else _PAUSE_S)  # stopped or not there yet: it may start again
            yield None

    @staticmethod
    def _lines(response: requests.Response, stop: Callable[[], bool], terminal: bool) -> Iterator[LogLine | None]:
        reader = FrameReader(response, terminal)
        assembler = LineAssembler()
        try:
            while not reader.ended and not stop():
                frame = reader.next(_PAUSE_S)
                if frame is None:
                    yield None
                else:
                    yield from assembler.feed(frame)
            yield from assembler.rest()
        finally:
            reader.close()

    def _has_terminal(self, ref: str) -> bool:
        """Whether its stream has no frames; a container's configuration never changes, so it is asked once."""
        if ref not in self._terminals:
            if len(self._terminals) >= _MOST_KNOWN:
                self._terminals.clear()
            try:
                inspected = self._client.api().inspect_container(ref)
            except BROKEN:
                return False
            self._terminals[ref] = bool((inspected.get("Config") or {}).get("Tty"))
        return self._terminals[ref]

    def _open(self, ref: str, tail: int | None, since: datetime | None, follow: bool) -> requests.Response | None:
        params: dict[str, Any] = {
            "stdout": 1,
            "stderr": 1,
            "timestamps": 1,
            "follow": int(follow),
            "tail": "all" if tail is None else tail,
        }
        if since:
            params["since"] = f"{int(since.timestamp())}.{since.microsecond:06d}000"
        try:
            return self._client.request("GET", f"/containers/{ref}/logs", params=params, stream=True)
        except APIError as error:
            if status(error) in (404, 409):
                return None
            raise

    def execute(self, spec: ServiceSpec, argv: Sequence[str], timeout_s: float) -> ExecResult:
        """Run a command, and give it up after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        found = self._find(spec.id)
        if not found or found.get("State") != "running":
            raise StartFailed(f"{spec.id} does not run", hint="start it first")
        exec_id = self._client.api().exec_create(found["Id"], list(argv))["Id"]
        response = self._client.request(
            "POST",
            f"/exec/{exec_id}/start",
            json={"Detach": False, "Tty": False},
            idle_s=timeout_s + self._client.timeout_s,
            stream=True,
        )
        output = self._output(response, deadline)
        while time.monotonic() < deadline:
            state = self._client.api().exec_inspect(exec_id)
            if not state.get("Running") and state.get("ExitCode") is not None:
                return ExecResult(int(state["ExitCode"]), output)
            time.sleep(0.02)
        raise TimedOut(f"{argv[0]} in {spec.id} did not end within {timeout_s:g} s", output=output)

    @staticmethod
    def _output(response: requests.Response, deadline: float) -> str:
        reader = FrameReader(response)
        kept = b""
        try:
            while not reader.ended and (left_s := deadline - time.monotonic()) > 0:
                if frame := reader.next(left_s):
                    kept += frame[1][: MAX_OUTPUT_BYTES - len(kept)]
        finally:
            reader.close()
        return plain_text(kept)

    def counters(self, ref: str) -> Mapping[str, Any] | None:
        """The engine's own counters of a container; takes one to two seconds. None if it cannot be had."""
        try:
            told: Mapping[str, Any] = self._client.api().stats(ref, stream=False, one_shot=True)
        except BROKEN:
            return None
        return told

    def own_test(self, image: str, spec: ServiceSpec) -> tuple[str, ...]:
        """The argument list of `HEALTHCHECK`, empty where there is none."""
        found = self._find(spec.id)
        api = self._client.api()
        inspected = api.inspect_container(found["Id"]) if found else api.inspect_image(image)
        return argument_list(inspected.get("Config") or {})


def argument_list(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Docker's `CMD` and `CMD-SHELL` forms as a plain argument list."""
    form, *rest = (config.get("Healthcheck") or {}).get("Test") or ["NONE"]
    if form == "CMD":
        return tuple(rest)
    if form == "CMD-SHELL" and rest:
        return (*(config.get("Shell") or ("/bin/sh", "-c")), rest[0])
    return ()
