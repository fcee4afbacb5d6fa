"""What the command line prints."""

import json

import pytest
import yaml

from cli.errors import ApiError, holder_name, of_operation
from cli.output import Printer, inert, inert_line, local_time, seconds

HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07[bold]x[/bold]\nnext\r\x9b2J\u202eevil\u2028\x00"


@pytest.mark.parametrize("clean", [inert, inert_line])
def test_nothing_that_a_terminal_obeys_survives(clean):
    shown = clean(HOSTILE)
    assert "[bold]x[/bold]" in shown
    assert not set(shown) & set("\x1b\x9b\x00\n\r\x07\u202e\u2028")
    assert "title" not in shown


def test_an_unfinished_escape_sequence_takes_nothing_else_along():
    assert inert("before \x1b[") == "before "
    assert inert("a\x1bb") == "a"


def test_a_log_line_keeps_its_tabs_and_a_cell_does_not():
    assert inert_line("a\tb") == "a\tb"
    assert inert("a\tb") == "a b"


def test_a_table_is_aligned_and_plain_in_a_pipe(capsys):
    rows = [{"a": "x", "b": "running"}, {"a": HOSTILE, "b": None}]
    Printer().objects(rows, [("NAME", lambda r: r["a"]), ("STATUS", lambda r: r["b"])])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
    assert {line.rstrip().rfind(word) for line, word in zip(lines, ["STATUS", "running", "-"], strict=True)} == {
        lines[0].index("STATUS")
    }


def test_states_are_coloured_where_that_is_wanted(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    Printer().table([{"s": "running"}], [("STATUS", lambda r: r["s"])])
    assert "\x1b[32mrunning" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    Printer().table([{"s": "running"}], [("STATUS", lambda r: r["s"])])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_machine_forms_hold_the_objects_as_they_are_and_no_raw_control_characters(form, read, capsys):
    rows = [{"id": "a", "text": HOSTILE}]
    Printer(form).objects(rows, [])
    out = capsys.readouterr().out
    assert read(out) == rows
    assert not set(out) & set("\x1b\x9b\u202e")


def test_the_form_name_prints_names_only(capsys):
    Printer("name").objects([{"id": "a", "name": "x"}, {"id": "b", "name": "y"}], [], name="id")
    assert capsys.readouterr().out == "a\nb\n"


def test_wide_adds_columns(capsys):
    Printer("wide").objects([{"id": "a"}], [("ID", lambda r: r["id"])], wide=[("MORE", lambda r: "m")])
    assert "MORE" in capsys.readouterr().out


def test_quiet_leaves_out_messages_but_no_errors(capsys):
    printer = Printer(quiet=True)
    printer.say("message")
    printer.error("broken", hint="mend it", lines=["a fact"])
    found = capsys.readouterr()
    assert found.out == ""
    assert "message" not in found.err
    assert all(word in found.err for word in ("broken", "mend it", "a fact"))


def test_times_are_local_and_what_is_no_time_stays(monkeypatch):
    assert local_time(None) == ""
    assert len(local_time("2026-11-23T10:00:00.000000Z")) == 19
    assert local_time("soon\x1b[2J") == "soon"
    assert seconds("2026-11-23T10:00:00.000000Z", "2026-11-23T10:00:00.250000Z") == "0.25 s"
    assert seconds("2026-11-23T10:00:00Z", None) == ""
    assert seconds("x", "y") == ""


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "not_authenticated", 5),
        (403, "forbidden", 5),
        (404, "service_not_found", 4),
        (409, "port_held", 3),
        (409, "operation_in_progress", 1),
        (422, "validation_failed", 2),
        (500, "internal_error", 1),
        (503, "overloaded", 6),
        (504, "logs_timeout", 7),
    ],
)
def test_each_problem_has_its_exit_code(status, code, exit_code):
    assert ApiError(status, {"code": code, "detail": "x"}).exit_code == exit_code


def test_a_refusal_names_every_wrong_field_and_the_operation_in_the_way():
    refused = ApiError(
        422, {"code": "validation_failed", "errors": {"services": {"0": {"port": ["too low"]}}, "x": ["no"]}}
    )
    assert set(refused.lines) == {"services.0.port: too low", "x: no"}
    assert ApiError(409, {"operation_id": "op-1"}).lines == ("operation: op-1",)


def test_an_operation_that_met_a_taken_port_is_an_unresolved_conflict():
    assert of_operation({"code": "port_held"}) == 3
    assert of_operation({"code": "unresolved_conflict"}) == 3
    assert of_operation({"code": "timeout"}) == 7
    assert of_operation({"code": "start_failed"}) == 1
    assert of_operation(None) == 1


def test_a_holder_is_named_as_far_as_it_is_known():
    holder = {"kind": "process", "name": "postgres", "pid": 812, "user": "app", "command": "postgres -D /data"}
    assert holder_name(holder) == "postgres (pid 812, user app): postgres -D /data"
    assert holder_name({"kind": "container", "name": "db", "pid": None}) == "db (container)"
    assert holder_name({"kind": "unknown"}) == "an unknown holder"
