"""What the command line does where something is odd: wrong options, damaged files, answers that break off."""

import json
import socket
import threading
from pathlib import Path

import pytest

from cli.client import Client, Credentials, elsewhere, read_credentials
from cli.errors import ApiError, CliError, Unreachable


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--env", "NOVALUE", "not KEY=VALUE"),
        ("--port", "x:80", "not PORT or HOST:PORT"),
        ("--command", "a 'b", "--command"),
    ],
)
def test_a_wrong_option_of_a_new_service_is_named(clos, run, option, value, said):
    code, _, err = run("services", "add", "new", "--group", "shop", option, value)
    assert code == 2
    assert said in err
    assert not [call for call in clos.calls if call[0] == "POST"]


def test_a_new_service_needs_a_name(run):
    code, _, err = run("services", "add", "--group", "shop")
    assert code == 2
    assert "Give a NAME" in err


def test_options_of_a_new_service_reach_the_api(clos, run):
    run(
        "services", "add", "new", "--group", "shop", "--env", "A=b=c", "--port", "8080:80", "--port", "90",
        "--needs", "api:healthy", "--needs", "store", "--command", "run 'it all'", "-o", "json",
    )  # fmt: skip
    (body,) = [body for method, path, body in clos.calls if method == "POST"]
    assert body["environment"] == {"A": "b=c"}
    assert body["ports"] == [{"container_port": 80, "host_port": 8080}, {"host_port": 90}]
    assert body["depends_on"] == [{"service": "api", "condition": "healthy"}, {"service": "store"}]
    assert body["command"] == ["run", "it all"]


def test_one_service_as_json_is_what_the_api_gave(clos, run):
    code, out, _ = run("services", "show", "shop-web", "-o", "json")
    assert (code, json.loads(out)["id"]) == (0, "shop-web")


def test_without_a_terminal_or_an_editor_a_service_is_changed_from_a_file(run, monkeypatch):
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run("services", "edit", "shop-web")
    assert code == 2
    assert "-f FILE" in err


def test_what_is_edited_by_hand_must_be_a_mapping_and_may_be_nothing(clos, run, monkeypatch, tmp_path):
    editor = tmp_path / "editor"
    for script, expected in (("true", "Nothing was changed"), ('echo "- a" > "$1"', "no mapping")):
        editor.write_text(f"#!/bin/sh\n{script}\n")
        editor.chmod(0o755)
        monkeypatch.setenv("VISUAL", str(editor))
        assert expected in run("services", "edit", "shop-web")[2]
    assert not [call for call in clos.calls if call[0] == "PATCH"]


def test_credentials_that_are_damaged_or_absent_are_told_apart(tmp_path: Path) -> None:
    assert read_credentials(tmp_path) is None
    for text in ("{", "[]", "{}"):
        (tmp_path / "credentials.json").write_text(text)
        with pytest.raises(CliError, match="damaged"):
            read_credentials(tmp_path)


def test_a_key_goes_to_its_own_clos_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOS_API_KEY", raising=False)
    own = Credentials("http://127.0.0.1:8081", "ws://x", "secret")
    assert elsewhere("127.0.0.1:8081/api/v2", own).api_key == "secret"
    assert elsewhere("http://127.0.0.1:9", own).api_key == ""
    with pytest.raises(CliError, match="no http or https address"):
        elsewhere("ftp://x", own)


def answering(server: socket.socket, answer: bytes) -> None:
    def serve() -> None:
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (b"", Unreachable, "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", Unreachable, "broke off"),
        (b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n[]", ApiError, ""),
    ],
)
def test_an_answer_that_is_none_is_told(answer: bytes, kind: type[CliError], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering(server, answer)
        client = Client(Credentials(f"http://127.0.0.1:{server.getsockname()[1]}", "", ""))
        with pytest.raises(kind) as refused:
            client.get("/services")
        client.close()
        server.shutdown(socket.SHUT_RDWR)
    assert said in refused.value.message


def test_reasons_why_clos_cannot_be_reached_are_told_apart() -> None:
    client = Client(Credentials("http://127.0.0.1:1", "", ""))
    assert "in time" in client.unreachable(TimeoutError()).message
    assert "cannot be reached" in client.unreachable(OSError("no route")).message
    with pytest.raises(Unreachable, match="nothing listens"):
        client.get("/services")


def test_logs_without_services_say_so(clos, run):
    clos.services.clear()
    code, _, err = run("logs")
    assert code == 0
    assert "no services, so no logs" in err
