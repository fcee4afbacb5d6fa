import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from domain.errors import PortHeld, ServiceRunning, StartFailed, TimedOut
from domain.observation import Instance, Phase
from domain.specs import ServiceSpec
from tests.contract.kit import IGNORES, KITS, Kit, MemoryKit, free_port, on_port
from tests.waiting import wait_until
from workers.runtimes.in_memory import Behaviour
from workers.runtimes.protocol import LogLine


@pytest.fixture(params=["memory", "process", pytest.param("docker", marks=pytest.mark.docker)])
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    made = KITS[request.param]()
    try:
        yield made
    finally:
        made.close()
        made.runtime.close()


def seen(kit: Kit, spec: ServiceSpec) -> Instance:
    return kit.runtime.observe().get(spec.id) or Instance(spec.id)


def test_what_was_never_started_is_absent(kit: Kit) -> None:
    assert seen(kit, kit.spec()).phase is Phase.ABSENT


def test_a_started_service_is_seen_running_with_its_identity_and_hash(kit: Kit) -> None:
    spec = kit.started()

    found = seen(kit, spec)

    assert found.phase is Phase.RUNNING
    assert found.ref
    assert found.spec_hash == spec.hash()
    assert found.started_at is not None
    assert found.started_at.tzinfo is not None


def test_creating_runs_nothing(kit: Kit) -> None:
    spec = kit.spec()
    kit.runtime.prepare(spec, lambda _: None)

    assert kit.runtime.prepared(spec)
    assert not kit.runtime.create(spec).alive
    assert not seen(kit, spec).alive


def test_a_second_start_adopts_what_runs(kit: Kit) -> None:
    spec = kit.started()
    before = seen(kit, spec)

    assert kit.runtime.start(spec).ref == before.ref
    assert seen(kit, spec).ref == before.ref


def test_starts_at_the_same_moment_make_one_instance(kit: Kit) -> None:
    spec = kit.spec()

    with ThreadPoolExecutor(6) as pool:
        refs = {found.ref for found in pool.map(lambda _: kit.runtime.start(spec), range(6))}

    assert len(refs) == 1


def test_a_stop_returns_the_exit_code_and_a_second_one_succeeds(kit: Kit) -> None:
    spec = kit.started()

    ended = kit.runtime.stop(spec, 5.0)

    assert ended.phase is Phase.EXITED
    assert ended.exit_code == 7
    assert ended.ended_at is not None
    assert seen(kit, spec).exit_code == 7
    assert kit.runtime.stop(spec, 5.0).phase is Phase.EXITED


def test_stopping_what_is_absent_succeeds(kit: Kit) -> None:
    assert kit.runtime.stop(kit.spec(), 1.0).phase is Phase.ABSENT


def test_what_ignores_term_is_killed_after_its_timeout(kit: Kit) -> None:
    spec = kit.started(IGNORES)

    began = time.monotonic()
    ended = kit.runtime.stop(spec, 1.0)

    assert ended.exit_code == 137
    assert time.monotonic() - began < 5


def test_one_that_ends_by_itself_keeps_its_exit_code(kit: Kit) -> None:
    spec = kit.spec("exit 3")
    kit.runtime.start(spec)

    ended = wait_until(lambda: found if (found := seen(kit, spec)).phase is Phase.EXITED else None)

    assert ended.exit_code == 3
    assert not ended.alive
    assert ended.ended_at is not None


def test_what_has_ended_can_be_started_again(kit: Kit) -> None:
    spec = kit.started()
    kit.runtime.stop(spec, 5.0)

    assert kit.runtime.start(spec).alive
    assert seen(kit, spec).alive


def test_a_removed_service_is_absent_and_removing_it_again_succeeds(kit: Kit) -> None:
    spec = kit.started()
    kit.runtime.stop(spec, 5.0)

    kit.runtime.remove(spec)
    kit.runtime.remove(spec)

    assert seen(kit, spec).phase is Phase.ABSENT


def test_what_runs_is_not_removed(kit: Kit) -> None:
    spec = kit.started()

    with pytest.raises(ServiceRunning):
        kit.runtime.remove(spec)

    assert seen(kit, spec).alive


