import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.kit import free_port
from tests.waiting import wait_until
from workers.runtimes import bind_probe, listeners, process_identity, sockets

LOOPBACK = ("127.0.0.1", "::1")


@contextlib.contextmanager
def bound(host_ip: str, port: int, kind: int = socket.SOCK_STREAM, **options: bool) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
    with socket.socket(family, kind) as held:
        if options.get("only6"):
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if options.get("reuse_address"):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.get("reuse_port"):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host_ip, port))
        if kind == socket.SOCK_STREAM and options.get("listen", True):
            held.listen()
        yield held


@pytest.mark.parametrize("host_ip", ["127.0.0.1", "0.0.0.0", "127.0.0.2", "::1", "::"])
def test_a_listening_socket_is_a_fact_with_its_process(host_ip: str) -> None:
    port = free_port()
    with bound(host_ip, port, only6=host_ip == "::"):
        (fact,) = [entry for entry in listeners.listeners() if entry.port == port]

    assert (fact.host_ip, fact.protocol, fact.pid) == (host_ip, "tcp", os.getpid())
    assert fact.parents[0][0] == os.getppid()
    stat = process_identity.read_stat(os.getpid())
    assert stat
    assert fact.start_ticks == stat.start_ticks
    assert fact.command
    assert fact.user


def test_a_socket_that_takes_ipv4_along_is_a_fact_on_both_and_one_holder() -> None:
    port = free_port()
    with bound("::", port):
        facts = [entry.host_ip for entry in listeners.listeners() if entry.port == port]
        named = listeners.holders(port)

    assert sorted(facts) == ["0.0.0.0", "::"]
    assert [holder["pid"] for holder in named] == [os.getpid()]


