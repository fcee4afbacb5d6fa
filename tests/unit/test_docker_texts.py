import dataclasses
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import APIError

from domain.errors import (
    AddressPoolExhausted,
    EngineUnreachable,
    ImageMissing,
    ImagePullFailed,
    PermissionRefused,
    StartFailed,
    TimedOut,
)
from domain.observation import Phase
from domain.specs import PortRequest, ServiceSpec
from domain.states import HealthStatus
from workers.runtimes import docker_stats
from workers.runtimes.docker_config import container_config, image_of
from workers.runtimes.docker_errors import TakenPort, from_api, image_error, reason, taken_port, translated
from workers.runtimes.docker_holders import holder_of
from workers.runtimes.docker_names import Marks, slug
from workers.runtimes.docker_network_names import names_of
from workers.runtimes.docker_observation import (
    Observation,
    age_at_most_s,
    exit_code_in,
    health_of,
    instance_of,
    parse_time,
)
from workers.runtimes.docker_reading import argument_list
from workers.runtimes.docker_stats import Sampler, read_cgroup, sample_of
from workers.runtimes.docker_streams import LineAssembler
from workers.runtimes.log_text import plain

MARKS = Marks("0123456789abcdef")
ASKED = (PortRequest(host_port=8080), PortRequest(host_port=5353, protocol="udp"))


def refusal(status: int, text: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response, explanation=text)


@pytest.mark.parametrize(
    ("text", "port", "protocol", "host_ip"),
    [
        (
            "driver failed programming external connectivity on endpoint x (abc): "
            "Bind for 0.0.0.0:8080 failed: port is already allocated",
            8080,
            "tcp",
            "0.0.0.0",
        ),
        ("Bind for 127.0.0.1:5353 failed: port is already allocated", 5353, "udp", "127.0.0.1"),
        (
            "Error starting userland proxy: listen tcp4 127.0.0.1:8080: bind: address already in use",
            8080,
            "tcp",
            "127.0.0.1",
        ),
        ("Error starting userland proxy: listen tcp6 [::]:8080: bind: address already in use", 8080, "tcp", "::"),
        ("listen udp4 0.0.0.0:5353: bind: address already in use", 5353, "udp", "0.0.0.0"),
        (
            "Ports are not available: exposing port TCP 127.0.0.1:8080 -> 127.0.0.1:0: listen tcp "
            "127.0.0.1:8080: bind: Only one usage of each socket address",
            8080,
            "tcp",
            "127.0.0.1",
        ),
        (
            "failed to bind host port for 127.0.0.1:8080:172.17.0.2:80/tcp: address already in use",
            8080,
            "tcp",
            "127.0.0.1",
        ),
        ("failed to bind host port 127.0.0.1:8080/tcp: address already in use", 8080, "tcp", "127.0.0.1"),
        ("something new: address already in use", 8080, "tcp", "127.0.0.1"),
    ],
)
def test_the_taken_port_is_read_from_the_engines_words(text: str, port: int, protocol: str, host_ip: str) -> None:
    assert taken_port(text, ASKED) == TakenPort(port, protocol, host_ip)


def test_other_words_name_no_taken_port() -> None:
    assert taken_port("no such file or directory", ASKED) is None
    assert taken_port("address already in use", ()) is None


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (
            500,
            "could not find an available, non-overlapping IPv4 address pool among the defaults",
            AddressPoolExhausted,
        ),
        (500, "all predefined address pools have been fully subnetted", AddressPoolExhausted),
        (404, "No such image: x:1", ImageMissing),
        (503, "the engine is shutting down", EngineUnreachable),
        (403, "authorization denied by plugin", PermissionRefused),
        (500, "listen tcp4 127.0.0.1:80: bind: permission denied", PermissionRefused),
        (500, "tried to kill container, but did not receive an exit event", TimedOut),
        (400, "exec /x: exec format error", StartFailed),
        (400, "\x1b[31minvalid port specification\x00", StartFailed),
    ],
)
def test_a_refusal_is_translated_by_status_and_text(status: int, text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as told, translated("cannot start g-a", image="x:1"):
        raise refusal(status, text)
    assert "\x1b" not in str(told.value)


def test_an_exhausted_pool_names_the_setting() -> None:
    error = from_api(refusal(500, "non-overlapping IPv4 address pool"), "cannot create g-a")
    assert "default-address-pools" in str(error.hint)


def test_a_broken_connection_is_an_unreachable_engine() -> None:
    for broken in (
        requests.ConnectionError("refused"),
        requests.ReadTimeout("read timed out"),
        requests.exceptions.ChunkedEncodingError("broken"),
        TimeoutError("timed out"),
    ):
        with pytest.raises(EngineUnreachable) as gone, translated("look"):
            raise broken
        assert gone.value.hint


def test_a_socket_that_may_not_be_used_names_the_group() -> None:
    with pytest.raises(EngineUnreachable) as gone, translated("look"):
        raise requests.ConnectionError("('Connection aborted.', PermissionError(13, 'Permission denied'))")
    assert "group `docker`" in str(gone.value.hint)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("manifest for x:1 not found: manifest unknown", ImageMissing),
        ("pull access denied for x, repository does not exist or may require 'docker login'", ImageMissing),
        ("dial tcp: lookup registry.invalid: no such host", ImagePullFailed),
        ("toomanyrequests: slow down", ImagePullFailed),
    ],
)
def test_an_image_is_missing_or_the_way_to_it_broken(text: str, kind: type[Exception]) -> None:
    assert type(image_error(text, "x:1")) is kind


