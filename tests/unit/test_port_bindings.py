"""Which ports containers publish: from what the engine says, and against an engine that hangs or is not there."""

import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from domain.errors import ClosError, EngineUnreachable
from domain.observation import Binding
from tests.unit.engine_stand_in import EngineStandIn
from tests.waiting import wait_until
from workers.runtimes.docker_bindings import Bindings, Bounded, Published
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.docker_names import Marks

INSTANCE = "0123456789abcdef"
MARKS = Marks(INSTANCE)


def summary(ref: str, state: str = "running", mode: str = "default", **more: Any) -> dict[str, Any]:
    return {"Id": ref, "Names": [f"/{ref}-name"], "State": state, "HostConfig": {"NetworkMode": mode}, **more}


class Engine:
    """What inspects tell, and how often they were asked."""

    def __init__(self, **bindings: Any) -> None:
        self.bindings = bindings
        self.asked: list[str] = []

    def inspect(self, ref: str) -> Mapping[str, Any] | None:
        self.asked.append(ref)
        found = self.bindings.get(ref)
        return None if found is None else {"HostConfig": {"PortBindings": found}}


def places(published: Published) -> list[tuple[str, int, str, bool]]:
    return [(each.host_ip, each.port, each.protocol, each.running) for each in published.bindings]


def test_a_running_container_is_read_from_the_list_alone() -> None:
    engine = Engine()
    ports = [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ]
    found = Bindings(MARKS, engine.inspect).of([summary("a", Ports=ports)])
    assert places(found) == [("0.0.0.0", 8080, "tcp", True), ("::", 8080, "tcp", True)]
    assert engine.asked == []
    assert found.bindings[0].container_name == "a-name"


def test_a_stopped_container_is_asked_once_whatever_becomes_of_it() -> None:
    engine = Engine(a={"80/udp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}]})
    bindings = Bindings(MARKS, engine.inspect)
    for state in ("created", "exited", "dead", "restarting"):
        assert places(bindings.of([summary("a", state)])) == [("127.0.0.1", 9000, "udp", False)]
    assert engine.asked == ["a"]
    bindings.of([])
    bindings.of([summary("a", "exited")])
    assert engine.asked == ["a", "a"]


@pytest.mark.parametrize(
    ("host_port", "ports"),
    [
        ("8000", [8000]),
        ("8000-8002", [8000, 8001, 8002]),
        ("", []),
        ("0", []),
        ("8002-8000", []),
        ("x", []),
        ("99999", []),
    ],
)
def test_ranges_are_expanded_and_random_ports_are_no_claim(host_port: str, ports: list[int]) -> None:
    engine = Engine(a={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": host_port}], "81/tcp": None})
    found = Bindings(MARKS, engine.inspect).of([summary("a", "exited")])
    assert [each.port for each in found.bindings] == ports


def test_no_address_is_every_address() -> None:
    engine = Engine(a={"80/tcp": [{"HostIp": "", "HostPort": "8000"}]})
    found = Bindings(MARKS, engine.inspect).of([summary("a", "exited")])
    assert [each.host_ip for each in found.bindings] == ["0.0.0.0", "::"]


@pytest.mark.parametrize("mode", ["host", "none", "container:abc"])
def test_a_container_that_can_publish_nothing_is_not_asked_and_is_known(mode: str) -> None:
    engine = Engine()
    found = Bindings(MARKS, engine.inspect).of([summary("a", "exited", mode), summary("b", mode=mode)])
    assert (engine.asked, found.bindings, sorted(found.containers)) == ([], (), ["a", "b"])


def test_a_container_that_is_gone_meanwhile_claims_nothing() -> None:
    assert Bindings(MARKS, Engine().inspect).of([summary("a", "exited")]).bindings == ()


def test_own_containers_name_their_service_and_others_do_not() -> None:
    ports = [{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]
    ours = {"clos.instance": INSTANCE, "clos.service": "shop-web"}
    theirs = {"clos.instance": "another", "clos.service": "shop-web"}
    found = Bindings(MARKS, Engine().inspect).of(
        [summary("a", Ports=ports, Labels=ours), summary("b", Ports=ports, Labels=theirs)]
    )
    assert [(each.own, each.service_id) for each in found.bindings] == [(True, "shop-web"), (False, None)]


def test_a_call_that_hangs_holds_up_nobody_longer_than_the_limit_and_is_not_made_twice() -> None:
    go, calls = threading.Event(), []

    def hang() -> Published:
        calls.append(1)
        go.wait(10)
        return Published((Binding("127.0.0.1", 1, "tcp", "c", "c", True),))

    bounded = Bounded(hang)
    for _ in range(3):
        with pytest.raises(EngineUnreachable, match="does not answer within"):
            bounded.within(0.02)
    assert len(calls) == 1
    go.set()
    assert wait_until(lambda: bounded.within(5).bindings)


@pytest.fixture
def there(tmp_path: Path) -> Iterator[EngineStandIn]:
    made = EngineStandIn(tmp_path / "engine.sock")
    yield made
    made.close()


def test_an_engine_that_is_not_there_is_told_from_one_that_is_silent(tmp_path: Path) -> None:
    nowhere = DockerEngine(f"unix://{tmp_path}/none.sock", INSTANCE, timeout_s=1)
    assert nowhere.absent()
    with pytest.raises(EngineUnreachable):
        nowhere.bindings()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        mute = DockerEngine(f"unix://{tmp_path}/silent.sock", INSTANCE, timeout_s=5)
        assert not mute.absent()
        with pytest.raises(EngineUnreachable):
            mute.bindings(0.1)
    assert not DockerEngine("tcp://127.0.0.1:1", INSTANCE).absent()


def test_any_container_is_stopped_and_one_that_is_gone_is_success(there: EngineStandIn) -> None:
    engine = DockerEngine(there.url, INSTANCE, timeout_s=2)
    there.refuse(r"POST /containers/abc/stop", 404, "No such container: abc")
    engine.stop_container("abc", 1)
    there.refuse(r"POST /containers/abc/stop", 304, "")
    engine.stop_container("abc", 1)
    there.refuse(r"POST /containers/abc/stop", 500, "cannot stop: it hangs")
    with pytest.raises(ClosError, match="it hangs"):
        engine.stop_container("abc", 1)
    engine.close()