def test_a_bound_udp_socket_is_a_fact_and_a_client_is_none() -> None:
    port = free_port()
    with bound("127.0.0.1", port, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        seen = [(e.port, e.protocol) for e in listeners.listeners()]

        assert (port, "udp") in seen
        assert (client.getsockname()[1], "udp") not in seen


def test_two_processes_on_one_socket_are_two_facts() -> None:
    port = free_port()
    with bound("127.0.0.1", port) as held:
        wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        with subprocess.Popen(wait, stdin=subprocess.PIPE, pass_fds=[held.fileno()]) as child:
            facts = {entry.pid for entry in listeners.listeners() if entry.port == port}
            holders = listeners.holders(port)
            assert child.stdin
            child.stdin.close()

    assert facts == {os.getpid(), child.pid}
    assert {holder["pid"] for holder in holders} == facts


def test_a_holder_has_every_key_of_the_interface() -> None:
    port = free_port()
    with bound("0.0.0.0", port):
        (holder,) = listeners.holders(port)

    keys = ["kind", "running", "name", "container_id", "service_id", "pid", "command", "user", "started_at", "own"]
    assert keys == [key for key in holder if key not in ("start_ticks", "parents")]
    assert holder["parents"][0]["pid"] == os.getppid()
    assert (holder["kind"], holder["running"], holder["own"]) == ("process", True, False)
    assert holder["started_at"].endswith("Z")


def test_holders_are_those_in_the_way_of_one_address() -> None:
    port = free_port()
    with bound("127.0.0.1", port), bound("127.0.0.2", port):
        assert len(listeners.holders(port, host_ip="127.0.0.1")) == 1
        assert len(listeners.holders(port, host_ip="0.0.0.0")) == 1
        assert listeners.holders(port, host_ip="127.0.0.3") == []
        assert listeners.holders(port, host_ip="::1") == []
        assert listeners.holders(port, protocol="udp") == []


# The nine cases of a port that is taken, of which a connect or the socket table misses some.
TAKEN = {
    "listening on 127.0.0.1": ("127.0.0.1", socket.SOCK_STREAM, {}),
    "listening on 127.0.0.2": ("127.0.0.2", socket.SOCK_STREAM, {}),
    "listening on 0.0.0.0": ("0.0.0.0", socket.SOCK_STREAM, {}),
    "listening on ::1": ("::1", socket.SOCK_STREAM, {}),
    "listening on :: for both": ("::", socket.SOCK_STREAM, {}),
    "listening on :: for IPv6 only": ("::", socket.SOCK_STREAM, {"only6": True}),
    "bound but not listening": ("127.0.0.1", socket.SOCK_STREAM, {"listen": False}),
    "listening with SO_REUSEPORT": ("127.0.0.1", socket.SOCK_STREAM, {"reuse_port": True}),
    "listening with SO_REUSEADDR": ("127.0.0.1", socket.SOCK_STREAM, {"reuse_address": True}),
    "udp": ("127.0.0.1", socket.SOCK_DGRAM, {}),
    "udp with SO_REUSEADDR": ("127.0.0.1", socket.SOCK_DGRAM, {"reuse_address": True}),
}


@pytest.mark.parametrize("case", TAKEN)
def test_one_bind_finds_every_kind_of_taken_port(case: str) -> None:
    host_ip, kind, options = TAKEN[case]
    port = free_port()
    protocol = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    with bound(host_ip, port, kind, **options):
        assert listeners.can_bind("", port, protocol) == ("held", "in_use")
        assert listeners.can_bind(host_ip, port, protocol) == ("held", "in_use")
    assert listeners.can_bind("", port, protocol) == ("free", None)


def test_another_address_of_a_held_port_is_free() -> None:
    port = free_port()
    with bound("127.0.0.1", port):
        assert listeners.can_bind("127.0.0.2", port) == ("free", None)
        assert listeners.can_bind("::1", port) == ("free", None)
        assert listeners.can_bind("127.0.0.1", port, "udp") == ("free", None)
        assert listeners.can_bind("0.0.0.0", port)[0] == "held"


def test_a_port_in_time_wait_is_free() -> None:
    port = free_port()
    with bound("127.0.0.1", port, reuse_address=True) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        # Who closes first waits.
        accepted.close()
        client.close()

    verdict = wait_until(lambda: v if (v := listeners.can_bind("127.0.0.1", port))[0] == "free" else None)

    assert verdict == ("free", "time_wait")


def test_a_bind_of_the_same_moment_is_not_taken_for_a_holder() -> None:
    port = free_port()
    stop = threading.Event()
    wrong: list[str] = []

    def probe() -> None:
        while not stop.is_set():
            verdict, _ = listeners.can_bind("127.0.0.1", port)
            if verdict != "free":
                wrong.append(verdict)

    threads = [threading.Thread(target=probe) for _ in range(2)]
    for thread in threads:
        thread.start()
    threading.Event().wait(0.3)
    stop.set()
    for thread in threads:
        thread.join(5)

    assert wrong == []


def test_an_address_that_is_not_ours_is_unknown() -> None:
    assert listeners.can_bind("192.0.2.1", free_port()) == ("unknown", "no_such_address")


def test_a_port_that_we_may_not_bind_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        return errno.EACCES

    monkeypatch.setattr(bind_probe, "_bind", refuse)

    assert listeners.can_bind("127.0.0.1", 80) == ("unknown", "permission_denied")


def test_the_ephemeral_range_is_the_kernels() -> None:
    low, high = listeners.ephemeral_range()

    assert 1024 <= low < high <= 65535


def test_three_hundred_listeners_are_read_quickly() -> None:
    with contextlib.ExitStack() as stack:
        ports = {stack.enter_context(bound("127.0.0.1", 0)).getsockname()[1] for _ in range(300)}
        began = time.perf_counter()
        seen = {entry.port for entry in listeners.listeners()}
        took_s = time.perf_counter() - began

    assert ports <= seen
    assert took_s < 0.5


def proc_of(folder: Path, **tables: str) -> str:
    """A `/proc` with these socket tables."""
    net = folder / "net"
    net.mkdir(parents=True)
    for name, text in tables.items():
        (net / name).write_text("  sl  local_address ...\n" + text)
    return str(folder)


def row(address: str, state: str, inode: int = 77) -> str:
    return f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0\n"


def test_without_netlink_the_tables_of_proc_say_the_same(tmp_path: Path) -> None:
    proc = proc_of(
        tmp_path,
        tcp=row("0100007F:1F90", "0A") + row("0100007F:1F91", "06") + row("00000000:0050", "0A"),
        tcp6=row("0" * 32 + ":1F9B", "0A") + row("0" * 32 + ":0050", "0A"),
        udp=row("0100007F:1F90", "07") + row("0100007F:1F92", "01"),
    )

    found = {(each.host_ip, each.port, each.protocol) for each in sockets.bound(proc=proc)}

    assert found == {
        ("127.0.0.1", 8080, "tcp"),
        ("127.0.0.1", 8080, "udp"),
        ("0.0.0.0", 80, "tcp"),
        ("::", 80, "tcp"),  # IPv4 has a socket of its own there: this one is for IPv6 only
        ("::", 8091, "tcp"),
        ("0.0.0.0", 8091, "tcp"),
    }


def test_ipv6_that_is_off_is_no_failure(tmp_path: Path) -> None:
    proc = proc_of(tmp_path, tcp=row("0100007F:1F90", "0A"), udp="")
    assert [each.port for each in sockets.bound(proc=proc)] == [8080]


def test_tables_that_are_not_there_are_not_an_empty_host(tmp_path: Path) -> None:
    with pytest.raises(sockets.SocketsUnseen):
        sockets.bound(proc=proc_of(tmp_path, udp="", udp6=""))
    with pytest.raises(sockets.SocketsUnseen):
        listeners.Lookout(proc=str(tmp_path / "nothing")).look()


def test_a_table_that_may_not_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    proc = proc_of(tmp_path, tcp6="", udp="")
    (tmp_path / "net" / "tcp").mkdir()  # cannot be read, not even by root
    with pytest.raises(sockets.SocketsUnseen, match="cannot be read"):
        sockets.bound(proc=proc)


def test_netlink_and_proc_agree_on_this_host() -> None:
    with bound("127.0.0.1", 0), bound("::1", 0), bound("127.0.0.1", 0, socket.SOCK_DGRAM):
        mine = {each.inode for each in sockets.bound() if each.port}
        asked = sockets._asked(socket.AF_INET, "tcp", 1 << 0x0A)
        read = sockets._read("/proc/net/tcp", "tcp", 1 << 0x0A)

    assert mine
    assert asked is not None
    assert read is not None
    held = {entry.inode for entry in sockets.bound() if entry.inode}
    # Others come and go between the two looks; ours stayed.
    assert {e for e in asked if e.inode in held} == {e for e in read if e.inode in held}


@pytest.mark.parametrize(
    ("text", "ranges"),
    [("", ()), ("\n", ()), ("8080\n", ((8080, 8080),)), ("1-3,9000-9010,22\n", ((1, 3), (9000, 9010), (22, 22)))],
)
def test_the_systems_reserved_ranges_are_read(tmp_path: Path, text: str, ranges: object) -> None:
    folder = tmp_path / "sys" / "net" / "ipv4"
    folder.mkdir(parents=True)
    (folder / "ip_local_reserved_ports").write_text(text)
    assert sockets.reserved_ranges(str(tmp_path)) == ranges
    assert sockets.reserved_ranges(str(tmp_path / "none")) == ()