def test_the_engines_words_are_bounded() -> None:
    assert len(reason("x" * 5000)) == 1000


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        ("Up Less than a second", 1),
        ("Up 5 seconds (healthy)", 6),
        ("Up About a minute", 120),
        ("Up 3 minutes (Paused)", 240),
        ("Exited (137) About an hour ago", 7200),
        ("Exited (0) 2 days ago", 3 * 86400),
        ("Up 2 weeks (health: starting)", 3 * 604800),
        ("Created", 0),
    ],
)
def test_an_age_in_words_has_an_upper_bound(status: str, seconds: float) -> None:
    assert age_at_most_s(status) == seconds


def test_a_status_tells_health_and_exit_code() -> None:
    assert health_of("Up 5 seconds (healthy)") is HealthStatus.HEALTHY
    assert health_of("Up 5 seconds (unhealthy)") is HealthStatus.UNHEALTHY
    assert health_of("Up 5 seconds (health: starting)") is HealthStatus.STARTING
    assert health_of("Up 5 seconds") is HealthStatus.NONE
    assert exit_code_in("Exited (137) 2 seconds ago") == "137"
    assert exit_code_in("Up 5 seconds") == ""


def test_the_engines_times_are_aware_and_never_is_none() -> None:
    assert parse_time("2026-11-23T11:27:00.123456789Z") == datetime(2026, 11, 23, 11, 27, 0, 123456, UTC)
    assert parse_time("0001-01-01T00:00:00Z") is None
    assert parse_time("nonsense") is None


def inspected(state: dict[str, Any], ref: str = "r1") -> dict[str, Any]:
    return {"Id": ref, "State": state, "Config": {"Labels": {"clos.service": "g-a", "clos.spec_hash": "h"}}}


def test_states_of_the_engine_become_phases() -> None:
    for name, phase in {
        "created": Phase.CREATED,
        "running": Phase.RUNNING,
        "paused": Phase.RUNNING,
        "restarting": Phase.EXITED,
        "dead": Phase.EXITED,
        "removing": Phase.EXITED,
    }.items():
        assert instance_of(inspected({"Status": name}), MARKS).phase is phase
    killed = instance_of(inspected({"Status": "exited", "ExitCode": 137, "OOMKilled": True}), MARKS)
    assert (killed.exit_code, killed.oom_killed) == (137, True)


def test_only_what_changed_is_inspected_again() -> None:
    begun = datetime.now(UTC) - timedelta(hours=5)
    asked: list[str] = []

    def inspect(ref: str) -> dict[str, Any]:
        asked.append(ref)
        return inspected({"Status": "running", "StartedAt": begun.isoformat(), "Pid": 1}, ref)

    observation = Observation(MARKS, inspect)

    def look(status: str, state: str = "running") -> HealthStatus:
        summary = {"Id": "r1", "State": state, "Status": status, "Labels": {"clos.service": "g-a"}}
        return observation.instances([summary])["g-a"].health

    look("Up 5 hours")
    assert look("Up 5 hours (healthy)") is HealthStatus.HEALTHY
    assert asked == ["r1"]
    look("Up 3 seconds")
    assert asked == ["r1", "r1"]
    look("Exited (1) 1 second ago", "exited")
    assert asked == ["r1", "r1", "r1"]


