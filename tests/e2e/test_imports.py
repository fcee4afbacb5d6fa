"""Compose projects through the real commands, the real Compose and the real engine."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clos_home import Home, home
from tests.images import client, docker_url, test_image
from tests.integration.real_compose import RealCompose
from tests.integration.rig import free_port

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not Path(docker_url().removeprefix("unix://")).exists(), reason="needs Docker"),
]


@pytest.fixture(scope="module")
def clos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    test_image()
    with home(tmp_path_factory.mktemp("home"), DOCKER_HOST=docker_url()) as made:
        assert made.run("up", "-d").returncode == 0
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / f"imp{uuid.uuid4().hex[:8]}"
    made.mkdir()
    return made


def _write(folder: Path, text: str, name: str = "compose.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def _web(port: int, more: str = "") -> str:
    return (
        f"services:\n  web:\n    image: clos-test:latest\n    command: serve 8000\n"
        f"    ports: ['127.0.0.1:{port}:8000']\n    stop_grace_period: 3s\n    volumes: ['data:/data']\n{more}"
        "volumes: {data: {}}\n"
    )


def test_a_folder_is_imported_its_change_shown_and_brought_up_to_date(clos: Home, folder: Path) -> None:
    name, port = folder.name, free_port()
    _write(folder, _web(port))
    unknown = clos.run("start", cwd=folder)
    assert (unknown.returncode, "clos groups import ." in unknown.stderr) == (2, True), unknown.stderr

    imported = clos.run("groups", "import", ".", "--yes", cwd=folder)
    assert imported.returncode == 0, imported.stderr
    assert "  + web" in imported.stdout
    assert clos.run("start", name).returncode == 0
    again = clos.run("groups", "import", str(folder), "--yes")
    assert (again.returncode, f"Group {name} is as its file says." in again.stderr) == (0, True), again.stderr

    _write(folder, _web(port, "    environment: {MODE: new}\n"))
    shown = clos.run("groups", "import", str(folder), "--dry-run")
    assert "~ web.environment: nothing -> {'MODE': 'new'} (changed in the file)" in shown.stdout
    assert clos.run("groups", "import", str(folder), "--yes").returncode == 0
    [web] = clos.json("status", name)  # type: ignore[misc]
    assert (web["drift"], web["environment"]) == (True, {"MODE": "new"})  # type: ignore[index]
    updated = clos.run("update", name)
    assert updated.returncode == 0, updated.stderr
    [web] = clos.json("status", name)  # type: ignore[misc]
    assert web["drift"] is False  # type: ignore[index]


def test_a_file_and_the_files_that_the_folders_env_names_are_imported(clos: Home, folder: Path) -> None:
    name = folder.name
    _write(folder, "services: {a: {image: 'clos-test:latest'}}\n", "one.yaml")
    _write(folder, "services: {b: {image: 'clos-test:latest'}}\n", "two.yaml")
    _write(folder, "COMPOSE_FILE=one.yaml:two.yaml\n", ".env")
    assert clos.run("groups", "import", str(folder), "--yes").returncode == 0
    assert {one["name"] for one in clos.json("status", name)} == {"a", "b"}  # type: ignore[attr-defined]

    told = clos.run("groups", "import", str(folder / "two.yaml"), "--name", f"{name}-two", "--yes")
    assert told.returncode == 0, told.stderr
    assert {one["name"] for one in clos.json("status", f"{name}-two")} == {"b"}  # type: ignore[attr-defined]


def test_a_wrong_file_is_refused_with_file_line_and_suggestion(clos: Home, folder: Path) -> None:
    file = _write(folder, "services:\n  web:\n    image: x\n    prots: ['80:80']\n")
    refused = clos.run("groups", "import", str(folder), "--yes")
    assert refused.returncode == 1
    assert f"{file}:4: services.web.prots" in refused.stderr
    assert "did you mean 'ports'?" in refused.stderr
    assert clos.run("status", folder.name).returncode == 4


def test_a_project_that_compose_started_is_taken_over_and_then_updated(clos: Home, folder: Path) -> None:
    name, port = folder.name, free_port()
    _write(folder, _web(port))
    compose = RealCompose(folder, name)
    try:
        before = compose.up()["web"]["Id"]
        with contextlib.closing(client()) as engine:
            engine.containers.get(before).exec_run(["sh", "-c", "echo kept > /data/note"])
        left = clos.run("groups", "import", str(folder), "--yes")
        assert f"{name}-web-1 was started by Compose and is left alone" in left.stdout
        assert compose.inspected()["web"]["State"]["Running"]

        taken = clos.run("groups", "import", str(folder), "--adopt", "--yes")
        assert taken.returncode == 0, taken.stderr
        assert f"Group {name} was taken over from Compose and runs." in taken.stdout
        assert compose.inspected() == {}

        _write(folder, _web(port, "    environment: {MODE: new}\n"))
        assert clos.run("groups", "import", str(folder), "--yes").returncode == 0
        updated = clos.run("update", name)
        assert updated.returncode == 0, updated.stderr
        [web] = clos.json("status", name)  # type: ignore[misc]
        with contextlib.closing(client()) as engine:
            container = engine.containers.get(web["observed"]["container_id"])  # type: ignore[index]
            assert "MODE=new" in container.attrs["Config"]["Env"]
            assert f"{name}_default" in container.attrs["NetworkSettings"]["Networks"]
            assert container.exec_run(["cat", "/data/note"]).output == b"kept\n"
    finally:
        clos.run("groups", "rm", name, "--yes", "--force")
        compose.down()
