"""The policy where it counts: at the real engine, before every effect, with paths that change under the check."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.bind_policy import BindPolicy
from domain.container_policy import ContainerPolicy, PolicyDenied
from domain.errors import StartFailed
from domain.specs import ServiceSpec
from tests.images import client, docker_url, make_docker_runtime, remove_all, test_image
from workers.runtimes import fence
from workers.runtimes.docker_engine import DockerEngine

pytestmark = pytest.mark.skipif(not Path(docker_url().removeprefix("unix://")).exists(), reason="needs Docker")


class Bench:
    """A runtime with the strict policy, in which only a folder of its own may be mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.engine, self.instance_id = make_docker_runtime(policy=ContainerPolicy())

    def spec(self, **fields: Any) -> ServiceSpec:
        group = f"pol{self.instance_id[:8]}"
        given = {"image": test_image(), "directory": str(self.folder)} | fields
        return ServiceSpec(f"{group}-a", "a", group, **given)

    def containers(self) -> list[Any]:
        with contextlib.closing(client()) as engine:
            found: list[Any] = engine.api.containers(all=True, filters={"label": f"clos.instance={self.instance_id}"})
            return found

    def inside(self, path: str) -> str:
        (listed,) = self.containers()
        with contextlib.closing(client()) as engine:
            ran = engine.api.exec_create(listed["Id"], ["cat", path])
            said: bytes = engine.api.exec_start(ran["Id"])
            return said.decode()

    def close(self) -> None:
        remove_all(self.instance_id)
        with contextlib.closing(client()) as engine:
            for each in engine.api.volumes(filters={"label": f"clos.instance={self.instance_id}"})["Volumes"] or ():
                engine.api.remove_volume(each["Name"])
        self.engine.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"container": {"privileged": True}},
        {"network_mode": "host"},
        {"volumes": ("/:/host",)},
        {"volumes": ("/var/run/docker.sock:/s",)},
        {"volumes": ("data:/d",),
         "definitions": {"volumes": {"data": {"driver_opts": {"type": "none", "o": "bind", "device": "/etc"}}}}},
    ],
)  # fmt: skip
def test_what_the_policy_forbids_is_neither_made_nor_started_nor_put_in_anothers_place(
    bench: Bench, fields: dict[str, Any]
) -> None:
    made = bench.spec(**fields)
    for effect in (bench.engine.create, bench.engine.start, bench.engine.replace):
        with pytest.raises(PolicyDenied):
            effect(made)
    with pytest.raises(PolicyDenied):
        bench.engine.prepare(made, lambda _line: None)
    assert bench.containers() == []
    with contextlib.closing(client()) as engine:
        assert not engine.api.volumes(filters={"label": f"clos.instance={bench.instance_id}"})["Volumes"]


def test_a_policy_that_became_stricter_counts_for_what_is_there_already(bench: Bench) -> None:
    loose = DockerEngine(docker_url(), bench.instance_id, policy=ContainerPolicy(host_network=True))
    made = bench.spec(network_mode="host")
    loose.create(made)
    loose.close()
    with pytest.raises(PolicyDenied):
        bench.engine.start(made)
    assert [each["State"] for each in bench.containers()] == ["created"]


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_mounted_where_it_leads(bench: Bench) -> None:
    (bench.folder / "data").mkdir()
    (bench.folder / "data" / "f").write_text("mine")
    (bench.folder / "inside").symlink_to(bench.folder / "data")
    (bench.folder / "outside").symlink_to("/etc")
    with pytest.raises(PolicyDenied, match="/etc is or has in it"):
        bench.engine.start(bench.spec(volumes=(f"{bench.folder}/outside/../../etc:/d",)))
    with pytest.raises(PolicyDenied):
        bench.engine.start(bench.spec(volumes=(f"{bench.folder}/outside:/d",)))
    bench.engine.start(bench.spec(volumes=(f"{bench.folder}/inside:/d",)))
    assert bench.inside("/d/f") == "mine"
    with contextlib.closing(client()) as engine:
        (listed,) = bench.containers()
        assert engine.api.inspect_container(listed["Id"])["HostConfig"]["Binds"] == [f"{bench.folder}/data:/d:rw"]


