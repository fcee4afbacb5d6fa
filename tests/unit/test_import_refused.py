"""An import that is refused has changed nothing, and its dry run is refused in the same words. No engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from models import operations, registry_imports
from models.groups import Group
from models.ports import PortClaim
from models.record import Record
from tests.unit.import_kit import Importer, kit_with_ranges
from tests.unit.worker_kit import Kit
from workers import import_reading

TWO = "name: demo\nservices:\n  a:\n    image: x:1\n    ports: ['80']\n  b: {image: 'x:1'}\n"
# What `a` says in its place, where `b` has gone: on which line that stands, and the refusal's code.
DENIED, UNKNOWN, BAD, RING = "policy_denied", "unknown_dependency", "compose_refused", "dependency_cycle"
REFUSED = {
    "privileged": ("    privileged: true\n", "services.a.privileged", 6, DENIED),
    "every capability": ("    cap_add:\n      - ALL\n", "services.a.cap_add[0]", 7, DENIED),
    "a device": ("    devices: ['/dev/kvm']\n", "services.a.devices", 6, DENIED),
    "the host's processes": ("    pid: host\n", "services.a.pid", 6, DENIED),
    "a graphics card, as a swarm names it": (
        "    deploy:\n      resources:\n        reservations:\n          devices: [{capabilities: [gpu]}]\n",
        "services.a.deploy.resources.reservations.devices", 9, DENIED,
    ),
    "a need of what nobody registered": (
        "    x-clos:\n      depends_on: [other/db]\n", "services.a.x-clos.depends_on", 7, UNKNOWN
    ),
    "a policy that there is not": ("    restart: sometimes\n", "services.a.restart", 6, BAD),
    "fewer processes than none, as a swarm names it": (
        "    deploy:\n      resources:\n        limits:\n          pids: -7\n",
        "services.a.deploy.resources.limits.pids", 9, BAD,
    ),
    "fewer processes than none": ("    pids_limit: -7\n", "services.a.pids_limit", 6, BAD),
    "a need of itself": (
        "    x-clos:\n      depends_on: [{service: a}]\n", "services.a.x-clos.depends_on", 7, RING
    ),
    "a need of itself, by its group's name too": (
        "    x-clos:\n      depends_on:\n        - GROUP/a\n", "services.a.x-clos.depends_on", 7, RING
    ),
    "a ring that a key of Compose's begins": (
        "    network_mode: service:c\n  c:\n    image: x\n    x-clos: {depends_on: [a]}\n",
        "services.a.network_mode", 6, RING,
    ),
    "a ring that depends_on begins": (
        "    depends_on: {c: {condition: service_started}}\n  c: {image: x, x-clos: {depends_on: [a]}}\n",
        "services.a.depends_on", 6, RING,
    ),
    "a need of its own group": ("x-clos:\n  dependencies: [GROUP]\n", "x-clos.dependencies", 7, RING),
    "an extension that is no mapping": ("    x-clos: 5\n", "services.a.x-clos", 6, BAD),
    "a reference to what is not there": (
        "    environment:\n      MODE: a\n      URL: '$${url:nobody}'\n", "services.a.environment.URL", 8,
        "validation_failed",
    ),
}  # fmt: skip


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with kit_with_ranges(tmp_path) as made:
        yield made


@pytest.fixture
def demo(kit: Kit, tmp_path: Path) -> Importer:
    """A group of two that was imported and runs."""
    found = Importer(kit, tmp_path / "demo")
    kit.memory._prepared |= {"demo-a", "demo-b"}
    found.imports(TWO)
    assert kit.does("start", "demo").status == "completed"
    return found


def _ports(said: str) -> str:
    """What cannot have ports, being in another one's container, has a line of another kind there."""
    return "    labels: {a: b}\n" if "network_mode" in said else "    ports: ['80']\n"


@pytest.mark.parametrize("what", REFUSED)
def test_one_that_is_refused_has_stopped_nothing_and_its_dry_run_says_the_same(demo: Importer, what: str) -> None:
    said, path, line, code = REFUSED[what]
    demo.write(f"name: demo\nservices:\n  a:\n    image: x:1\n{_ports(said)}{said.replace('GROUP', 'demo')}")

    asked_only, ended = demo.does(dry_run=True), demo.does()

    assert (asked_only.status, ended.status) == ("failed", "failed")
    assert asked_only.error == ended.error
    error = ended.error or {}
    assert (error["code"], error["problems"][0]["path"]) == (code, path)
    assert error["message"].startswith(f"{demo.folder}/compose.yaml:{line}: {path}: ")
    assert list(ended.steps) == []
    assert {name: demo.kit.memory.observe()[f"demo-{name}"].alive for name in "ab"} == {"a": True, "b": True}
    assert (demo.service("b").desired, demo.service("b").status) == ("running", "running")


