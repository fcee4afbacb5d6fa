import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from domain.errors import (
    Cancelled,
    ClosError,
    EngineUnreachable,
    ImageMissing,
    ImagePullFailed,
    NotOurs,
    PortHeld,
    ServiceRunning,
    StartFailed,
    TimedOut,
)
from domain.observation import Phase
from domain.specs import CheckType, HealthCheck, PortRequest, RestartPolicy, ServiceSpec
from domain.states import HealthStatus
from tests.images import ANYTHING, IMAGE, client, docker_url, make_docker_runtime, remove_all, test_image
from tests.waiting import wait_until
from workers.runtimes import docker_containers
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.docker_images import Limits
from workers.runtimes.docker_stats import Sampler

pytestmark = pytest.mark.docker


class Bench:
    """A runtime with an installation id of its own, a group of its own, and a client to look from outside."""

    def __init__(self) -> None:
        test_image()
        self.engine, self.instance_id = make_docker_runtime()
        self.group = f"t{uuid.uuid4().hex[:8]}"
        self.raw = client()
        self.foreign: list[str] = []

    def spec(self, name: str = "a", **fields: Any) -> ServiceSpec:
        return ServiceSpec(f"{self.group}-{name}", name, self.group, **({"image": IMAGE} | fields))

    def another(self) -> DockerEngine:
        """The same installation as another process sees it."""
        return DockerEngine(docker_url(), self.instance_id, policy=ANYTHING)

    def containers(self) -> list[dict[str, Any]]:
        return self.raw.api.containers(all=True, filters={"label": f"clos.instance={self.instance_id}"})

    def networks(self) -> list[dict[str, Any]]:
        return self.raw.api.networks(filters={"label": f"clos.instance={self.instance_id}"})

    def foreign_container(self, **fields: Any) -> str:
        container = self.raw.containers.create(IMAGE, **fields)
        self.foreign.append(container.id)
        return str(container.id)

    def close(self) -> None:
        self.engine.close()
        remove_all(self.instance_id)
        for container_id in self.foreign:
            with contextlib.suppress(NotFound):
                self.raw.api.remove_container(container_id, force=True)
        self.raw.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_started_service_is_observed_with_its_hash_pid_and_time(bench: Bench) -> None:
    spec = bench.spec(environment={"A": "b"})
    bench.engine.create(spec)
    assert bench.engine.observe()[spec.id].phase is Phase.CREATED
    bench.engine.start(spec)
    seen = bench.engine.observe()[spec.id]
    assert (seen.phase, seen.spec_hash, seen.health) == (Phase.RUNNING, spec.hash(), HealthStatus.NONE)
    assert seen.pid
    assert seen.started_at
    assert seen.started_at.utcoffset() is not None


def test_a_repeated_start_adopts_the_running_container(bench: Bench) -> None:
    spec = bench.spec()
    first = bench.engine.start(spec)
    assert bench.another().start(spec).ref == first.ref
    assert len(bench.containers()) == 1


def test_eight_starts_at_once_make_one_container(bench: Bench) -> None:
    spec = bench.spec()
    engines = [bench.engine, bench.another()]
    with ThreadPoolExecutor(8) as pool:
        refs = {instance.ref for instance in pool.map(lambda n: engines[n % 2].start(spec), range(8))}
    assert len(refs) == 1
    assert [each["State"] for each in bench.containers()] == ["running"]


def test_what_an_interrupted_create_left_is_adopted(bench: Bench) -> None:
    spec = bench.spec()
    left = bench.another().create(spec)
    assert bench.engine.start(spec).ref == left.ref


def test_a_stopped_container_of_another_hash_is_replaced(bench: Bench) -> None:
    old = bench.engine.create(bench.spec())
    new = bench.engine.create(bench.spec(environment={"A": "2"}))
    assert new.ref != old.ref
    assert [each["Id"] for each in bench.containers()] == [new.ref]


def test_a_running_container_of_another_hash_is_left_as_drift(bench: Bench) -> None:
    old = bench.engine.start(bench.spec())
    changed = bench.spec(environment={"A": "2"})
    assert bench.engine.start(changed).ref == old.ref
    assert bench.engine.observe()[changed.id].spec_hash != changed.hash()


def test_a_container_that_never_started_for_an_error_is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # One that was looked at a moment ago is not looked at again: here it was longer ago.
    monkeypatch.setattr(docker_containers, "_JUST_MADE", timedelta(0))
    port = free_port()
    spec = bench.spec(ports=(PortRequest(host_port=port, container_port=80),))
    left = bench.engine.create(spec)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(APIError):
        bench.raw.api.start(left.ref)
    started = bench.engine.start(spec)
    assert started.alive
    assert started.ref != left.ref


