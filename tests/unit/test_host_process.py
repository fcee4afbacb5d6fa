import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.errors import ClaimLost, PermissionRefused, PortHeld, StartFailed, TimedOut
from domain.observation import Instance, Phase
from domain.specs import PortRequest, RuntimeKind, ServiceSpec
from tests.contract.kit import free_port
from tests.waiting import wait_until
from workers.runtimes import process_command
from workers.runtimes import process_identity as processes
from workers.runtimes.fence import guarded
from workers.runtimes.host_process import HostProcess
from workers.runtimes.process_logs import ProcessLogs
from workers.runtimes.process_state import slug

ROOT = Path(__file__).parents[2]
IDLE = "echo ready; sleep 1000"


class Home:
    """A CLOS home, its runtime, and what runs there."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="clos-process-"))
        self.instance_id = self.folder.name
        self.runtime = self.restarted()

    def restarted(self, **environment: str) -> HostProcess:
        """The runtime as a worker that starts anew has it."""
        return HostProcess(self.folder, self.instance_id, dict(os.environ) | environment)

    def spec(self, script: str = IDLE, **changes: object) -> ServiceSpec:
        made = ServiceSpec(id="g.a", name="a", group="g", runtime=RuntimeKind.PROCESS, command=("sh", "-c", script))
        return replace(made, **changes)  # type: ignore[arg-type]

    def started(self, script: str = IDLE, **changes: object) -> ServiceSpec:
        spec = self.spec(script, **changes)
        self.runtime.start(spec)
        wait_until(lambda: "ready" in self.lines())
        return spec

    def seen(self, service_id: str = "g.a") -> Instance:
        return self.runtime.observe().get(service_id) or Instance(service_id)

    def ended(self) -> Instance:
        return wait_until(lambda: found if (found := self.seen()).phase is Phase.EXITED else None)

    def lines(self) -> list[str]:
        return [line.text for line in self.runtime.logs("g.a", 5000)]

    def wrappers(self) -> list[processes.Marked]:
        return processes.marked(self.instance_id)

    def members(self) -> list[processes.Stat]:
        return processes.session_members(self.wrappers()[0].pid)

    def identity(self) -> Path:
        return self.folder / "run" / "processes" / "g.a" / "identity.json"

    def close(self) -> None:
        for service_id in self.runtime.observe():
            self.runtime.stop(self.spec(id=service_id), 0.0)
        shutil.rmtree(self.folder)


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


def gone(pid: int) -> bool:
    stat = processes.read_stat(pid)
    return stat is None or stat.dead


# Exactly once


@contextlib.contextmanager
def starter(home: Home, *command: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.host_process_starter", home.folder, home.instance_id, *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


def begin(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def wait_s(seconds: float) -> None:
    """A moment that is the test's subject, too short for a condition to be polled."""
    threading.Event().wait(seconds)


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(25))
def test_a_start_that_is_killed_anywhere_and_repeated_runs_the_service_once(home: Home, seed: int) -> None:
    dice = random.Random(seed)
    with starter(home, "sleep", "1000") as process:
        begin(process)
        wait_s(dice.uniform(0.0, 0.006))
        process.kill()
        first = home.runtime.start(home.spec(command=("sleep", "1000")))

    assert len(home.wrappers()) == 1
    assert home.runtime.start(home.spec(command=("sleep", "1000"))).ref == first.ref
    assert home.seen().ref == first.ref
    sleepers = wait_until(lambda: [m for m in home.members() if m.pid != first.pid])
    assert len(sleepers) == 1


def test_two_workers_that_start_at_the_same_moment_make_one_instance(home: Home) -> None:
    with starter(home, "sleep", "1000") as one, starter(home, "sleep", "1000") as two:
        begin(one)
        begin(two)
        for process in (one, two):
            assert process.stdout
            assert process.stdout.readline() == "started\n"

    assert len(home.wrappers()) == 1


def test_a_start_whose_record_was_never_completed_is_found_by_its_mark(home: Home) -> None:
    spec = home.started()
    before = home.seen()
    record = json.loads(home.identity().read_text())
    home.identity().write_text(json.dumps(record | {"pid": None, "start_ticks": None}))

    after = home.restarted()

    assert after.observe()["g.a"].ref == before.ref
    assert after.start(spec).ref == before.ref
    assert json.loads(home.identity().read_text())["pid"] == before.pid


