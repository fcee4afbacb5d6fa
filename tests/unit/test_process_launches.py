import json
from dataclasses import asdict, replace

import pytest

from domain.specs import CheckType, Condition, Dependency, HealthCheck, PortRequest, RuntimeKind, ServiceSpec
from workers.runtimes.process_launches import Launches
from workers.runtimes.process_state import Identity, StateFolder

FULL = ServiceSpec(
    id="shop-web",
    name="web",
    group="shop",
    runtime=RuntimeKind.PROCESS,
    command=("python", "web.py"),
    working_dir="/tmp",
    environment={"TOKEN": "s3cret"},
    ports=(PortRequest("http", host_port=8000), PortRequest("admin", host_port=8001, protocol="udp")),
    depends_on=(Dependency("shop-db", Condition.HEALTHY, required=False),),
    health_check=HealthCheck(CheckType.EXEC, test=("true", "x")),
    joins=(("other", "net"),),
    extra_hosts=("a:1.2.3.4",),
    references={"${port:db}": "5432"},
)
IDENTITY = Identity("shop-web", "aa", FULL.hash(), "boot", "2026-11-27T09:00:00+00:00", 17, 4711)


@pytest.fixture
def launches(tmp_path):
    state = StateFolder(tmp_path)
    state.of("shop-web").mkdir(mode=0o700)
    return Launches(state)


def test_what_was_launched_is_read_as_it_was_written(launches):
    launches.keep(IDENTITY, FULL)

    assert launches.of(IDENTITY) == FULL
    assert launches.of(IDENTITY).hash() == FULL.hash()


def test_what_is_remembered_outlives_later_launches(launches):
    later = replace(IDENTITY, launch="bb", pid=18)
    launches.keep(IDENTITY, FULL)
    launches.remember(IDENTITY)
    launches.keep(later, replace(FULL, command=("other",)))
    launches.clear(later)

    assert launches.of(IDENTITY) is None
    assert launches.remembered("shop-web").ref == "17:4711"
    assert launches.remembered("shop-web").spec == FULL

    launches.forget("shop-web")
    assert launches.remembered("shop-web") is None


def test_its_files_are_their_owners_alone(launches, tmp_path):
    launches.keep(IDENTITY, FULL)
    launches.remember(IDENTITY)

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "shop-web").iterdir()}
    assert modes == {"launch.aa": 0o600, "previous.json": 0o600}


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"spec": 3}', '{"ref": "1:1", "spec": {"id": "x"}}'])
def test_what_cannot_be_read_is_not_known(launches, tmp_path, broken):
    (tmp_path / "shop-web" / "previous.json").write_text(broken)

    assert launches.remembered("shop-web") is None


def test_a_field_of_a_later_version_is_not_guessed_at(launches, tmp_path):
    kept = {"ref": "1:1", "spec": asdict(FULL) | {"levitates": True}}
    (tmp_path / "shop-web" / "previous.json").write_text(json.dumps(kept, default=dict))

    assert launches.remembered("shop-web") is None