def test_a_taken_port_fails_the_start_names_it_and_leaves_nothing_behind(kit: Kit) -> None:
    port = free_port()
    spec = kit.spec(ports=on_port(port))
    with socket.create_server(("127.0.0.1", port)):
        kit.hold(port)
        with pytest.raises(PortHeld) as refusal:
            kit.runtime.start(spec)

    assert refusal.value.port == port
    assert seen(kit, spec).phase is Phase.ABSENT


def test_a_command_that_does_not_exist_fails_the_start(kit: Kit) -> None:
    spec = kit.spec()
    object.__setattr__(spec, "command", ("clos-no-such-program",))
    if isinstance(kit, MemoryKit):
        kit.memory.behave(spec.id, Behaviour(fail_on={"start": StartFailed("no such program")}))

    with pytest.raises(StartFailed):
        kit.runtime.start(spec)

    assert not seen(kit, spec).alive


def test_logs_give_the_last_lines_oldest_first(kit: Kit) -> None:
    spec = kit.started("for i in 1 2 3; do echo line $i; done; echo ready; sleep 1000")
    if isinstance(kit, MemoryKit):
        for text in ("line 1", "line 2", "line 3", "ready"):
            kit.memory.write(spec.id, text)

    assert [line.text for line in kit.runtime.logs(spec.id, 3)] == ["line 2", "line 3", "ready"]
    assert kit.runtime.logs(spec.id, 0) == []
    assert kit.runtime.logs("shop.unknown", 10) == []


def test_following_gives_new_lines_until_it_is_told_to_stop(kit: Kit) -> None:
    spec = kit.started("echo ready; while :; do echo tick; sleep 0.1; done")
    stop = threading.Event()
    lines: list[LogLine | None] = []

    def follow() -> None:
        with contextlib.closing(kit.runtime.follow(spec.id, stop.is_set)) as stream:
            lines.extend(stream)

    def ticked() -> bool:
        if isinstance(kit, MemoryKit):
            kit.memory.write(spec.id, "tick")
        return [line.text for line in lines if line].count("tick") >= 3

    # The list grows while the generator runs, since extend appends as it goes.
    thread = threading.Thread(target=follow)
    thread.start()
    try:
        wait_until(ticked)
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()


def test_following_what_is_silent_yields_nothing_every_second(kit: Kit) -> None:
    spec = kit.started()
    ends_at = time.monotonic() + 10

    stream = kit.runtime.follow(spec.id, lambda: time.monotonic() > ends_at)

    assert None in [next(stream), next(stream)]


def test_stats_are_of_those_that_run(kit: Kit) -> None:
    spec = kit.started()
    ended = kit.started(name="ended")
    kit.runtime.stop(ended, 5.0)

    measured = kit.runtime.stats([spec.id, ended.id, "shop.unknown"])

    assert set(measured) == {spec.id}
    assert measured[spec.id].memory_usage > 0
    assert measured[spec.id].cpu_usage >= 0


def test_a_command_runs_beside_the_service_in_its_environment(kit: Kit) -> None:
    spec = kit.started(environment={"COLOUR": "blue"})

    result = kit.runtime.execute(spec, ("sh", "-c", "echo $COLOUR; exit 4"), 10.0)

    assert (result.exit_code, result.output.strip()) == (4, "blue")


def test_a_command_that_takes_too_long_is_given_up(kit: Kit) -> None:
    spec = kit.started()
    if isinstance(kit, MemoryKit):
        kit.memory.behave(spec.id, Behaviour(fail_on={"execute": TimedOut("too long")}))

    began = time.monotonic()
    with pytest.raises(TimedOut):
        kit.runtime.execute(spec, ("sleep", "30"), 0.5)

    assert time.monotonic() - began < 5


def test_without_a_health_test_of_its_own_there_is_none(kit: Kit) -> None:
    assert kit.runtime.own_test(kit.spec()) == ()


def test_two_installations_on_one_machine_do_not_see_each_other(kit: Kit) -> None:
    spec = kit.started()
    other = kit.another()

    assert other.observe() == {}
    assert other.stop(spec, 0.0).phase is Phase.ABSENT
    assert seen(kit, spec).alive
    other.close()