def test_a_container_of_somebody_else_with_our_name_is_named_and_not_touched(bench: Bench) -> None:
    spec = bench.spec()
    name = f"clos-{bench.instance_id[:8]}-{spec.id}"
    foreign = bench.foreign_container(name=name)
    with pytest.raises(NotOurs) as refused:
        bench.engine.start(spec)
    assert foreign[:12] in refused.value.message
    assert bench.raw.api.inspect_container(foreign)["Id"] == foreign
    assert bench.containers() == []
    assert bench.networks() == []


def test_two_installations_do_not_see_each_other(bench: Bench) -> None:
    other = Bench()
    try:
        bench.engine.create(bench.spec())
        theirs = dataclasses.replace(bench.spec(), environment={"A": "2"})
        other.engine.create(theirs)
        assert len(bench.engine.observe()) == len(other.engine.observe()) == 1
        assert {n["Name"] for n in bench.networks()} == {f"clos-{bench.group}"}
        assert {n["Name"] for n in other.networks()} == {f"clos-{bench.group}-{other.instance_id[:8]}"}
        other.engine.remove(theirs)
        assert len(bench.networks()) == 1
    finally:
        other.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_of_a_host_process_is_held_and_nothing_is_left(bench: Bench, protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            listener.listen()
        port = listener.getsockname()[1]
        spec = bench.spec(ports=(PortRequest(host_port=port, container_port=80, protocol=protocol),))
        with pytest.raises(PortHeld) as held:
            bench.engine.start(spec)
    assert (held.value.port, held.value.protocol, held.value.host_ip) == (port, protocol, "127.0.0.1")
    assert held.value.holder is None
    assert bench.containers() == []
    assert bench.networks() == []


def test_a_port_of_a_foreign_container_is_held_by_that_container(bench: Bench) -> None:
    port = free_port()
    name = f"theirs-{bench.group}"
    foreign = bench.foreign_container(name=name, ports={"80/tcp": port})
    bench.raw.api.start(foreign)
    with pytest.raises(PortHeld) as held:
        bench.engine.start(bench.spec(ports=(PortRequest(host_port=port, container_port=80),)))
    holder = held.value.holder
    assert holder
    assert (holder["kind"], holder["name"], holder["container_id"], holder["own"], holder["running"]) == (
        "container",
        name,
        foreign,
        False,
        True,
    )
    assert bench.containers() == []


def test_a_port_of_another_service_is_held_by_that_service(bench: Bench) -> None:
    port = PortRequest(host_port=free_port(), container_port=80)
    bench.engine.start(bench.spec("first", ports=(port,)))
    with pytest.raises(PortHeld) as held:
        bench.engine.start(bench.spec("second", ports=(port,)))
    assert held.value.holder
    assert (held.value.holder["kind"], held.value.holder["service_id"]) == ("service", f"{bench.group}-first")
    assert [each["Labels"]["clos.service"] for each in bench.containers()] == [f"{bench.group}-first"]


def test_many_starts_for_one_port_have_one_winner(bench: Bench) -> None:
    port = PortRequest(host_port=free_port(), container_port=80)

    def start(number: int) -> str:
        try:
            return "running" if bench.engine.start(bench.spec(f"s{number}", ports=(port,))).alive else "?"
        except PortHeld:
            return "held"

    with ThreadPoolExecutor(6) as pool:
        ends = sorted(pool.map(start, range(6)))
    assert ends == ["held"] * 5 + ["running"]
    assert len(bench.containers()) == 1
    assert len(bench.networks()) == 1


def test_a_port_is_published_only_on_the_leased_address(bench: Bench) -> None:
    first, second = free_port(), free_port()
    ports = (PortRequest(host_port=first), PortRequest(host_port=second, container_port=53, protocol="udp"))
    bench.engine.start(bench.spec(ports=ports))
    published = bench.containers()[0]["Ports"]
    assert sorted((p["IP"], p["PublicPort"], p["PrivatePort"], p["Type"]) for p in published) == sorted(
        [("127.0.0.1", first, first, "tcp"), ("127.0.0.1", second, 53, "udp")]
    )


def test_eight_creates_at_once_make_one_network(bench: Bench) -> None:
    engines = [bench.engine, bench.another()]
    specs = [bench.spec(f"s{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: engines[n % 2].start(specs[n]), range(8)))
    assert all(instance.alive for instance in made)
    (network,) = bench.networks()
    assert network["Name"] == f"clos-{bench.group}"
    joined = bench.raw.api.inspect_network(network["Id"])["Containers"]
    assert set(joined) == {instance.ref for instance in made}


def test_a_network_lives_from_the_first_container_to_the_last(bench: Bench) -> None:
    specs = [bench.spec("a"), bench.spec("b")]
    for spec in specs:
        bench.engine.create(spec)
    bench.engine.remove(specs[0])
    assert len(bench.networks()) == 1
    bench.engine.remove(specs[1])
    assert bench.networks() == []


def test_a_network_that_was_pruned_is_made_again_for_the_next_start(bench: Bench) -> None:
    spec = bench.spec()
    bench.engine.start(spec)
    bench.engine.stop(spec, 5)
    (network,) = bench.networks()
    bench.raw.api.remove_network(network["Id"])
    assert bench.engine.start(spec).alive
    assert len(bench.networks()) == 1


def test_services_of_a_group_find_each_other_by_name(bench: Bench) -> None:
    bench.engine.start(bench.spec("web", command=("serve", "80")))
    asking = bench.spec("ask")
    bench.engine.start(asking)
    found = wait_until(lambda: _ok(bench.engine, asking, ["nslookup", "web"]), what="the name")
    assert "web" in found


def _ok(engine: DockerEngine, spec: ServiceSpec, argv: list[str]) -> str:
    result = engine.execute(spec, argv, 5)
    return result.output if result.exit_code == 0 else ""


def test_a_network_that_another_process_removed_a_moment_after_it_was_seen_is_made_again(bench: Bench) -> None:
    first = bench.engine.create(bench.spec("a"))
    (seen,) = bench.networks()
    # What another worker does to the group's last container.
    bench.raw.api.remove_container(first.ref)
    bench.raw.api.remove_network(seen["Id"])
    assert bench.engine.start(bench.spec("b")).alive
    (made,) = bench.networks()
    assert made["Id"] != seen["Id"]


def test_a_container_that_was_removed_a_moment_after_it_was_made_is_made_again(bench: Bench) -> None:
    made = bench.engine.create(bench.spec())
    bench.raw.api.remove_container(made.ref)
    started = bench.engine.start(bench.spec())
    assert started.alive
    assert [each["Id"] for each in bench.containers()] == [started.ref]
    # Nor is what is written into it before its start missed.
    written = bench.spec("d", container={"configs": [{"source": "c", "target": "/etc/c", "content": "hello"}]})
    bench.raw.api.remove_container(bench.engine.create(written).ref)
    assert bench.engine.start(written).alive
    # A changed spec is not started with what was made for the earlier one.
    other = bench.engine.create(bench.spec("c"))
    assert bench.engine.start(bench.spec("c", environment={"A": "2"})).ref != other.ref


def test_a_service_joins_further_networks_and_leaves_those_of_others(bench: Bench) -> None:
    foreign = bench.raw.api.create_network(f"theirs-{bench.group}")["Id"]
    try:
        spec = bench.spec(networks=(f"theirs-{bench.group}", f"extra-{bench.group}"))
        ref = bench.engine.start(spec).ref
        joined = bench.raw.api.inspect_container(ref)["NetworkSettings"]["Networks"]
        assert {network["NetworkID"] for network in joined.values()} >= {foreign}
        assert len(joined) == 3
        bench.engine.stop(spec, 5)
        bench.engine.remove(spec)
        assert bench.networks() == []
        assert bench.raw.api.inspect_network(foreign)["Id"] == foreign
    finally:
        bench.raw.api.remove_network(foreign)


@pytest.mark.parametrize("mode", ["host", "none"])
def test_a_network_mode_is_honoured(bench: Bench, mode: str) -> None:
    ref = bench.engine.start(bench.spec(network_mode=mode)).ref
    assert list(bench.raw.api.inspect_container(ref)["NetworkSettings"]["Networks"]) == [mode]
    assert bench.networks() == []


def test_a_network_mode_that_there_is_not_is_refused(bench: Bench) -> None:
    with pytest.raises(StartFailed, match="not supported"):
        bench.engine.start(bench.spec(network_mode="bridged"))


def test_the_specification_reaches_the_container(bench: Bench, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "told").write_text("from outside")
    spec = bench.spec(
        command=("idle",),
        environment={"GREETING": "a=b c"},
        working_dir="/tmp",
        user="1234",
        volumes=(f"{tmp_path}:/data:ro", "/scratch"),
        dns_servers=("127.0.0.53",),
        labels={"team": "x", "clos.instance": "forged"},
        cpu_limit=0.5,
        memory_limit=32,
        stop_timeout_s=2.5,
        health_check=HealthCheck(CheckType.DOCKER, test=("true",), interval_s=1),
    )
    ref = bench.engine.start(spec).ref
    told = bench.engine.execute(spec, ["sh", "-c", "echo $GREETING; pwd; id -u; cat /data/told; ls -d /scratch"], 5)
    assert told.output.split("\n") == ["a=b c", "/tmp", "1234", "from outside/scratch", ""]
    inspected = bench.raw.api.inspect_container(ref)
    host, config = inspected["HostConfig"], inspected["Config"]
    assert (host["NanoCpus"], host["Memory"], host["Dns"]) == (500_000_000, 32 * 1024 * 1024, ["127.0.0.53"])
    assert (config["StopTimeout"], host["RestartPolicy"]["Name"]) == (3, "no")
    assert (config["Labels"]["team"], config["Labels"]["clos.instance"]) == ("x", bench.instance_id)
    assert config["Healthcheck"]["Test"] == ["CMD", "true"]
    wait_until(lambda: bench.engine.observe()[spec.id].health is HealthStatus.HEALTHY, 20, "the health")


def test_the_engine_restarts_only_where_it_is_asked_to(bench: Bench) -> None:
    spec = bench.spec(restart_by="engine", restart_policy=RestartPolicy.ALWAYS)
    ref = bench.engine.create(spec).ref
    assert bench.raw.api.inspect_container(ref)["HostConfig"]["RestartPolicy"]["Name"] == "always"


def test_a_missing_image_is_told_with_a_hint_and_leaves_nothing(bench: Bench) -> None:
    spec = bench.spec(image=f"clos-never-{bench.group}:1")
    assert not bench.engine.prepared(spec)
    with pytest.raises(ImageMissing) as missing:
        bench.engine.start(spec)
    assert "docker pull" in str(missing.value.hint)
    assert bench.containers() == []
    assert bench.networks() == []


def test_an_image_name_that_cannot_be_one_is_missing(bench: Bench) -> None:
    spec = bench.spec(image="UPPER CASE")
    assert not bench.engine.prepared(spec)
    with pytest.raises(ImageMissing):
        bench.engine.prepare(spec, lambda line: None)


@pytest.mark.parametrize("argv", [("nosuchprogram",), ("/tmp",)])
def test_a_command_that_cannot_run_is_told_and_leaves_nothing(bench: Bench, argv: tuple[str, ...]) -> None:
    with pytest.raises(ClosError) as failed:
        bench.engine.start(bench.spec(command=argv))
    assert failed.value.code in ("start_failed", "permission_denied")
    assert failed.value.hint
    assert bench.containers() == []
    assert bench.networks() == []


def test_an_address_that_is_not_this_machines_is_told(bench: Bench) -> None:
    port = PortRequest(host_ip="192.0.2.7", host_port=free_port())
    with pytest.raises(StartFailed) as failed:
        bench.engine.start(bench.spec(ports=(port,)))
    assert "host_ip" in str(failed.value.hint)


def test_an_image_is_built_with_progress_and_only_once(bench: Bench, tmp_path: Path) -> None:
    _context(tmp_path, 'ARG WHO=nobody\nENV WHO=$WHO\nCMD ["/bin/sh", "-c", "echo built for $WHO"]\n')
    spec = bench.spec("Web_App", image=None, build={"context": str(tmp_path), "args": {"WHO": "me"}})
    told: list[str] = []
    assert not bench.engine.prepared(spec)
    bench.engine.prepare(spec, told.append)
    assert any("Successfully built" in line for line in told)
    assert bench.engine.prepared(spec)
    bench.engine.prepare(spec, lambda line: pytest.fail("it was there"))
    bench.engine.start(spec)
    wait_until(lambda: bench.engine.observe()[spec.id].phase is Phase.EXITED)
    assert [line.text for line in bench.engine.logs(spec.id, 10)] == ["built for me"]


def test_a_failing_build_tells_its_last_lines(bench: Bench, tmp_path: Path) -> None:
    _context(tmp_path, 'RUN ["/bin/sh", "-c", "echo about to fail; exit 3"]\n')
    with pytest.raises(StartFailed, match="the build of") as failed:
        bench.engine.prepare(bench.spec(image=None, build={"context": str(tmp_path)}), lambda line: None)
    assert any("about to fail" in line for line in failed.value.facts["output"])


def test_a_build_without_a_folder_or_a_dockerfile_is_told(bench: Bench, tmp_path: Path) -> None:
    for context in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StartFailed):
            bench.engine.prepare(bench.spec(image=None, build={"context": str(context)}), lambda line: None)


def _context(folder: Path, rest: str) -> None:
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\n{rest}")


def test_a_registry_that_refuses_the_connection_fails_the_pull(bench: Bench) -> None:
    spec = bench.spec(image=f"127.0.0.1:{free_port()}/x:1")
    with pytest.raises(ImagePullFailed, match="refused"):
        bench.engine.prepare(spec, lambda line: None)


def test_a_registry_that_is_silent_times_out(bench: Bench) -> None:
    engine = DockerEngine(docker_url(), bench.instance_id, image_limits=Limits(pull_silence_s=1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        spec = bench.spec(image=f"127.0.0.1:{silent.getsockname()[1]}/x:1")
        began = time.monotonic()
        with pytest.raises(TimedOut):
            engine.prepare(spec, lambda line: None)
    assert time.monotonic() - began < 4
    engine.close()


class Registry(http.server.BaseHTTPRequestHandler):
    """A registry with one image of one layer, `tiny:1`."""

    layer = gzip.compress(b"\0" * 10240)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(b"\0" * 10240).hexdigest()]},
        }
    ).encode()

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        blobs = {digest(blob): blob for blob in (self.layer, self.config, self.manifest())}
        if self.path == "/v2/":
            self.answer(200, b"{}")
        elif self.path == "/v2/tiny/manifests/1":
            self.answer(200, self.manifest())
        elif name in blobs:
            self.answer(200, blobs[name])
        else:
            self.answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')

    do_HEAD = do_GET

    def manifest(self) -> bytes:
        kind = "application/vnd.docker.container.image.v1+json"
        layer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {"mediaType": kind, "size": len(self.config), "digest": digest(self.config)},
                "layers": [{"mediaType": layer, "size": len(self.layer), "digest": digest(self.layer)}],
            }
        ).encode()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        is_manifest = "/manifests/" in self.path and status == 200
        kind = "vnd.docker.distribution.manifest.v2+json" if is_manifest else "json"
        self.send_header("Content-Type", f"application/{kind}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", digest(body))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


