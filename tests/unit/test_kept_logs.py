"""Lines of containers that are gone: kept, capped, read with what the engine still has, and deleted in the end."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.errors import EngineUnreachable
from domain.specs import ServiceSpec
from tests.unit.engine_stand_in import EngineStandIn
from tests.unit.engine_state import IMAGE
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.kept_logs import REMARK, KeptLogs
from workers.runtimes.process_logs import ProcessLogs
from workers.runtimes.protocol import LogLine

INSTANCE = "0123456789abcdef0123456789abcdef"
SPEC = ServiceSpec("g-a", "a", "g", image=IMAGE)
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def there(tmp_path: Path) -> Iterator[EngineStandIn]:
    made = EngineStandIn(tmp_path / "engine.sock")
    yield made
    made.close()


@pytest.fixture
def engine(there: EngineStandIn, tmp_path: Path) -> Iterator[DockerEngine]:
    made = DockerEngine(there.url, INSTANCE, timeout_s=2.0, kept_logs=tmp_path / "services")
    yield made
    made.close()


def texts(engine: DockerEngine, tail: int = 100) -> list[str]:
    return [line.text for line in engine.logs("g-a", tail)]


def registered() -> set[str]:
    return {"g-a"}


def run(there: EngineStandIn, engine: DockerEngine, *said: str) -> str:
    """A container that wrote these lines, and runs. Its id."""
    ref = str(engine.start(SPEC).ref)
    for number, text in enumerate(said):
        there.say(ref, text.encode() + b"\n", at=AT + timedelta(seconds=number))
    return ref


def test_what_a_container_wrote_can_be_read_after_clos_removed_it(there: EngineStandIn, engine: DockerEngine) -> None:
    ref = run(there, engine, "one", "two")
    there.exit(ref, 0)
    engine.remove(SPEC)
    *lines, remark = engine.logs("g-a", 100)
    assert [(line.text, line.at, line.stream) for line in lines] == [
        ("one", AT, "stdout"),
        ("two", AT + timedelta(seconds=1), "stdout"),
    ]
    assert remark.stream == REMARK
    assert "removed by CLOS" in remark.text
    assert texts(engine, 1) == [remark.text]
    assert [line.text for line in engine.logs("g-a", 9, AT + timedelta(seconds=1))] == ["two", remark.text]


def test_a_container_with_a_terminal_writes_lines_without_frames(there: EngineStandIn, engine: DockerEngine) -> None:
    ref = run(there, engine, "\x1b[31mred\r", "two")
    there.containers[ref].config["Tty"] = True
    there.say(ref, b"no end of line", at=AT + timedelta(seconds=3))
    lines = engine.logs("g-a", 9)
    assert [(line.text, line.at) for line in lines] == [
        ("red", AT),
        ("two", AT + timedelta(seconds=1)),
        ("no end of line", AT + timedelta(seconds=3)),
    ]
    there.exit(ref, 0)
    engine.remove(SPEC)
    assert texts(engine)[:3] == ["red", "two", "no end of line"]


def test_a_new_containers_lines_come_after_the_kept_ones(there: EngineStandIn, engine: DockerEngine) -> None:
    there.exit(run(there, engine, "old"), 0)
    engine.remove(SPEC)
    run(there, engine, "new")
    assert [text for text in texts(engine) if "removed" not in text] == ["old", "new"]


def test_lines_that_were_kept_at_an_end_are_not_doubled(there: EngineStandIn, engine: DockerEngine) -> None:
    ref = run(there, engine, "one", "two")
    there.exit(ref, 1)
    engine.keep_logs(registered)
    engine.keep_logs(registered)
    assert texts(engine) == ["one", "two"]
    assert len(KeptLogs(there_folder(engine)).read("g-a")) == 2
    # It is started again, writes on, and ends again.
    engine.start(SPEC)
    there.say(ref, b"three\n", at=AT + timedelta(seconds=5))
    engine.keep_logs(registered)
    there.exit(ref, 1)
    engine.keep_logs(registered)
    assert texts(engine) == ["one", "two", "three"]
    engine.remove(SPEC)
    assert texts(engine)[:-1] == ["one", "two", "three"]


def there_folder(engine: DockerEngine) -> Path:
    assert engine._keeping is not None
    return engine._keeping._kept.folder


def test_an_ended_container_that_somebody_removed_was_kept(there: EngineStandIn, engine: DockerEngine) -> None:
    ref = run(there, engine, "last words")
    there.exit(ref, 1)
    engine.keep_logs(registered)
    there.remove(there.containers[ref])
    engine.keep_logs(registered)
    assert texts(engine) == ["last words"]


def test_a_running_container_that_somebody_removed_is_said_to_be_gone(
    there: EngineStandIn, engine: DockerEngine
) -> None:
    ref = run(there, engine, "one")
    there.exit(ref, 0)
    engine.keep_logs(registered)
    engine.start(SPEC)
    there.say(ref, b"lost\n")
    engine.keep_logs(registered)
    there.exit(ref, 137)
    there.remove(there.containers[ref])
    engine.keep_logs(registered)
    engine.keep_logs(registered)
    first, remark = engine.logs("g-a", 100)
    assert first.text == "one"
    assert "not removed by CLOS" in remark.text
    assert AT.isoformat() in remark.text


def test_an_engine_that_is_away_leaves_what_was_kept(there: EngineStandIn, engine: DockerEngine) -> None:
    with pytest.raises(EngineUnreachable):
        DockerEngine("unix:///nowhere.sock", INSTANCE, kept_logs=there_folder(engine)).logs("g-a", 9)
    there.exit(run(there, engine, "one"), 0)
    engine.keep_logs(registered)
    away = DockerEngine("unix:///nowhere.sock", INSTANCE, timeout_s=1, kept_logs=there_folder(engine))
    first, remark = away.logs("g-a", 9)
    assert (first.text, remark.stream) == ("one", REMARK)
    away.keep_logs(registered)


def test_what_a_deleted_service_wrote_is_deleted_unless_its_container_is_there(
    there: EngineStandIn, engine: DockerEngine
) -> None:
    ref = run(there, engine, "one")
    there.exit(ref, 0)
    engine.keep_logs(registered)
    engine.keep_logs(set)
    assert texts(engine) == ["one"]
    there.remove(there.containers[ref])
    engine.keep_logs(set)
    assert texts(engine) == []
    assert list(there_folder(engine).glob("*.kept")) == []


def test_lines_are_kept_for_their_owner_alone_and_up_to_a_cap(tmp_path: Path) -> None:
    kept = KeptLogs(tmp_path / "services", file_limit=1000)
    kept.add("g-a", "f" * 64, lambda _: [LogLine(f"line {number:04}", AT) for number in range(100)])
    path = kept.path("g-a")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size <= 1000
    lines = kept.read("g-a")
    assert lines[-1] == ("f" * 12, LogLine("line 0099", AT))
    assert all(line.text.startswith("line 00") for _, line in lines)
    assert kept.last("g-a", "f" * 64) == AT
    assert kept.last("g-a", "0" * 64) is None


def test_the_oldest_files_go_when_all_are_too_many(tmp_path: Path) -> None:
    kept = KeptLogs(tmp_path, total_limit=250)
    for age, name in ((3, "a"), (2, "b"), (1, "c")):
        kept.add(name, "f" * 12, lambda _: [LogLine("x" * 60, AT)])
        os.utime(kept.path(name), (1000 - age, 1000 - age))
    kept.fit()
    assert [kept.path(name).exists() for name in "abc"] == [False, True, True]


def test_a_line_that_was_cut_and_one_with_spaces_are_read_for_what_they_are(tmp_path: Path) -> None:
    kept = KeptLogs(tmp_path)
    kept.add("a", "f" * 12, lambda _: [LogLine("  a  b ", None, "stderr"), LogLine("", AT)])
    with kept.path("a").open("a") as file:
        file.write("ffff 2026-01")
    assert kept.read("a") == [("f" * 12, LogLine("  a  b ", None, "stderr")), ("f" * 12, LogLine("", AT))]


def test_log_files_of_deleted_process_services_go(tmp_path: Path) -> None:
    logs = ProcessLogs(tmp_path)
    for name in ("a.log", "a.log.1", "a.log.times", "b.log", "b.log.2", "b.log.1.times", "a.log.log", "c.log"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "b.kept").write_text("x\n")
    logs.forget(lambda: ["a", "a.log"], lambda: ["c"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.log", "a.log.1", "a.log.log", "a.log.times", "b.kept", "c.log",
    ]  # fmt: skip


def test_two_workers_that_keep_the_same_lines_at_once_keep_them_once(
    there: EngineStandIn, engine: DockerEngine
) -> None:
    ref = run(there, engine, *(f"line {number}" for number in range(50)))
    there.exit(ref, 0)
    folder = there_folder(engine)
    others = [DockerEngine(there.url, INSTANCE, timeout_s=2.0, kept_logs=folder) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(each.keep_logs, registered) for each in others * 2]
        removal = pool.submit(others[0].remove, SPEC)
        for each in (*looks, removal):
            each.result(20)
    kept = [line.text for _, line in KeptLogs(folder).read("g-a") if line.stream != REMARK]
    assert kept == [f"line {number}" for number in range(50)]
    for each in others:
        each.close()


def test_a_lock_that_another_worker_has_is_waited_for_only_so_long(tmp_path: Path) -> None:
    kept = KeptLogs(tmp_path)
    with kept.held(".looking", 0), pytest.raises(TimeoutError), kept.held(".looking", 0.05):
        raise AssertionError("it was had twice")
