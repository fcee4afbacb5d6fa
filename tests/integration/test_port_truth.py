"""Who has a port: a table of real cases, each with real sockets, processes and containers (issue 3, Done when 1)."""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from sqlalchemy import select

from domain.observation import PortFacts
from domain.specs import PortRequest, RuntimeKind, ServiceSpec
from models import registry_verdicts
from models.ports import PortClaim, SeenListener
from tests.images import client, make_docker_runtime, remove_all, test_image
from tests.non_root import as_nobody
from tests.ports import free_run
from tests.unit.worker_kit import Kit
from tests.waiting import wait_until
from workers import port_scan
from workers.context import Context
from workers.runtimes import listeners, sockets
from workers.runtimes.docker_bindings import Published
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.host_process import HostProcess

pytestmark = pytest.mark.docker
ALWAYS = ("127.0.0.1", "0.0.0.0", "::1", "::")


def free_port(count: int = 1) -> int:
    """The first of `count` ports in a row, outside the ephemeral range, that nobody has."""
    return free_run(count)[0]


class World:
    """A worker's parts on this host's own processes and engine, and what a test holds ports with."""

    def __init__(self, folder: Path) -> None:
        self.stack = contextlib.ExitStack()
        self.engine, self.instance_id = make_docker_runtime()
        self.processes = HostProcess(folder / "home", self.instance_id, dict(os.environ))
        (folder / "home").mkdir()
        self.kit = Kit(folder)
        self.context: Context = dataclasses.replace(
            self.kit.context, runtimes={"docker": self.engine, "process": self.processes}
        )
        self.docker = client()
        self.label = {"clos-test": self.instance_id}
        self.started: list[ServiceSpec] = []

    def look(self, port: int) -> dict[tuple[str, str], Any]:
        """The verdict of a fresh check, by address and protocol."""
        return {(each["host_ip"], each["protocol"]): each for each in self.check(port)["entries"]}

    def check(self, port: int) -> dict[str, Any]:
        return port_scan.check(self.context, port)

    def scanned(self, port: int) -> dict[tuple[str, str], Any]:
        """The verdict of a scan: nothing was bound to find it."""
        port_scan.scan(self.context)
        with self.context.record.read() as session:
            verdict = registry_verdicts.verdict(session, port)
        return {(each["host_ip"], each["protocol"]): each for each in verdict["entries"]}

    def held(self, host_ip: str, port: int, protocol: str = "tcp", **options: Any) -> socket.socket:
        """A socket of this test's own."""
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        made = socket.socket(socket.AF_INET6 if ":" in host_ip else socket.AF_INET, kind)
        self.stack.enter_context(made)
        if ":" in host_ip:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, options.get("only6", 0))
        if options.get("reuse_address"):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host_ip, port))
        if protocol == "tcp" and options.get("listen", True):
            made.listen()
        return made

    def program(self, script: str, *words: str, **more: Any) -> subprocess.Popen[str]:
        """A Python program in a session of its own that has said `ready`."""
        made = subprocess.Popen(
            [sys.executable, "-c", script, *words],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )
        self.stack.callback(end, made)
        assert made.stdout
        assert made.stdout.readline() == "ready\n"
        return made

    def container(self, start: bool = True, **host: Any) -> docker.models.containers.Container:
        """A container that is not CLOS's. `host` goes to the engine as it is."""
        command = host.pop("command", ["serve", "80"])
        made = self.docker.containers.create(test_image(), command, labels=self.label, **host)
        if start:
            made.start()
        return made

    def service(self, name: str, port: int, script: str, **more: Any) -> ServiceSpec:
        """A process service."""
        made = ServiceSpec(
            id=f"truth-{name}",
            name=name,
            group="truth",
            runtime=RuntimeKind.PROCESS,
            command=(sys.executable, "-c", script),
            ports=(PortRequest(container_port=None, host_port=port, host_ip="127.0.0.1"),),
            **more,
        )
        self.started.append(made)
        return made

    def close(self) -> None:
        for spec in self.started:
            self.processes.stop(spec, 1.0)
        self.stack.close()
        for each in self.docker.containers.list(all=True, filters={"label": f"clos-test={self.instance_id}"}):
            each.remove(force=True)
        remove_all(self.instance_id)
        self.docker.close()
        self.engine.close()
        self.kit.close()