@pytest.fixture
def registry() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(5)


def test_an_image_is_pulled_with_progress(bench: Bench, registry: str) -> None:
    spec = bench.spec(image=f"{registry}/tiny:1", command=("x",))
    told: list[str] = []
    try:
        bench.engine.prepare(spec, told.append)
        assert bench.engine.prepared(spec)
        assert any("Pull complete" in line for line in told)
    finally:
        bench.raw.api.remove_image(f"{registry}/tiny:1", force=True)


def test_an_image_that_the_registry_does_not_know_is_missing(bench: Bench, registry: str) -> None:
    with pytest.raises(ImageMissing, match="manifest") as missing:
        bench.engine.prepare(bench.spec(image=f"{registry}/other:2"), lambda line: None)
    assert "build:" in str(missing.value.hint)


def test_a_pull_is_broken_off_by_an_error_of_its_listener(bench: Bench, registry: str) -> None:
    def listener(line: str) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        bench.engine.prepare(bench.spec(image=f"{registry}/tiny:1"), listener)


def test_a_stop_gives_the_exit_code_and_may_be_repeated(bench: Bench) -> None:
    spec = bench.spec()
    assert bench.engine.stop(spec, 1).phase is Phase.ABSENT
    bench.engine.start(spec)
    assert bench.engine.execute(spec, ["true"], 5).exit_code == 0
    stopped = bench.engine.stop(spec, 10)
    assert (stopped.phase, stopped.exit_code) == (Phase.EXITED, 0)
    assert bench.engine.stop(spec, 10) == stopped
    assert bench.engine.observe()[spec.id] == stopped


