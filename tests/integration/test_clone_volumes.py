"""Volumes that were made for a clone, with a real engine: removed with it, and no other."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from domain.clone_storage import MARK
from domain.errors import StartFailed, VolumeInUse
from domain.specs import ServiceSpec
from tests.images import IMAGE, client, make_docker_runtime, remove_all, test_image

pytestmark = pytest.mark.docker


class Bench:
    """A runtime, and a client that looks at it from outside."""

    def __init__(self) -> None:
        test_image()
        self.engine, self.instance_id = make_docker_runtime()
        self.raw = client()
        self.name = f"clos-test-{uuid.uuid4().hex[:8]}"
        self.foreign: list[str] = []

    def volume(self, **labels: str) -> str:
        return str(self.raw.api.create_volume(self.name, labels=labels)["Name"])

    def there(self, name: str) -> bool:
        try:
            return bool(self.raw.api.inspect_volume(name))
        except NotFound:
            return False

    def spec(self, mark: str, *volumes: str) -> ServiceSpec:
        definition: dict[str, Any] = {"name": self.name, "labels": {MARK: mark}}
        group = self.name
        return ServiceSpec(
            f"{group}-a", "a", group, image=IMAGE, volumes=volumes, definitions={"volumes": {"data": definition}}
        )

    def close(self) -> None:
        for ref in self.foreign:
            self.raw.api.remove_container(ref, force=True)
        self.engine.close()
        remove_all(self.instance_id)
        with contextlib.suppress(APIError):
            self.raw.api.remove_volume(self.name)
        self.raw.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with contextlib.closing(Bench()) as made:
        yield made


def test_a_volume_with_the_mark_is_removed_and_one_that_is_gone_is_success(bench: Bench) -> None:
    name = bench.volume(**{MARK: "mine"})
    bench.engine.remove_volume(name, "mine")
    assert not bench.there(name)
    bench.engine.remove_volume(name, "mine")


@pytest.mark.parametrize("labels", [{}, {MARK: "another"}])
def test_a_volume_without_the_mark_stays(bench: Bench, labels: dict[str, str]) -> None:
    name = bench.volume(**labels)
    bench.engine.remove_volume(name, "mine")
    assert bench.there(name)


def test_a_volume_that_somebody_uses_names_who(bench: Bench) -> None:
    name = bench.volume(**{MARK: "mine"})
    host = bench.raw.api.create_host_config(binds=[f"{name}:/data"])
    made = bench.raw.api.create_container(IMAGE, ["idle"], name=f"{name}-user", host_config=host)
    bench.foreign.append(made["Id"])
    with pytest.raises(VolumeInUse) as refused:
        bench.engine.remove_volume(name, "mine")
    assert refused.value.facts == {"volume": name, "containers": [f"{name}-user"]}
    assert bench.there(name)


def test_a_clones_volume_is_made_with_its_mark_and_nameless_ones_go_with_their_container(bench: Bench) -> None:
    spec = bench.spec("mine", "data:/data", "/scratch")
    ref = bench.engine.start(spec).ref
    mounts = bench.raw.api.inspect_container(ref)["Mounts"]
    (nameless,) = [each["Name"] for each in mounts if each["Destination"] == "/scratch"]
    assert bench.raw.api.inspect_volume(bench.name)["Labels"][MARK] == "mine"
    bench.engine.stop(spec, 2)
    bench.engine.remove(spec, volumes=True)
    assert not bench.there(nameless)
    assert bench.there(bench.name)
    bench.engine.remove_volume(bench.name, "mine")
    assert not bench.there(bench.name)


def test_a_volume_that_was_there_before_the_clone_is_not_taken_for_its_own(bench: Bench) -> None:
    name = bench.volume()
    with pytest.raises(StartFailed, match="was there before"):
        bench.engine.start(bench.spec("mine", "data:/data"))
    assert bench.there(name)