@pytest.mark.parametrize("what", REFUSED)
def test_a_new_group_that_would_be_refused_is_refused_by_its_dry_run(demo: Importer, what: str) -> None:
    said, path, line, code = REFUSED[what]
    demo.write(f"name: new\nservices:\n  a:\n    image: x:1\n{_ports(said)}{said.replace('GROUP', 'new')}")

    error = demo.does(dry_run=True).error or {}

    assert (error["code"], error["problems"][0]["path"], error["problems"][0]["line"]) == (code, path, line)


def test_what_cannot_be_changed_while_it_runs_is_refused_on_the_line_of_x_clos(demo: Importer) -> None:
    demo.write("name: demo\nservices:\n  a:\n    command: x\n    x-clos:\n      runtime: process\n")

    error = demo.does().error or {}

    assert error["code"] == "validation_failed"
    assert error["message"] == (
        f"{demo.folder}/compose.yaml:6: services.a.x-clos.runtime: It has an instance: stop and remove that first."
    )
    assert demo.service("b").status == "running"


def test_all_that_the_policy_forbids_names_its_line_and_the_key_that_allows_it(demo: Importer) -> None:
    demo.write("name: demo\nservices:\n  a:\n    image: x\n    privileged: true\n  b:\n    image: x\n    ipc: host\n")

    error = demo.does(dry_run=True).error or {}

    told = {each["path"]: (each["line"], each["reason"].rpartition(" ")[2]) for each in error["problems"]}
    assert told == {
        "services.a.privileged": (5, "(security.containers.privileged)"),
        "services.b.ipc": (8, "(security.containers.host_namespaces)"),
    }
    assert error["message"].endswith("(and 1 more)")
    assert "security.containers.privileged; security.containers.host_namespaces" in error["hint"]


def test_a_dry_run_leases_no_port_and_keeps_no_lock(demo: Importer) -> None:
    with demo.kit.record.read() as session:
        before = session.scalar(select(func.count()).select_from(PortClaim))
    demo.write(TWO.replace("demo", "new").replace("'80'", "'80', '81', '82'"))

    assert demo.does(dry_run=True).status == "completed"

    with demo.kit.record.read() as session:
        assert session.scalar(select(func.count()).select_from(PortClaim)) == before
        assert session.get(Group, "new") is None
    assert demo.kit.locks() == []


def test_a_dry_run_of_a_group_under_work_is_answered(demo: Importer) -> None:
    with demo.kit.record.write() as session:
        held = registry_imports.targets(session, "demo")
        operations.create(session, "group.stop", targets=held, group_name="demo")
    demo.write(TWO.replace("  b: {image: 'x:1'}\n", ""))

    ended = demo.does(dry_run=True)

    assert (ended.status, (ended.result or {})["diff"]["removed"]) == ("completed", ["b"])


def test_a_database_that_is_busy_for_a_moment_costs_an_import_neither_its_text_nor_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "busy").mkdir()
    kit = Kit(tmp_path / "busy", timeout_s=0.1)
    stranger = Record(f"sqlite:///{kit.path}")
    elsewhere = stranger.engine.execution_options(clos_write=True).connect()
    read = import_reading.read

    def and_somebody_writes(*words):
        elsewhere.begin()
        return read(*words)

    found = Importer(kit, tmp_path / "demo")
    operation_id = found.ask(content="name: demo\nservices: {a: {image: '${IMAGE}'}}\n", variables={"IMAGE": "x:1"})
    with monkeypatch.context() as patch:
        patch.setattr(import_reading, "read", and_somebody_writes)
        assert found.works(operation_id).status == "in_progress"
    elsewhere.rollback()
    kit.change(operation_id, heartbeat_at=None)

    ended = found.works(operation_id)

    assert (ended.status, ended.error, found.service("a").image) == ("completed", None, "x:1")
    elsewhere.close()
    stranger.close()
    kit.close()