def test_an_instance_whose_records_were_deleted_is_found_adopted_and_stopped(home: Home) -> None:
    spec = home.started()
    before = home.seen()
    shutil.rmtree(home.folder / "run")
    after = home.restarted()

    assert after.observe()["g.a"].ref == before.ref
    assert after.start(spec).ref == before.ref
    assert after.stop(spec, 5.0).exit_code == 143 or after.observe()["g.a"].phase is Phase.EXITED
    assert home.wrappers() == []


def test_it_outlives_its_worker_and_the_next_one_stops_it(home: Home) -> None:
    with starter(home, "sleep", "1000") as process:
        begin(process)
        assert process.stdout
        assert process.stdout.readline() == "started\n"
    found = home.seen()

    assert found.alive
    assert home.runtime.stop(home.spec(), 5.0).exit_code == 143


def test_a_killed_wrapper_leaves_a_service_that_runs_on_and_is_adopted_once(home: Home) -> None:
    spec = home.started()
    before = home.seen()
    assert before.pid
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: gone(before.pid or 0))

    orphan = home.seen()
    assert orphan.alive
    assert orphan.ref == before.ref
    assert orphan.pid != before.pid
    assert home.runtime.start(spec).ref == before.ref

    ended = home.runtime.stop(spec, 5.0)
    assert ended.phase is Phase.EXITED
    assert ended.exit_code is None
    assert gone(orphan.pid or 0)


def test_when_wrapper_and_command_are_killed_the_end_is_seen_without_a_code(home: Home) -> None:
    home.started()
    for member in home.members():
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)

    ended = home.ended()

    assert ended.exit_code in (None, 137)
    assert ended.ended_at is not None


# Who is who


def test_a_reused_pid_is_a_stranger(home: Home) -> None:
    home.started()
    home.runtime.stop(home.spec(), 5.0)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        try:
            record = json.loads(home.identity().read_text())
            forged = record | {"launch": "forged", "pid": stranger.pid}
            home.identity().write_text(json.dumps(forged))

            assert home.seen().phase is Phase.EXITED
            home.runtime.stop(home.spec(), 0.0)
            assert home.runtime.start(home.spec()).alive
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_what_ran_before_a_reboot_has_ended_and_is_not_looked_for(home: Home) -> None:
    home.started()
    home.runtime.stop(home.spec(), 5.0)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        try:
            stat = processes.read_stat(stranger.pid)
            assert stat
            record = json.loads(home.identity().read_text())
            forged = {"launch": "forged", "pid": stranger.pid, "start_ticks": stat.start_ticks, "boot_id": "x"}
            home.identity().write_text(json.dumps(record | forged))

            found = home.seen()
            assert found.phase is Phase.EXITED
            assert found.exit_code is None
            home.runtime.stop(home.spec(), 0.0)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_ids_that_are_no_file_names_stay_apart(home: Home) -> None:
    ids = ["a/b", "a-b", "../a-b", ".hidden", "x" * 300, "ü"]

    assert len({slug(i) for i in ids}) == len(ids)
    for service_id in ids:
        home.runtime.start(home.spec(id=service_id))
    assert set(home.runtime.observe()) == set(ids)
    assert {path.parent for path in (home.folder / "run" / "processes").iterdir()} == {
        home.folder / "run" / "processes"
    }


# Ending


def test_a_grandchild_that_ignores_term_is_killed_with_the_rest(home: Home) -> None:
    stubborn = "sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.1; done' & wait"
    spec = home.started(f"trap 'exit 0' TERM; {stubborn}")
    members = home.members()
    assert len(members) >= 3

    began = time.monotonic()
    ended = home.runtime.stop(spec, 0.5)

    assert time.monotonic() - began < 3
    assert ended.exit_code == 0
    assert all(gone(member.pid) for member in members)


def test_a_member_with_a_process_group_of_its_own_is_ended_too(home: Home) -> None:
    split = "import os, time\nif os.fork() == 0: os.setpgid(0, 0)\nprint('ready', flush=True); time.sleep(1000)"
    spec = home.started(command=(sys.executable, "-c", split))
    wait_until(lambda: len({member.group for member in home.members()}) == 2)
    members = home.members()

    home.runtime.stop(spec, 2.0)

    assert all(gone(member.pid) for member in members)


def test_what_an_ended_service_left_behind_is_ended_by_its_next_start(home: Home) -> None:
    spec = home.spec("sleep 1000 & echo $!")
    home.runtime.start(spec)
    home.ended()
    left = int(wait_until(home.lines)[0])
    assert not gone(left)

    home.runtime.start(spec)

    assert gone(left)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill -SEGV $$", 139), ("exec ./none", 127)],
)
def test_exit_codes_are_kept(home: Home, script: str, code: int) -> None:
    home.runtime.start(home.spec(script))

    assert home.ended().exit_code == code


