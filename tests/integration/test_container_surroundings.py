"""Containers on containers, and networks that groups define: what happens when these change, at the real engine."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from domain.errors import StartFailed
from domain.specs import ServiceSpec
from tests.images import client, docker_url, make_docker_runtime, remove_all, test_image

pytestmark = pytest.mark.skipif(not Path(docker_url().removeprefix("unix://")).exists(), reason="needs Docker")


class Bench:
    """A runtime, and services of one group."""

    def __init__(self) -> None:
        self.engine, self.instance_id = make_docker_runtime()
        self.group = f"sur{self.instance_id[:8]}"

    def spec(self, name: str, **fields: Any) -> ServiceSpec:
        return ServiceSpec(f"{self.group}-{name}", name, self.group, **({"image": test_image()} | fields))

    def inspect(self, spec: ServiceSpec) -> Any:
        with contextlib.closing(client()) as engine:
            return engine.api.inspect_container(self.engine.observe()[spec.id].ref)

    def network(self, name: str) -> Any:
        with contextlib.closing(client()) as engine:
            found = [each for each in engine.api.networks(names=[name]) if each["Name"] == name]
            return found[0] if found else None

    def away(self, spec: ServiceSpec) -> None:
        self.engine.stop(spec, 0)
        self.engine.remove(spec)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    remove_all(made.instance_id)
    made.engine.close()


def test_a_container_on_anothers_is_made_anew_when_that_one_was(bench: Bench) -> None:
    main = bench.spec("main")
    known = {"services": {"main": main.id}}
    side = bench.spec("side", network_mode="service:main", definitions=known)
    with pytest.raises(StartFailed, match="is made on the container of main, which has none"):
        bench.engine.start(side)
    first = bench.engine.start(main).ref
    made = bench.engine.start(side).ref
    assert bench.inspect(side)["HostConfig"]["NetworkMode"] == f"container:{first}"
    bench.engine.stop(side, 0)
    assert bench.engine.start(side).ref == made
    bench.engine.stop(side, 0)
    bench.away(main)
    second = bench.engine.start(main).ref
    assert bench.engine.start(side).ref != made
    assert bench.inspect(side)["HostConfig"]["NetworkMode"] == f"container:{second}"


def test_a_defined_network_is_made_so_kept_while_used_and_made_anew_when_it_is_not(bench: Bench) -> None:
    def defined(**definition: Any) -> ServiceSpec:
        attached = {"networks": {"back": {"aliases": ["b"]}}}
        return bench.spec("web", container=attached, definitions={"networks": {"back": definition}})

    name = f"clos-{bench.group}_back"
    other = replace(defined(internal=True), id=f"{bench.group}-other", name="other")
    bench.engine.start(defined(internal=True))
    bench.engine.start(other)
    assert bench.network(name)["Internal"]
    assert list(bench.inspect(other)["NetworkSettings"]["Networks"]) == [name]
    bench.away(defined(internal=True))
    with pytest.raises(StartFailed, match="is in use, and is defined otherwise by now"):
        bench.engine.start(defined(attachable=True))
    bench.away(other)
    assert bench.network(name) is None
    bench.engine.start(defined(attachable=True))
    assert (bench.network(name)["Internal"], bench.network(name)["Attachable"]) == (False, True)


def test_an_external_network_must_be_there_and_stays(bench: Bench) -> None:
    name = f"{bench.group}_ext"
    outside = {"networks": {"ext": {"external": True, "name": name}}}
    web = bench.spec("web", container={"networks": {"ext": None}}, definitions=outside)
    with pytest.raises(StartFailed, match="is external to group"):
        bench.engine.start(web)
    with contextlib.closing(client()) as engine:
        made = engine.api.create_network(name)
        try:
            bench.engine.start(web)
            bench.away(web)
            assert bench.network(name)["Id"] == made["Id"]
        finally:
            engine.api.remove_network(made["Id"])


def test_files_are_written_once_more_where_a_worker_died_before_the_start(bench: Bench) -> None:
    configs = [{"source": "c", "target": "/deep/c", "content": "text"}]
    web = bench.spec("web", container={"configs": configs})
    bench.engine.create(web)
    bench.engine.start(web)
    assert bench.engine.execute(web, ["cat", "/deep/c"], 5).output == "text"
    bench.engine.stop(web, 0)
    bench.engine.start(web)
    assert bench.engine.execute(web, ["cat", "/deep/c"], 5).output == "text"