def test_what_ignores_term_is_killed_after_the_grace(bench: Bench) -> None:
    spec = bench.spec(command=("stubborn",))
    bench.engine.start(spec)
    began = time.monotonic()
    assert bench.engine.stop(spec, 0.8).exit_code == 137
    assert time.monotonic() - began < 5


def test_a_running_service_is_not_removed(bench: Bench) -> None:
    spec = bench.spec()
    bench.engine.start(spec)
    with pytest.raises(ServiceRunning):
        bench.engine.remove(spec)
    assert bench.engine.observe()[spec.id].alive


def test_eight_removals_at_once_all_succeed(bench: Bench) -> None:
    spec = bench.spec()
    bench.engine.create(spec)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: bench.engine.remove(spec), range(8)))
    assert bench.containers() == []
    assert bench.networks() == []


def test_contrary_calls_from_two_processes_do_no_harm(bench: Bench) -> None:
    engines = [bench.engine, bench.another()]
    specs = [bench.spec("a"), bench.spec("b")]
    ends_at = time.monotonic() + 4
    refused: list[BaseException] = []

    def churn(seed: int) -> None:
        chance = random.Random(seed)
        engine = engines[seed % 2]
        while time.monotonic() < ends_at:
            spec = chance.choice(specs)
            call = chance.choice(["start", "create", "stop", "remove", "observe"])
            try:
                CALLS[call](engine, spec)
            except ServiceRunning:
                continue
            except Exception as error:
                refused.append(error)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert refused == []
    for spec in specs:
        assert bench.engine.start(spec).alive
    assert (len(bench.containers()), len(bench.networks())) == (2, 1)
    engines[1].close()


