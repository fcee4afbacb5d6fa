"""Five clones of a group up at once, each its own; the end of one ends what was made for it, and nothing else."""

import contextlib
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import APIError
from sqlalchemy import select

from models.ports import PortLease
from tests.images import client, test_image
from tests.integration.api_fixture import Api
from tests.integration.rig import rig
from tests.ports import free_run
from tests.waiting import wait_until

pytestmark = pytest.mark.docker

# Says who it is from its volume, where the first one that had it wrote that down.
DB = "test -f /data/id || hostname > /data/id; trap 'exit 0' TERM INT; httpd -f -p 80 -h /data & wait $!"
API = "wget -qO /www/db $DB/id; exec serve 80"
WORKER = """
import http.server, os, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with urllib.request.urlopen(os.environ["API"] + "/db", timeout=5) as found:
            body = found.read()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
print("serving", flush=True)
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
FILES = """
import http.server, os
at = (os.environ["HOST"], int(os.environ["PORT"]))
http.server.ThreadingHTTPServer(at, http.server.SimpleHTTPRequestHandler).serve_forever()
"""
CLONES = [f"agent-{number}" for number in range(1, 6)]


class World:
    """An API with a worker and a scheduler, an engine looked at from outside, and the group `web`."""

    def __init__(self, api: Api) -> None:
        self.api, self.raw = api, client()
        self.volume = f"data{uuid.uuid4().hex[:8]}"
        # Not among those that clients are given: one that a client had a moment ago cannot be had.
        self.low = free_run(200)[0]
        ranges = {"project": "clones", "start_port": self.low + 1, "end_port": self.low + 199}
        assert api.post("/port-ranges", ranges).status_code == 201
        self.define()

    def define(self) -> None:
        check = {"interval": 1.0, "timeout": 2.0, "start_period": 20.0}
        container = {"image": test_image(), "networks": ["back"], "stop_timeout": 5}
        db = {
            "name": "db", **container, "command": ["sh", "-c", DB], "volumes": [f"{self.volume}:/data"],
            "ports": [{"name": "http", "host_port": self.low, "container_port": 80}], "health_check": check,
        }  # fmt: skip
        api = {
            "name": "api", **container, "command": ["sh", "-c", API], "environment": {"DB": "${url:db}"},
            "ports": [{"container_port": 80}], "health_check": {**check, "url": "/db"},
            "depends_on": [{"service": "db", "condition": "healthy"}],
        }  # fmt: skip
        worker = {
            "name": "worker", "runtime": "process", "command": [sys.executable, "-c", WORKER], "stop_timeout": 5,
            "environment": {"API": "${url:web/api}"}, "ports": [{}], "health_check": {**check, "url": "/"},
            "depends_on": [{"service": "api", "condition": "healthy"}],
        }  # fmt: skip
        body = {"name": "web", "project": "clones", "services": [db, api, worker],
                "networks": {"back": {"name": f"web-{self.volume}"}}}  # fmt: skip
        answer = self.api.post("/groups", body)
        assert answer.status_code == 201, answer.text

    def ended(self, operation: dict[str, Any], status: str = "completed") -> dict[str, Any]:
        found = wait_until(lambda: self._final(operation["id"]), 120, f"the end of {operation['type']}")
        assert found["status"] == status, (found["error"], self.api.rig.log("workers.main")[-2000:])
        return dict(found)

    def _final(self, operation_id: str) -> dict[str, Any] | None:
        found = self.api.get(f"/operations/{operation_id}?wait=20").json()
        return found if found["end_time"] else None

    def clone(self, name: str, **more: Any) -> dict[str, Any]:
        answer = self.api.post("/groups/web/clone", {"as": name, "start": True, **more})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def says(self, group: str) -> str:
        """The smoke test: what its process says over its own port, asked of its own api, of its own db."""
        port = self.api.get(f"/services/{group}-worker").json()["port"]
        answer = requests.get(f"http://127.0.0.1:{port}/", timeout=10)
        assert answer.status_code == 200
        return answer.text.strip()

    def db_of(self, group: str) -> str:
        return str(self.api.get(f"/services/{group}-db").json()["observed"]["container_id"])[:12]

    def engine(self) -> dict[str, set[str]]:
        """Everything of this installation that the engine has, and its volumes of this test."""
        label = {"label": f"clos.instance={self.api.rig.instance_id}"}
        volumes = self.raw.api.volumes().get("Volumes") or []
        return {
            "containers": {each["Names"][0].strip("/") for each in self.raw.api.containers(all=True, filters=label)},
            "networks": {each["Name"] for each in self.raw.api.networks(filters=label)},
            "volumes": {each["Name"] for each in volumes if self.volume in each["Name"]},
        }

    def leases(self) -> set[tuple[str | None, int]]:
        with self.api.rig.record.read() as session:
            return {(row.service_id, row.port) for row in session.scalars(select(PortLease))}

    def close(self) -> None:
        for name in (*CLONES, "web"):
            answer = self.api.call("DELETE", f"/groups/{name}", params={"force": "true"})
            if answer.status_code == 202:
                self.ended(answer.json())
        for name in self.engine()["volumes"]:
            with contextlib.suppress(APIError):
                self.raw.api.remove_volume(name)
        self.raw.close()


@pytest.fixture
def world() -> Iterator[World]:
    with rig() as made:
        made.worker()
        made.scheduler()
        with contextlib.closing(World(Api(made))) as found:
            yield found


def of(group: str, found: set[Any]) -> set[Any]:
    """What of a set is a group's, by its name."""
    return {each for each in found if f"{group}-" in str(each) or f"{group}_" in str(each) or str(each).endswith(group)}


