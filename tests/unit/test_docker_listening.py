"""Whether a container listens, by its own address."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from domain.observation import Instance, Phase
from workers.runtimes.docker_listening import listens

HERE = Instance("g-a", Phase.RUNNING, ref="c0ffee", pid=7, address="127.0.0.1")


@pytest.fixture
def port() -> Iterator[int]:
    """One on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def proc(folder: Path, cgroup: str) -> str:
    """A `/proc` with process 7 in that control group."""
    (folder / "7").mkdir()
    (folder / "7" / "cgroup").write_text(cgroup)
    return str(folder)


def test_who_answers_at_the_containers_own_address_listens(tmp_path: Path, port: int) -> None:
    known = proc(tmp_path, "0::/system.slice/docker-c0ffee.scope\n")
    assert listens(HERE, port, known)
    assert not listens(replace(HERE, address=None), port, known)
    assert not listens(replace(HERE, pid=None), port, known)


def test_where_nobody_answers_nobody_is_said_to_listen(tmp_path: Path, port: int) -> None:
    known = proc(tmp_path, "9:pids:/docker/c0ffee\n")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert not listens(HERE, held.getsockname()[1], known)


def test_an_address_of_another_machines_container_is_not_asked(tmp_path: Path, port: int) -> None:
    # The pid is some process of this machine's, or of none.
    assert not listens(HERE, port, proc(tmp_path, "0::/user.slice\n"))
    assert not listens(replace(HERE, pid=8), port, str(tmp_path))
