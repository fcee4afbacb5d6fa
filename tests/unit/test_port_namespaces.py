"""Whether the host is seen, or only the inside of a container: on made-up file systems and in real namespaces."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workers.runtimes.namespaces import blind_because

ROOT = Path(__file__).parents[2]
FIRST = 4026531836
ASK = """
from workers.runtimes import listeners
try:
    print(len(listeners.listeners()))
except listeners.SocketsUnseen as unseen:
    print(unseen)
"""


def root_of(folder: Path, pid: int = FIRST, net: int = 7, first_net: int | None = 7, **files: str) -> str:
    """A file system whose `/proc` is in these namespaces."""
    mine = folder / "proc" / "self" / "ns"
    mine.mkdir(parents=True)
    (mine / "pid").symlink_to(f"pid:[{pid}]")
    (mine / "net").symlink_to(f"net:[{net}]")
    theirs = folder / "proc" / "1" / "ns"
    theirs.mkdir(parents=True)
    if first_net is not None:
        (theirs / "net").symlink_to(f"net:[{first_net}]")
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


def test_on_the_host_everything_is_seen(tmp_path: Path) -> None:
    assert blind_because(root_of(tmp_path)) is None


def test_a_virtual_machine_made_of_a_containers_image_is_a_host(tmp_path: Path) -> None:
    assert blind_because(root_of(tmp_path, dot_dockerenv="")) is None


@pytest.mark.parametrize(
    "mark",
    [
        {"dot_dockerenv": ""},
        {"run__dot_containerenv": ""},
        {"proc__1__cgroup": "0::/kubepods/besteffort/pod1/abc\n"},
        {"proc__1__environ": "A=b\0container=podman\0"},
    ],
)
def test_inside_a_container_it_is_said_plainly(tmp_path: Path, mark: dict[str, str]) -> None:
    because = blind_because(root_of(tmp_path, pid=4026532195, **mark))  # type: ignore[arg-type]
    assert because is not None
    assert "inside a container" in because
    assert "--pid=host --network=host" in because


@pytest.mark.parametrize("mark", [{}, {"proc__1__environ": "container=lxc\0"}])
def test_a_system_of_its_own_is_a_host_to_its_user(tmp_path: Path, mark: dict[str, str]) -> None:
    assert blind_because(root_of(tmp_path, pid=4026532195, **mark)) is None  # type: ignore[arg-type]


def test_another_network_is_not_the_hosts(tmp_path: Path) -> None:
    assert "network namespace of its own" in (blind_because(root_of(tmp_path, net=8)) or "")


def test_what_may_not_be_asked_is_no_reason(tmp_path: Path) -> None:
    assert blind_because(root_of(tmp_path, net=8, first_net=None)) is None
    assert blind_because(str(tmp_path / "nothing")) is None


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
@pytest.mark.skipif(blind_because() is not None, reason="the tests themselves run inside a container")
def test_in_a_real_network_namespace_of_its_own_nothing_is_called_free() -> None:
    ran = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", ASK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "network namespace of its own" in ran.stdout