def end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


def free(entry: Mapping[str, Any]) -> bool:
    return (entry["verdict"], entry["holders"]) == ("free", [])


def only(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The one holder of an entry that is held."""
    assert entry["verdict"] == "held", entry
    (holder,) = entry["holders"]
    return dict(holder)


def test_a_stopped_container_leaves_its_port_free_and_latent(world: World) -> None:
    port = free_port()
    stopped = world.container(start=False, ports={"80/tcp": ("127.0.0.1", port)})

    verdict = world.check(port)

    assert {each["verdict"] for each in verdict["entries"]} == {"free"}
    assert [(each["container"], each["latent"], each["source"]) for each in verdict["claims"]] == [
        (stopped.name, True, "container")
    ]
    assert verdict["allocatable"] is False
    stopped.start()
    assert only(world.look(port)["127.0.0.1", "tcp"])["container_id"] == stopped.id
    stopped.stop(timeout=1)
    assert free(world.look(port)["127.0.0.1", "tcp"])
    stopped.remove()
    assert world.check(port)["claims"] == []


def test_loopback_and_every_address_overlap_and_two_loopbacks_do_not(world: World) -> None:
    port = free_port()
    world.held("127.0.0.1", port)
    found = world.look(port)
    assert only(found["127.0.0.1", "tcp"])["pid"] == os.getpid()
    assert only(found["0.0.0.0", "tcp"])["pid"] == os.getpid()
    assert only(found["::", "tcp"])["pid"] == os.getpid()
    assert free(found["::1", "tcp"])

    other = free_port()
    world.held("127.0.0.2", other)
    found = world.look(other)
    assert free(found["127.0.0.1", "tcp"])
    assert only(found["127.0.0.2", "tcp"])["kind"] == "process"
    assert only(found["0.0.0.0", "tcp"])["pid"] == os.getpid()


HOLD = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[2] == "udp" else socket.SOCK_STREAM
held = socket.socket(socket.AF_INET, kind)
held.bind(("127.0.0.1", int(sys.argv[1])))
kind == socket.SOCK_STREAM and held.listen()
print("ready", flush=True)
input()
"""


def test_tcp_and_udp_on_one_number_have_their_own_holders(world: World) -> None:
    port = free_port()
    tcp = world.program(HOLD, str(port), "tcp")
    found = world.look(port)
    assert only(found["127.0.0.1", "tcp"])["pid"] == tcp.pid
    assert free(found["127.0.0.1", "udp"])
    udp = world.program(HOLD, str(port), "udp")
    found = world.look(port)
    assert only(found["127.0.0.1", "tcp"])["pid"] == tcp.pid
    assert only(found["127.0.0.1", "udp"])["pid"] == udp.pid


def test_a_holder_is_told_with_its_command_user_start_and_ancestors(world: World) -> None:
    port = free_port()
    squatter = world.program(HOLD, str(port), "tcp")
    holder = only(world.look(port)["127.0.0.1", "tcp"])
    assert (holder["kind"], holder["own"], holder["user"]) == (
        "process",
        False,
        "root" if os.geteuid() == 0 else holder["user"],
    )
    assert holder["command"].startswith(f"{sys.executable} -c")  # cut where it gets long
    assert holder["start_ticks"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", holder["started_at"])
    assert holder["parents"][0] == {"pid": os.getpid(), "name": holder["parents"][0]["name"]}
    assert holder["pid"] == squatter.pid


def test_a_socket_for_ipv6_only_leaves_ipv4_free(world: World) -> None:
    port = free_port()
    world.held("::", port, only6=1)
    found = world.scanned(port)
    assert free(found["127.0.0.1", "tcp"])
    assert free(found["0.0.0.0", "tcp"])
    assert only(found["::1", "tcp"])["pid"] == os.getpid()
    assert only(found["::", "tcp"])["pid"] == os.getpid()
    assert world.look(port).keys() == found.keys()


def test_a_socket_on_the_ipv6_wildcard_covers_both_families(world: World) -> None:
    port = free_port()
    world.held("::", port)
    assert {only(each)["pid"] for (_, protocol), each in world.scanned(port).items() if protocol == "tcp"} == {
        os.getpid()
    }


def test_ipv6_loopback_leaves_ipv4_free(world: World) -> None:
    port = free_port()
    world.held("::1", port)
    found = world.look(port)
    assert (free(found["127.0.0.1", "tcp"]), free(found["0.0.0.0", "tcp"])) == (True, True)
    assert only(found["::1", "tcp"])["pid"] == os.getpid()


def test_what_is_bound_and_does_not_listen_is_held_by_nobody_known(world: World) -> None:
    port = free_port()
    world.held("127.0.0.1", port, listen=False)
    assert free(world.scanned(port)["127.0.0.1", "tcp"])  # it is in no table, and a scan binds nothing
    entry = world.look(port)["127.0.0.1", "tcp"]
    assert entry["reason"] == "bound_not_listening"
    holder = only(entry)
    assert (holder["kind"], holder["pid"], holder["name"]) == ("unknown", None, None)
    assert world.check(port)["allocatable"] is False


def test_the_holder_of_a_published_port_is_the_container_and_never_the_engines_proxy(world: World) -> None:
    port = free_port()
    made = world.container(ports={"80/tcp": ("127.0.0.1", port)})
    holder = only(world.look(port)["127.0.0.1", "tcp"])
    assert (holder["kind"], holder["name"], holder["container_id"]) == ("container", made.name, made.id)
    assert (holder["pid"], holder["own"], holder["running"]) == (None, False, True)
    named = [*port_scan.holders_now(world.context, "127.0.0.1", "tcp", port), *listeners.holders(port)]
    assert {each["kind"] for each in named} == {"container"}
    assert "docker-proxy" not in str(named)
    assert "docker-proxy" not in str(world.check(port))


def test_a_container_whose_port_the_engine_lists_late_is_waited_for_and_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    made = world.container(ports={"80/tcp": ("127.0.0.1", port)})
    lists, looks = world.engine.bindings, []

    def late(limit_s: float) -> Published:
        looks.append(limit_s)
        return lists(limit_s) if len(looks) > 2 else Published()

    monkeypatch.setattr(world.engine, "bindings", late)
    [holder] = port_scan.holders_now(world.context, "127.0.0.1", "tcp", port)
    assert (holder["kind"], holder["name"], len(looks)) == ("container", made.name, 3)


def test_the_holder_of_an_own_containers_port_is_the_service(world: World) -> None:
    port = free_port()
    spec = ServiceSpec(
        id="truth-db",
        name="db",
        group="truth",
        runtime=RuntimeKind.DOCKER,
        image=test_image(),
        command=("serve", "80"),
        ports=(PortRequest(container_port=80, host_port=port, host_ip="127.0.0.1"),),
    )
    world.engine.start(spec)
    holder = only(world.look(port)["127.0.0.1", "tcp"])
    assert (holder["kind"], holder["service_id"], holder["own"]) == ("service", "truth-db", True)
    world.engine.stop(spec, 1)
    world.engine.remove(spec)


def test_what_a_container_on_the_hosts_network_listens_on_is_that_containers(world: World) -> None:
    port = free_port()
    made = world.container(command=["httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", "/www"], network_mode="host")
    wait_until(lambda: listeners.holders(port))
    holder = only(world.look(port)["127.0.0.1", "tcp"])
    assert (holder["kind"], holder["name"], holder["container_id"]) == ("container", made.name, made.id)
    assert holder["pid"] == world.docker.api.inspect_container(made.id)["State"]["Pid"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_process_is_held_and_unknown_to_who_may_not_see_it(world: World) -> None:
    port = free_port()
    world.program(HOLD, str(port), "tcp")
    found: list[dict[str, Any]] = as_nobody(lambda: listeners.holders(port, "tcp", "127.0.0.1"))
    (holder,) = found
    assert (holder["kind"], holder["pid"], holder["user"]) == ("unknown", None, "root")
    assert "root" in holder["hint"]


def test_a_published_range_is_every_port_of_it(world: World) -> None:
    first = free_port(4)
    ports = {f"{80 + n}/tcp": ("127.0.0.1", first + n) for n in range(3)}
    made = world.container(ports=ports)
    for n in range(3):
        assert only(world.look(first + n)["127.0.0.1", "tcp"])["container_id"] == made.id
    assert free(world.look(first + 3)["127.0.0.1", "tcp"])


def test_a_stopped_containers_range_is_latent_on_every_port_of_it(world: World) -> None:
    first = free_port(3)
    made = world.docker.api.create_container(
        test_image(),
        ["serve", "80"],
        ports=[80, 81],
        labels=world.label,
        host_config={
            "PortBindings": {
                "80/tcp": [{"HostIp": "", "HostPort": f"{first}-{first + 2}"}],
                "81/tcp": [{"HostIp": "", "HostPort": ""}],  # any free one, which is no claim
            }
        },
    )["Id"]
    facts = port_scan.look(world.context)
    mine = [each for each in facts.bindings if each.container_id == made]
    assert {(each.port, each.host_ip, each.running) for each in mine} == {
        (port, host_ip, False) for port in range(first, first + 3) for host_ip in ("0.0.0.0", "::")
    }


SERVE = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as asking:
            asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return asking.makefile("rb").read().endswith(b"ok")  # the server closes first, and waits
    except OSError:
        return False


def test_a_port_in_time_wait_is_free_and_the_restart_gets_it(world: World) -> None:
    port = free_port()
    spec = world.service("web", port, SERVE)
    world.processes.start(spec)
    wait_until(lambda: answers(port))
    holder = only(world.look(port)["127.0.0.1", "tcp"])
    assert (holder["kind"], holder["service_id"], holder["own"]) == ("service", "truth-web", True)
    world.processes.stop(spec, 2.0)
    wait_until(lambda: sockets.waiting(port, "tcp") and not sockets.bound(port, "tcp"))

    entry = world.look(port)["127.0.0.1", "tcp"]

    assert (entry["verdict"], entry["reason"], entry["holders"]) == ("free", "time_wait", [])
    world.processes.start(spec)
    assert wait_until(lambda: answers(port))


def test_a_time_wait_that_forbids_a_bind_is_said_and_has_no_holder(world: World) -> None:
    port = free_port()
    # Without SO_REUSEADDR on the first server nobody can bind for a minute: a bind now would fail.
    server = world.held("127.0.0.1", port)
    asking = socket.create_connection(("127.0.0.1", port))
    accepted, _ = server.accept()
    accepted.close()
    asking.close()
    server.close()
    wait_until(lambda: sockets.waiting(port, "tcp") and not sockets.connected(port, "tcp"))
    entry = world.look(port)["127.0.0.1", "tcp"]
    assert (entry["verdict"], entry["reason"], entry["holders"]) == ("held", "time_wait", [])


def test_a_clients_end_of_a_connection_is_no_holder(world: World) -> None:
    server = world.held("127.0.0.1", free_port())
    asking = socket.create_connection(server.getsockname())
    with asking:
        port = asking.getsockname()[1]
        facts = port_scan.look(world.context, port)
        assert [each for each in facts.listeners if each.port == port] == []
        assert free(world.scanned(port)["127.0.0.1", "tcp"])
        entry = world.look(port)["127.0.0.1", "tcp"]
        # A bind there does fail for as long as it lasts, and that has no holder whom one could ask to leave.
        assert (entry["verdict"], entry["reason"], entry["holders"]) == ("held", "connected", [])


PREFORK = """
import os, socket, sys, time
held = socket.socket(); held.bind(("127.0.0.1", int(sys.argv[1]))); held.listen()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        while True: time.sleep(60)
    children.append(child)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_server_that_forks_five_processes_has_five_holders(world: World) -> None:
    port = free_port()
    master = world.program(PREFORK, str(port))
    entry = world.look(port)["127.0.0.1", "tcp"]
    assert entry["verdict"] == "held"
    assert len({each["pid"] for each in entry["holders"]}) == len(entry["holders"]) == 5
    workers = [each for each in entry["holders"] if each["pid"] != master.pid]
    assert {each["parents"][0]["pid"] for each in workers} == {master.pid}


def test_a_process_with_our_mark_is_own_whatever_the_record_says(world: World) -> None:
    port = free_port()
    spec = world.service("stray", port, SERVE)
    world.processes.start(spec)
    wait_until(lambda: answers(port))
    holder = only(world.look(port)["127.0.0.1", "tcp"])
    assert (holder["kind"], holder["service_id"], holder["own"]) == ("service", "truth-stray", True)
    # Also when its wrapper was killed and it runs on.
    wrapper = world.processes.observe()[spec.id].pid or 0
    os.kill(wrapper, signal.SIGKILL)
    wait_until(lambda: (seen := world.processes.observe()[spec.id]).alive and seen.pid != wrapper)
    assert only(world.look(port)["127.0.0.1", "tcp"])["service_id"] == "truth-stray"


def test_a_service_of_another_installation_is_a_foreign_process(world: World, tmp_path: Path) -> None:
    port = free_port()
    other = HostProcess(tmp_path / "other", "another", dict(os.environ))
    spec = world.service("web", port, SERVE)
    other.start(spec)
    try:
        wait_until(lambda: answers(port))
        holder = only(world.look(port)["127.0.0.1", "tcp"])
        assert (holder["kind"], holder["service_id"], holder["own"]) == ("process", None, False)
    finally:
        other.stop(spec, 1.0)


def test_a_registered_process_of_this_home_is_closs_own(world: World, tmp_path: Path) -> None:
    port = free_port()
    script = (
        f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from bus.process_identity import register
register(Path({str(tmp_path / "home")!r}), "redis")
"""
        + HOLD
    )
    made = world.program(script, str(port), "tcp")
    holder = only(world.look(port)["127.0.0.1", "tcp"])
    assert (holder["kind"], holder["pid"], holder["own"]) == ("clos", made.pid, True)


def test_two_registrations_of_one_port_are_told_as_claims_and_hold_nothing(world: World) -> None:
    port = free_port()
    services = [
        {"name": name, "runtime": "process", "command": ["x"], "ports": [{"host_port": port}]} for name in ("a", "b")
    ]
    world.kit.group("truth", *services)
    verdict = world.check(port)
    assert {each["verdict"] for each in verdict["entries"]} == {"free"}
    assert {(each["service_id"], each["source"]) for each in verdict["claims"]} == {
        ("truth-a", "spec"),
        ("truth-b", "spec"),
    }
    assert verdict["lease"]["service_id"] == "truth-a"
    assert verdict["allocatable"] is False


def test_a_port_that_the_system_reserves_is_free_and_not_allocatable(world: World) -> None:
    port = free_port()
    facts = dataclasses.replace(port_scan.look(world.context), reserved=((port, port),))
    with world.context.record.write() as session:
        registry_verdicts.record_facts(session, facts)
    with world.context.record.read() as session:
        verdict = registry_verdicts.verdict(session, port)
        assert registry_verdicts.verdict(session, port + 1)["allocatable"] is True
    assert {each["verdict"] for each in verdict["entries"]} == {"free"}
    assert verdict["allocatable"] is False


def test_a_port_among_those_of_outgoing_connections_is_not_allocatable(world: World) -> None:
    low, _high = sockets.ephemeral_range()
    port_scan.scan(world.context)
    with world.context.record.read() as session:
        assert registry_verdicts.verdict(session, low + 5)["allocatable"] is False


def test_a_socket_table_that_cannot_be_read_is_unknown_and_not_free(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    (tmp_path / "proc" / "net").mkdir(parents=True)
    monkeypatch.setattr(world.processes.lookout, "proc", str(tmp_path / "proc"))
    verdict = world.check(port)
    assert {each["verdict"] for each in verdict["entries"]} == {"unknown"}
    assert all("socket tables cannot be read" in each["reason"] for each in verdict["entries"])
    # It is remembered as what it was, for those who read it later.
    with world.context.record.read() as session:
        assert registry_verdicts.verdict(session, port)["entries"] == verdict["entries"]


def test_an_engine_that_does_not_answer_hides_no_socket_and_makes_the_rest_unknown(
    world: World, tmp_path: Path
) -> None:
    port = free_port()
    world.held("127.0.0.1", port)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        engine = DockerEngine(f"unix://{tmp_path}/silent.sock", world.instance_id, timeout_s=0.5)
        world.context = dataclasses.replace(world.context, runtimes={"docker": engine, "process": world.processes})
        found = world.look(port)
    assert only(found["127.0.0.1", "tcp"])["pid"] == os.getpid()
    assert found["::1", "tcp"]["verdict"] == "unknown"
    assert "engine" in found["::1", "tcp"]["reason"]


def test_a_host_that_never_had_an_engine_has_its_ports_judged_like_any_other(world: World, tmp_path: Path) -> None:
    port = free_port()
    engine = DockerEngine(f"unix://{tmp_path}/none.sock", world.instance_id, timeout_s=0.5)
    world.context = dataclasses.replace(world.context, runtimes={"docker": engine, "process": world.processes})
    assert {each["verdict"] for each in world.look(port).values()} == {"free"}
    # Where a service needs one, its absence hides something.
    world.kit.group("truth", {"name": "db", "runtime": "docker", "image": "x"})
    assert {each["verdict"] for each in world.look(port).values()} == {"unknown"}


def test_an_engine_that_went_away_leaves_what_stopped_containers_will_take(world: World, tmp_path: Path) -> None:
    port = free_port()
    world.container(ports={"80/tcp": ("127.0.0.1", port)})
    port_scan.scan(world.context)
    gone = DockerEngine(f"unix://{tmp_path}/none.sock", world.instance_id, timeout_s=0.5)
    world.context = dataclasses.replace(world.context, runtimes={"docker": gone, "process": world.processes})
    facts: PortFacts = port_scan.scan(world.context)
    assert "containers" in facts.unseen
    with world.context.record.read() as session:
        claims = registry_verdicts.verdict(session, port)["claims"]
    assert [each["latent"] for each in claims] == [True]


def test_a_look_changes_nothing_where_nothing_has_changed(world: World) -> None:
    port = free_port()
    world.held("127.0.0.1", port)
    world.container(start=False, ports={"80/tcp": ("127.0.0.1", port)})

    def rows() -> list[list[int]]:
        with world.context.record.read() as session:
            return [
                list(session.scalars(select(table.id).where(table.port == port).order_by(table.id)))
                for table in (SeenListener, PortClaim)
            ]

    port_scan.scan(world.context)
    before = rows()
    assert all(before)
    port_scan.scan(world.context)
    assert rows() == before
    with world.context.record.read() as session:
        kept = registry_verdicts.facts(session, port)
    assert kept is not None
    assert [each for each in port_scan.look(world.context).listeners if each.port == port] == list(kept.listeners)