def test_of_two_containers_of_a_service_the_running_one_counts() -> None:
    observation = Observation(MARKS, lambda ref: inspected({"Status": "running"}, ref))
    labels = {"clos.service": "g-a"}
    found = observation.instances(
        [
            {"Id": "old-running", "State": "running", "Created": 1, "Labels": labels},
            {"Id": "new-exited", "State": "exited", "Created": 2, "Labels": labels},
            {"Id": "unlabelled", "State": "running", "Created": 3, "Labels": None},
        ]
    )
    assert [instance.ref for instance in found.values()] == ["old-running"]


def test_a_container_that_vanishes_while_it_is_looked_at_is_absent() -> None:
    observation = Observation(MARKS, lambda ref: None)
    assert observation.instances([{"Id": "r", "Labels": {"clos.service": "g-a"}}]) == {}


def test_different_names_have_different_slugs() -> None:
    assert slug("web-1.a_b") == "web-1.a_b"
    slugs = {slug(name) for name in ("a b", "a/b", "a-b", "名", "", "-a", "x" * 150, "x" * 151)}
    assert len(slugs) == 8
    assert all(len(each) <= 110 and each[0].isalnum() for each in slugs)


def test_a_built_image_is_named_by_what_it_is_built_from_so_that_a_move_builds_nothing() -> None:
    spec = ServiceSpec("G_x-Web", "Web__App-", "G_x", build={"context": "/x"})
    moved = dataclasses.replace(spec, ports=(PortRequest(host_port=9001),))
    rebuilt = dataclasses.replace(spec, build={**(spec.build or {}), "target": "other"})

    assert re.fullmatch(r"clos-g-x-web-app:[0-9a-f]{12}", image_of(spec))
    assert image_of(moved) == image_of(spec) != image_of(rebuilt)
    with pytest.raises(StartFailed):
        image_of(ServiceSpec("g-a", "a", "g"))


def test_a_port_that_is_not_leased_is_refused() -> None:
    spec = ServiceSpec("g-a", "a", "g", image="x", ports=(PortRequest(container_port=80),))
    with pytest.raises(StartFailed, match="leased"):
        container_config(spec, MARKS, {})


def test_one_container_port_can_have_two_host_ports() -> None:
    ports = (PortRequest(host_port=1, container_port=80), PortRequest(host_port=2, container_port=80))
    config = container_config(ServiceSpec("g-a", "a", "g", image="x", ports=ports), MARKS, {})
    assert [each["HostPort"] for each in config["HostConfig"]["PortBindings"]["80/tcp"]] == ["1", "2"]


def test_the_groups_network_comes_first() -> None:
    assert names_of(ServiceSpec("g-a", "a", "g", networks=("x", "clos-g"))) == ["clos-g", "x"]
    assert names_of(ServiceSpec("g-a", "a", "g", network_name="shared")) == ["shared"]
    assert names_of(ServiceSpec("g-a", "a", "g", network_mode="host")) == []


def test_a_holder_is_found_by_port_protocol_and_address() -> None:
    def container(ip: str, kind: str = "tcp") -> dict[str, Any]:
        ports = [{"IP": ip, "PublicPort": 80, "Type": kind}]
        return {"Id": "c1", "Names": ["/db"], "Ports": ports, "Labels": None, "Command": "run \x1b[31m"}

    taken = TakenPort(80, "tcp", "127.0.0.1")
    assert holder_of(taken, [container("0.0.0.0")], MARKS)
    assert holder_of(taken, [container("127.0.0.2"), container("0.0.0.0", "udp")], MARKS) is None
    holder = holder_of(taken, [container("127.0.0.1")], MARKS)
    assert holder
    assert (holder["kind"], holder["name"], holder["own"], holder["service_id"]) == ("container", "db", False, None)


def test_health_tests_become_argument_lists() -> None:
    for test, expected in {
        ("CMD", "a", "b"): ("a", "b"),
        ("CMD-SHELL", "a b"): ("/bin/sh", "-c", "a b"),
        ("NONE",): (),
        (): (),
    }.items():
        assert argument_list({"Healthcheck": {"Test": list(test)}}) == expected
    shell = {"Shell": ["/bin/ash", "-ec"], "Healthcheck": {"Test": ["CMD-SHELL", "x"]}}
    assert argument_list(shell) == ("/bin/ash", "-ec", "x")
    assert argument_list({}) == ()