def test_int_and_term_reach_the_command_although_the_starter_ignores_them(home: Home) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        home.started("trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done")
    finally:
        signal.signal(signal.SIGINT, before)
    command = next(m for m in home.members() if m.pid != home.seen().pid)

    os.kill(command.pid, signal.SIGINT)

    assert home.ended().exit_code == 5


def test_no_signal_is_ignored_or_blocked_and_no_descriptor_of_ours_is_open(home: Home) -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        spec = home.spec(command=(sys.executable, "-c", SELF_PORTRAIT))
        home.runtime.start(spec)
        home.ended()
    finally:
        os.close(leaked)
    portrait = json.loads(home.lines()[0])

    # Python itself ignores PIPE and XFSZ.
    assert set(portrait["ignored"]) <= {int(signal.SIGPIPE), int(signal.SIGXFSZ)}
    assert portrait["blocked"] == []
    assert portrait["open"] == [0, 1, 2]
    assert portrait["stdin"] == "/dev/null"


SELF_PORTRAIT = """
import json, os, signal
numbers = sorted(signal.Signals)
print(json.dumps({
    "ignored": [int(n) for n in numbers if signal.getsignal(n) is signal.SIG_IGN],
    "blocked": [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "open": [n for n in range(64) if os.path.exists(f"/proc/self/fd/{n}")],
    "stdin": os.readlink("/proc/self/fd/0"),
}))
"""


# Environment


def environment_seen(home: Home, runtime: HostProcess, **changes: object) -> dict[str, str]:
    runtime.start(home.spec(command=("/usr/bin/env", "-0"), **changes))
    home.ended()
    text = (home.folder / "logs" / "services" / "g.a.log").read_text()
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


def test_the_environment_is_clean(home: Home) -> None:
    runtime = home.restarted(CLOS_HOME="/secret", REDIS_URL="redis://x", PYTHONPATH="/x", LANG="C.UTF-8")

    seen = environment_seen(home, runtime, environment={"COLOUR": "blue"})

    assert seen["COLOUR"] == "blue"
    assert seen["LANG"] == "C.UTF-8"
    assert seen["PATH"] == os.environ["PATH"]
    allowed = {"PATH", "HOME", "USER", "SHELL", "LANG", "TMPDIR", "HOST", "PWD", "COLOUR"}
    assert set(seen) <= allowed


def test_ports_are_told_by_name_and_the_first_as_port(home: Home) -> None:
    first, second = free_port(), free_port()
    ports = (PortRequest(host_port=first, host_ip="127.0.0.1"), PortRequest(name="admin-ui", host_port=second))

    seen = environment_seen(home, home.runtime, ports=ports)

    assert seen["PORT"] == str(first)
    assert seen["PORT_ADMIN_UI"] == str(second)
    assert seen["HOST"] == "127.0.0.1"


def test_it_runs_in_its_working_directory(home: Home) -> None:
    (home.folder / "a folder").mkdir()
    spec = home.spec("pwd", working_dir=str(home.folder / "a folder"))
    home.runtime.start(spec)
    home.ended()

    assert home.lines() == [str(home.folder / "a folder")]


def test_a_relative_command_counts_from_the_working_directory(home: Home) -> None:
    script = home.folder / "serve"
    script.write_text("#!/bin/sh\necho served $1\n")
    spec = home.spec(command=("./serve", "two words"), working_dir=str(home.folder))

    with pytest.raises(StartFailed, match="not executable") as refusal:
        home.runtime.start(spec)
    assert "chmod" in (refusal.value.hint or "")

    script.chmod(0o755)
    home.runtime.start(spec)
    home.ended()
    assert home.lines() == ["served two words"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"working_dir": "/clos-nowhere"}, "working directory"),
        ({"command": ("clos-no-such",)}, "not found"),
        ({"command": ("./clos-no-such",)}, "not found"),
        ({"command": ()}, "no command"),
        ({"command": ("sh", "-c", "x" * 3_000_000)}, "could not be started"),
        ({"command": ("sh", "-c", "a\0b")}, "could not be started"),
        ({"user": "clos-nobody-here"}, "no user"),
    ],
)
def test_what_cannot_run_fails_with_a_hint_and_leaves_nothing(
    home: Home, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(StartFailed, match=message) as refusal:
        home.runtime.start(home.spec(**changes))

    assert refusal.value.hint
    assert home.seen().phase is Phase.ABSENT
    assert home.wrappers() == []


def test_a_script_without_its_interpreter_ends_with_a_reason(home: Home) -> None:
    script = home.folder / "broken"
    script.write_text("#!/clos/no/such/interpreter\n")
    script.chmod(0o755)
    home.runtime.start(home.spec(command=(str(script),)))

    ended = home.ended()

    assert ended.exit_code in (126, 127)
    assert ended.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_it_runs_as_its_user(home: Home) -> None:
    home.folder.chmod(0o755)
    home.runtime.start(home.spec("id -un; echo $HOME", user="nobody", working_dir="/"))
    home.ended()

    assert home.lines()[0] == "nobody"


def test_another_user_is_refused_without_root_and_without_the_tool(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = home.spec(user="nobody")
    monkeypatch.setattr(process_command, "DEFAULT_PATH", str(home.folder))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PermissionRefused, match="setpriv"):
        home.runtime.start(spec)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionRefused, match="only root"):
        home.runtime.start(spec)


