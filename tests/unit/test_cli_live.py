"""Following operations and logs: nothing lost over cuts, polling where there is no socket."""

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cli.client import Client, Credentials
from cli.errors import Unreachable
from cli.live import Feed, FeedLost, Watch
from tests.clos_stand_in import KEY
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def client(clos):
    made = Client(Credentials(clos.url, clos.websocket_url, KEY))
    yield made
    made.close()


def watched(client, operation, timeout_s=20.0):
    seen, notes = [], []

    def note_changes(now):
        for step in now["steps"]:
            if (step["id"], step["status"]) not in seen and step["status"] != "pending":
                seen.append((step["id"], step["status"]))

    ended = Watch(client, note_changes, notes.append).until_end(operation["id"], timeout_s)
    return ended, seen, notes


EVERY_CHANGE = [
    (f"start:shop-{name}", status) for name in ("store", "api", "web") for status in ("running", "completed")
]


@pytest.mark.parametrize("cut_every", [0, 1, 2, 3])
def test_every_step_change_is_seen_in_order_however_often_the_socket_is_cut(clos, client, cut_every):
    clos.cut_every = cut_every
    clos.held.clear()
    operation = clos.operation("group.start", group_name="shop")
    looked = ("GET", f"/operations/{operation['id']}", None)
    threading.Thread(target=lambda: (wait_until(lambda: looked in clos.calls), clos.held.set()), daemon=True).start()
    ended, seen, notes = watched(client, operation)
    assert ended["status"] == "completed"
    assert [one for one in seen if one[1] == "completed"] == [one for one in EVERY_CHANGE if one[1] == "completed"]
    assert set(seen) <= set(EVERY_CHANGE)
    assert notes == []
    if cut_every:
        assert clos.connections > 1


def test_without_a_socket_the_operation_is_polled_and_the_reason_noted(clos, client):
    clos.sockets = False
    ended, seen, notes = watched(client, clos.operation("group.start", group_name="shop"))
    assert ended["status"] == "completed"
    assert ("start:shop-web", "completed") in seen
    assert "asking every" in notes[0]
    assert any("wait=" not in path for _, path, _ in clos.calls)


def test_an_operation_that_has_ended_already_is_given_as_it_ended(clos, client):
    operation = clos.operation("group.start", group_name="shop")
    wait_until(lambda: operation["end_time"])
    ended, seen, _ = watched(client, operation)
    assert ended["status"] == "completed"
    assert len(seen) == 3


def test_a_watch_ends_at_its_limit_with_the_operation_as_it_stands(clos, client):
    clos.held.clear()
    ended, _, _ = watched(client, clos.operation("group.start"), timeout_s=0.3)
    assert ended["status"] == "in_progress"


def test_a_short_absence_of_the_api_does_not_end_a_watch(clos, client):
    clos.sockets = False
    operation = clos.operation("group.start")
    clos.next_answer = [(503, {"code": "overloaded"}), (503, {"code": "overloaded"})]
    assert watched(client, operation)[0]["status"] == "completed"


def test_a_feed_gives_no_event_twice_and_goes_on_after_the_last_one(clos, client):
    for number in range(5):
        clos.tell("service.status_changed", {"to": str(number)})
    clos.cut_every = 2
    feed = Feed(client, [{"events": ["*"]}], after=1)
    feed.open()
    found = []
    deadline = time.monotonic() + 10
    while len(found) < 4 and time.monotonic() < deadline:
        event = feed.next(0.5)
        found += [event["id"]] if event else []
    feed.close()
    assert found == [2, 3, 4, 5]
    assert feed.reconnected


def test_a_feed_that_nobody_gives_is_lost():
    nobody = Client(Credentials("http://127.0.0.1:9", "ws://127.0.0.1:9/api/v2/ws", KEY))
    with pytest.raises(FeedLost):
        Feed(nobody, [{"events": ["*"]}]).open()


def test_a_post_whose_answer_was_lost_is_sent_again_under_the_same_key(clos):
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    heads = []

    def serve():
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"):
            connection, _ = listener.accept()
            heads.append(connection.recv(65536).decode())
            connection.sendall(answer)
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    client = Client(Credentials(f"http://127.0.0.1:{listener.getsockname()[1]}"))
    assert client.post("/groups/x/start") == {}
    keys = [line for head in heads for line in head.splitlines() if line.startswith("Idempotency-Key")]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    listener.close()


def test_what_is_no_clos_is_said_to_be_none():
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    with pytest.raises(Unreachable, match="is not CLOS"):
        Client(Credentials(f"http://127.0.0.1:{listener.getsockname()[1]}")).get("/services")
    listener.close()


# --- programs on a pipe and on a terminal --------------------------------------------------------------------


def start(*arguments, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments], cwd=ROOT, env=dict(os.environ) | {"PYTHONUNBUFFERED": "1"}, **how
    )


