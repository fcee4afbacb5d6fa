"""The commands, against a small CLOS that speaks the contract over real HTTP and a real WebSocket."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli import main
from tests.clos_stand_in import KEY, StandIn, service

ROOT = Path(__file__).resolve().parents[2]
HELD = {
    "status": "failed",
    "error": {
        "code": "port_held",
        "message": "port 9311/tcp is held by postgres (pid 812)",
        "hint": "stop postgres, or give the service another port",
        "holder": {"kind": "process", "name": "postgres", "pid": 812, "user": "app", "command": "postgres -D /data"},
    },
}


# --- status, targets -----------------------------------------------------------------------------------------


def test_status_shows_every_service_of_every_page(clos, run):
    clos.page = 2
    code, out, _ = run("status")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["NAME", "GROUP", "PORT", "STATUS", "STARTED", "HEALTH"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["web", "shop", "9310", "running"],
        ["api", "shop", "9311", "running"],
        ["store", "shop", "9312", "running"],
    ]


def test_status_says_when_nothing_is_registered(clos, run):
    clos.services.clear()
    code, out, err = run("status")
    assert (code, out) == (0, "No services are registered.\n")
    assert "groups add" in err
    assert run("status", "-o", "json")[1] == "[]\n"


def test_status_says_what_a_service_waits_for_and_only_then_has_that_column(clos, run):
    assert "WAITING FOR" not in run("status")[1]
    clos.services["shop-web"]["waiting_for"] = [{"kind": "port", "ref": "5432", "text": "port 5432, held by postgres"}]
    assert "port 5432, held by postgres" in run("status")[1]


def test_the_key_of_this_home_is_sent_and_never_to_another_address(clos, run, monkeypatch):
    run("status")
    assert set(clos.keys) == {KEY}
    other = StandIn()
    try:
        other.shop()
        assert run("--url", other.url, "status")[0] == 0
        assert set(other.keys) == {None}
        monkeypatch.setenv("CLOS_API_KEY", "clos_other")
        run("--url", other.url, "status")
        assert other.keys[-1] == "clos_other"
    finally:
        other.close()


def test_options_may_stand_before_and_after_the_command(clos, run):
    assert json.loads(run("-o", "json", "status")[1])[0]["id"] == "shop-web"
    assert json.loads(run("status", "-o", "json")[1])[0]["id"] == "shop-web"
    assert run("-o", "json", "status", "-o", "name")[1].split() == ["shop-web", "shop-api", "shop-store"]


def test_hostile_names_from_the_server_are_inert(clos, run):
    clos.services["shop-web"] |= {"name": "[red]web\x1b[2J\n", "status": "run\x1b]0;x\x07"}
    for form in ("table", "wide", "json", "yaml"):
        out = run("status", "-o", form)[1]
        assert "\x1b" not in out
        assert "[red]web" in out


@pytest.mark.parametrize("target", ["shop", "web", "shop-web", "shop/web"])
def test_a_target_is_a_group_or_a_service_by_name_id_or_path(clos, run, target):
    assert run("stop", target)[0] == 0
    path = "/groups/shop/stop" if target == "shop" else "/services/shop-web/stop"
    assert ("POST", path, {}) in clos.calls


def test_an_unknown_target_is_not_found_with_a_guess(clos, run):
    code, _, err = run("start", "shp")
    assert code == 4
    assert "did you mean shop" in err


def test_a_name_that_fits_two_services_is_not_guessed(clos, run):
    clos.services["blog-web"] = service("blog", "web", 9400)
    code, _, err = run("start", "web")
    assert code == 4
    assert "blog/web, shop/web" in err
    assert run("start", "blog/web")[0] == 0


# --- start, stop, restart ------------------------------------------------------------------------------------


def test_a_start_shows_each_step_and_ends_with_addresses(clos, run):
    code, out, err = run("start", "shop")
    assert code == 0
    for name in ("store", "api", "web"):
        assert f"shop-{name}" in err
        assert "completed" in err
    assert err.index("shop-store") < err.index("shop-api") < err.index("shop-web")
    assert "http://127.0.0.1:9310" in out
    assert "\x1b" not in out + err


def test_a_failed_start_names_the_step_the_holder_and_the_hint_and_is_an_unresolved_conflict(clos, run):
    clos.end = HELD
    code, out, err = run("start", "shop")
    assert code == 3
    assert out == ""
    for said in (
        "start shop-web",
        "held by postgres (pid 812, user app): postgres -D /data",
        "give the service another",
    ):
        assert said in err


@pytest.mark.parametrize(("code", "exit_code"), [("unhealthy", 1), ("timeout", 7), ("engine_unreachable", 1)])
def test_other_failures_have_their_exit_codes(clos, run, code, exit_code):
    clos.end = {"status": "failed", "error": {"code": code, "message": "no", "exit_code": 9, "logs": ["last words"]}}
    found = run("restart", "shop")
    assert found[0] == exit_code
    assert "exit code 9" in found[2]
    assert "last words" in found[2]


def test_no_wait_prints_the_id_of_the_operation(clos, run):
    assert run("start", "shop", "--no-wait")[:2] == (0, "op-0001\n")
    assert json.loads(run("start", "web", "--no-wait", "-o", "json")[1])["type"] == "service.start"


def test_a_start_in_json_gives_the_operation_alone_on_stdout(clos, run):
    code, out, _ = run("start", "shop", "-o", "json")
    assert code == 0
    assert json.loads(out)["status"] == "completed"


def test_the_options_of_a_start_become_its_body(clos, run):
    run(
        "start",
        "shop",
        "--services",
        "web,shop-api",
        "--timeout",
        "30",
        "--on-conflict",
        "fail",
        "--no-deps",
        "--wait-for",
    )
    body = next(body for method, path, body in clos.calls if path == "/groups/shop/start")
    assert body == {
        "services": ["web", "api"],
        "timeout": 30.0,
        "on_conflict": "fail",
        "no_deps": True,
        "wait_for": True,
    }


def test_several_targets_tags_and_globs_are_one_request(clos, run):
    clos.services["blog-web"] = service("blog", "web", 9400)
    code, _, err = run("start", "shop", "blog/web", "--tag", "edge", "--match", "x*", "--no-deps", "--after", "op-0000")
    assert code == 0
    body = next(body for method, path, body in clos.calls if (method, path) == ("POST", "/operations"))
    assert body == {
        "action": "start", "groups": ["shop"], "services": ["blog-web"], "tags": ["edge"], "match": ["x*"],
        "no_deps": True, "dependencies": ["op-0000"],
    }  # fmt: skip
    assert "start batch" not in err


def test_each_is_an_operation_per_target_and_show_lists_them(clos, run):
    assert run("stop", "shop", "--each", "--timeout", "5", "--cascade")[0] == 0
    body = next(body for method, path, body in clos.calls if (method, path) == ("POST", "/operations"))
    assert body == {"action": "stop", "groups": ["shop"], "together": False, "timeout": 5.0, "cascade": True}
    clos.operation("service.stop", service_id="shop-web", parent_id="op-0001")
    shown = run("ops", "show", "op-0001")[1]
    assert "shop-web" in shown


def test_timings_are_shown_slowest_first_with_the_critical_path(clos, run):
    run("start", "shop")
    one = clos.operations["op-0001"]
    for step, took in zip(one["steps"], (0.5, 7.25, 1.0), strict=True):
        step |= {"duration_s": took, "expected_s": 2.0}
    one["critical_path"] = ["start:shop-api"]
    lines = run("ops", "show", "op-0001", "--timings")[1].splitlines()
    assert [tuple(line.split()[:2]) for line in lines[1:]] == [
        ("*", "start:shop-api"), ("-", "start:shop-web"), ("-", "start:shop-store"),
    ]  # fmt: skip
    assert "7.2 s" in lines[1]


@pytest.mark.parametrize("more", [("--dry-run",), ("--after", "op-0000")])
def test_what_goes_with_one_plan_is_refused_beside_each_in_the_words_of_the_command_line(clos, run, more):
    code, _, err = run("start", "shop", "--each", *more)

    assert (code, [call for call in clos.calls if call[0] == "POST"]) == (2, [])
    assert f"{more[0]} is for one plan over all; leave out --each." in err


@pytest.mark.parametrize(
    "wrong",
    [("start", "0.5"), ("restart", "0.1"), ("update", "0"), ("start", "86401"), ("stop", "-1"), ("stop", "3601")],
)
def test_a_timeout_that_the_api_refuses_is_wrong_usage_and_asks_for_nothing(clos, run, wrong):
    code, _, err = run(wrong[0], "shop", "--timeout", wrong[1])

    assert (code, "--timeout" in err, clos.calls) == (2, True, [])


def test_a_stop_may_give_its_services_no_time_at_all(clos, run):
    assert run("stop", "shop", "--timeout", "0")[0] == 0
    body = next(body for method, path, body in clos.calls if path == "/groups/shop/stop")
    assert body == {"timeout": 0.0}


@pytest.mark.parametrize("wrong", [("start",), ("stop", "shop", "shop/web", "--services", "web")])
def test_no_target_and_services_of_several_are_wrong_usage(clos, run, wrong):
    assert run(*wrong)[0] == 2


def test_a_dry_run_shows_the_plan(clos, run):
    clos.targets = []
    plan = {
        "steps": [{"action": "start", "target": "shop-web", "depends_on": [], "cause": "wanted running"}],
        "critical_path": ["start:shop-web", "wait:shop-web"],
    }
    clos.end = {"status": "completed", "error": None}
    begin = clos._begin
    clos._begin = begin
    original = clos.operation
    clos.operation = lambda type_, **fields: original(type_, **fields | {"result": {"plan": plan}})
    code, out, err = run("start", "shop", "--dry-run")
    assert code == 0
    assert "wanted running" in out
    assert "start:shop-web, wait:shop-web" in err


def _updated(clos, error=None, **result):
    clos.end = {"status": "failed" if error else "completed", "error": error}
    original = clos.operation
    clos.operation = lambda type_, **fields: original(type_, **fields | {"result": result})


def test_an_update_says_which_version_runs_and_for_how_long_none_did(clos, run):
    told = {"service_id": "shop-web", "runs": "new", "image": "web:2", "change": "exchange", "unavailable_s": 1.25,
            "unavailable_from": "2026-11-27T10:00:00.000000Z"}  # fmt: skip
    _updated(clos, services=[told])

    code, out, _ = run("update", "shop", "--on-failure", "keep")

    assert code == 0
    assert [word in out for word in ("shop-web", "new", "web:2", "exchanged", "1.2 s")] == [True] * 5


def test_an_update_that_went_back_fails_and_still_says_what_runs(clos, run):
    gone = {"service_id": "shop-db", "runs": "none", "image": None, "change": "exchange", "unavailable_s": None,
            "unavailable_from": "2026-11-27T10:11:12.000000Z"}  # fmt: skip
    error = {"code": "unhealthy", "message": "shop-web is not healthy after 3 checks"}
    _updated(clos, error, services=[gone], not_undone={"shop-db": {"message": "its container is gone"}})

    code, out, err = run("update", "shop")

    assert code == 1
    assert "since 10:11:12" in out
    assert "not healthy after 3 checks" in err
    assert "shop-db could not be taken back: its container is gone" in err


def test_an_update_says_what_it_never_touched(clos, run):
    along = {"service_id": "shop-web", "runs": "old", "image": None, "change": "restart", "unavailable_s": 0.0,
             "unavailable_from": None}  # fmt: skip
    back = along | {"service_id": "shop-api", "unavailable_s": 2.0, "unavailable_from": "2026-11-27T10:11:12.000000Z"}
    _updated(clos, {"code": "unhealthy", "message": "shop-db is not healthy"}, services=[along, back])

    rows = {line.split()[0]: line.split()[1:] for line in run("update", "shop")[1].splitlines() if line}

    assert "untouched" in rows["shop-web"]
    assert "restarted" in rows["shop-api"]


def test_who_was_stopped_and_went_back_is_not_said_to_be_not_attempted(clos, run):
    clos.end = {"status": "failed", "error": {"code": "cancelled", "message": "it was cancelled"}}
    told = [("web", "stop", "undone"), ("web", "remove", "skipped"), ("side", "start", "skipped"),
            ("side", "withdraw", "completed"), ("db", "start", "skipped"), ("db", "pull", "completed")]  # fmt: skip
    run("start", "shop", "--no-wait")
    run("ops", "watch", "op-0001")
    clos.operations["op-0001"]["steps"] = [
        {"id": f"{action}:{of}", "action": action, "target": of, "status": status} for of, action, status in told
    ]

    assert "not attempted: db\n" in run("ops", "watch", "op-0001")[2]


def test_an_update_with_nothing_to_do_says_so(clos, run):
    _updated(clos, services=[])

    assert "nothing to update" in run("update", "shop")[2]


def test_a_start_that_takes_too_long_for_the_caller_is_left_running_and_times_out(clos, run, monkeypatch):
    clos.held.clear()
    monkeypatch.setattr("cli.commands.operate.WAIT_S", 0.3)
    code, _, err = run("start", "shop")
    assert code == 7
    assert "clos ops watch op-0001" in err


def test_an_operation_in_the_way_is_named(clos, run):
    problem = {"code": "operation_in_progress", "detail": "shop is held", "operation_id": "op-77", "hint": "wait"}
    group = clos.groups["shop"]
    clos.next_answer = [(200, group), (409, problem)]
    code, _, err = run("start", "shop")
    assert code == 1
    assert "op-77" in err


def test_an_operation_that_fails_for_a_stop_names_running_dependents(clos, run):
    original = clos.operation
    clos.operation = lambda type_, **fields: original(
        type_, **fields | {"parameters": {"running_dependents": ["shop-web"]}}
    )
    assert "shop-web" in run("stop", "api")[2]


# --- without a CLOS ------------------------------------------------------------------------------------------


def test_no_up_means_exit_code_6_where_nothing_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLOS_HOME", str(tmp_path / "empty"))
    assert main.run(["--no-up", "status"]) == 6
    assert "clos up -d" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()


def test_a_given_address_where_nobody_listens_is_not_reachable(run):
    code, _, err = run("--url", "http://127.0.0.1:9", "status")
    assert code == 6
    assert "nothing listens" in err


def test_a_command_that_needs_clos_brings_it_up_once(clos, tmp_path, monkeypatch, capsys):
    from cli.local import supervision

    home = tmp_path / "new"
    asked = []

    def ensure_up(where, **how):
        asked.append(where)
        home.mkdir()
        (home / "credentials.json").write_text((tmp_path / "credentials.json").read_text())

    monkeypatch.setattr(supervision, "ensure_up", ensure_up)
    monkeypatch.setenv("CLOS_HOME", str(home))
    assert main.run(["status"]) == 0
    assert asked == [home]


# --- the rest ------------------------------------------------------------------------------------------------


def test_check_shows_the_verdict_and_who_holds_the_port(clos, run):
    clos.targets = []
    code, out, _ = run("check", "5432")
    assert code == 0
    assert "Port 5432 is held (tcp)" in out
    assert "postgres (pid 812, user app): postgres -D /data" in out
    assert json.loads(run("check", "5432", "-o", "json")[1])["port"] == 5432


@pytest.mark.parametrize("port", ["0", "65536", "web", "1.5"])
def test_check_refuses_what_is_no_port(run, port):
    assert run("check", port)[0] == 2


def test_a_group_is_added_from_a_file_and_a_second_time_is_said_to_exist(clos, run, tmp_path):
    file = tmp_path / "blog.yaml"
    file.write_text("name: blog\nservices: [{name: web, working_dir: ., runtime: process, command: [x]}]\n")
    code, out, err = run("groups", "add", "-f", str(file))
    assert (code, out) == (0, "Group blog is registered with 1 services.\n")
    assert "clos start blog" in err
    body = next(body for method, path, body in clos.calls if (method, path) == ("POST", "/groups"))
    assert body["services"][0]["working_dir"] == str(tmp_path)
    code, _, err = run("groups", "add", "-f", str(file))
    assert code == 1
    assert "registered already" in err


def test_groups_are_listed_shown_drawn_and_removed(clos, run):
    assert "3/3 running" in run("groups", "list")[1]
    assert run("groups", "list", "-o", "name")[1] == "shop\n"
    assert "shop" in run("groups", "show", "shop")[1]
    assert "web needs api (healthy)" in run("groups", "graph", "shop")[1]
    assert run("groups", "rm", "shop", "--yes")[0] == 0
    assert run("groups", "show", "shop")[0] == 4
    assert "No groups" in run("groups")[1] + run("groups", "list")[1]


def test_services_are_listed_shown_added_changed_and_removed(clos, run, tmp_path):
    code, out, _ = run("services", "add", "db", "-g", "shop", "--image", "postgres:15", "-p", "5432:5432",
                       "-e", "A=b=c", "--needs", "api:healthy", "--command", "postgres -D '/my data'")  # fmt: skip
    assert (code, out) == (0, "Service shop-db is registered.\n")
    body = next(body for method, path, body in clos.calls if (method, path) == ("POST", "/services"))
    assert body["ports"] == [{"container_port": 5432, "host_port": 5432}]
    assert body["environment"] == {"A": "b=c"}
    assert body["command"] == ["postgres", "-D", "/my data"]
    assert body["depends_on"] == [{"service": "api", "condition": "healthy"}]
    assert "5432" in run("services", "show", "db")[1]
    change = tmp_path / "change.yaml"
    change.write_text("image: postgres:16\n")
    code, _, err = run("services", "edit", "db", "-f", str(change))
    assert code == 0
    assert "clos update shop-db" in err
    assert clos.services["shop-db"]["image"] == "postgres:16"
    assert run("services", "rm", "db", "-y")[0] == 0
    assert "shop-db" not in clos.services
    assert "shop-web" in run("services", "list", "-o", "name")[1]


def test_a_service_is_edited_in_the_editor_and_only_changes_are_sent(clos, run, monkeypatch, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/^description:.*/description: new/' \"$1\"\n")
    editor.chmod(0o755)
    clos.services["shop-web"] |= {"description": "old", "image": None}
    monkeypatch.setenv("VISUAL", str(editor))
    assert run("services", "edit", "web")[0] == 0
    assert ("PATCH", "/services/shop-web", {"description": "new"}) in clos.calls


def test_ports_are_listed_leased_and_released(clos, run):
    assert "5000-5999" in run("ports", "list")[1]
    assert run("ports", "allocate", "core", "--port", "5007")[1] == "5007\n"
    assert run("ports", "list", "-o", "name")[1] == "5007\n"
    assert run("ports", "release", "5007")[0] == 0
    assert run("ports", "release", "5007")[0] == 4


def test_operations_are_listed_shown_watched_and_retried(clos, run):
    clos.end = HELD
    run("start", "shop")
    assert "group.start" in run("ops", "list")[1]
    shown = run("ops", "show", "op-0001")[1]
    assert "held by postgres" in shown
    assert "failed" in shown
    assert run("ops", "watch", "op-0001")[0] == 3
    clos.end = {"status": "completed", "error": None}
    assert run("ops", "retry", "op-0001")[0] == 0
    assert run("ops", "show", "op-9999")[0] == 4


def test_an_operation_is_cancelled_and_waited_for(clos, run):
    clos.held.clear()
    run("start", "shop", "--no-wait")
    code, _, err = run("ops", "cancel", "op-0001")
    assert code == 0
    assert "cancelled" in err


def test_events_come_oldest_first_in_a_table(clos, run):
    clos.tell("service.status_changed", {"from": "running", "to": "failed", "reason": "exit 1"}, service_id="shop-web")
    clos.tell("operation.completed", {"status": "failed"}, operation_id="op-1")
    lines = run("events")[1].splitlines()
    assert "running → failed (exit 1)" in lines[1]
    assert "operation.completed" in lines[2]
    assert len(run("events", "--after", "1", "-o", "json")[1]) > 2


def test_logs_come_with_times_and_without_control_characters(clos, run):
    for number in range(60):
        clos.log("shop-web", f"\x1b[31mline {number}\x1b[0m")
    code, out, _ = run("logs", "web", "--no-follow")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 50
    assert lines[-1].endswith("  line 59")
    assert lines[-1][4] == "-"
    assert "\x1b" not in out
    assert run("logs", "web", "--no-follow", "-n", "2", "--no-timestamps")[1] == "line 58\nline 59\n"
    assert run("logs", "web", "--no-follow", "--grep", "line 7", "--no-timestamps")[1] == "line 7\n"


def test_logs_of_a_group_are_interleaved_by_time_with_a_prefix(clos, run):
    clos.log("shop-web", "one")
    clos.log("shop-store", "two")
    clos.log("shop-web", "three")
    out = run("logs", "shop", "--no-follow", "--no-timestamps")[1]
    assert out == "web   | one\nstore | two\nweb   | three\n"


def test_logs_of_several_targets_are_one_stream_and_no_service_comes_twice(clos, run):
    clos.log("shop-web", "one")
    clos.log("shop-store", "two")
    clos.log("shop-api", "three")
    out = run("logs", "store", "shop/web", "--no-follow", "--no-timestamps")[1]
    assert out == "web   | one\nstore | two\n"
    assert run("logs", "shop", "web", "--no-follow", "--no-timestamps")[1].count("one") == 1


def test_what_clos_remarks_and_what_could_not_be_read_is_said(clos, run):
    clos.log("shop-web", "one")
    clos.log_lines["shop-web"].append({"text": "the container is gone", "at": "2031-01-01T00:00:00Z", "stream": "clos"})
    clos.unread = {"shop-api": "no engine"}
    code, out, err = run("logs", "shop", "--no-follow", "--no-timestamps")
    assert code == 0
    assert "web   | -- the container is gone" in out
    assert "shop-api: no engine" in err


def test_config_prints_no_password(run, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://user:s3cret@127.0.0.1:6399/0")
    code, out, err = run("config")
    assert code == 0
    assert "redis://127.0.0.1:6399/0" in out
    assert "s3cret" not in out + err
    assert "9000-9999" in out
    assert "s3cret" not in run("config", "-o", "json")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run, shell):
    code, out, _ = run("completion", shell)
    assert code == 0
    assert "_CLOS_COMPLETE" in out


@pytest.mark.parametrize(
    "arguments", [["stauts"], ["start"], ["status", "--nope"], ["-o", "xml", "status"], ["groups", "add"]]
)
def test_wrong_usage_is_exit_code_2(run, arguments):
    assert run(*arguments)[0] == 2


def test_a_mistyped_command_gets_a_guess(run):
    assert "Did you mean status" in run("stauts")[2]


def test_every_command_has_help_and_takes_the_global_options(run):
    for name in main.COMMANDS:
        code, out, _ = run(name, "--help")
        assert code == 0
        assert "--no-up" in out
        assert "--home" in out


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        (["--help"], {"rich", "requests", "yaml", "http.client", "settings"}),
        (["status"], {"rich", "requests", "yaml", "settings"}),
    ],
)
def test_what_a_command_does_not_need_is_not_imported(clos, tmp_path, arguments, left_out):
    program = f"""import sys
from cli import main
main.run({arguments!r})
names = sorted(sys.modules)
import json
print(json.dumps(names), file=sys.stderr)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert not left_out & set(json.loads(ran.stderr.splitlines()[-1]))


def test_a_reader_that_has_seen_enough_is_no_error(clos):
    for number in range(3000):
        clos.services[f"x-{number}"] = service("x", str(number), 9000)
    ran = subprocess.run(
        ["/bin/bash", "-c", f"{sys.executable} -m cli status -o json | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.returncode == 0
