"""Ending processes: real ones, each of which is seen to live or to be gone afterwards."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from domain.errors import HolderChanged, TerminationRefused
from domain.specs import RuntimeKind, ServiceSpec
from tests.non_root import as_nobody
from tests.waiting import wait_until
from workers.runtimes import process_identity as processes
from workers.runtimes import termination
from workers.runtimes.host_process import HostProcess
from workers.runtimes.process_tree import Tree

ROOT = Path(__file__).parents[2]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process")
# No exec: who it is must not change under the test.
READY = "echo ready; while :; do sleep 0.5; done"
IGNORES = "trap '' TERM; echo ready; while :; do sleep 0.2; done"


@contextlib.contextmanager
def running(argv: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own; it is gone afterwards, with all that it started."""
    options: dict[str, Any] = {"start_new_session": True, "stdout": subprocess.PIPE, "text": True} | more
    with subprocess.Popen(argv, **options) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def shell(script: str = READY, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A shell that has said `ready`."""
    with running(["/bin/sh", "-c", script], **more) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process


def identified(pid: int) -> termination.ProcessIdentity:
    found = termination.identify(pid)
    assert found is not None
    return found


def lives(process: subprocess.Popen[str]) -> bool:
    return process.poll() is None


def refused(pid: int, **more: Any) -> str:
    """Why it is refused; it is asked for with everything that could lift a refusal."""
    with pytest.raises(TerminationRefused) as caught:
        termination.terminate(identified(pid), grace_s=0.1, **({"allow_foreign": True} | more))
    assert caught.value.code == "termination_refused"
    assert caught.value.facts["reason"] == caught.value.reason
    return caught.value.reason


# What is ended


def test_a_process_that_obeys_term_ends_by_it() -> None:
    with shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done") as process:
        did = termination.terminate(identified(process.pid), grace_s=10)
        assert process.wait(5) == 7
    assert f"(pid {process.pid})" in did[0]
    assert did[0].startswith("TERM")
    assert not any("KILL" in line for line in did)


def test_a_process_that_ignores_term_is_killed() -> None:
    with shell(IGNORES) as process:
        did = termination.terminate(identified(process.pid), grace_s=0.2)
        assert process.wait(5) == -signal.SIGKILL
    assert any("KILL" in line for line in did)


def test_a_stopped_process_ends_by_its_term() -> None:
    with shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done") as process:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: (found := processes.read_stat(process.pid)) and found.state == "T")
        termination.terminate(identified(process.pid), grace_s=10)
        assert process.wait(5) == 7


def test_children_that_live_on_are_named() -> None:
    with shell("sleep 1000 & echo ready; wait") as process:
        child = wait_until(lambda: [each for each in termination._children(process.pid) if each.name == "sleep"])[0]
        did = termination.terminate(identified(process.pid), grace_s=5)
        assert did[-1] == f"its children live on: sleep (pid {child.pid})"


@root_only
def test_another_users_process_is_ended_only_where_that_was_said() -> None:
    with shell(user="nobody", cwd="/") as process:
        assert "another user, nobody" in refused(process.pid, allow_foreign=False)
        assert lives(process)
        termination.terminate(identified(process.pid), allow_foreign=True)
        assert process.wait(5) == -signal.SIGTERM


# What has changed since


def test_a_process_that_has_ended_is_changed() -> None:
    with shell() as process:
        there = identified(process.pid)
    with pytest.raises(HolderChanged) as caught:
        termination.terminate(there)
    assert caught.value.code == "holder_changed"


def test_a_zombie_is_nobody() -> None:
    with running(["/bin/true"]) as process:
        wait_until(lambda: (found := processes.read_stat(process.pid)) is None or found.dead)
        assert termination.identify(process.pid) is None


@pytest.mark.parametrize("forged", ["start_ticks", "boot_id", "uid", "name"])
def test_a_reused_pid_is_never_signalled(forged: str) -> None:
    with shell() as process:
        there = identified(process.pid)
        other = {"start_ticks": there.start_ticks - 1, "boot_id": "another", "uid": 4711, "name": "postgres"}
        with pytest.raises(HolderChanged):
            termination.terminate(replace(there, **{forged: other[forged]}))  # type: ignore[arg-type]
        assert lives(process)


# What is never ended


@pytest.mark.parametrize("pid", [-1, 0, 1, 2])
def test_the_first_processes_are_refused(pid: int) -> None:
    assert termination.refusal(pid, allow_foreign=True)


def test_pid_1_is_refused_and_lives() -> None:
    assert "first process" in refused(1)
    assert termination.identify(1) is not None


def test_a_kernel_thread_is_refused_and_lives() -> None:
    tree = Tree()
    threads = [pid for pid in processes.pids() if (found := tree.process(pid)) and found.parent == 2]
    if not threads:
        pytest.skip("this machine shows no threads of its kernel")
    assert "kernel" in refused(threads[0])
    assert termination.identify(threads[0]) is not None


def test_oneself_and_ones_ancestors_are_refused() -> None:
    assert refused(os.getpid()) == "it is this worker"
    assert refused(os.getppid()) == "this worker descends from it"


def test_whoever_shares_ones_session_is_refused() -> None:
    with shell(start_new_session=False, process_group=0) as process:
        assert "own session" in refused(process.pid)
        assert lives(process)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sshd", "the system needs it"),
        ("dockerd", "container engine"),
        ("containerd", "container engine"),
        ("containerd-shim-runc-v2", "container engine"),
        ("docker-proxy", "stop the container"),
        ("rootlessport", "stop the container"),
        ("systemd-journald", "the system needs it"),
        ("systemd", "the system needs it"),
        ("dbus-daemon", "the system needs it"),
        ("NetworkManager", "the system needs it"),
    ],
)
def test_what_the_host_cannot_do_without_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    program = tmp_path / name
    shutil.copy("/bin/sleep", program)
    with running([str(program), "1000"]) as process:
        wait_until(lambda: identified(process.pid).name == name[:15])
        assert reason in refused(process.pid)
        assert lives(process)


def test_a_program_that_calls_itself_otherwise_is_known_by_its_file(tmp_path: Path) -> None:
    program = tmp_path / "sshd"
    shutil.copy(os.path.realpath(sys.executable), program)
    script = "open('/proc/self/comm', 'w').write('harmless'); print('ready', flush=True); input()"
    home = os.path.realpath(sys.base_prefix)
    with running([str(program), "-c", script], stdin=subprocess.PIPE, env={"PYTHONHOME": home}) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        assert identified(process.pid).name == "harmless"
        assert "the system needs it" in refused(process.pid)
        assert lives(process)


REGISTERED = """
import sys
from pathlib import Path
from bus.process_identity import register
register(Path(sys.argv[1]), sys.argv[2])
import subprocess
child = subprocess.Popen(["sleep", "1000"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("role", ["api", "websocket", "worker", "scheduler", "redis"])
def test_closs_own_processes_of_any_home_are_refused_and_their_children_too(tmp_path: Path, role: str) -> None:
    environ = {**os.environ, "CLOS_HOME": str(tmp_path)}
    argv = [sys.executable, "-c", REGISTERED, str(tmp_path), role]
    with running(argv, env=environ, cwd=ROOT) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        for pid in (process.pid, child):
            assert "CLOS's own" in refused(pid)
        assert lives(process)
        assert termination.identify(child) is not None


def test_a_supervisor_and_its_up_are_refused(tmp_path: Path) -> None:
    environ = {**os.environ, "CLOS_HOME": str(tmp_path)}
    (tmp_path / "run").mkdir()
    with shell(env=environ) as supervisor, shell(env=environ) as up:
        there = identified(supervisor.pid)
        content = {"boot_id": there.boot_id, "pid": there.pid, "start_ticks": there.start_ticks, "up_pid": up.pid}
        (tmp_path / "run" / "supervisor.json").write_text(json.dumps(content))
        assert "CLOS's own" in refused(supervisor.pid)
        assert "CLOS's own" in refused(up.pid)
        assert lives(supervisor)
        assert lives(up)


def test_a_process_that_only_knows_the_home_is_a_stranger(tmp_path: Path) -> None:
    with shell(env={**os.environ, "CLOS_HOME": str(tmp_path)}) as process:
        assert termination.refusal(process.pid) is None


def test_the_process_of_a_managed_service_is_refused_until_its_service_is_forgotten() -> None:
    folder = Path(tempfile.mkdtemp(prefix="clos-termination-"))
    runtime = HostProcess(folder, folder.name, dict(os.environ))
    spec = ServiceSpec(
        id="g.a", name="a", group="g", runtime=RuntimeKind.PROCESS, command=("sh", "-c", "echo ready; sleep 1000")
    )
    try:
        runtime.start(spec)
        wrapper = runtime.observe()["g.a"].pid or 0
        command = wait_until(lambda: termination._children(wrapper))[0]
        for pid in (wrapper, command.pid):
            assert refused(pid) == "it belongs to the service g.a: stop the service"
        assert runtime.observe()["g.a"].alive
        (folder / "run" / "processes" / "g.a" / "identity.json").unlink()
        assert termination.refusal(command.pid) is None
    finally:
        runtime.stop(spec, 0.1)
        shutil.rmtree(folder)


@root_only
def test_without_the_right_to_signal_it_a_process_is_refused() -> None:
    with shell() as process:
        there = identified(process.pid)

        def attempt() -> str:
            try:
                termination.terminate(there, allow_foreign=True, grace_s=0.1)
            except TerminationRefused as refusal:
                return f"{refusal.code}: {refusal.reason} ({refusal.hint})"
            return "ended"

        assert as_nobody(attempt) == "termination_refused: the system forbids it: it belongs to root (run CLOS as root)"
        assert lives(process)


def test_inside_a_container_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(termination, "blind_because", lambda: "CLOS runs inside a container")
    with shell() as process:
        assert refused(process.pid) == "CLOS runs inside a container"
        assert lives(process)