def test_five_clones_are_up_at_once_and_the_end_of_one_frees_what_it_took_and_nothing_else(world: World) -> None:
    world.ended(world.api.post("/groups/web/start").json())
    with ThreadPoolExecutor(5) as pool:
        for operation in list(pool.map(world.clone, CLONES)):
            world.ended(operation)
    # Each one answers over its own ports, from its own database with its own volume.
    said = {name: world.says(name) for name in ("web", *CLONES)}
    assert said == {name: world.db_of(name) for name in ("web", *CLONES)}
    assert len(set(said.values())) == 6
    ports = [port for _, port in world.leases()]
    assert len(ports) == len(set(ports)) == 18

    engine, leases = world.engine(), world.leases()
    gone = "agent-3"
    assert len(of(gone, engine["containers"])) == 2
    assert engine["volumes"] == {world.volume, *(f"{name}_{world.volume}" for name in CLONES)}
    operation = world.api.call("DELETE", f"/groups/{gone}", params={"force": "true"}).json()
    steps = world.ended(operation)["steps"]
    assert steps[-1]["target"] == f"volume:{gone}_{world.volume}"

    after = world.engine()
    for kind, count in (("containers", 2), ("networks", 2), ("volumes", 1)):
        assert engine[kind] - after[kind] == of(gone, engine[kind]), kind
        assert len(engine[kind] - after[kind]) == count, kind
        assert after[kind] <= engine[kind], kind
    assert leases - world.leases() == {each for each in leases if str(each[0]).startswith(f"{gone}-")}
    assert world.leases() <= leases
    assert world.api.get(f"/groups/{gone}").status_code == 404
    rest = {name: world.says(name) for name in said if name != gone}
    assert rest == {name: who for name, who in said.items() if name != gone}

    # A clone that comes again under that name begins anew.
    world.ended(world.clone(gone))
    assert world.says(gone) == world.db_of(gone) != said[gone]

    # One whose time is over goes by itself.
    answer = world.api.call("PATCH", "/groups/agent-5", json={"ttl": 1})
    assert answer.status_code == 200, answer.text
    wait_until(lambda: world.api.get("/groups/agent-5").status_code == 404, 60, "the end of agent-5's time")
    assert of("agent-5", world.engine()["volumes"] | world.engine()["containers"] | world.engine()["networks"]) == set()
    (removed,) = world.api.get("/operations?group=agent-5&type=group.remove").json()["items"]
    assert removed["initiated_by"] == "system:ttl"
    told = world.api.get("/events?type=group.expiring").json()["items"]
    assert [each["group_name"] for each in told] == ["agent-5"]
    assert world.says("web") == said["web"]


def test_a_volume_of_the_clones_name_that_was_there_before_is_not_its_own(world: World) -> None:
    world.raw.api.create_volume(f"agent-1_{world.volume}")
    failed = world.ended(world.clone("agent-1"), "failed")
    assert f"agent-1_{world.volume}" in failed["error"]["message"]
    operation = world.api.call("DELETE", "/groups/agent-1", params={"force": "true"}).json()
    world.ended(operation)
    assert world.engine()["volumes"] == {f"agent-1_{world.volume}"}


def test_a_clone_in_a_worktree_runs_what_lies_there(world: World, tmp_path: Path) -> None:
    for name in ("main", "feature"):
        (tmp_path / name / "web").mkdir(parents=True)
        (tmp_path / name / "web" / "index.html").write_text(name)
    service = {
        "name": "files", "runtime": "process", "ports": [{}], "working_dir": f"{tmp_path}/main/web", "stop_timeout": 5,
        "command": [sys.executable, "-c", FILES], "health_check": {"url": "/", "interval": 1.0, "start_period": 20.0},
    }  # fmt: skip
    group = {"name": "tree", "project": "clones", "directory": f"{tmp_path}/main", "services": [service]}
    assert world.api.post("/groups", group).status_code == 201
    made = world.api.post("/groups/tree/clone", {"as": "tree-2", "directory": f"{tmp_path}/feature"}).json()
    assert made["warnings"] == []
    for name in ("tree", "tree-2"):
        world.ended(world.api.post(f"/groups/{name}/start").json())
    said = []
    for name in ("tree", "tree-2"):
        port = world.api.get(f"/services/{name}-files").json()["port"]
        said.append(requests.get(f"http://127.0.0.1:{port}/index.html", timeout=5).text)
        world.ended(world.api.call("DELETE", f"/groups/{name}", params={"force": "true"}).json())
    assert said == ["main", "feature"]
