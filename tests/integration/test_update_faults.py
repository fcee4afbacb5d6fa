"""What happens to images and to the engine in the middle of an update: real containers."""

import contextlib
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models import registry
from tests.images import client, test_image
from tests.integration.rig import Rig, container_service, free_port, rig
from tests.integration.test_reconcile import container
from tests.integration.test_updates import CHECK
from tests.private_engine import PrivateEngine, needs_private_engine, private_engine
from tests.waiting import wait_until


@pytest.fixture
def engine() -> Iterator[Any]:
    with contextlib.closing(client()) as made:
        yield made


@pytest.fixture
def images(engine: Any) -> Iterator[list[str]]:
    """Two images of the test's own, of different contents, by name."""
    test_image()
    repository = f"clos-test-{uuid.uuid4().hex[:12]}"
    names = [f"{repository}:old", f"{repository}:new"]
    for name in names:
        made = engine.api.create_container(test_image(), ["true"])
        try:
            engine.api.commit(made["Id"], repository, name.partition(":")[2], message=name)
        finally:
            engine.api.remove_container(made["Id"])
    yield names
    for name in names:
        with contextlib.suppress(Exception):
            engine.api.remove_image(name, force=True)


def change(clos: Rig, name: str, **fields: Any) -> None:
    with clos.record.write() as session:
        registry.change_service(session, registry.get(session, f"shop-{name}"), fields)


def until_begun(clos: Rig, operation_id: str, step: str) -> None:
    def begun() -> bool:
        return any(row.id == step and row.status != "pending" for row in clos.operation(operation_id).steps)

    wait_until(begun, 60, f"the step {step}")


@pytest.mark.docker
def test_an_old_image_that_is_deleted_during_the_update_is_not_needed_to_go_back(
    engine: Any, images: list[str]
) -> None:
    old, new = images
    with rig() as clos:
        clos.worker()
        clos.add_group("shop", [container_service("web", free_port(), image=old, health_check=CHECK)])
        assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
        before = clos.service("shop-web").container_id
        made_from = engine.api.inspect_container(before)["Image"]
        change(clos, "web", image=new, command=["idle"])
        operation_id = clos.ask("update", "shop")
        until_begun(clos, operation_id, "wait:shop-web")
        engine.api.remove_image(old, force=True)
        with contextlib.suppress(Exception):  # the engine may refuse the image itself while a container has it
            engine.api.remove_image(made_from, force=True)

        ended = clos.ended(operation_id, 60)

        assert (ended.status, ended.error["code"]) == ("failed", "unhealthy")
        assert "not_undone" not in ended.result
        assert [each["runs"] for each in ended.result["services"]] == ["old"]
        after = engine.api.inspect_container(before)
        assert (after["State"]["Running"], after["Image"]) == (True, made_from)
        assert clos.service("shop-web").health_status == "healthy"


@pytest.mark.docker
def test_a_new_image_that_is_deleted_before_its_container_is_made_fails_the_update_before_anything_is_stopped(
    engine: Any, images: list[str], tmp_path: Path
) -> None:
    old, new = images
    # Nothing is made before all images are there: while one is still built, the other one is deleted.
    (tmp_path / "Dockerfile").write_text(f"FROM {test_image()}\nRUN sleep 4\n")
    with rig() as clos:
        clos.worker()
        slow = container_service("slow", free_port(), health_check=CHECK)
        clos.add_group("shop", [container_service("web", free_port(), image=old, health_check=CHECK), slow])
        assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
        before = {name: clos.service(f"shop-{name}").container_id for name in ("web", "slow")}
        change(clos, "web", image=new)
        change(clos, "slow", image=None, build={"context": str(tmp_path)})
        operation_id = clos.ask("update", "shop")
        until_begun(clos, operation_id, "build:shop-slow")
        engine.api.remove_image(new, force=True)

        ended = clos.ended(operation_id, 90)

        assert (ended.status, ended.error["code"]) == ("failed", "image_missing"), ended.error
        assert {(each["runs"], each["unavailable_s"]) for each in ended.result["services"]} == {("old", 0.0)}
        assert {name: clos.service(f"shop-{name}").container_id for name in before} == before
        ours = engine.api.containers(all=True, filters={"label": f"clos.instance={clos.instance_id}"})
        assert {each["Id"]: each["State"] for each in ours} == dict.fromkeys(before.values(), "running")


@needs_private_engine
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["restarted", "killed"])
def test_an_engine_that_goes_and_comes_back_in_the_middle_of_an_update_ends_with_the_old_ones_running(
    monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    with private_engine() as private:
        monkeypatch.setenv("DOCKER_HOST", private.url)
        with rig() as clos:
            _the_engine_goes(clos, private, how)


def _the_engine_goes(clos: Rig, private: PrivateEngine, how: int) -> None:
    clos.worker()
    clos.add_group("shop", [container("db"), container("web", "db")])
    assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
    before = {name: clos.service(f"shop-{name}").container_id for name in ("db", "web")}
    change(clos, "db", environment={"VERSION": "2"})
    change(clos, "web", command=["idle"])  # it never gets healthy
    operation_id = clos.ask("update", "shop")
    until_begun(clos, operation_id, "wait:shop-web")
    private.stop(how)
    private.start()

    ended = clos.ended(operation_id, 180)

    assert ended.status == "failed"
    assert "not_undone" not in ended.result, ended.error
    assert "services" in ended.result, ended.error
    assert {each["runs"] for each in ended.result["services"]} == {"old"}
    assert {name: clos.service(f"shop-{name}").container_id for name in before} == before
    assert private.client is not None
    found = private.client.api.containers(all=True)
    assert {each["Id"]: each["State"] for each in found} == dict.fromkeys(before.values(), "running")
