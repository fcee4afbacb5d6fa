"""Issue 4, "Done when" 2: three groups from three Compose projects and processes, twelve services in one graph, in
order after `clos start`, after a restart of the engine, and after a restart of the host. The real commands, a real
engine."""

import contextlib
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from models.base import now
from tests.e2e.clos_home import Home, home
from tests.e2e.three_projects import ThreeProjects
from tests.private_engine import PrivateEngine, needs_private_engine, private_engine
from tests.waiting import wait_until

pytestmark = [needs_private_engine, pytest.mark.timeout(400)]


@pytest.fixture
def engine() -> Iterator[PrivateEngine]:
    with private_engine() as made:
        yield made


@pytest.fixture
def clos(engine: PrivateEngine, tmp_path: Path) -> Iterator[Home]:
    with home(tmp_path, DOCKER_HOST=engine.url) as made:
        up = made.run("up", "-d")
        assert up.returncode == 0, up.stderr
        yield made


def _repairs(clos: Home) -> list[tuple[str, str, str]]:
    """What CLOS did by itself: type, status, why."""
    found: list[dict] = clos.json("ops", "list", "-n", "200")  # type: ignore[assignment]
    return [
        (one["type"], one["status"], one["parameters"].get("reason", ""))
        for one in found
        if one["initiated_by"] == "system:reconcile"
    ]


def _end_the_host(clos: Home, engine: PrivateEngine, projects: ThreeProjects) -> None:
    """Everything dies at once, CLOS too; what runs from now on sees another boot."""
    services = list(projects.pids().values())
    for process in clos.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    engine.stop()
    for pid in services:
        leader = psutil.Process(pid)
        for process in [leader, *leader.children(recursive=True)]:
            process.kill()
    boot_id = clos.folder.parent / "boot-id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    boot_id.chmod(0o444)
    mounted = f'mount --bind {boot_id} /proc/sys/kernel/random/boot_id && exec "$@"'
    clos.wrapper = ["unshare", "--mount", "--", "sh", "-c", mounted, "sh"]


def test_twelve_services_of_three_projects_come_up_in_order_after_a_start_an_engines_restart_and_a_reboot(
    clos: Home, engine: PrivateEngine, tmp_path: Path
) -> None:
    projects = ThreeProjects(clos, engine, tmp_path / "projects")
    for group in ("data", "core", "edge"):
        imported = clos.run("groups", "import", str(projects.folder / group), "-y")
        assert imported.returncode == 0, imported.stderr

    since = now()
    started = clos.run("start", "edge", timeout_s=120)
    assert started.returncode == 0, started.stderr
    projects.check_order("clos start", projects.ids, since)
    wait_until(projects.settled, 30, f"{projects.services()}")
    assert _repairs(clos) == []
    for each in projects.containers:
        assert engine.inspect(each)["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"), each

    for what, how in (("restart of the engine", signal.SIGTERM), ("death of the engine", signal.SIGKILL)):
        pids = projects.pids()
        engine.stop(how)
        wait_until(lambda: projects.services()["data-db"]["status"] == "unknown", 30, "the engine's being missed")
        known = len(_repairs(clos))
        since = now()
        engine.start()
        wait_until(lambda known=known: len(_repairs(clos)) > known and projects.settled(), 120, what)
        # What had done its work is not done again, and what did not go with the engine was not touched.
        projects.check_order(what, projects.containers - projects.once, since)
        assert projects.pids() == pids
        assert _repairs(clos)[: len(_repairs(clos)) - known] == [
            ("batch.start", "completed", "its engine was restarted")
        ]

    known = len(_repairs(clos))
    _end_the_host(clos, engine, projects)
    projects.wipe_marks_of_what_ran()
    since = now()
    up = clos.run("up", "-d")
    assert up.returncode == 0, up.stderr
    engine.start()
    wait_until(lambda: len(_repairs(clos)) > known and projects.settled(), 150, "all being up after the reboot")
    projects.check_order("reboot", projects.ids - projects.once, since)
    assert {reason for _, _, reason in _repairs(clos)[: len(_repairs(clos)) - known]} == {"this host was restarted"}
