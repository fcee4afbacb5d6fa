"""What CLOS starts from a Compose file equals what the real Compose starts from it, by `docker inspect`.

Each file of `compose_files` is imported as `clos groups import` asks for it, by a worker of its own, and started.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from domain.states import OperationStatus
from models import import_inputs, operations
from models.ports import PortRange
from models.services import Service
from tests.images import client, docker_url, test_image
from tests.integration.inspect_compare import Side, differences
from tests.integration.real_compose import RealCompose
from tests.integration.rig import Rig, free_port, rig

pytestmark = pytest.mark.skipif(not Path(docker_url().removeprefix("unix://")).exists(), reason="needs Docker")

FILES = Path(__file__).with_name("compose_files")
# What most machines would refuse; here the point is that it is carried out.
_ALLOWED = {
    f"CLOS_SECURITY__CONTAINERS__{name}": "true" for name in ("DEVICES", "SECURITY_OPT", "SYSCTLS", "HOST_NAMESPACES")
} | {"CLOS_SECURITY__CONTAINERS__CAPABILITIES": "[NET_ADMIN, SYS_TIME]"}
_PROFILES = {"profiles": ("debug",)}


@pytest.fixture(scope="module")
def clos() -> Iterator[Rig]:
    test_image()
    with rig() as made:
        with made.record.write() as session:
            session.add(PortRange(project="development", start_port=9000, end_port=9999))
        made.worker(**_ALLOWED)
        yield made


@dataclass
class Project:
    """One of the files in a folder of its own, whose name is the project's."""

    folder: Path
    profiles: tuple[str, ...]
    external: str

    @property
    def name(self) -> str:
        return self.folder.name

    def write(self, source: Path, subnet: int) -> None:
        shutil.copytree(source, self.folder)
        ports = {f"PORT_{letter}": free_port() for letter in "ABCD"}
        given = ports | {"EXTERNAL": self.external, "SUBNET": f"10.213.{subnet}", "PROJECT": self.name}
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in given.items())

    def theirs(self) -> dict[str, Any]:
        environment = {"COMPOSE_PROFILES": ",".join(self.profiles)}
        compose = RealCompose(self.folder, self.name, environment)
        try:
            return compose.up()
        finally:
            compose.down()


@pytest.fixture
def external() -> Iterator[str]:
    """A network and a volume that neither of the two made."""
    name = f"cmpx{uuid.uuid4().hex[:8]}"
    engine = client()
    network, volume = engine.networks.create(name), engine.volumes.create(name)
    yield name
    network.remove()
    volume.remove(force=True)
    engine.close()


def imported(clos: Rig, project: Project) -> dict[str, Any]:
    """The result of importing it."""
    with clos.record.write() as session:
        made = operations.create(
            session,
            "group.import",
            parameters={"path": str(project.folder), "profiles": list(project.profiles)},
            initiated_by="test",
        )
        import_inputs.keep(session, made.id, None, {})
        operation_id = made.id
    clos.outbox.operation(operation_id, "group.import")
    ended = clos.ended(operation_id, 60)
    assert ended.status == OperationStatus.COMPLETED.value, ended.error
    assert ended.result is not None
    return ended.result


def inspected(clos: Rig, group: str) -> dict[str, Any]:
    """Its containers by service, whatever has become of them."""
    with clos.record.read() as session:
        names = {each.id: each.name for each in session.scalars(select(Service).where(Service.group_name == group))}
    engine = client()
    try:
        found = engine.api.containers(all=True, filters={"label": f"clos.instance={clos.instance_id}"})
        return {
            names[each["Labels"]["clos.service"]]: engine.api.inspect_container(each["Id"])
            for each in found
            if each["Labels"].get("clos.service") in names
        }
    finally:
        engine.close()


def meaning(containers: Mapping[str, Any], project: Project) -> dict[str, str]:
    """What the engine's names of networks and volumes are called in the file, whoever made them."""
    found: dict[str, str] = {}
    for each in containers.values():
        for name in each["NetworkSettings"]["Networks"]:
            short = name.removeprefix("clos-").removeprefix(project.name).lstrip("_-")
            found[name] = short or "default"
        for mount in each.get("Mounts") or ():
            if str(mount.get("Name") or "").startswith(f"{project.name}_"):
                found[mount["Name"]] = mount["Name"].removeprefix(f"{project.name}_")
    return found


def differing(clos: Rig, project: Project) -> dict[str, list[str]]:
    theirs = project.theirs()
    result = imported(clos, project)
    started = clos.ended(clos.ask("start", result["group"]), 90)
    assert started.status == OperationStatus.COMPLETED.value, started.error
    ours = inspected(clos, project.name)
    assert set(ours) == set(theirs)
    built = project.folder.joinpath("app", "Dockerfile").exists()
    our_names, their_names = meaning(ours, project), meaning(theirs, project)
    for each in ours.values():
        for endpoint in each["NetworkSettings"]["Networks"].values():
            # Names differ: where Compose names a container so, CLOS gives it that as an alias.
            endpoint["Aliases"] = [one for one in endpoint["Aliases"] or () if one != f"{project.name}-named"]
    return {
        name: found
        for name in ours
        if (found := differences(Side(ours[name], our_names, built), Side(theirs[name], their_names, built)))
    }


NAMES = sorted(each.name for each in FILES.iterdir() if each.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_what_clos_starts_equals_what_compose_starts(clos: Rig, tmp_path: Path, external: str, name: str) -> None:
    project = Project(tmp_path / f"cmp{uuid.uuid4().hex[:8]}", _PROFILES.get(name, ()), external)
    # Tests beside each other must not want the same subnet.
    project.write(FILES / name, subnet=os.getpid() % 200 + 20)
    found = differing(clos, project)
    stopped = clos.ended(clos.ask("stop", project.name), 60)
    removed = clos.ended(clos.ask("remove", project.name), 60)
    assert (stopped.status, removed.status) == ("completed", "completed")
    assert found == {}, "\n".join(f"{service}: {line}" for service, lines in found.items() for line in lines)


def test_a_file_for_each_part_of_compose_is_there() -> None:
    assert len(NAMES) >= 12
