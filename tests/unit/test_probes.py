import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from domain.observation import Instance, Phase
from domain.specs import CheckType, HealthCheck, PortRequest, RuntimeKind, ServiceSpec
from tests.contract.kit import free_port
from workers.runtimes import probes
from workers.runtimes.host_process import HostProcess
from workers.runtimes.in_memory import Behaviour, InMemory
from workers.runtimes.probes import ProbeResult, default_ready, probe
from workers.runtimes.protocol import Runtime

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Answer = Callable[[socket.socket], None]


@pytest.fixture
def runtime(tmp_path: Path) -> HostProcess:
    return HostProcess(tmp_path, "probes", {"PATH": "/usr/bin:/bin"})


def spec(port: int | None = None, **changes: object) -> ServiceSpec:
    ports = () if port is None else (PortRequest(name="web", host_port=port),)
    made = ServiceSpec(id="g.a", name="a", group="g", runtime=RuntimeKind.PROCESS, ports=ports)
    return replace(made, **changes)  # type: ignore[arg-type]


def check(kind: CheckType = CheckType.HTTP, **changes: object) -> HealthCheck:
    return replace(HealthCheck(type=kind, timeout_s=2.0), **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def server(answer: Answer, host: str = "127.0.0.1") -> Iterator[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def says(answer: bytes) -> Answer:
    def reply(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)

    return reply


def timed(look: Callable[[], ProbeResult], limit_s: float) -> ProbeResult:
    began = time.monotonic()
    result = look()
    assert time.monotonic() - began < limit_s
    return result


# http


@pytest.mark.parametrize("url", ["/", "/health?deep=1", None])
def test_a_path_is_asked_of_the_first_port(runtime: Runtime, url: str | None) -> None:
    asked: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        asked.append(connection.recv(4096))
        connection.sendall(OK)

    with server(answer) as port:
        result = probe(spec(port), check(url=url), runtime)

    assert result.ok
    assert result.response_time_ms > 0
    assert asked[0].startswith(f"GET {url or '/'} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode())


def test_a_named_port_is_asked_where_the_check_names_one(runtime: Runtime) -> None:
    with server(says(OK)) as port:
        ports = (PortRequest(name="web", host_port=free_port()), PortRequest(name="admin", host_port=port))

        assert probe(spec(ports=ports), check(url="/", port="admin"), runtime).ok
        assert not probe(spec(ports=ports), check(url="/", port="web"), runtime).ok
        assert "no host port 'none'" in probe(spec(ports=ports), check(port="none"), runtime).detail


def test_a_redirect_is_an_answer_and_is_not_followed(runtime: Runtime) -> None:
    touched = threading.Event()
    with server(lambda _: touched.set()) as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{other}/\r\n\r\n".encode()
        with server(says(moved)) as port:
            refused = probe(spec(port), check(), runtime)
            accepted = probe(spec(port), check(expected_status=302), runtime)

    assert refused.detail == "status 302, expected 200"
    assert accepted.ok
    assert not touched.is_set()


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\nsecret", "status 503, expected 200"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "status 200"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"", "it hung up without an answer"),
        (b"x" * 70000, "the answer's head is too long"),
    ],
)
def test_the_answer_is_judged_by_its_status_and_never_repeated(runtime: Runtime, answer: bytes, detail: str) -> None:
    with server(says(answer)) as port:
        assert probe(spec(port), check(), runtime).detail == detail


def test_a_server_that_drips_a_byte_at_a_time_is_given_up_in_time(runtime: Runtime) -> None:
    def drip(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK and so on and so on":
            connection.sendall(bytes([byte]))
            threading.Event().wait(0.1)

    with server(drip) as port:
        result = timed(lambda: probe(spec(port), check(timeout_s=0.5), runtime), 1.0)

    assert not result.ok
    assert "0.5 s" in result.detail


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_is_silent_is_given_up_in_time(runtime: Runtime, scheme: str) -> None:
    def silent(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with server(silent) as port:
        url = f"{scheme}://127.0.0.1:{port}/"
        result = timed(lambda: probe(spec(), check(url=url, timeout_s=0.3), runtime), 0.8)

    assert not result.ok


def test_a_name_that_does_not_resolve_in_time_is_given_up(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        released.wait(10)
        return []

    monkeypatch.setattr(probes.socket, "getaddrinfo", hang)
    try:
        look = check(url="http://slow.invalid/", timeout_s=0.3)
        result = timed(lambda: probe(spec(), look, runtime), 0.8)
    finally:
        released.set()

    assert "not resolved in time" in result.detail


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://[::ffff:169.254.1.1]/", "http://[fe80::1]/"])
def test_link_local_addresses_are_not_probed(runtime: Runtime, url: str) -> None:
    assert "is not probed" in probe(spec(), check(url=url), runtime).detail


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "gopher", "http://h:99999/", "http://a b/"])
def test_what_is_no_http_url_fails_with_a_sentence(runtime: Runtime, url: str) -> None:
    result = probe(spec(), check(url=url), runtime)

    assert not result.ok
    assert result.detail


def test_localhost_is_resolved(runtime: Runtime) -> None:
    with server(says(OK)) as port:
        assert probe(spec(), check(url=f"http://localhost:{port}/"), runtime).ok


def test_https_with_a_certificate_of_its_own_passes(runtime: Runtime, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    pair = tmp_path / "pair.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", pair, "-out", pair],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    certificate = subprocess.run(
        ["openssl", "req", "-x509", "-key", pair, "-subj", "/CN=x"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    pair.write_bytes(pair.read_bytes() + certificate.stdout)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            says(OK)(secured)

    with server(answer) as port:
        assert probe(spec(), check(url=f"https://127.0.0.1:{port}/"), runtime).ok


# tcp, exec, docker


def test_tcp_tells_whether_somebody_listens(runtime: Runtime) -> None:
    with server(lambda _: None) as port:
        assert probe(spec(port), check(CheckType.TCP), runtime).ok
    result = probe(spec(free_port()), check(CheckType.TCP), runtime)

    assert not result.ok
    assert "refused" in result.detail.lower()
    assert probe(spec(), check(CheckType.TCP), runtime).detail == "it has no host port"


def test_a_wildcard_address_is_asked_on_loopback(runtime: Runtime) -> None:
    with server(says(OK), "::") as port:
        for host_ip in ("0.0.0.0", "::", "::1", "127.0.0.1"):
            ports = (PortRequest(host_port=port, host_ip=host_ip),)
            assert probe(spec(ports=ports), check(CheckType.TCP), runtime).ok
            assert probe(spec(ports=ports), check(CheckType.HTTP), runtime).ok


def test_exec_passes_on_exit_code_zero_and_says_what_failed(runtime: Runtime) -> None:
    def look(script: str, timeout_s: float = 2.0) -> ProbeResult:
        test = ("sh", "-c", script) if script else ()
        return probe(spec(), check(CheckType.EXEC, test=test, timeout_s=timeout_s), runtime)

    assert look("exit 0").ok
    assert look("echo no database; exit 2").detail == "exit code 2: no database"
    assert not look("").ok
    assert not timed(lambda: look("sleep 30", 0.3), 1.0).ok


def test_a_docker_check_without_a_test_in_the_image_says_so(runtime: Runtime) -> None:
    result = probe(spec(), check(CheckType.DOCKER), runtime)

    assert not result.ok
    assert "no health test" in result.detail


# Ready without a health check


def test_without_a_check_ready_is_alive_and_listening(runtime: Runtime) -> None:
    alive = Instance("g.a", Phase.RUNNING)
    with server(lambda _: None) as port:
        assert default_ready(spec(port), runtime, alive).ok
        assert not default_ready(spec(port), runtime, replace(alive, phase=Phase.EXITED)).ok
    assert not default_ready(spec(free_port()), runtime, alive).ok
    assert default_ready(spec(), runtime, alive).ok
    udp = (PortRequest(host_port=free_port(), protocol="udp"),)
    assert default_ready(spec(ports=udp), runtime, alive).ok


def test_a_runtime_without_sockets_answers_itself() -> None:
    memory = InMemory()
    wanted = spec(free_port())
    alive = memory.start(wanted)

    assert default_ready(wanted, memory, alive).ok
    assert probe(wanted, check(CheckType.HTTP), memory).ok
    memory.behave(wanted.id, Behaviour(unhealthy=True))
    assert not probe(wanted, check(CheckType.TCP), memory).ok
