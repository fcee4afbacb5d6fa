"""Conflicts at the command line: listed, resolved in scripts and at a terminal, questions answered or handed on."""

import json
import os
import signal

import pytest

from tests.unit.test_cli_live import on_terminal
from tests.waiting import wait_until

INTERRUPT = None
QUESTION = {
    "text": "port 9311/tcp, which shop-api claims, is held by nc (pid 812). What shall be done?",
    "choices": [
        {"choice": "migrate_service", "description": "move shop-api to port 9400", "risk_level": "low",
         "effects": ["shop-api listens on port 9400 instead of 9311"]},
        {"choice": "change_port", "description": "move shop-api to the port that you name", "risk_level": "low",
         "effects": []},
        {"choice": "kill_process", "description": "end nc (pid 812) of user app", "risk_level": "high",
         "effects": ["nc (pid 812) (nc -l) gets TERM"], "confirm": "nc (pid 812)"},
    ],
    "expires_at": "2030-01-01T00:00:00.000000Z",
}  # fmt: skip


def posted(clos, path):
    return [body for method, called, body in clos.calls if (method, called) == ("POST", path)]


# --- list, show, scan, undo ----------------------------------------------------------------------------------


def test_active_conflicts_are_listed_with_who_claims_and_who_holds(clos, run):
    assert run("conflicts") == (0, "No active conflicts.\n", "")
    clos.conflict()
    clos.conflict(port=9312, status="resolved")
    for command in (("conflicts",), ("conflicts", "list")):
        code, out, err = run(*command)
        assert code == 0
        assert "9311/tcp" in out
        assert "9312" not in out
        assert "shop-api" in out
        assert "nc (pid 812, user app): nc -l" in out
        assert "clos resolve" in err
    assert "9312/tcp" in run("conflicts", "list", "--status", "resolved,ignored")[1]
    assert "9312/tcp" in run("conflicts", "--status", "resolved")[1]
    assert [one["id"] for one in json.loads(run("conflicts", "-o", "json")[1])] == [1]
    assert run("conflicts", "list", "-o", "name")[1] == "1\n"


def test_one_conflict_is_shown_with_its_options_their_risk_and_effects(clos, run):
    clos.conflict()
    code, out, _ = run("conflicts", "show", "1")
    assert code == 0
    for said in ("a process that is not CLOS's has it", "end nc (pid 812) of user app", "high", "it listens elsewhere"):
        assert said in out
    assert json.loads(run("conflicts", "show", "1", "-o", "json")[1])["kind"] == "foreign_process"
    assert run("conflicts", "show", "9")[0] == 4
    assert run("conflicts", "show", "x")[0] == 2


def test_a_scan_lists_what_it_found(clos, run):
    clos.conflict()
    assert "9311/tcp" in run("conflicts", "scan")[1]
    assert len(posted(clos, "/conflicts/scan")) == 1
    assert json.loads(run("conflicts", "scan", "-o", "json")[1])[0]["port"] == 9311


def test_a_migration_is_taken_back(clos, run):
    done = {"strategy": "migrate_service", "from_port": 9311, "to_port": 9400, "operation_id": "o"}
    clos.conflict(status="resolved", resolution=done, undoable=True)
    assert "clos conflicts undo 1" in run("conflicts", "show", "1")[1]
    code, _, err = run("conflicts", "undo", "1")
    assert code == 0
    assert "shop-api is back on port 9311" in err
    assert run("conflicts", "undo", "1", "--no-wait")[1].startswith("op-")


def test_an_undo_that_is_impossible_names_the_holder(clos, run):
    holder = {"kind": "process", "name": "late", "pid": 99}
    problem = {"code": "undo_impossible", "detail": "port 9311/tcp is taken since", "holder": holder, "status": 409}
    clos.next_answer = [(403, {"code": "forbidden"}), (409, problem)]
    code, _, err = run("conflicts", "undo", "1")
    assert code == 1
    assert "held by late (pid 99)" in err


# --- check ---------------------------------------------------------------------------------------------------