def test_a_built_image_that_is_gone_is_missing(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ImageMissing):
        bench.engine.start(bench.spec(image=None, build={"context": str(tmp_path)}))


def test_a_container_removed_by_hand_is_no_trouble(bench: Bench) -> None:
    spec = bench.spec()
    ref = bench.engine.start(spec).ref
    bench.raw.api.remove_container(ref, force=True)
    assert spec.id not in bench.engine.observe()
    assert bench.engine.stop(spec, 1).phase is Phase.ABSENT
    assert bench.engine.logs(spec.id, 10) == []
    assert bench.engine.stats([spec.id]) == {}
    with pytest.raises(StartFailed):
        bench.engine.execute(spec, ["true"], 1)
    bench.engine.remove(spec)
    assert bench.engine.start(spec).alive


def test_a_restart_behind_our_back_is_seen(bench: Bench) -> None:
    spec = bench.spec()
    started = bench.engine.start(spec)
    assert bench.engine.observe()[spec.id].pid == started.pid
    begun = started.started_at
    assert begun
    # Within two seconds of its start a restart is taken for the start: the engine tells ages roughly.
    wait_until(lambda: time.time() - begun.timestamp() > 4)
    bench.raw.api.restart(started.ref, timeout=5)
    fresh = bench.raw.api.inspect_container(started.ref)["State"]["Pid"]
    assert bench.engine.observe()[spec.id].pid == fresh != started.pid