def collect(*arguments):
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines: list[str] = []

    def read():
        for line in process.stdout:
            lines.append(line.rstrip("\n"))

    threading.Thread(target=read, daemon=True).start()
    return process, lines


@pytest.mark.parametrize("sockets", [True, False])
def test_followed_logs_lose_no_line_and_double_none(clos, sockets):
    clos.sockets = sockets
    clos.log("shop-web", "before")
    process, lines = collect("logs", "web", "--no-timestamps")
    try:
        wait_until(lambda: "before" in lines)
        clos.log("shop-web", "unheard", live=False)  # written before any worker followed
        for number in range(20):
            clos.log("shop-web", f"line {number % 7}\x1b[2J")
        wait_until(lambda: len(lines) >= 22)
        clos.log("shop-web", "last")
        wait_until(lambda: lines[-1] == "last")
        assert lines == ["before", "unheard", *(f"line {number % 7}" for number in range(20)), "last"]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


@pytest.mark.parametrize("sockets", [True, False])
def test_followed_events_come_as_they_happen(clos, sockets):
    clos.sockets = sockets
    clos.tell("service.status_changed", {"from": "a", "to": "b"}, service_id="shop-web")
    process, lines = collect("events", "-f")
    try:
        wait_until(lambda: lines)
        clos.tell("service.status_changed", {"from": "b", "to": "c"}, service_id="shop-web")
        wait_until(lambda: len(lines) == 2)
        assert "b → c" in lines[1]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


@pytest.mark.parametrize("sockets", [True, False])
def test_a_watched_status_is_shown_anew_when_something_changes(clos, sockets):
    clos.sockets = sockets
    process, lines = collect("status", "-w", "-g", "shop")
    try:
        wait_until(lambda: len(lines) == 4)
        clos.services["shop-web"]["status"] = "failed"
        clos.tell("service.status_changed", {"from": "running", "to": "failed"}, group_name="shop")
        wait_until(lambda: any("failed" in line for line in lines))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_an_interrupt_in_a_pipe_leaves_the_operation_running_and_says_how_to_find_it(clos):
    clos.held.clear()
    process = start(
        "start", "shop", stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    wait_until(lambda: clos.connections)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "clos ops watch op-0001" in said
    assert clos.operations["op-0001"]["status"] == "in_progress"


def on_terminal(*arguments):
    """Run on a pseudo-terminal. Gives the process, and functions to type and to see."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = bytearray()

    def see():
        while select.select([ours], [], [], 0)[0]:
            try:
                read = os.read(ours, 65536)
            except OSError:
                break
            if not read:
                break
            shown.extend(read)
        return shown.decode(errors="replace")

    return process, ours, see


def test_on_a_terminal_ctrl_c_asks_and_can_cancel(clos, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    clos.held.clear()
    process, terminal, see = on_terminal("start", "shop")
    wait_until(lambda: "start shop" in see())
    wait_until(lambda: clos.connections)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "[k]eep watching" in see())
    text = "it was started and is left running"
    clos.operations["op-0001"]["result"] = {"left": [{"step": "start:a", "target": "a", "text": text}]}
    os.write(terminal, b"c\n")
    assert wait_until(lambda: (see(), process.poll())[1], 10) == 130
    assert clos.operations["op-0001"]["status"] == "cancelled"
    assert f"left as it is: a: {text}" in see()
    os.close(terminal)


def test_on_a_terminal_one_can_keep_watching_after_ctrl_c(clos, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    clos.held.clear()
    process, terminal, see = on_terminal("start", "shop")
    wait_until(lambda: clos.connections)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "[k]eep watching" in see())
    os.write(terminal, b"k\n")
    wait_until(lambda: clos.connections > 1)
    clos.held.set()
    wait_until(lambda: (see(), process.poll())[1] is not None, 10)
    assert process.returncode == 0
    assert "http://127.0.0.1:9310" in see()
    os.close(terminal)


def test_the_live_view_shows_steps_and_errors_without_obeying_them(clos, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    clos.end = {"status": "failed", "error": {"code": "start_failed", "message": "[red]no\x1b]0;owned\x07[/red]"}}
    process, terminal, see = on_terminal("start", "shop")
    wait_until(lambda: (see(), process.poll())[1] is not None, 10)
    assert process.returncode == 1
    assert "[red]no[/red]" in see()
    assert "owned" not in see()
    assert "\x1b[31m" not in see()
    os.close(terminal)


def test_help_on_a_terminal_is_rich_and_complete(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    process, terminal, see = on_terminal("--help")
    wait_until(lambda: (see(), process.poll())[1] is not None, 10)
    assert process.returncode == 0
    assert all(name in see() for name in ("status", "start", "completion"))
    os.close(terminal)