def test_a_home_that_cannot_be_written_is_a_refusal(home: Home) -> None:
    (home.folder / "run").write_text("in the way")

    with pytest.raises((PermissionRefused, StartFailed)):
        home.runtime.start(home.spec())
    (home.folder / "run").unlink()


def test_a_taken_port_names_its_holder(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(PortHeld) as refusal:
            home.runtime.start(home.spec(ports=(PortRequest(host_port=port),)))

    assert refusal.value.holder
    assert refusal.value.holder["pid"] == os.getpid()
    assert refusal.value.holder["kind"] == "process"
    assert str(os.getpid()) in str(refusal.value)


# Beside it


def test_a_command_beside_it_has_its_port_and_bounded_output(home: Home) -> None:
    spec = home.spec(ports=(PortRequest(host_port=free_port()),))

    assert home.runtime.execute(spec, ("sh", "-c", "echo $PORT"), 5.0).output == f"{spec.first_port()}\n"
    assert len(home.runtime.execute(spec, ("sh", "-c", "yes | head -c 1000000"), 5.0).output) == 4096
    assert home.runtime.execute(spec, ("sh", "-c", "kill -9 $$"), 5.0).exit_code == 137


def test_a_command_beside_it_that_hangs_is_killed_with_its_children(home: Home) -> None:
    note = home.folder / "pid"
    with pytest.raises(TimedOut):
        home.runtime.execute(home.spec(), ("sh", "-c", f"sleep 1000 & echo $! >{note}; wait"), 0.5)

    assert wait_until(lambda: gone(int(note.read_text())))


def test_a_command_beside_it_does_not_wait_for_what_it_leaves_in_the_background(home: Home) -> None:
    began = time.monotonic()

    assert home.runtime.execute(home.spec(), ("sh", "-c", "sleep 1000 & echo done"), 10.0).output == "done\n"

    assert time.monotonic() - began < 5


def test_stats_are_of_the_whole_session(home: Home) -> None:
    home.started("sh -c 'while :; do :; done' & echo ready; wait")
    home.runtime.stats(["g.a"])

    measured = wait_until(lambda: found if (found := home.runtime.stats(["g.a"])["g.a"]).cpu_usage > 20 else None)

    assert measured.memory_usage > 0.1


def test_processes_of_a_service_are_known_by_their_pid(home: Home) -> None:
    home.started("sleep 1000 & echo ready; wait")
    members = {member.pid for member in home.members()}

    assert home.runtime.owners([*members, os.getpid()]) == dict.fromkeys(members, "g.a")


# Logs


def test_lines_have_the_time_of_the_observation_that_first_saw_them(home: Home) -> None:
    began = datetime.now(UTC)
    home.started(
        "echo early; echo ready; read _ </dev/null; while [ ! -e go ]; do sleep 0.02; done; echo late",
        working_dir=str(home.folder),
    )
    home.runtime.observe()
    middle = datetime.now(UTC)
    (home.folder / "go").touch()
    home.ended()

    lines = {line.text: line.at for line in home.runtime.logs("g.a", 10)}

    assert began <= (lines["early"] or middle) <= middle < (lines["late"] or middle)
    assert [line.text for line in home.runtime.logs("g.a", 10, since=middle)] == ["late"]
    assert home.runtime.logs("g.a", 10, since=middle + timedelta(hours=1)) == []


def test_escape_sequences_and_broken_bytes_are_harmless(home: Home) -> None:
    home.runtime.start(home.spec(r"printf '\033[31mred\033[0m \377\007\r\n'"))
    home.ended()

    assert home.lines() == ["red \ufffd"]


@pytest.fixture
def small(home: Home) -> ProcessLogs:
    return ProcessLogs(home.folder / "logs" / "services", size_limit=2000)


def numbered(first: int, count: int) -> str:
    return "".join(f"line {number}\n" for number in range(first, first + count))


def test_the_tail_reads_across_a_rotation(small: ProcessLogs) -> None:
    with small.prepare("g.a").open("a") as file:
        for first in range(0, 900, 300):
            file.write(numbered(first, 300))
            file.flush()
            small.note_sizes(["g.a"])
            small.rotate()
        file.write(numbered(900, 10))

    texts = [line.text for line in small.tail("g.a", 500)]

    assert texts == numbered(410, 500).splitlines()
    assert sorted(path.name for path in small.folder.glob("g.a.log*")) == [
        "g.a.log",
        "g.a.log.1",
        "g.a.log.1.times",
        "g.a.log.2",
        "g.a.log.2.times",
    ]
    assert len(small.tail("g.a", 5000)) == 610
    assert small.tail("g.a", 20)[0].at is not None


def test_a_writer_loses_nothing_but_what_falls_between_copy_and_truncation(home: Home, small: ProcessLogs) -> None:
    loop = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo ready; sleep 1000"
    stop = threading.Event()
    followed: list[str] = []
    looks = 0
    small.prepare("g.a").touch()

    def ended() -> bool:
        """Asked before each look of the follower."""
        nonlocal looks
        looks += 1
        return stop.is_set()

    stream = small.follow("g.a", ended)

    def follow() -> None:
        for line in stream:
            if line:
                followed.append(line.text)

    thread = threading.Thread(target=follow)
    thread.start()
    # It follows from its first look on; what was written before is not its.
    wait_until(lambda: looks)
    home.runtime.start(home.spec(loop))
    turns = 0
    while "ready" not in {line.text for line in small.tail("g.a", 5)}:
        turns += 1
        # Not quicker than a follower looks, or it misses whole files: one whole look since the last rotation.
        seen = looks
        wait_until(lambda: looks >= seen + 2)  # noqa: B023 - awaited at once
        small.rotate()
    wait_until(lambda: "ready" in followed)
    stop.set()
    thread.join(5)

    numbers = [int(text.split()[1]) for text in followed if text.startswith("line ") and text[5:].isdigit()]
    assert numbers == sorted(set(numbers)), "a line came twice, or out of order"
    # Each rotation may lose what was written within microseconds.
    assert len(numbers) >= 20000 - 20 * turns


def test_following_survives_a_rotation(small: ProcessLogs) -> None:
    stop = threading.Event()
    looks = 0

    def ended() -> bool:
        """Asked once the follower knows from where on it follows."""
        nonlocal looks
        looks += 1
        return stop.is_set()

    with small.prepare("g.a").open("a") as file:
        lines = (line.text for line in small.follow("g.a", ended) if line)

        def first(write: Callable[[], object]) -> str:
            threading.Thread(target=lambda: (wait_until(lambda: looks), write())).start()
            return next(lines)

        def write_and_rotate() -> None:
            file.write(numbered(0, 300))
            file.flush()
            small.rotate()
            file.write("after\n")
            file.flush()

        assert first(write_and_rotate) == "line 0"
        rest = [next(lines) for _ in range(300)]
    stop.set()

    assert rest == [*numbered(1, 299).splitlines(), "after"]


# What it has no need of


def test_a_process_needs_no_preparation_and_a_stopped_one_can_be_removed(home: Home) -> None:
    spec = home.spec("exit 3")
    home.runtime.remove(spec)
    home.runtime.prepare(spec, pytest.fail)
    assert home.runtime.prepared(spec)
    assert home.runtime.create(spec).phase is Phase.ABSENT
    home.runtime.start(spec)
    home.ended()
    home.runtime.remove(spec)
    assert home.seen().phase is Phase.ABSENT


def test_what_a_command_leaves_behind_is_seen_and_ended_by_a_stop(home: Home) -> None:
    spec = home.started("echo ready; sleep 1234 & exit 0")
    ended = home.ended()

    assert ended.leftovers
    assert ended.exit_code == 0

    home.runtime.stop(spec, 2.0)

    assert not home.seen().leftovers


def test_a_caller_whose_claim_is_lost_starts_and_stops_nothing(home: Home) -> None:
    def lost() -> None:
        raise ClaimLost("another worker has it")

    with pytest.raises(ClaimLost), guarded(lost):
        home.runtime.start(home.spec())
    assert home.wrappers() == []

    spec = home.started()
    with pytest.raises(ClaimLost), guarded(lost):
        home.runtime.stop(spec, 1.0)
    assert home.seen().alive
