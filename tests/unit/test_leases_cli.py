"""`clos ports` on the API itself: leases and ranges by hand and by script."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from cli import main
from tests.unit.api_kit import Kit, kit, process

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with kit(tmp_path_factory.mktemp("home")) as made:
        server = make_server("127.0.0.1", 0, made.app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        home = Path(made.settings.home)
        (home / "credentials.json").write_text(
            json.dumps({
                "url": f"http://127.0.0.1:{server.server_port}",
                "websocket_url": "",
                "username": "admin",
                "api_key": made.key,
            })
        )  # fmt: skip
        yield made
        server.shutdown()
        thread.join(10)


@pytest.fixture
def run(api: Kit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CLOS_HOME", str(api.settings.home))
    for name in ("CLOS_URL", "CLOS_API_KEY", "CLOS_CONFIG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["--no-up", *arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


_spans = iter(range(20_000, 30_000, 10))


@pytest.fixture
def span(api: Kit) -> Any:
    """A range of four ports for a project of its own."""
    start = next(_spans)
    return api.post("/port-ranges", {"project": api.name("p"), "start_port": start, "end_port": start + 3})


def test_ranges_are_defined_listed_changed_and_deleted(api: Kit, run: Run) -> None:
    project, start = api.name("own"), next(_spans)
    ports = f"{start}-{start + 9}"
    code, out, _ = run("ports", "ranges", "add", project, ports, "--description", "mine", "--max-services", "3")
    assert (code, out) == (0, f"Range {ports} of {project} is defined.\n")
    assert ports in run("ports", "ranges", "list")[1]
    (one,) = json.loads(run("ports", "ranges", "list", "--project", project, "-o", "json")[1])
    assert (one["description"], one["max_services"], one["used"]) == ("mine", 3, 0)
    code, out, _ = run("ports", "ranges", "edit", project, "--ports", f"{start}-{start + 4}", "--max-services", "0",
                       "-o", "json")  # fmt: skip
    assert (code, json.loads(out)["end_port"], json.loads(out)["max_services"]) == (0, start + 4, None)
    assert run("ports", "ranges", "rm", str(one["id"]), "--yes")[0] == 0
    assert run("ports", "ranges", "rm", ports, "--yes")[0] == 4
    assert run("ports", "ranges", "list", "--project", project)[1].startswith("No port ranges")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("add", "p", "0-10"), "1 to 65535"), (("add", "p", "10-65536"), "1 to 65535"),
        (("add", "p", "22:22"), "22:22"),
        (("add", "p", "31009-31000"), "upside down"), (("add", "p", "9500-9501"), "overlaps development's range"),
        (("add", "p", "40000-40010"), "outgoing connections"), (("edit", "development"), "Say what to change"),
        (("edit", "development", "--ports", "9999-9000"), "upside down"),
    ],
)  # fmt: skip
def test_a_wrong_range_is_wrong_usage_that_says_why(run: Run, arguments: tuple[str, ...], word: str) -> None:
    code, _, err = run("ports", "ranges", *arguments)
    assert code == 2
    assert word in err


def test_a_range_that_is_one_of_several_has_to_be_named(api: Kit, run: Run, span: Any) -> None:
    start = next(_spans)
    api.post("/port-ranges", {"project": span["project"], "start_port": start, "end_port": start})
    code, _, err = run("ports", "ranges", "rm", span["project"], "--yes")
    assert (code, f"{span['id']} ({span['start_port']}-{span['end_port']})" in err) == (4, True)
    assert run("ports", "ranges", "edit", str(start) + f"-{start}", "--description", "one port")[0] == 0


def test_a_port_is_leased_for_a_time_for_a_protocol_and_given_back(run: Run, span: Any) -> None:
    code, out, _ = run("ports", "allocate", span["project"], "--protocol", "udp", "--ttl", "60", "-o", "json")
    lease = json.loads(out)
    assert (code, lease["port"], lease["protocol"]) == (0, span["start_port"], "udp")
    assert lease["expires_at"] > lease["created_at"]
    assert run("ports", "allocate", span["project"])[1] == f"{span['start_port']}\n"
    code, _, err = run("ports", "release", str(span["start_port"]))
    assert (code, "more than one" in err) == (4, True)
    assert run("ports", "release", f"{span['start_port']}/udp")[0] == 0
    assert run("ports", "release", f"{span['start_port']}/tcp")[0] == 0
    assert run("ports", "release", f"{span['start_port']}/tcp")[0] == 4


def test_a_service_s_lease_comes_from_its_group_s_project(api: Kit, run: Run, span: Any) -> None:
    group = api.name()
    api.post("/groups", {"name": group, "project": span["project"], "services": [process("web", ports=[{}])]})
    assert run("ports", "allocate", "--service", f"{group}-web")[1] == f"{span['start_port'] + 1}\n"
    code, _, err = run("ports", "allocate")
    assert (code, "PROJECT" in err) == (2, True)


def test_a_held_port_and_a_full_range_are_conflicts_that_name_who_has_them(api: Kit, run: Run, span: Any) -> None:
    group = api.name()
    services = [process(name, ports=[{}]) for name in ("a", "b", "c", "d")]
    api.post("/groups", {"name": group, "project": span["project"], "services": services})
    code, out, err = run("ports", "allocate", span["project"], "--port", str(span["start_port"]))
    assert (code, out, f"{group}-a" in err) == (3, "", True)
    code, out, err = run("ports", "allocate", span["project"])
    assert (code, out) == (3, "")
    for name in ("a", "b", "c", "d"):
        assert f"{group}-{name} (" in err


@pytest.mark.parametrize("port", ["0", "65536", "22:22", "x"])
def test_what_is_no_port_is_wrong_usage(run: Run, port: str) -> None:
    assert run("ports", "allocate", "development", "--port", port)[0] == 2
