"""A group of containers from its definition to its processes: through the API, a worker and the real engine."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.images import client, docker_url, remove_all, test_image
from tests.integration.api_fixture import Api
from tests.integration.rig import Rig
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not Path(docker_url().removeprefix("unix://")).exists(), reason="needs Docker")


class World:
    """A CLOS with a worker, and what it has on the engine."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.rig.worker()
        self.api = Api(self.rig)
        self.group = f"ops{uuid.uuid4().hex[:8]}"
        self.folder = folder / "work"
        self.folder.mkdir()

    def does(self, path: str) -> Any:
        """What an operation ended as."""
        asked = self.api.call("POST", path, json={})
        assert asked.status_code == 202, asked.text
        return self.api.call("GET", f"/operations/{asked.json()['id']}?wait=60").json()

    def inspected(self) -> dict[str, Any]:
        """Its containers by the names of their services."""
        with contextlib.closing(client()) as engine:
            listed = engine.api.containers(all=True, filters={"label": f"clos.instance={self.rig.instance_id}"})
            found = [engine.api.inspect_container(each["Id"]) for each in listed]
        return {each["Config"]["Labels"]["clos.service"].removeprefix(f"{self.group}-"): each for each in found}

    def networks(self) -> list[str]:
        """The names of its networks."""
        with contextlib.closing(client()) as engine:
            found = engine.api.networks(filters={"label": f"clos.instance={self.rig.instance_id}"})
        return [each["Name"] for each in found]

    def inside(self, name: str, path: str) -> str:
        ref = self.inspected()[name]["Id"]
        with contextlib.closing(client()) as engine:
            said: bytes = engine.api.exec_start(engine.api.exec_create(ref, ["cat", path])["Id"])
            return said.decode()

    def close(self) -> None:
        self.rig.close()
        remove_all(self.rig.instance_id)
        with contextlib.closing(client()) as engine:
            label = {"label": f"clos.instance={self.rig.instance_id}"}
            for each in engine.api.volumes(filters=label)["Volumes"] or ():
                engine.api.remove_volume(each["Name"])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_a_group_of_containers_is_defined_started_and_refused_where_it_reaches_too_far(world: World) -> None:
    data = world.folder / "data"
    data.mkdir()
    (data / "f").write_text("mine")
    main = {
        "name": "main", "image": test_image(), "volumes": [f"{data}:/d:ro", "v:/v"],
        "container": {"networks": {"default": None, "back": {"aliases": ["z"]}}, "init": True},
    }  # fmt: skip
    side = {
        "name": "side", "image": test_image(), "network_mode": "service:main", "secrets": {"K": "hush"},
        "container": {"secrets": [{"source": "s", "environment": "K"}]},
    }  # fmt: skip
    body = {
        "name": world.group, "directory": str(world.folder), "services": [side, main],
        "networks": {"back": {"internal": True}}, "volumes": {"v": {"name": f"{world.group}_v"}},
    }  # fmt: skip
    assert world.api.call("POST", "/groups", json=body).status_code == 201
    started = world.does(f"/groups/{world.group}/start")
    assert (started["status"], started["error"]) == ("completed", None)
    made = world.inspected()
    assert made["side"]["HostConfig"]["NetworkMode"] == f"container:{made['main']['Id']}"
    assert sorted(made["main"]["NetworkSettings"]["Networks"]) == [f"clos-{world.group}", f"clos-{world.group}_back"]
    assert (world.inside("main", "/d/f"), world.inside("side", "/run/secrets/s")) == ("mine", "hush")
    # The value stands nowhere but in the file: not in the container's description, an answer or the operation.
    shown = world.api.call("GET", f"/services/{world.group}-side").text
    assert "hush" not in f"{made['side']} {shown} {started}"

    main_path = f"/services/{world.group}-main"
    denied = world.api.call("PATCH", main_path, json={"container": {"privileged": True}})
    assert (denied.status_code, denied.json()["code"]) == (422, "policy_denied")
    (data / "f").unlink()
    data.rmdir()
    data.symlink_to("/etc")
    ended = world.does(f"{main_path}/restart")
    assert (ended["status"], ended["error"]["code"]) == ("failed", "policy_denied")
    assert ended["error"]["violations"][0]["path"] == "volumes[0]"
    assert not world.inspected()["main"]["State"]["Running"]


def test_who_lives_in_a_container_that_is_started_again_is_in_its_network_afterwards(world: World) -> None:
    main = {"name": "main", "image": test_image(), "command": ["serve", "80"]}
    side = {"name": "side", "image": test_image(), "command": ["idle"], "network_mode": "service:main",
            "stop_timeout": 1}  # fmt: skip
    body = {"name": world.group, "services": [side, main]}
    assert world.api.call("POST", "/groups", json=body).status_code == 201
    assert world.does(f"/groups/{world.group}/start")["status"] == "completed"
    assert ":0050" in world.inside("side", "/proc/net/tcp6") + world.inside("side", "/proc/net/tcp")

    assert world.does(f"/services/{world.group}-main/stop")["status"] == "completed"
    ended = world.does(f"/services/{world.group}-main/start")

    assert (ended["status"], ended["error"]) == ("completed", None)
    made = world.inspected()
    assert made["side"]["State"]["StartedAt"] > made["main"]["State"]["StartedAt"]
    # It sees the listener of the one that runs now: else it would be in the network of one that is gone.
    assert ":0050" in world.inside("side", "/proc/net/tcp6") + world.inside("side", "/proc/net/tcp")


@pytest.mark.parametrize(("known", "renamed"), [(False, False), (True, False), (True, True)])
def test_a_group_whose_container_was_removed_by_hand_leaves_no_network(
    world: World, known: bool, renamed: bool
) -> None:
    body = {"name": world.group, "services": [{"name": "a", "image": test_image(), "command": ["idle"]}]}
    assert world.api.call("POST", "/groups", json=body).status_code == 201
    assert world.does(f"/groups/{world.group}/start")["status"] == "completed"
    assert world.networks() == [f"clos-{world.group}"]
    assert world.does(f"/groups/{world.group}/stop")["status"] == "completed"
    with contextlib.closing(client()) as engine:
        engine.api.remove_container(world.inspected()["a"]["Id"], force=True)
    if known:  # then the record has no container any more
        wait_until(lambda: not world.rig.service(f"{world.group}-a").container_id, 30, "the look at what is there")
    if renamed:  # then nothing in the record knows the network's name any more
        other = {"network_name": f"{world.group}-other"}
        assert world.api.call("PATCH", f"/groups/{world.group}", json=other).status_code == 200

    asked = world.api.call("DELETE", f"/groups/{world.group}?force=true")

    assert asked.status_code == 202, asked.text
    ended = world.api.call("GET", f"/operations/{asked.json()['id']}?wait=60").json()
    assert (ended["status"], ended["error"]) == ("completed", None)
    assert world.networks() == []
    assert world.api.call("GET", f"/groups/{world.group}").status_code == 404