def test_an_exit_is_observed_with_its_code(bench: Bench) -> None:
    spec = bench.spec(command=("sh", "-c", "exit 7"))
    bench.engine.start(spec)
    seen = wait_until(lambda: _exited(bench.engine, spec))
    assert (seen.exit_code, seen.oom_killed) == (7, False)
    assert seen.ended_at


def _exited(engine: DockerEngine, spec: ServiceSpec) -> Any:
    seen = engine.observe()[spec.id]
    return seen if seen.phase is Phase.EXITED else None


def test_a_paused_container_counts_as_running_and_can_be_stopped(bench: Bench) -> None:
    spec = bench.spec()
    ref = bench.engine.start(spec).ref
    bench.raw.api.pause(ref)
    seen = bench.engine.observe()[spec.id]
    assert (seen.phase, seen.detail) == (Phase.RUNNING, "paused")
    assert bench.engine.stop(spec, 1).phase is Phase.EXITED


def test_a_second_look_at_many_containers_is_quick(bench: Bench) -> None:
    for number in range(20):
        bench.engine.create(bench.spec(f"s{number}"))
    assert len(bench.engine.observe()) == 20
    began = time.monotonic()
    bench.engine.observe()
    assert time.monotonic() - began < 0.2


def test_logs_carry_times_and_streams_and_no_control_characters(bench: Bench) -> None:
    hostile = r"printf 'a\tb\n\033[31mred\033[0m \033]0;title\007x\r\n\377\376 bad\n'; echo oops >&2; printf 'no end'"
    spec = bench.spec(command=("sh", "-c", hostile))
    bench.engine.start(spec)
    wait_until(lambda: _exited(bench.engine, spec))
    lines = bench.engine.logs(spec.id, 100)
    assert [line.text for line in lines if line.stream == "stdout"] == [
        "a\tb",
        "red x",
        "\ufffd\ufffd bad",
        "no end",
    ]
    assert [line.text for line in lines if line.stream == "stderr"] == ["oops"]
    assert all(line.at and line.at.utcoffset() is not None for line in lines)


