"""Logs of containers that are gone, with a real engine."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.specs import ServiceSpec
from tests.images import IMAGE, client, docker_url, remove_all, test_image
from tests.waiting import wait_until
from workers.runtimes.docker_engine import DockerEngine

pytestmark = pytest.mark.docker
COUNTS = "for i in 1 2 3; do echo line $i; done; exec idle"


class Bench:
    """An installation of its own whose logs are kept."""

    def __init__(self, folder: Path) -> None:
        test_image()
        self.instance_id, self.folder = uuid.uuid4().hex, folder
        self.engine = self.another()
        group = f"t{uuid.uuid4().hex[:8]}"
        self.spec = ServiceSpec(f"{group}-a", "a", group, image=IMAGE, command=("sh", "-c", COUNTS))

    def another(self) -> DockerEngine:
        return DockerEngine(docker_url(), self.instance_id, kept_logs=self.folder)

    def texts(self) -> list[str]:
        return [line.text for line in self.engine.logs(self.spec.id, 100)]

    def written(self, count: int) -> None:
        wait_until(lambda: len([text for text in self.texts() if text.startswith("line")]) == count, 10)

    def look(self) -> None:
        self.engine.keep_logs(lambda: {self.spec.id})

    def close(self) -> None:
        self.engine.close()
        remove_all(self.instance_id)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.closing(Bench(tmp_path / "services")) as made:
        yield made


def test_lines_of_a_removed_container_come_before_those_of_the_next_and_none_twice(bench: Bench) -> None:
    bench.engine.start(bench.spec)
    bench.written(3)
    bench.engine.stop(bench.spec, 2)
    bench.look()
    bench.engine.remove(bench.spec)
    bench.look()
    *lines, remark = bench.texts()
    assert lines == ["line 1", "line 2", "line 3"]
    assert "removed by CLOS" in remark
    bench.engine.start(bench.spec)
    bench.written(6)
    assert bench.texts() == ["line 1", "line 2", "line 3", remark, "line 1", "line 2", "line 3"]
    # Another worker, and one that starts later, read the same.
    with contextlib.closing(bench.another()) as other:
        assert [line.text for line in other.logs(bench.spec.id, 100)] == bench.texts()


def test_a_container_that_somebody_removed_is_said_to_be_gone(bench: Bench) -> None:
    ref = bench.engine.start(bench.spec).ref
    bench.written(3)
    bench.look()
    with contextlib.closing(client()) as raw:
        raw.api.remove_container(ref, force=True)
    bench.look()
    (remark,) = bench.texts()
    assert "was not removed by CLOS" in remark
    bench.engine.start(bench.spec)
    bench.written(3)
    assert bench.texts()[0] == remark


def test_lines_of_a_container_with_a_terminal_are_read(bench: Bench) -> None:
    with contextlib.closing(client()) as raw:
        marks = {"clos.instance": bench.instance_id, "clos.service": bench.spec.id}
        made = raw.api.create_container(IMAGE, ["sh", "-c", COUNTS], tty=True, labels=marks)
        raw.api.start(made["Id"])
        bench.written(3)
        assert bench.texts() == ["line 1", "line 2", "line 3"]
