"""The Docker runtime against a stand-in of the engine; `tests/integration/test_docker_engine.py` asks a real one."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from domain.errors import (
    AddressPoolExhausted,
    ClosError,
    EngineUnreachable,
    ImageMissing,
    ImagePullFailed,
    NotOurs,
    PermissionRefused,
    PortHeld,
    ServiceRunning,
    StartFailed,
    TimedOut,
)
from domain.observation import Phase
from domain.specs import CheckType, HealthCheck, PortRequest, RestartPolicy, ServiceSpec
from domain.states import HealthStatus
from tests.images import ANYTHING
from tests.unit.engine_stand_in import EngineStandIn
from tests.unit.engine_state import IMAGE, Container
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.docker_images import Limits

INSTANCE = "0123456789abcdef0123456789abcdef"
NAME = "clos-01234567-g-a"
PORT = PortRequest(host_port=8080, container_port=80)
GONE = r"POST /containers/\w+/start"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[EngineStandIn]:
    made = EngineStandIn(tmp_path / "engine.sock")
    yield made
    made.close()


@pytest.fixture
def engine(there: EngineStandIn) -> Iterator[DockerEngine]:
    made = DockerEngine(there.url, INSTANCE, timeout_s=2.0, image_limits=Limits(pull_silence_s=0.3), policy=ANYTHING)
    yield made
    made.close()


def spec(name: str = "a", **fields: Any) -> ServiceSpec:
    return ServiceSpec(f"g-{name}", name, "g", **({"image": IMAGE} | fields))


def only(there: EngineStandIn) -> Container:
    (found,) = there.containers.values()
    return found


def nothing_left(there: EngineStandIn) -> bool:
    return not there.containers and not there.networks


# Adoption and replacement


def test_a_started_service_is_observed_with_its_hash_pid_and_time(engine: DockerEngine, there: EngineStandIn) -> None:
    engine.create(spec())
    assert engine.observe()["g-a"].phase is Phase.CREATED
    engine.start(spec())
    seen = engine.observe()["g-a"]
    assert (seen.phase, seen.spec_hash, seen.health) == (Phase.RUNNING, spec().hash(), HealthStatus.NONE)
    assert seen.pid
    assert seen.started_at
    assert only(there).name == NAME


def test_a_repeated_start_adopts_the_running_container(engine: DockerEngine, there: EngineStandIn) -> None:
    first = engine.start(spec())
    assert DockerEngine(there.url, INSTANCE).start(spec()).ref == first.ref
    assert len(there.containers) == 1


def test_eight_starts_at_once_make_one_container(engine: DockerEngine, there: EngineStandIn) -> None:
    engines = [engine, DockerEngine(there.url, INSTANCE)]
    with ThreadPoolExecutor(8) as pool:
        refs = {instance.ref for instance in pool.map(lambda n: engines[n % 2].start(spec()), range(8))}
    assert refs == set(there.containers)
    assert len(there.networks) == 1


def test_a_stopped_container_of_another_hash_is_replaced_and_a_running_one_is_drift(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    old = engine.create(spec())
    new = engine.create(spec(environment={"A": "2"}))
    assert list(there.containers) == [new.ref] != [old.ref]
    engine.start(spec(environment={"A": "2"}))
    assert engine.start(spec(environment={"A": "3"})).ref == new.ref


def test_a_container_that_never_started_for_an_error_is_replaced(engine: DockerEngine, there: EngineStandIn) -> None:
    left = engine.create(spec())
    only(there).state |= {"Error": "it broke", "ExitCode": 128}
    started = DockerEngine(there.url, INSTANCE).start(spec())
    assert started.alive
    assert started.ref != left.ref


def test_what_was_made_or_started_just_now_is_not_inspected_again(engine: DockerEngine, there: EngineStandIn) -> None:
    inspected: list[None] = []
    there.before(r"GET /containers/\w+/json", lambda: inspected.append(None), times=1000)
    engine.create(spec())
    assert engine.observe()["g-a"].phase is Phase.CREATED
    assert not inspected, "an inspect waits for a start that is under way"
    engine.start(spec())
    assert engine.observe()["g-a"].alive
    assert len(inspected) == 1


def test_the_specification_reaches_the_container(engine: DockerEngine, there: EngineStandIn) -> None:
    wanted = spec(
        command=("idle",), environment={"A": "b=c"}, working_dir="/tmp", user="1234", ports=(PORT,),
        volumes=("/x:/data:ro", "/scratch"), dns_servers=("127.0.0.53",), cpu_limit=0.5, memory_limit=32,
        labels={"team": "x", "clos.instance": "forged"}, restart_by="engine", restart_policy=RestartPolicy.ALWAYS,
        health_check=HealthCheck(CheckType.DOCKER, test=("true",), interval_s=1), stop_timeout_s=2.5,
    )  # fmt: skip
    engine.create(wanted)
    config = only(there).config
    host = config["HostConfig"]
    assert (config["Cmd"], config["Env"], config["User"], config["WorkingDir"]) == (["idle"], ["A=b=c"], "1234", "/tmp")
    assert (host["NanoCpus"], host["Memory"], host["Dns"], host["Binds"]) == (
        500_000_000, 32 * 1024**2, ["127.0.0.53"], ["/x:/data:ro"],
    )  # fmt: skip
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    assert (host["RestartPolicy"]["Name"], config["StopTimeout"]) == ("always", 3)
    assert (config["Labels"]["clos.instance"], config["Labels"]["team"]) == (INSTANCE, "x")
    assert config["Healthcheck"]["Test"] == ["CMD", "true"]
    assert engine.own_test(wanted) == ("true",)


# What is not ours


def test_a_container_of_somebody_else_with_our_name_is_named_and_not_touched(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    foreign = there.foreign(NAME)
    with pytest.raises(NotOurs) as refused:
        engine.start(spec())
    assert refused.value.facts["container_id"] == foreign.id
    assert list(there.containers.values()) == [foreign]
    assert there.networks == {}
    assert engine.observe() == {}


def test_a_name_that_comes_free_meanwhile_is_taken(engine: DockerEngine, there: EngineStandIn) -> None:
    there.refuse("POST /containers/create", 409, f'Conflict. The container name "/{NAME}" is already in use')
    assert engine.start(spec()).alive


def test_a_network_of_somebody_else_is_stepped_round_or_joined_and_never_removed(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    ours_elsewhere = there.add_network("clos-g", {"clos.instance": "another"})["Id"]
    theirs = there.add_network("theirs", {})["Id"]
    wanted = spec(networks=("theirs", "extra"))
    engine.start(wanted)
    assert {n["Name"] for n in there.networks.values()} == {"clos-g", "theirs", "clos-g-01234567", "extra"}
    assert len(only(there).networks) == 3
    engine.stop(wanted, 1)
    engine.remove(wanted)
    assert set(there.networks) == {ours_elsewhere, theirs}


# Refusals of a start leave nothing


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_of_a_host_process_is_held_and_nothing_is_left(
    engine: DockerEngine, there: EngineStandIn, protocol: str
) -> None:
    there.host_ports.add((8080, protocol))
    with pytest.raises(PortHeld) as held:
        engine.start(spec(ports=(PortRequest(host_port=8080, container_port=80, protocol=protocol),)))
    assert (held.value.port, held.value.protocol, held.value.holder) == (8080, protocol, None)
    assert nothing_left(there)


def test_a_port_of_another_container_is_held_by_that_one(engine: DockerEngine, there: EngineStandIn) -> None:
    binding = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}
    foreign = there.foreign("theirs", HostConfig={"PortBindings": binding})
    there.start(foreign)
    with pytest.raises(PortHeld) as held:
        engine.start(spec(ports=(PORT,)))
    assert held.value.holder
    assert (held.value.holder["name"], held.value.holder["own"]) == ("theirs", False)
    there.stop(foreign)
    engine.start(spec(ports=(PORT,)))
    with pytest.raises(PortHeld) as held:
        engine.start(spec("b", ports=(PORT,)))
    assert held.value.holder
    assert held.value.holder["service_id"] == "g-a"
    assert [c.labels.get("clos.service") for c in there.containers.values()] == [None, "g-a"]


REFUSALS: list[tuple[int, str, type[ClosError]]] = [
    (400, 'exec: "nosuch": executable file not found in $PATH', StartFailed),
    (400, "exec /x: exec format error", StartFailed),
    (500, "listen tcp4 192.0.2.7:80: bind: cannot assign requested address", StartFailed),
    (500, "error while mounting: operation not permitted", PermissionRefused),
    (403, "forbidden by an authorization plugin", PermissionRefused),
    (503, "the engine is shutting down", EngineUnreachable),
    (500, "cannot stop: tried to kill container, but did not receive an exit event", TimedOut),
    (404, "could not find an available, non-overlapping IPv4 address pool among the defaults", AddressPoolExhausted),
    (500, "Ports are not available: exposing port TCP 127.0.0.1:8080 -> 0.0.0.0:0: listen", PortHeld),
]


@pytest.mark.parametrize(("code", "text", "kind"), REFUSALS)
def test_a_refused_start_has_its_own_error_and_leaves_nothing(
    engine: DockerEngine, there: EngineStandIn, code: int, text: str, kind: type[ClosError]
) -> None:
    there.refuse(GONE, code, text)
    with pytest.raises(kind) as failed:
        engine.start(spec(ports=(PORT,)))
    assert type(failed.value) is kind
    assert nothing_left(there)


def test_the_thirty_first_network_is_told_with_a_hint(engine: DockerEngine, there: EngineStandIn) -> None:
    for number in range(30):
        there.add_network(f"n{number}", {})
    with pytest.raises(AddressPoolExhausted) as full:
        engine.start(spec())
    assert "default-address-pools" in str(full.value.hint)
    assert there.containers == {}


def test_a_missing_image_and_a_name_that_cannot_be_one_are_told(engine: DockerEngine, there: EngineStandIn) -> None:
    assert not engine.prepared(spec(image="never:1"))
    assert not engine.prepared(spec(image="UPPER CASE"))
    with pytest.raises(ImageMissing) as missing:
        engine.start(spec(image="never:1"))
    assert "docker pull" in str(missing.value.hint)
    assert nothing_left(there)


def test_a_network_that_cannot_be_joined_leaves_no_container(engine: DockerEngine, there: EngineStandIn) -> None:
    there.refuse(r"POST /networks/\w+/connect", 500, "no room")
    with pytest.raises(StartFailed, match="no room"):
        engine.create(spec(networks=("extra",)))
    assert nothing_left(there)


def test_what_an_undo_cannot_take_away_does_not_hide_why_the_start_failed(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    there.refuse(GONE, 500, "it broke")
    there.refuse("DELETE /containers", 500, "cannot remove")
    with pytest.raises(StartFailed, match="it broke"):
        engine.start(spec())


def test_network_modes(engine: DockerEngine, there: EngineStandIn) -> None:
    engine.start(spec(network_mode="host"))
    assert only(there).config["HostConfig"]["NetworkMode"] == "host"
    assert there.networks == {}
    with pytest.raises(StartFailed, match="not supported"):
        engine.start(spec("b", network_mode="bridged"))


# Others at work on the same


def test_a_network_that_was_pruned_is_made_again_for_the_next_start(engine: DockerEngine, there: EngineStandIn) -> None:
    engine.start(spec())
    engine.stop(spec(), 1)
    there.networks.clear()
    assert engine.start(spec()).alive
    assert len(there.networks) == 1


def test_a_start_behind_which_the_container_is_removed_makes_it_anew(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    there.before(GONE, there.containers.clear)
    assert engine.start(spec()).alive
    there.refuse(GONE, 500, "container is marked for removal and cannot be started", times=9999)
    with pytest.raises(StartFailed, match="keeps being removed"):
        engine.start(spec("b"))


def test_a_container_that_is_never_the_one_is_given_up(there: EngineStandIn) -> None:
    engine = DockerEngine(there.url, INSTANCE, timeout_s=0.3)
    there.refuse("POST /containers/create", 409, "Conflict. The container name is already in use", times=1000)
    with pytest.raises(StartFailed, match="keeps being changed"):
        engine.create(spec())


def test_of_two_networks_made_at_once_the_oldest_stays(engine: DockerEngine, there: EngineStandIn) -> None:
    labels = {"clos.instance": INSTANCE, "clos.group": "g", "clos.network": "clos-g"}
    there.before("POST /networks/create", lambda: there.add_network("clos-g", labels) and None)
    assert engine.start(spec()).alive
    assert len(there.networks) == 1


def test_a_network_lives_from_the_first_container_to_the_last(engine: DockerEngine, there: EngineStandIn) -> None:
    for name in "ab":
        engine.create(spec(name))
    engine.remove(spec("a"))
    assert len(there.networks) == 1
    engine.remove(spec("b"))
    assert nothing_left(there)


def test_a_network_that_the_group_had_under_another_name_goes_with_the_container_that_is_gone(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    engine.create(spec(network_name="before"))
    there.containers.clear()
    engine.remove(spec(network_name="after"))
    assert nothing_left(there)


def test_a_network_that_another_service_of_the_group_still_uses_stays(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    engine.create(spec("a", network_name="before"))
    engine.create(spec("b", network_name="after"))
    engine.remove(spec("b", network_name="after"))
    assert [each["Name"] for each in there.networks.values()] == ["before"]


@pytest.mark.parametrize(("code", "text"), [(404, "network x not found"), (403, "x has active endpoints")])
def test_a_network_that_cannot_be_removed_is_kept(
    engine: DockerEngine, there: EngineStandIn, code: int, text: str
) -> None:
    engine.create(spec())
    there.refuse("DELETE /networks", code, text)
    engine.remove(spec())
    assert there.containers == {}


def test_a_removal_under_way_is_waited_for_and_a_running_one_refused(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    ref = engine.create(spec()).ref
    there.refuse("DELETE /containers", 409, f"removal of container {ref} is already in progress", times=2)
    engine.remove(spec())
    assert nothing_left(there)
    engine.start(spec())
    with pytest.raises(ServiceRunning):
        engine.remove(spec())
    engine.stop(spec(), 1)
    there.before("DELETE /containers", lambda: there.start(only(there)) and None)
    with pytest.raises(ServiceRunning):
        engine.remove(spec())


def test_a_removal_that_never_ends_is_given_up(there: EngineStandIn) -> None:
    engine = DockerEngine(there.url, INSTANCE, timeout_s=0.2)
    engine.create(spec())
    there.refuse("DELETE /containers", 409, "removal of container x is already in progress", times=100)
    with pytest.raises(TimedOut, match="removed for too long"):
        engine.remove(spec())


def test_a_stop_gives_the_exit_code_and_may_be_repeated(engine: DockerEngine, there: EngineStandIn) -> None:
    assert engine.stop(spec(), 1).phase is Phase.ABSENT
    engine.start(spec(command=("stubborn",)))
    stopped = engine.stop(spec(), 0.1)
    assert (stopped.phase, stopped.exit_code) == (Phase.EXITED, 137)
    assert engine.stop(spec(), 1) == stopped
    there.refuse("POST /containers", 404, "No such container")
    assert engine.stop(spec(), 1) == stopped
    there.refuse("POST /containers", 500, "stuck")
    with pytest.raises(StartFailed, match="stuck"):
        engine.stop(spec(), 1)


def test_states_of_every_kind_are_observed(engine: DockerEngine, there: EngineStandIn) -> None:
    engine.start(spec(command=("exit", "7")))
    assert engine.observe()["g-a"].exit_code == 7
    ref = engine.start(spec("b")).ref or ""
    there.containers[ref].health = "healthy"
    assert engine.observe()["g-b"].health is HealthStatus.HEALTHY
    there.containers[ref].state["Status"] = "paused"
    assert (engine.observe()["g-b"].alive, engine.observe()["g-b"].detail) == (True, "paused")
    there.exit(ref, 137, OOMKilled=True)
    assert engine.observe()["g-b"].oom_killed
    there.before(r"GET /containers/\w+/json", there.containers.clear, times=9)
    there.containers[ref].state["ExitCode"] = 1
    assert "g-b" not in engine.observe()


# Images


def test_an_image_is_pulled_with_progress_and_only_once(engine: DockerEngine, there: EngineStandIn) -> None:
    there.pull = [{"status": "Downloading", "id": "0a", "progress": "[=> ]"}, {"status": "Pull complete", "id": "0a"}]
    told: list[str] = []
    engine.prepare(spec(image="tiny"), told.append)
    assert told == ["pulling tiny", "0a Downloading [=> ]", "0a Pull complete"]
    assert engine.prepared(spec(image="tiny"))
    engine.prepare(spec(image="tiny"), lambda line: pytest.fail("it was there"))


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (500, "Get https://registry.invalid/v2/: dial tcp: lookup registry.invalid: no such host", ImagePullFailed),
        (404, "pull access denied for x, repository does not exist", ImageMissing),
        (404, "manifest for x:1 not found: manifest unknown", ImageMissing),
        (429, "toomanyrequests", ImagePullFailed),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_pull_that_is_refused_says_why(
    engine: DockerEngine, there: EngineStandIn, code: int, text: str, kind: type[ClosError], late: bool
) -> None:
    if late:
        there.pull = [{"status": "Pulling"}, {"error": text, "errorDetail": {"message": text}}]
    else:
        there.refuse("POST /images/create", code, text)
    with pytest.raises(kind) as failed:
        engine.prepare(spec(image="x:1"), lambda line: None)
    assert type(failed.value) is kind
    assert "build:" in str(failed.value.hint)


def test_a_pull_that_hangs_or_is_cut_or_ends_without_an_image(engine: DockerEngine, there: EngineStandIn) -> None:
    there.cut("POST /images/create")
    with pytest.raises(EngineUnreachable):
        engine.prepare(spec(image="x:1"), lambda line: None)
    there.pull = [{"status": "done"}]
    there.before("GET /images", there.images.clear, times=9)
    with pytest.raises(ImageMissing, match="is not there"):
        engine.prepare(spec(image="x:1"), lambda line: None)
    there.hang("POST /images/create")
    with pytest.raises(TimedOut, match="nothing was heard"):
        engine.prepare(spec(image="x:2"), lambda line: None)


def test_a_pull_that_takes_too_long_is_given_up(there: EngineStandIn) -> None:
    engine = DockerEngine(there.url, INSTANCE, image_limits=Limits(pull_s=-1.0))
    with pytest.raises(TimedOut, match="took longer"):
        engine.prepare(spec(image="x:1"), lambda line: None)


def built(folder: Path, **more: Any) -> ServiceSpec:
    (folder / "Dockerfile").write_text("FROM scratch\n")
    return spec(image=None, build={"context": str(folder)} | more)


def test_an_image_is_built_with_progress_and_only_once(
    engine: DockerEngine, there: EngineStandIn, tmp_path: Path
) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    wanted = built(folder, args={"WHO": "me"}, target="last")
    told: list[str] = []
    engine.prepare(wanted, told.append)
    assert told[1:] == ["Successfully built 0a1b"]
    assert (there.build_parameters["buildargs"], there.build_parameters["target"]) == ('{"WHO": "me"}', "last")
    engine.prepare(wanted, lambda line: pytest.fail("it was there"))
    assert engine.start(wanted).alive


def test_a_build_that_fails_tells_its_last_lines(engine: DockerEngine, there: EngineStandIn, tmp_path: Path) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    there.build = [{"stream": "about to fail\n"}, {"error": "The command returned a non-zero code: 3"}]
    with pytest.raises(StartFailed) as failed:
        engine.prepare(built(folder), lambda line: None)
    assert failed.value.facts["output"] == ["about to fail"]
    there.build = [{"error": "pull access denied for nobody, repository does not exist"}]
    with pytest.raises(ImageMissing):
        engine.prepare(built(folder), lambda line: None)
    there.refuse("POST /build", 500, "no space left on device")
    with pytest.raises(StartFailed, match="no space left"):
        engine.prepare(built(folder), lambda line: None)
    there.cut("POST /build")
    with pytest.raises(EngineUnreachable):
        engine.prepare(built(folder), lambda line: None)
    for context in (tmp_path / "nowhere", Path("relative")):
        with pytest.raises(StartFailed, match="not a folder"):
            engine.prepare(spec(image=None, build={"context": str(context)}), lambda line: None)


# What comes out of a container


def test_logs_carry_times_and_streams_and_no_control_characters(engine: DockerEngine, there: EngineStandIn) -> None:
    ref = engine.start(spec()).ref or ""
    there.say(ref, b"a\tb\n")
    there.say(ref, b"\033[31mred\033[0m \033]0;title\007x\r\n")
    there.say(ref, b"\xff\xfe bad\n")
    there.say(ref, b"oops\n", stream=2)
    there.say(ref, b"no end")
    lines = engine.logs("g-a", 100)
    assert [line.text for line in lines if line.stream == "stdout"] == ["a\tb", "red x", "\ufffd\ufffd bad", "no end"]
    assert [line.text for line in lines if line.stream == "stderr"] == ["oops"]
    assert all(line.at for line in lines)


def test_logs_give_the_tail_what_came_since_and_at_most_a_mebibyte(engine: DockerEngine, there: EngineStandIn) -> None:
    assert engine.logs("g-a", 10) == []
    ref = engine.start(spec()).ref or ""
    for number in range(5):
        there.say(ref, f"{number}\n".encode(), at=datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC))
    assert [line.text for line in engine.logs("g-a", 2)] == ["3", "4"]
    since = datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)
    assert [line.text for line in engine.logs("g-a", 9, since)] == ["3", "4"]
    assert engine.logs("g-a", 0) == []
    for _ in range(40):
        there.say(ref, b"x" * 60_000)
        there.say(ref, b"x" * 60_000 + b"\n")
    lines = engine.logs("g-a", 5000)
    assert sum(len(line.text) for line in lines) <= 1024 * 1024
    assert {len(line.text) for line in lines} == {64 * 1024}
    there.refuse("GET /containers/.*/logs", 409, "being removed")
    assert engine.logs("g-a", 5) == []
    there.refuse("GET /containers/.*/logs", 500, "configured logging driver does not support reading")
    with pytest.raises(EngineUnreachable, match="logging driver"):
        engine.logs("g-a", 5)


def test_following_goes_on_over_a_restart_and_ends_on_stop(engine: DockerEngine, there: EngineStandIn) -> None:
    ref = engine.start(spec()).ref or ""
    stop = threading.Event()
    said: list[str] = []
    there.before("GET /containers/.*/logs", lambda: threading.Timer(0.05, there.say, (ref, b"one\n")).start())
    for line in engine.follow("g-a", stop.is_set):
        if line:
            said.append(line.text)
            if line.text == "one":
                engine.stop(spec(), 1)
                engine.start(spec())
                there.say(ref, b"two\n")
            else:
                stop.set()
    assert said == ["one", "two"]


def test_following_what_is_silent_or_not_there_yields_and_ends_on_stop(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    rounds = iter(range(9))
    assert set(engine.follow("nobody", lambda: next(rounds) > 1)) == {None}
    engine.start(spec())
    rounds = iter(range(9))
    assert set(engine.follow("g-a", lambda: next(rounds) > 1)) == {None}
    there.cut("GET /containers/json")
    assert list(engine.follow("g-a", lambda: False)) == []


def test_a_command_ends_with_its_code_and_at_most_4_kib(engine: DockerEngine, there: EngineStandIn) -> None:
    with pytest.raises(StartFailed, match="does not run"):
        engine.execute(spec(), ["true"], 1)
    engine.start(spec())
    there.programs["yes"] = (3, b"y\n" * 5000)
    result = engine.execute(spec(), ["yes"], 2)
    assert (result.exit_code, len(result.output)) == (3, 4096)
    assert engine.execute(spec(), ["nosuch"], 2).exit_code == 126
    there.programs["sleep"] = (None, b"begun\n")
    with pytest.raises(TimedOut) as endless:
        engine.execute(spec(), ["sleep"], 0.3)
    assert endless.value.facts["output"].strip() == "begun"


def test_an_images_own_health_test_is_found(engine: DockerEngine, there: EngineStandIn) -> None:
    there.images[IMAGE]["Healthcheck"] = {"Test": ["CMD-SHELL", "echo ok"]}
    assert engine.own_test(spec()) == ("/bin/sh", "-c", "echo ok")


def test_resources_are_what_the_engine_counts_of_those_that_run(engine: DockerEngine, there: EngineStandIn) -> None:
    ref = engine.start(spec()).ref or ""
    engine.create(spec("b"))
    there.counters[ref] = {
        "cpu_stats": {"cpu_usage": {"total_usage": 5}},
        "memory_stats": {"usage": 3 * 1024**2, "stats": {"inactive_file": 1024**2}},
        "networks": {"eth0": {"rx_bytes": 7, "tx_bytes": 8}},
        "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 9}, {"op": "Write", "value": 10}]},
    }
    (seen,) = engine.stats(["g-a", "g-b", "nobody"]).values()
    assert (seen.memory_usage, seen.network_rx, seen.network_tx, seen.disk_read, seen.disk_write) == (2.0, 7, 8, 9, 10)
    there.refuse("GET /containers/.*/stats", 500, "no cgroup", times=9)
    assert engine.stats(["g-a"]) == {}


# An engine that fails


CALLS: dict[str, Callable[[DockerEngine], Any]] = {
    "observe": lambda e: e.observe(),
    "prepared": lambda e: e.prepared(spec()),
    "prepare": lambda e: e.prepare(spec(), lambda line: None),
    "create": lambda e: e.create(spec()),
    "start": lambda e: e.start(spec()),
    "stop": lambda e: e.stop(spec(), 1),
    "remove": lambda e: e.remove(spec()),
    "logs": lambda e: e.logs("g-a", 10),
    "stats": lambda e: e.stats(["g-a"]),
    "execute": lambda e: e.execute(spec(), ["true"], 1),
    "own_test": lambda e: e.own_test(spec()),
    "engine_info": lambda e: e.engine_info(),
}


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_a_hanging_engine_ends_every_call_in_time(there: EngineStandIn, call: str, connected: bool) -> None:
    engine = DockerEngine(there.url, INSTANCE, timeout_s=0.2)
    if connected:
        engine.engine_info()
    there.hang()
    began = time.monotonic()
    with pytest.raises(EngineUnreachable, match="in time") as gone:
        CALLS[call](engine)
    assert time.monotonic() - began < 1.0
    assert gone.value.hint
    engine.close()


@pytest.mark.parametrize("call", CALLS)
def test_a_connection_that_is_cut_is_an_engine_that_cannot_be_reached(
    engine: DockerEngine, there: EngineStandIn, call: str
) -> None:
    engine.engine_info()
    there.cut("", times=100)
    with pytest.raises(EngineUnreachable):
        CALLS[call](engine)


def test_an_engine_that_goes_between_the_list_and_a_closer_look_cannot_be_reached(
    engine: DockerEngine, there: EngineStandIn
) -> None:
    engine.create(spec())
    engine.start(spec())
    engine.stop(spec(), 1)
    seen = DockerEngine(there.url, INSTANCE, timeout_s=2.0)  # it has looked at none of them yet
    seen.engine_info()
    there.cut("GET .*/containers/[^/]+/json", times=100)
    with pytest.raises(EngineUnreachable):
        seen.observe()
    seen.close()


def test_an_absent_engine_is_told_with_a_hint_and_is_found_when_it_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    engine = DockerEngine(f"unix://{path}", INSTANCE, timeout_s=1)
    with pytest.raises(EngineUnreachable) as gone:
        engine.observe()
    assert "start Docker" in str(gone.value.hint)
    there = EngineStandIn(path)
    try:
        assert engine.start(spec()).alive
        assert engine.engine_info() == {
            "id": "STAND:IN", "name": "stand-in", "version": "20.10.24", "api_version": "1.41", "warning": None,
        }  # fmt: skip
    finally:
        engine.close()
        there.close()