def test_a_folder_that_became_a_link_after_its_container_was_made_does_not_start(bench: Bench) -> None:
    data = bench.folder / "data"
    data.mkdir()
    made = bench.spec(volumes=(f"{data}:/d",))
    bench.engine.create(made)
    data.rmdir()
    data.symlink_to("/etc")
    with pytest.raises(PolicyDenied):
        bench.engine.start(made)
    data.unlink()
    other = bench.folder / "other"
    other.mkdir()
    data.symlink_to(other)
    with pytest.raises(PolicyDenied, match="has become a link"):
        bench.engine.start(made)
    assert [each["State"] for each in bench.containers()] == ["created"]


def test_a_folder_that_is_swapped_in_the_very_moment_is_seen_and_its_container_ended(bench: Bench) -> None:
    """Between the check and the engine's own look is a gap. Here somebody hits it: right before the engine is asked."""
    data, aside = bench.folder / "data", bench.folder / "aside"
    data.mkdir()
    made = bench.spec(volumes=(f"{data}:/d",))
    bench.engine.create(made)

    def swap() -> None:
        if not aside.exists():
            data.rename(aside)
            data.symlink_to("/etc")

    with fence.guarded(swap), pytest.raises(PolicyDenied, match="has become a link"):
        bench.engine.start(made)
    assert [each["State"] for each in bench.containers()] == ["exited"]


def test_volumes_are_made_with_their_options_once_and_never_exchanged(bench: Bench) -> None:
    name = f"{bench.spec().group}-data"
    foreign = f"{name}-foreign"
    defined = {"data": {"name": name, "labels": {"a": "b"}}, "ext": {"name": foreign, "external": True}}
    made = bench.spec(volumes=("data:/d", "ext:/e"), definitions={"volumes": defined})
    with pytest.raises(Exception, match="is external to group"):
        bench.engine.start(made)
    with contextlib.closing(client()) as engine:
        engine.api.create_volume(foreign)
        try:
            bench.engine.start(made)
            bench.engine.start(made)
            assert engine.api.inspect_volume(name)["Labels"]["a"] == "b"
            bench.engine.stop(made, 1)
            bench.engine.remove(made)
            engine.api.remove_volume(name)
            engine.api.create_volume(
                name, labels={"whose": "another's"}, driver_opts={"type": "tmpfs", "device": "tmpfs"}
            )
            with pytest.raises(Exception, match="other options"):
                bench.engine.start(made)
            engine.api.remove_volume(name)
        finally:
            bench.engine.stop(made, 1)
            bench.engine.remove(made)
            engine.api.remove_volume(foreign, force=True)


def test_a_bind_root_of_the_administrator_is_mounted(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = Path(os.path.realpath(tmp_path_factory.mktemp("elsewhere")))
    made = bench.spec(volumes=(f"{elsewhere}:/d",))
    with pytest.raises(PolicyDenied):
        bench.engine.start(made)
    allowing = ContainerPolicy(binds=BindPolicy(roots=(str(elsewhere),)))
    engine = DockerEngine(docker_url(), bench.instance_id, policy=allowing)
    assert engine.start(made).alive
    engine.close()


@pytest.mark.parametrize("effect", ["create", "start", "replace"])
def test_what_is_refused_leaves_the_stopped_container_that_is_there(bench: Bench, effect: str) -> None:
    before = bench.spec(command=("idle",))
    bench.engine.start(before)
    bench.engine.stop(before, 1)
    (old,) = bench.containers()
    external = {"external": True, "name": f"none-{bench.instance_id[:8]}"}
    for refused, fields in (
        (PolicyDenied, {"container": {"privileged": True}}),
        (StartFailed, {"volumes": ("v:/v",), "definitions": {"volumes": {"v": external}}}),
        (StartFailed, {"container": {"networks": {"n": None}}, "definitions": {"networks": {"n": external}}}),
    ):
        with pytest.raises(refused):
            getattr(bench.engine, effect)(bench.spec(**fields))
        assert [each["Id"] for each in bench.containers()] == [old["Id"]]


def test_a_refused_start_leaves_no_network(bench: Bench) -> None:
    external = {"external": True, "name": f"none-{bench.instance_id[:8]}"}
    networks = {"container": {"networks": {"default": None, "n": None}}, "definitions": {"networks": {"n": external}}}
    with pytest.raises(StartFailed, match="external"):
        bench.engine.start(bench.spec(**networks))
    with contextlib.closing(client()) as engine:
        assert engine.api.networks(filters={"label": f"clos.instance={bench.instance_id}"}) == []
