"""One instance takes another one's place, and the way back: the same on every runtime."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from domain.errors import PortHeld, StartFailed
from domain.observation import Instance
from domain.specs import ServiceSpec
from tests.contract.kit import KITS, DockerKit, Kit, MemoryKit, ProcessKit, free_port, on_port


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


def changed(spec: ServiceSpec, **changes: object) -> ServiceSpec:
    """The same service, wanted otherwise."""
    return replace(spec, environment={"COLOUR": "green"}, **changes)  # type: ignore[arg-type]


def exchanged(kit: Kit, old: ServiceSpec, new: ServiceSpec) -> str | None:
    """The new one in the old one's place, unsettled; the old one's ref."""
    ref = seen(kit, old).ref
    kit.runtime.replace(new)
    kit.runtime.stop(new, 5.0)
    kit.runtime.start(new, keep=True)
    return ref


def is_same(kit: Kit, found: Instance, ref: str | None) -> bool:
    """Whether this is the instance `ref`; a process cannot be the same one again."""
    return isinstance(kit, ProcessKit) or found.ref == ref


def names(kit: Kit) -> list[str]:
    """The names of all containers of a Docker kit."""
    assert isinstance(kit, DockerKit)
    return kit.container_names()


def test_a_replacement_leaves_the_one_that_runs_as_it_is(kit: Kit) -> None:
    old = kit.started()
    before = seen(kit, old)

    first = kit.runtime.replace(changed(old))
    second = kit.runtime.replace(changed(old))

    after = seen(kit, old)
    assert (after.ref, after.spec_hash, after.started_at) == (before.ref, old.hash(), before.started_at)
    assert first.ref == second.ref


def test_the_new_one_counts_once_the_old_one_is_stopped_and_it_is_started(kit: Kit) -> None:
    old = kit.started()
    new = changed(old)

    exchanged(kit, old, new)

    assert seen(kit, new).alive
    assert seen(kit, new).spec_hash == new.hash()


def test_a_settled_replacement_is_the_only_one_and_settling_again_succeeds(kit: Kit) -> None:
    old = kit.started()
    new = changed(old)
    exchanged(kit, old, new)
    ref = seen(kit, new).ref

    kit.runtime.settle(new)
    kit.runtime.settle(new)

    assert (seen(kit, new).ref, seen(kit, new).alive) == (ref, True)
    if isinstance(kit, DockerKit):
        assert len(names(kit)) == 1
        assert names(kit)[0].endswith("shop.web")


def test_a_restored_one_runs_as_it_ran_and_restoring_again_succeeds(kit: Kit) -> None:
    old = kit.started(environment={"COLOUR": "blue"})
    new = changed(old)
    ref = exchanged(kit, old, new)

    restored = kit.runtime.restore(new, ref, run=True)
    again = kit.runtime.restore(new, ref, run=True)

    assert restored.alive
    assert again.ref == restored.ref == seen(kit, old).ref
    assert is_same(kit, again, ref)
    assert seen(kit, old).spec_hash == old.hash()
    if isinstance(kit, DockerKit):
        assert len(names(kit)) == 1
        assert names(kit)[0].endswith("shop.web")


def test_restoring_what_was_not_touched_yet_changes_nothing(kit: Kit) -> None:
    old = kit.started()
    before = seen(kit, old)
    kit.runtime.replace(changed(old))

    kit.runtime.restore(changed(old), before.ref, run=True)

    assert (seen(kit, old).ref, seen(kit, old).started_at) == (before.ref, before.started_at)


def test_restoring_between_stop_and_start_brings_the_old_one_back(kit: Kit) -> None:
    old = kit.started()
    new = changed(old)
    ref = seen(kit, old).ref
    kit.runtime.replace(new)
    kit.runtime.stop(new, 5.0)

    kit.runtime.restore(new, ref, run=True)

    assert seen(kit, old).alive
    assert seen(kit, old).spec_hash == old.hash()
    assert is_same(kit, seen(kit, old), ref)


def test_a_stopped_one_is_replaced_without_being_run_and_stays_stopped_when_it_is_restored(kit: Kit) -> None:
    old = kit.started()
    kit.runtime.stop(old, 5.0)
    ref = seen(kit, old).ref
    new = changed(old)

    kit.runtime.replace(new)
    assert not seen(kit, new).alive
    restored = kit.runtime.restore(new, ref, run=False)

    assert not restored.alive
    assert (restored.ref, seen(kit, old).spec_hash) == (ref, old.hash())


def test_where_there_was_none_restoring_takes_all_away(kit: Kit) -> None:
    new = kit.spec()
    kit.runtime.replace(new)
    kit.runtime.start(new, keep=True)

    kit.runtime.restore(new, None, run=False)

    assert not seen(kit, new).alive


def test_what_is_gone_cannot_be_restored_and_what_runs_stays(kit: Kit) -> None:
    old = kit.started()
    new = changed(old)
    exchanged(kit, old, new)
    kit.runtime.settle(new)

    with pytest.raises(StartFailed):
        kit.runtime.restore(new, "0" * 64, run=True)

    assert seen(kit, new).alive
    assert seen(kit, new).spec_hash == new.hash()


def test_a_replacement_whose_port_is_taken_leaves_the_way_back(kit: Kit) -> None:
    mine, taken = free_port(), free_port()
    old = kit.started(ports=on_port(mine))
    new = changed(old, ports=tuple(replace(port, host_port=taken) for port in old.ports))
    ref = seen(kit, old).ref
    kit.runtime.replace(new)
    kit.runtime.stop(new, 5.0)
    with socket.create_server(("127.0.0.1", taken)):
        kit.hold(taken)
        with pytest.raises(PortHeld):
            kit.runtime.start(new, keep=True)

    kit.runtime.restore(new, ref, run=True)

    assert seen(kit, old).alive
    assert seen(kit, old).spec_hash == old.hash()
    assert [port.host_port for port in kit.runtime.as_made(new).ports] == [mine]


def test_what_an_image_keeps_in_anonymous_volumes_outlives_an_exchange_and_the_way_back(kit: Kit) -> None:
    if not isinstance(kit, DockerKit):
        pytest.skip("only containers have volumes")
    old = kit.started(volumes=("/data",))
    kit.runtime.execute(old, ("sh", "-c", "echo kept >/data/file"), 10.0)
    new = changed(old)
    ref = exchanged(kit, old, new)

    assert kit.runtime.execute(new, ("cat", "/data/file"), 10.0).output == "kept\n"

    kit.runtime.restore(new, ref, run=True)
    assert kit.runtime.execute(old, ("cat", "/data/file"), 10.0).output == "kept\n"

    exchanged(kit, old, new)
    kit.runtime.settle(new)
    assert kit.runtime.execute(new, ("cat", "/data/file"), 10.0).output == "kept\n"


def test_settling_without_the_new_one_takes_nothing_away(kit: Kit) -> None:
    old = kit.started()

    kit.runtime.settle(changed(old))

    assert seen(kit, old).alive


def test_another_process_can_go_back(kit: Kit) -> None:
    """What is needed for it is kept with the instance, not in the memory of whoever began."""
    if isinstance(kit, MemoryKit):
        pytest.skip("it lives in memory")
    old = kit.started(environment={"COLOUR": "blue"})
    new = changed(old)
    ref = exchanged(kit, old, new)

    twin = kit.twin()
    twin.restore(new, ref, run=True)
    twin.close()

    assert seen(kit, old).alive
    assert seen(kit, old).spec_hash == old.hash()
    assert kit.runtime.execute(old, ("sh", "-c", "echo $COLOUR"), 10.0).output.strip() == "blue"