def test_a_check_names_claims_leases_containers_and_conflicts(clos, run):
    clos.targets = []
    clos.conflict(port=5432)
    holder = {"kind": "container", "name": "db", "container_id": "c" * 64, "pid": None}
    entry = {"host_ip": "127.0.0.1", "protocol": "tcp", "verdict": "held", "reason": "published", "holders": [holder]}
    clos.verdict = lambda port: {
        "port": port, "observed_at": None, "allocatable": False, "entries": [entry],
        "lease": {"id": 4, "service_id": "shop-api", "project": "development"},
        "claims": [{"service_id": None, "container": "old-db", "latent": True}],
        "range": {"project": "core", "start_port": 5000, "end_port": 5999},
    }  # fmt: skip
    code, out, _ = run("check", "5432")
    assert code == 0
    for said in ("db (container)", "c" * 12, "4 (shop-api)", "old-db (stopped)", "core 5000-5999", "conflict 1 on"):
        assert said in out
    assert "docker-proxy" not in out


# --- resolve in scripts --------------------------------------------------------------------------------------


def test_everything_is_resolved_by_policy_and_nothing_is_left(clos, run):
    clos.conflict()
    clos.conflict("out_of_range", 9312)
    clos.conflict("reserved", 40000)
    code, _, err = run("resolve", "--auto", "--max-risk", "low", "--yes")
    assert code == 0
    assert posted(clos, "/conflicts/resolve") == [{"max_risk": "low"}]
    assert len(posted(clos, "/conflicts/scan")) == 1
    assert "moved to 9400 (back: clos conflicts undo 1)" in err
    assert "No conflict is left" in err


def test_what_policy_may_not_resolve_is_left_and_is_exit_code_3(clos, run, monkeypatch):
    clos.conflict()
    monkeypatch.setattr(clos, "_settle", lambda _one: None)
    code, _, err = run("resolve", "--auto", "--yes")
    assert code == 3
    assert "left: conflict 1, 9311/tcp" in err


def test_without_a_yes_a_script_is_shown_the_plan_and_nothing_is_changed(clos, run):
    clos.conflict()
    code, out, err = run("resolve", "--auto")
    assert code == 3
    assert "migrate_port" in out
    assert "--yes" in err
    assert posted(clos, "/conflicts/resolve") == [{"max_risk": "low", "dry_run": True}]
    assert run("resolve", "--auto", "--dry-run")[0] == 0
    assert clos.conflicts[1]["status"] == "active"