def test_a_line_that_the_engine_cut_is_put_together() -> None:
    lines = LineAssembler()
    stamp = b"2026-11-23T11:27:00.000000001Z "
    assert list(lines.feed(("stdout", stamp + b"one "))) == []
    (err,) = lines.feed(("stderr", stamp + b"oops\n"))
    (whole,) = lines.feed(("stdout", stamp + b"line\n"))
    assert (err.text, err.stream, whole.text, whole.at) == (
        "oops",
        "stderr",
        "one line",
        datetime(2026, 11, 23, 11, 27, tzinfo=UTC),
    )
    assert [line.text for line in lines.feed(("stdout", b"a\nb\nc"))] == ["a", "b"]
    assert [line.text for line in lines.rest()] == ["c"]


def test_text_is_stripped_of_what_a_terminal_would_obey() -> None:
    assert plain(b"a\tb\x1b[1;31mred\x1b[0m\x1b]0;title\x07\x1b(B\x08\x00\r\xff\x9b") == "a\tbred\ufffd\ufffd"
    assert plain("\x9b31m名".encode()) == "31m名"


def test_the_engines_counters_become_a_sample() -> None:
    told = {
        "cpu_stats": {"cpu_usage": {"total_usage": 5}},
        "memory_stats": {"usage": 100, "stats": {"inactive_file": 30}},
        "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 10, "tx_bytes": 20}},
        "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 3}, {"op": "write", "value": 4}]},
    }
    sample = sample_of(told)
    assert sample
    assert (sample.cpu_ns, sample.memory, sample.network_rx, sample.network_tx) == (5, 70, 11, 22)
    assert (sample.disk_read, sample.disk_write) == (3, 4)
    assert sample_of({"cpu_stats": {}, "memory_stats": {}}) is None
    assert sample_of(None) is None


NET = "Inter-|\n face |\n lo: 9 0 0 0 0 0 0 0 9 0\neth0: 7 0 0 0 0 0 0 0 8 0\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A host's /proc and cgroup files, with one process, 42."""
    monkeypatch.setattr(docker_stats, "CGROUP_ROOT", tmp_path / "cgroup")

    def write(path: str, text: str) -> None:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    write("proc/42/net/dev", NET)
    return SimpleNamespace(write=write, proc=tmp_path / "proc")


def test_counters_are_read_from_the_second_cgroup_version(host: SimpleNamespace) -> None:
    host.write("proc/42/cgroup", "0::/system.slice/docker-abc.scope\n")
    folder = "cgroup/system.slice/docker-abc.scope"
    host.write(f"{folder}/cpu.stat", "usage_usec 5\nuser_usec 3\n")
    host.write(f"{folder}/memory.current", "100\n")
    host.write(f"{folder}/memory.stat", "anon 1\ninactive_file 30\n")
    host.write(f"{folder}/io.stat", "8:0 rbytes=3 wbytes=4 rios=1\n8:1 rbytes=10 wbytes=20\n")
    sample = read_cgroup("abc", 42, host.proc)
    assert sample
    assert (sample.cpu_ns, sample.memory, sample.network_rx, sample.network_tx) == (5000, 70, 7, 8)
    assert (sample.disk_read, sample.disk_write) == (13, 24)


def test_counters_are_read_from_the_first_cgroup_version(host: SimpleNamespace) -> None:
    host.write("proc/42/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n2:blkio:/docker/abc\n0::/\n")
    host.write("cgroup/cpuacct/docker/abc/cpuacct.usage", "5\n")
    host.write("cgroup/memory/docker/abc/memory.usage_in_bytes", "100\n")
    host.write("cgroup/memory/docker/abc/memory.stat", "total_inactive_file 30\n")
    host.write("cgroup/blkio/docker/abc/blkio.throttle.io_service_bytes", "8:0 Read 3\n8:0 Write 4\nTotal 7\n")
    sample = read_cgroup("abc", 42, host.proc)
    assert sample
    assert (sample.cpu_ns, sample.memory, sample.disk_read, sample.disk_write) == (5, 70, 3, 4)


def test_counters_of_another_process_are_not_taken(host: SimpleNamespace) -> None:
    host.write("proc/42/cgroup", "0::/system.slice/ssh.service\n")
    assert read_cgroup("abc", 42, host.proc) is None
    assert read_cgroup("abc", 43, host.proc) is None
    assert read_cgroup("abc", None, host.proc) is None


def test_what_cannot_be_read_is_left_out() -> None:
    assert Sampler(lambda ref: None).stats({"abc": None}) == {}
