from datetime import UTC, datetime
from pathlib import Path

import pytest

from domain.errors import StartFailed
from domain.specs import PortRequest, ServiceSpec
from workers.runtimes.log_text import plain
from workers.runtimes.process_command import DEFAULT_PATH, command_of, environment_of
from workers.runtimes.process_logs import ProcessLogs
from workers.runtimes.process_state import Identity, StateFolder, slug

AT = "2026-01-01T00:00:00+00:00"


def spec(**changes: object) -> ServiceSpec:
    return ServiceSpec(id="g.a", name="a", group="g", **changes)  # type: ignore[arg-type]


def test_only_named_variables_are_inherited() -> None:
    made = environment_of(spec(environment={"A": "1"}), {"PATH": "/x", "LANG": "C", "CLOS_HOME": "/secret"})

    assert made == {"PATH": "/x", "LANG": "C", "HOST": "127.0.0.1", "A": "1"}
    assert environment_of(spec(), {})["PATH"] == DEFAULT_PATH


def test_a_leased_port_wins_over_a_written_one_and_a_written_host_stays() -> None:
    ports = (PortRequest(host_port=3005), PortRequest(name="admin.ui", host_port=3006), PortRequest(name="later"))

    made = environment_of(spec(environment={"PORT": "3000", "HOST": "::"}, ports=ports), {})

    assert (made["PORT"], made["PORT_ADMIN_UI"], made["HOST"]) == ("3005", "3006", "::")
    assert "PORT_LATER" not in made


def test_a_command_is_resolved_on_the_path_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "tool"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    wanted = spec(command=("tool", "x"), working_dir=str(tmp_path), environment={"PATH": "bin"})

    assert command_of(wanted, {}).argv == (str(program), "x")
    assert command_of(wanted, {}, ("./bin/tool",)).argv == (f"{tmp_path}/./bin/tool",)
    with pytest.raises(StartFailed, match="not found"):
        command_of(wanted, {}, ("ls",))


@pytest.mark.parametrize("service_id", ["shop.web", "a_b-c.1"])
def test_safe_ids_are_file_names_as_they_are(service_id: str) -> None:
    assert slug(service_id) == service_id


@pytest.mark.parametrize("service_id", ["", "..", ".x", "a/b", "a b", "a\0b", "x" * 500])
def test_other_ids_become_safe_and_distinct_names(service_id: str) -> None:
    assert "/" not in slug(service_id)
    assert not slug(service_id).startswith(".")
    assert len(slug(service_id)) < 120
    assert slug(service_id) != slug(service_id + "'")


def test_an_ending_counts_only_when_its_line_is_whole(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    identity = Identity("g.a", "launch", "hash", "boot", AT)
    state.of("g.a").mkdir(parents=True)
    path = state.exit_path(identity)

    assert state.ending(identity) is None
    path.write_text("13")
    assert state.ending(identity) is None
    path.write_text("137\n")
    state.record_ending(identity, None)
    found = state.ending(identity)
    assert found
    assert found.exit_code == 137


def test_a_broken_record_is_none_and_a_new_one_is_read_again(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    assert state.identities() == []
    state.of("g.a").mkdir(parents=True)
    identity = Identity("g.a", "launch", "hash", "boot", AT)
    (state.of("g.a") / "identity.json").write_text("{")
    assert state.identity("g.a") is None

    state.write(identity)
    assert state.identity("g.a") == identity
    state.write(identity.running_as(7, 9))
    assert [found.ref for found in state.identities()] == ["7:9"]
    state.forget("g.a")
    assert state.identity("g.a") is None


def test_lines_take_the_time_of_the_first_note_behind_them(tmp_path: Path) -> None:
    logs = ProcessLogs(tmp_path)
    logs.prepare("g.a").write_text("one\ntwo\nthree\nfour")
    # 99 and the first 4 are out of order: left by another observer around a rotation.
    (tmp_path / "g.a.log.times").write_text("99 1\n4 10\nbroken\n14 20\n")

    found = [(line.text, line.at.timestamp() if line.at else None) for line in logs.tail("g.a", 10)]

    assert found == [("one", 10.0), ("two", 20.0), ("three", 20.0), ("four", None)]
    since = datetime.fromtimestamp(15, UTC)
    assert [line.text for line in logs.tail("g.a", 10, since)] == ["two", "three"]


def test_notes_of_sizes_stay_bounded(tmp_path: Path) -> None:
    logs = ProcessLogs(tmp_path)
    with logs.prepare("g.a").open("a") as file:
        for _ in range(6000):
            file.write("x\n")
            file.flush()
            logs.note_sizes(["g.a"])

    assert (tmp_path / "g.a.log.times").stat().st_size <= 64 * 1024
    assert all(line.at for line in logs.tail("g.a", 5000))


def test_output_is_shown_without_escapes() -> None:
    assert plain(b"a\tb\x1b[1;31mred\x1b[0m\x1b]0;title\x07\x08\r\xff") == "a\tbred\ufffd"