def test_logs_give_the_tail_and_what_came_since(bench: Bench) -> None:
    spec = bench.spec(command=("sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.05; done"))
    bench.engine.start(spec)
    wait_until(lambda: _exited(bench.engine, spec))
    everything = bench.engine.logs(spec.id, 100)
    assert [line.text for line in bench.engine.logs(spec.id, 2)] == ["4", "5"]
    assert bench.engine.logs(spec.id, 0) == []
    assert [line.text for line in bench.engine.logs(spec.id, 100, everything[3].at)] == ["4", "5"]


def test_logs_are_at_most_a_mebibyte_and_long_lines_stay_whole(bench: Bench) -> None:
    long = "head -c 40000 /dev/zero | tr '\\0' x; echo"
    spec = bench.spec(command=("sh", "-c", f"for i in $(seq 60); do {long}; done; echo last"))
    bench.engine.start(spec)
    wait_until(lambda: _exited(bench.engine, spec), 30)
    lines = bench.engine.logs(spec.id, 5000)
    assert sum(len(line.text) for line in lines) <= 1024 * 1024
    assert lines[-1].text == "last"
    assert lines[-2].text == "x" * 40000


def test_following_yields_while_silent_goes_on_over_a_restart_and_ends_on_stop(bench: Bench) -> None:
    spec = bench.spec(command=("sh", "-c", "sleep 1; echo begun; exec idle"))
    bench.engine.start(spec)
    stop = threading.Event()
    begun: list[Any] = []
    follower = bench.engine.follow(spec.id, stop.is_set)
    last = time.monotonic()
    restarted = False
    for line in follower:
        now = time.monotonic()
        assert now - last < 1.5 + 5 * restarted  # the restart itself is done in this loop
        last = now
        if line:
            begun.append(line.text)
        if len(begun) == 1 and not restarted:
            bench.engine.stop(spec, 1)
            bench.engine.start(spec)
            restarted, last = True, time.monotonic()
        if len(begun) == 2:
            stop.set()
    assert begun == ["begun", "begun"]


def test_following_what_is_not_there_yields_and_ends_on_stop(bench: Bench) -> None:
    rounds = iter(range(10))
    assert set(bench.engine.follow("nobody", lambda: next(rounds) > 3)) == {None}


def test_a_command_ends_with_its_code_and_at_most_4_kib(bench: Bench) -> None:
    spec = bench.spec()
    bench.engine.start(spec)
    result = bench.engine.execute(spec, ["sh", "-c", "yes | head -c 9000; exit 3"], 5)
    assert (result.exit_code, len(result.output)) == (3, 4096)
    assert bench.engine.execute(spec, ["nosuchprogram"], 5).exit_code in (126, 127)


def test_a_command_that_takes_too_long_is_given_up(bench: Bench) -> None:
    spec = bench.spec()
    bench.engine.start(spec)
    began = time.monotonic()
    with pytest.raises(TimedOut):
        bench.engine.execute(spec, ["sleep", "20"], 0.5)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("instruction", "test"),
    [
        ("HEALTHCHECK CMD echo ok $HOME", ("/bin/sh", "-c", "echo ok $HOME")),
        ('HEALTHCHECK CMD ["true"]', ("true",)),
        ("HEALTHCHECK NONE", ()),
        ("", ()),
    ],
)
def test_an_images_own_health_test_is_found(
    bench: Bench, tmp_path: Path, instruction: str, test: tuple[str, ...]
) -> None:
    _context(tmp_path, instruction)
    spec = bench.spec(image=None, build={"context": str(tmp_path)})
    bench.engine.prepare(spec, lambda line: None)
    assert bench.engine.own_test(spec) == test
    bench.engine.start(spec)
    assert bench.engine.own_test(spec) == test
    if test:
        assert bench.engine.observe()[spec.id].health in (HealthStatus.STARTING, HealthStatus.HEALTHY)
        assert bench.engine.execute(spec, test, 5).exit_code == 0


def test_resources_are_the_same_from_files_and_from_the_engine(bench: Bench) -> None:
    spec = bench.spec(command=("sh", "-c", "while :; do :; done"), cpu_limit=0.4)
    idle = bench.spec("idle")
    instance = bench.engine.start(spec)
    bench.engine.create(idle)
    assert instance.ref
    stats = bench.engine.stats([spec.id, idle.id, "nobody"])
    assert list(stats) == [spec.id]
    assert stats[spec.id].memory_usage > 0
    asked = Sampler(bench.engine._reading.counters).stats({instance.ref: None})[instance.ref]
    assert asked.cpu_usage > 5
    assert bench.engine.stats([spec.id])[spec.id].cpu_usage > 5