def test_one_conflict_is_resolved_by_a_strategy(clos, run):
    clos.conflict()
    code, _, err = run("resolve", "1", "--strategy", "change_port", "--port", "9401", "--service", "shop-api")
    assert code == 0
    wish = {"strategy": "change_port", "port": 9401, "service_id": "shop-api"}
    assert posted(clos, "/conflicts/1/resolve") == [wish]
    assert "moved to 9401" in err
    clos.conflict(port=9312)
    run("resolve", "2", "--strategy", "kill_process", "--confirm", "nc (pid 812)", "--allow-foreign", "--dry-run")
    wish = {"strategy": "kill_process", "confirm": "nc (pid 812)", "allow_foreign": True, "dry_run": True}
    assert posted(clos, "/conflicts/2/resolve") == [wish]


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("1",), ("--strategy", "ignore"), ("--auto", "1"), ("--auto", "--strategy", "ignore"), ("--port", "9400"),
        ("1", "--confirm", "x"), ("1", "--strategy", "pray"), ("1", "--strategy", "change_port", "--port", "0"),
        ("1", "--strategy", "change_port", "--port", "65536"), ("--max-risk", "low"), ("0", "--strategy", "ignore"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_wrong_usage(clos, run, arguments):
    clos.conflict()
    assert run("resolve", *arguments)[0] == 2
    assert not [path for method, path, _ in clos.calls if method == "POST"]


@pytest.mark.parametrize(("code", "exit_code"), [("port_held", 3), ("unresolved_conflict", 3), ("timeout", 7)])
def test_a_resolution_that_fails_has_its_exit_code(clos, run, code, exit_code):
    clos.conflict()
    clos.end = {"status": "failed", "error": {"code": code, "message": "no", "holder": {"name": "x", "pid": 7}}}
    clos.ends = [{"status": "completed", "error": None}]
    found = run("resolve", "--auto", "--yes")
    assert found[0] == exit_code
    assert "held by x (pid 7)" in found[2]


# --- questions -----------------------------------------------------------------------------------------------


def test_a_question_without_a_terminal_says_how_it_is_answered_and_is_exit_code_3(clos, run):
    clos.question = QUESTION
    code, _, err = run("start", "shop", "--on-conflict", "ask")
    assert code == 3
    assert "is held by nc (pid 812)" in err
    assert "change_port:PORT" in err
    assert "--confirm 'nc (pid 812)'" in err
    assert "clos ops answer op-0001 CHOICE" in err
    assert "clos ops answer op-0001 CHOICE" in run("ops", "show", "op-0001")[1]
    assert run("ops", "watch", "op-0001")[0] == 3
    assert run("ops", "answer", "op-0001")[0] == 2


@pytest.mark.parametrize("sockets", [True, False])
def test_a_question_is_answered_by_a_command_and_its_operation_followed(clos, run, sockets):
    clos.sockets = sockets
    clos.question = QUESTION
    run("start", "shop", "--on-conflict", "ask")
    code, _, err = run("ops", "answer", "op-0001", "kill_process", "--confirm", "812")
    assert code == 0
    assert clos.given == [{"choice": "kill_process", "confirm": "812"}]
    assert "op-0001: completed" in err
    assert run("ops", "answer", "op-0001", "migrate_service")[0] == 1
    assert run("ops", "answer", "op-0001")[0] == 1


def test_in_a_pipe_nothing_is_said_about_taken_ports(clos, run):
    run("start", "shop")
    assert posted(clos, "/groups/shop/start") == [{}]
    run("restart", "shop", "--on-conflict", "migrate")
    assert posted(clos, "/groups/shop/restart") == [{"on_conflict": "migrate"}]


# --- at a terminal -------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(clos, monkeypatch):
    """Run at a terminal: each answer is typed when what stands before it is seen. Gives exit code and what was seen."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")

    def call(*arguments, typed=()):
        process, ours, see = on_terminal(*arguments)
        try:
            seen = 0
            for prompt, text in typed:
                wait_until(lambda seen=seen, prompt=prompt: prompt in see()[seen:], 15, f"{prompt!r}")
                seen = see().index(prompt, seen) + len(prompt)
                if text is INTERRUPT:
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(ours, f"{text}\n".encode())
            wait_until(lambda: (see(), process.poll())[1] is not None, 15)
            return process.returncode, see()
        finally:
            process.kill()
            process.wait(10)
            os.close(ours)

    return call


def test_at_a_terminal_a_start_asks_and_is_answered_there(clos, terminal):
    clos.question = QUESTION
    code, seen = terminal("start", "shop", typed=[("Your choice", "1")])
    assert code == 0
    assert posted(clos, "/groups/shop/start") == [{"on_conflict": "ask"}]
    assert "move shop-api to port 9400  (low risk)" in seen
    assert "shop-api listens on port 9400 instead of 9311" in seen
    assert clos.given == [{"choice": "migrate_service"}]


def test_at_a_terminal_a_groups_own_policy_is_not_overridden(clos, terminal):
    clos.groups["shop"]["conflicts"] = {"on_start": "migrate"}
    assert terminal("start", "shop")[0] == 0
    assert terminal("start", "shop-web")[0] == 0
    assert posted(clos, "/groups/shop/start") == posted(clos, "/services/shop-web/start") == [{}]


def test_ending_a_process_is_confirmed_by_typing_its_name(clos, terminal):
    clos.question = QUESTION
    typed = [("Your choice", "3"), ("type nc (pid 812)", "yes"), ("Your choice", "3"), ("type nc (pid 812)", "812")]
    assert terminal("start", "shop", typed=typed)[0] == 0
    assert clos.given == [{"choice": "kill_process", "confirm": "nc (pid 812)"}]


def test_a_port_is_typed_where_a_choice_names_one(clos, terminal):
    clos.question = QUESTION
    typed = [("Your choice", "2"), ("Which port", "99999"), ("Which port", "9401")]
    assert terminal("start", "shop", typed=typed)[0] == 0
    assert clos.given == [{"choice": "change_port:9401"}]


def test_who_leaves_a_question_is_told_how_to_answer_it_later(clos, terminal):
    clos.question = QUESTION
    code, seen = terminal("start", "shop", typed=[("Your choice", INTERRUPT)])
    assert code == 130
    assert "left waiting until" in seen
    assert "clos ops answer op-0001 CHOICE" in seen


def test_v1s_choices_are_offered_and_planned_before_a_yes(clos, terminal):
    clos.conflict()
    typed = [("Your choice", "4"), ("Your choice", "1"), ("Do it?", "n"), ("Your choice", "1"), ("Do it?", "y")]
    code, seen = terminal("resolve", typed=typed)
    assert code == 0
    for said in ("move the service away from the process: move shop-api to port 9400  (low risk)",
                 "kill the process: end nc (pid 812) of user app  (high risk)", "type a port:",
                 "analyse who uses port 9311", "Port 9311 is held (tcp)", "leave it as it is  (low risk)", "skip",
                 "migrate_port", "moved to 9400"):  # fmt: skip
        assert said in seen
    wish = {"strategy": "migrate_service", "service_id": "shop-api"}
    assert posted(clos, "/conflicts/1/resolve") == [wish | {"dry_run": True}, wish | {"dry_run": True}, wish]


def test_of_two_claimants_one_says_which_moves(clos, terminal):
    one = clos.conflict("duplicate_claim", holder={"kind": "service", "service_id": "shop-api", "name": "api"})
    second = one["options"][0] | {"service_id": "shop-web", "description": "move shop-web to port 9401"}
    stop = one["options"][0] | {"strategy": "stop_container", "description": "stop the service shop-api",
                                "risk_level": "medium"}  # fmt: skip
    one["options"] = [one["options"][0], second, stop, one["options"][-1]]
    typed = [("Your choice", "2"), ("Who moves", "2"), ("Do it?", "y")]
    code, seen = terminal("resolve", "1", typed=typed)
    assert code == 0
    assert "reassign automatically: move shop-api to port 9400" in seen
    assert "stop what has it: stop the service shop-api  (medium risk)" in seen
    assert posted(clos, "/conflicts/1/resolve")[-1] == {"strategy": "migrate_service", "service_id": "shop-web"}


def test_what_is_skipped_is_left_and_what_is_ignored_is_not(clos, terminal):
    clos.conflict()
    clos.conflict(port=9312)
    code, seen = terminal("resolve", typed=[("Your choice", "5"), ("Your choice", "6")])
    assert code == 3
    assert "left: conflict 2" in seen
    assert clos.conflicts[1]["status"] == "ignored"


def test_a_process_is_ended_only_after_its_plan_and_its_name(clos, terminal):
    clos.conflict()
    code, _ = terminal("resolve", typed=[("Your choice", "2"), ("type nc (pid 812)", "nc (pid 812)")])
    assert code == 0
    wish = {"strategy": "kill_process", "confirm": "nc (pid 812)"}
    assert posted(clos, "/conflicts/1/resolve") == [wish | {"dry_run": True}, wish]


def test_everything_at_once_is_shown_and_done_after_a_yes(clos, terminal):
    clos.conflict()
    assert terminal("resolve", "--auto", typed=[("Do it?", "n")])[0] == 3
    code, seen = terminal("resolve", "--auto", typed=[("Do it?", "y")])
    assert code == 0
    assert "resolution: move shop-api to port 9400 (low risk)" in seen
    assert terminal("resolve")[0] == 0
