"""The first thing that anybody runs: `clos demo` in an empty home, without Docker, Redis or Node."""

import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.clos_home import home

pytestmark = pytest.mark.timeout(180)


def test_the_demo_shows_order_a_taken_port_who_moves_for_it_and_the_way_back_and_ends_well(
    tmp_path,
):
    # A PATH with Python and a shell, and an engine that is not there.
    tools = tmp_path / "bin"
    tools.mkdir()
    # Not a version manager's script of that name, which would need more.
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    for name in ("sh", "env", "cat", "cmp", "readlink"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
    with home(tmp_path, PATH=str(tools), DOCKER_HOST="unix:///nonexistent/docker.sock") as clos:
        first = clos.run("demo", timeout_s=120)
        assert first.returncode == 0, first.stdout + first.stderr
        told = first.stdout
        in_order = ["Registered the group shop", "A stranger (pid ", "✔ migrate_port shop-api", "✔ start   shop-store",
                    "✔ start   shop-api", "✔ start   shop-web", "The conflict, and what was done",
                    "foreign_process", "held by", "squatter.py", "migrate_service ", "apples: 12", "The stranger goes",
                    "clos conflicts undo ", "✔ restore shop-api", "✔ start   shop-api", "✔ start   shop-web",
                    "api is back at http://127.0.0.1:", "The shop answers at", "/docs"]  # fmt: skip
        positions, start = [], 0
        for words in in_order:
            assert words in told[start:], f"{words!r} does not come after {in_order[: len(positions)]}: {told}"
            start += told[start:].index(words)
            positions.append(start)
        services = clos.json("status")
        assert [(one["status"], one["health"]["status"]) for one in services] == [("running", "healthy")] * 3
        web = next(one for one in services if one["name"] == "web")["ports"][0]["url"]
        with urllib.request.urlopen(web, timeout=5) as page:
            assert b"apples: 12" in page.read()

        (conflict,) = clos.json("conflicts", "--status", "resolved")
        assert conflict["resolution"]["undone_by"]
        assert clos.run("conflicts", "undo", str(conflict["id"])).returncode == 1

        pids = sorted(one["observed"]["pid"] for one in services)
        events = len(clos.json("events", "--type", "operation.created", "-n", "200"))
        again = clos.run("demo")
        assert again.returncode == 0
        assert "nothing was changed" in again.stdout
        assert "stranger" not in again.stdout
        assert sorted(one["observed"]["pid"] for one in clos.json("status")) == pids
        assert len(clos.json("events", "--type", "operation.created", "-n", "200")) == events


@pytest.mark.docker
def test_the_containers_of_the_example_start_in_order_and_docker_agrees(tmp_path):
    example = tmp_path / "example"
    shutil.copytree(Path(__file__).resolve().parents[2] / "examples" / "shop-containers", example)
    subprocess.run([str(example / "make-image.sh")], check=True, capture_output=True, timeout=120)
    file = example / "shop.yaml"
    file.write_text(file.read_text().replace("host_port: 93", "host_port: 98"))
    with home(tmp_path) as clos:
        assert clos.run("groups", "add", "-f", str(file)).returncode == 0
        started = clos.run("start", "shop-containers")
        assert started.returncode == 0, started.stderr
        services = clos.json("status", "shop-containers")
        assert [one["status"] for one in services] == ["running"] * 3
        ids = {one["observed"]["container_id"][:12] for one in services}
        seen = subprocess.run(["docker", "ps", "-q"], capture_output=True, text=True, check=True, timeout=30).stdout
        assert ids <= set(seen.split())
        with urllib.request.urlopen("http://127.0.0.1:9820/", timeout=5) as page:
            assert b"web, in front of http://api:8080" in page.read()
        assert clos.run("stop", "shop-containers").returncode == 0
        seen = subprocess.run(["docker", "ps", "-q"], capture_output=True, text=True, check=True, timeout=30).stdout
        assert not ids & set(seen.split())