def test_the_engine_tells_who_it_is(bench: Bench) -> None:
    info = bench.engine.engine_info()
    assert set(info) == {"id", "name", "version", "api_version", "warning"}
    assert all(value for name, value in info.items() if name != "warning")


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[str]:
    """An engine that takes every connection and never answers."""
    path = Path("/tmp") / f"clos-hang-{uuid.uuid4().hex[:8]}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(64)
        yield f"unix://{path}"
    path.unlink()


CALLS = {
    "observe": lambda e, s: e.observe(),
    "prepared": lambda e, s: e.prepared(s),
    "prepare": lambda e, s: e.prepare(s, lambda line: None),
    "create": lambda e, s: e.create(s),
    "start": lambda e, s: e.start(s),
    "stop": lambda e, s: e.stop(s, 1),
    "remove": lambda e, s: e.remove(s),
    "logs": lambda e, s: e.logs(s.id, 10),
    "stats": lambda e, s: e.stats([s.id]),
    "execute": lambda e, s: e.execute(s, ["true"], 1),
    "own_test": lambda e, s: e.own_test(s),
    "engine_info": lambda e, s: e.engine_info(),
}
SPEC = ServiceSpec("g-a", "a", "g", image=IMAGE)


@pytest.mark.parametrize("call", CALLS)
def test_a_hanging_engine_ends_every_call_in_time(hanging: str, call: str) -> None:
    engine = DockerEngine(hanging, "0" * 32, timeout_s=0.5)
    began = time.monotonic()
    with pytest.raises(EngineUnreachable, match="in time") as gone:
        CALLS[call](engine, SPEC)
    assert time.monotonic() - began < 1.5
    assert gone.value.hint


def test_callers_behind_a_hanging_engine_fail_together(hanging: str) -> None:
    engine = DockerEngine(hanging, "0" * 32, timeout_s=0.5)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for end in [pool.submit(engine.observe) for _ in range(8)]:
            assert isinstance(end.exception(), EngineUnreachable)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("call", CALLS)
def test_an_absent_engine_is_told_with_a_hint(call: str) -> None:
    engine = DockerEngine("unix:///nonexistent/docker.sock", "0" * 32, timeout_s=1)
    with pytest.raises(EngineUnreachable) as gone:
        CALLS[call](engine, SPEC)
    assert "start Docker" in str(gone.value.hint)


def test_following_behind_an_absent_engine_ends() -> None:
    engine = DockerEngine("unix:///nonexistent/docker.sock", "0" * 32, timeout_s=1)
    assert list(engine.follow("a", lambda: False)) == []


class Cable:
    """A socket that leads to the real engine until it is cut."""

    def __init__(self, engine: str) -> None:
        self.path = Path("/tmp") / f"clos-cable-{uuid.uuid4().hex[:8]}.sock"
        self._engine = engine
        self._ends: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self.path))
        self._server.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                far.connect(self._engine)
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        self.path.unlink(missing_ok=True)
        for end in [self._server, *self._ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_an_engine_that_goes_away_ends_a_follower_cleanly(bench: Bench) -> None:
    if not docker_url().startswith("unix://"):
        pytest.skip("the engine is not on a socket of this machine")
    cable = Cable(docker_url().removeprefix("unix://"))
    engine = DockerEngine(f"unix://{cable.path}", bench.instance_id, timeout_s=2)
    try:
        spec = bench.spec(command=("sh", "-c", "while :; do echo tick; sleep 0.1; done"))
        engine.start(spec)
        follower = engine.follow(spec.id, lambda: False)
        assert wait_until(lambda: next(follower)).text == "tick"
        cable.cut()
        list(follower)
        with pytest.raises(EngineUnreachable):
            engine.observe()
    finally:
        cable.cut()
        engine.close()


def test_a_forked_process_makes_its_own_connection(bench: Bench) -> None:
    bench.engine.create(bench.spec())
    made_here = bench.engine._client.api()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        own = bench.engine._client.api() is not made_here and len(bench.engine.observe()) == 1
        os.write(write, b"1" if own else b"0")
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)


def test_hostile_names_and_labels_are_no_trouble(bench: Bench) -> None:
    spec = dataclasses.replace(
        bench.spec(labels={"x\x1b[31m": "<script>\n\u202e"}),
        id=f"{bench.group}/we ird;名=`$(x)`",
        name="we ird 名",
    )
    assert bench.engine.start(spec).alive
    assert list(bench.engine.observe()) == [spec.id]
    bench.engine.stop(spec, 5)
    bench.engine.remove(spec)
    assert bench.containers() == []
