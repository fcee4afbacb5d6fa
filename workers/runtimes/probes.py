"""Health probes: http, tcp, exec, and an image's own test. Each ends within its limit, whatever the other side
does: a server that drips a byte a second, a name that does not resolve, a command that hangs."""

import queue
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol, runtime_checkable
from urllib.parse import SplitResult, urlsplit

from domain.errors import ClosError
from domain.observation import Instance
from domain.specs import CheckType, HealthCheck, PortRequest, ServiceSpec
from workers.runtimes.docker_listening import listens
from workers.runtimes.protocol import Runtime

READY_LIMIT_S = 1.0
_HEAD_LIMIT = 64 * 2**10
_DETAIL_LIMIT = 300
# Docker's userland proxy accepts before it knows whether anybody listens behind it, and hangs up if nobody does.
_PROXY_GRACE_S = 0.06
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
# Names that are being resolved by threads which may outlive their probe.
_RESOLVING = threading.BoundedSemaphore(16)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe saw. `detail` is a sentence for people, `response_time_ms` the whole probe."""

    ok: bool
    detail: str
    response_time_ms: float


@runtime_checkable
class Simulated(Protocol):
    """A runtime whose instances answer no socket; it says itself how they fare."""

    def simulated_health(self, service_id: str) -> bool:
        """Whether a probe of this service would pass."""
        ...


class _Failed(Exception):
    """A probe failed; the message is its detail."""


class _Deadline:
    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._ends_at = time.monotonic() + limit_s

    def left_s(self) -> float:
        """Seconds that are left; raises _Failed when there are none."""
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise _Failed(f"no answer within {self._limit_s:g} s")
        return left_s


def probe(spec: ServiceSpec, check: HealthCheck, runtime: Runtime) -> ProbeResult:
    """Look once, within `check.timeout_s`. A failure is a result, never an exception."""
    return _timed(check.timeout_s, lambda deadline: _probe(spec, check, runtime, deadline))


def default_ready(spec: ServiceSpec, runtime: Runtime, instance: Instance) -> ProbeResult:
    """Whether a service without a health check has started: alive, and listening where it has a TCP port."""

    def look(deadline: _Deadline) -> str:
        if not instance.alive:
            raise _Failed(instance.detail or f"it is {instance.phase.value}")
        if isinstance(runtime, Simulated):
            return _simulated(runtime, spec)
        ports = [p for p in spec.ports if p.host_port is not None and p.protocol == "tcp"]
        for port in ports:
            _connect_to(port, runtime, deadline, instance)
        return "listening on " + ", ".join(str(p.host_port) for p in ports) if ports else "running"

    return _timed(READY_LIMIT_S, look)


def _timed(limit_s: float, look: "_Look") -> ProbeResult:
    began = time.monotonic()
    try:
        ok, detail = True, look(_Deadline(limit_s))
    except _Failed as failure:
        ok, detail = False, str(failure)
    except TimeoutError:
        ok, detail = False, f"no answer within {limit_s:g} s"
    except (OSError, ValueError) as failure:
        ok, detail = False, str(failure) or type(failure).__name__
    except ClosError as failure:
        ok, detail = False, failure.message
    return ProbeResult(ok, detail[:_DETAIL_LIMIT], round((time.monotonic() - began) * 1000, 3))


class _Look(Protocol):
    def __call__(self, deadline: _Deadline, /) -> str: ...


def _probe(spec: ServiceSpec, check: HealthCheck, runtime: Runtime, deadline: _Deadline) -> str:
    if isinstance(runtime, Simulated):
        return _simulated(runtime, spec)
    if check.type is CheckType.EXEC:
        return _exec(spec, check.test, runtime, deadline)
    if check.type is CheckType.DOCKER:
        test = runtime.own_test(spec)
        if not test:
            raise _Failed("its image has no health test of its own")
        return _exec(spec, test, runtime, deadline)
    if check.type is CheckType.HTTP:
        return _http(spec, check, deadline)
    port = _port(spec, check.port)
    _connect_to(port, runtime, deadline)
    return f"port {port.host_port} answers"


def _simulated(runtime: Simulated, spec: ServiceSpec) -> str:
    if not runtime.simulated_health(spec.id):
        raise _Failed("simulated: unhealthy")
    return "simulated: healthy"


def _exec(spec: ServiceSpec, argv: tuple[str, ...], runtime: Runtime, deadline: _Deadline) -> str:
    if not argv:
        raise _Failed("the health check names no command")
    result = runtime.execute(spec, argv, deadline.left_s())
    if result.exit_code == 0:
        return "exit code 0"
    said = " ".join(result.output.split())[:200]
    raise _Failed(f"exit code {result.exit_code}" + (f": {said}" if said else ""))


def _port(spec: ServiceSpec, name: str | None) -> PortRequest:
    ports = [p for p in spec.ports if p.host_port is not None]
    if name:
        ports = [p for p in ports if p.name == name or str(p.host_port) == name]
    if not ports:
        raise _Failed(f"it has no host port {name!r}" if name else "it has no host port")
    return ports[0]


# Sockets


def _connect_to(port: PortRequest, runtime: Runtime, deadline: _Deadline, instance: Instance | None = None) -> None:
    host = _WILDCARDS.get(port.host_ip, port.host_ip)
    with _connect(host, port.host_port or 0, deadline) as connection:
        if runtime.kind != "docker" or (instance and listens(instance, port.container_port or port.host_port or 0)):
            return
        connection.settimeout(min(_PROXY_GRACE_S, deadline.left_s()))
        try:
            hung_up = connection.recv(1) == b""
        except TimeoutError:
            hung_up = False
        except ConnectionError:
            hung_up = True
        if hung_up:
            raise _Failed(f"nothing listens in the container behind port {port.host_port}")


def _connect(host: str, port: int, deadline: _Deadline) -> socket.socket:
    failure: OSError | None = None
    for address in _addresses(host, deadline):
        try:
            connection = socket.create_connection((str(address), port), timeout=deadline.left_s())
        except OSError as refusal:
            failure = refusal
            continue
        # A client port equal to the target, with nobody there, connects to itself.
        if connection.getsockname()[:2] == connection.getpeername()[:2]:
            connection.close()
            failure = ConnectionRefusedError("nobody listens")
            continue
        return connection
    why = f"{failure.strerror or failure}" if failure else "no address"
    raise _Failed(f"no connection to {host}:{port}: {why}")


def _addresses(host: str, deadline: _Deadline) -> list[IPv4Address | IPv6Address]:
    """Where a name leads, resolved once; link-local addresses (cloud metadata) are refused."""
    try:
        found = [ip_address(host)]
    except ValueError:
        found = _resolve(host, deadline)
    for address in found:
        plain = getattr(address, "ipv4_mapped", None) or address
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified:
            raise _Failed(f"{host} leads to {address}, which is not probed")
    return found


def _resolve(host: str, deadline: _Deadline) -> list[IPv4Address | IPv6Address]:
    """The resolver knows no limit, so it runs in a thread that is left behind if it takes too long."""
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answers.put([str(entry[4][0]) for entry in found])
        except (OSError, UnicodeError) as failure:
            answers.put(failure if isinstance(failure, OSError) else OSError(str(failure)))
        finally:
            _RESOLVING.release()

    if not _RESOLVING.acquire(timeout=deadline.left_s()):
        raise _Failed(f"{host} cannot be resolved: too many names wait for an answer")
    threading.Thread(target=ask, name="probe-resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.left_s())
    except queue.Empty:
        raise _Failed(f"{host} was not resolved in time") from None
    if isinstance(answer, OSError):
        raise _Failed(f"{host} does not resolve: {answer.strerror or answer}")
    return [ip_address(text.partition("%")[0]) for text in dict.fromkeys(answer)]


# HTTP: only the status line is read


def _http(spec: ServiceSpec, check: HealthCheck, deadline: _Deadline) -> str:
    url = _url(spec, check)
    secure = url.scheme == "https"
    host = url.hostname or ""
    with _connect(host, url.port or (443 if secure else 80), deadline) as plain:
        connection = _secured(plain, host, deadline) if secure else plain
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        request = (
            f"GET {target} HTTP/1.1\r\nHost: {url.netloc.rpartition('@')[2]}\r\n"
            "User-Agent: clos-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        _send(connection, request.encode("ascii"), deadline)
        status = _status(connection, deadline)
    if status != check.expected_status:
        raise _Failed(f"status {status}, expected {check.expected_status}")
    return f"status {status}"


def _url(spec: ServiceSpec, check: HealthCheck) -> SplitResult:
    text = check.url or "/"
    if text.startswith("/"):
        port = _port(spec, check.port)
        host = _WILDCARDS.get(port.host_ip, port.host_ip)
        text = f"http://{f'[{host}]' if ':' in host else host}:{port.host_port}{text}"
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise _Failed(f"{text!r} is no http or https URL")
    if any(ord(character) <= 32 or ord(character) > 126 for character in text):
        raise _Failed("the health check's URL holds a character that must be escaped")
    return url


def _secured(plain: socket.socket, host: str, deadline: _Deadline) -> ssl.SSLSocket:
    """TLS without a look at the certificate: a local one is self-signed, and nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain.setblocking(False)
    secured = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            select.select([secured], [], [], deadline.left_s())
        except ssl.SSLWantWriteError:
            select.select([], [secured], [], deadline.left_s())
        else:
            return secured


def _send(connection: socket.socket, data: bytes, deadline: _Deadline) -> None:
    while data:
        connection.settimeout(deadline.left_s())
        data = data[connection.send(data) :]


def _status(connection: socket.socket, deadline: _Deadline) -> int:
    """The final answer's status; interim ones (1xx) are passed over. The rest is not read."""
    head = b""
    while len(head) < _HEAD_LIMIT:
        line, found, _ = head.partition(b"\r\n")
        if found:
            part = line.split(None, 2)
            if len(part) < 2 or not part[0].startswith(b"HTTP/") or not part[1].isdigit():
                raise _Failed("the answer is not HTTP")
            status = int(part[1])
            if not 100 <= status < 200:
                return status
            _, found, rest = head.partition(b"\r\n\r\n")
            if found:
                head = rest
                continue
        connection.settimeout(deadline.left_s())
        piece = connection.recv(4096)
        if not piece:
            raise _Failed("it hung up without an answer")
        head += piece
    raise _Failed("the answer's head is too long")
