"""Importing a Compose project into the record: new, again, with changes by hand, and what is refused. No engine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api.v2 import group_answers
from domain.container_policy import ContainerPolicy
from models import groups, operations, registry, registry_groups, registry_imports, registry_views
from models.groups import Group
from models.import_inputs import ImportInput
from models.services import Service
from tests.unit.import_kit import Importer, kit_with_ranges
from tests.unit.worker_kit import Kit

TEXT = """
name: demo
services:
  web:
    image: web:1
    environment: {MODE: a, KEPT: k}
    ports: ["8080:80", "90"]
    depends_on: [db]
  db:
    image: db:1
    volumes: ["data:/data"]
volumes:
  data: {}
"""


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with kit_with_ranges(tmp_path) as made:
        yield made


@pytest.fixture
def demo(kit: Kit, tmp_path: Path) -> Importer:
    return Importer(kit, tmp_path / "demo")


def changed(result: dict[str, Any]) -> dict[tuple[str | None, str], tuple[str, str]]:
    return {(each["service"], each["field"]): (each["by"], each["taken"]) for each in result["diff"]["changed"]}


def test_a_project_becomes_a_group_with_its_services(demo: Importer) -> None:
    result = demo.imports(TEXT)
    assert (result["group"], sorted(result["services"])) == ("demo", ["db", "web"])
    assert result["diff"]["added"] == ["db", "web"]
    web = demo.service("web")
    assert (web.port_requests()[0].host_port, web.port_requests()[0].container_port) == (8080, 80)
    assert web.port_requests()[1].host_port is not None  # leased
    assert [each.depends_on for each in web.dependencies] == ["demo-db"]
    assert demo.kit.locks() == []


def test_a_dry_run_says_what_it_would_do_and_does_nothing(demo: Importer) -> None:
    result = demo.imports(TEXT, dry_run=True)
    assert result["diff"]["added"] == ["db", "web"]
    with demo.kit.record.read() as session:
        assert session.get(Group, "demo") is None


def test_reading_the_same_file_again_changes_nothing(demo: Importer) -> None:
    demo.imports(TEXT)
    before = demo.service("web")
    result = demo.imports()
    assert result["diff"] == {"added": [], "removed": [], "added_again": [], "changed": []}
    after = demo.service("web")
    assert (after.spec_version, after.port_requests()) == (before.spec_version, before.port_requests())


def test_what_the_file_changes_is_taken_and_leases_stay(demo: Importer) -> None:
    demo.imports(TEXT)
    leased = demo.service("web").port_requests()[1].host_port
    text = TEXT.replace("web:1", "web:2").replace('"90"]', '"90", "91"]')
    result = demo.imports(text)
    assert changed(result) == {("web", "image"): ("file", "file"), ("web", "ports"): ("file", "file")}
    web = demo.service("web")
    assert (web.image, web.port_requests()[1].host_port, len(web.port_requests())) == ("web:2", leased, 3)


def test_what_was_changed_by_hand_stays_unless_the_file_changed_it_too(demo: Importer) -> None:
    demo.imports(TEXT)
    with demo.kit.record.write() as session:
        web = registry.get(session, "demo-web")
        registry.change_service(session, web, {"image": "web:mine", "cpu_limit": 2.0})
    kept = demo.imports()
    assert changed(kept) == {("web", "image"): ("hand", "record"), ("web", "cpu_limit"): ("hand", "record")}
    assert demo.service("web").image == "web:mine"
    result = demo.imports(TEXT.replace("web:1", "web:2"))
    assert changed(result) == {("web", "image"): ("both", "file"), ("web", "cpu_limit"): ("hand", "record")}
    web = demo.service("web")
    assert (web.image, web.cpu_limit) == ("web:2", 2.0)


def test_a_service_that_the_file_no_longer_has_is_stopped_removed_and_forgotten(demo: Importer) -> None:
    demo.imports(TEXT + "  \n".join([""]))
    demo.kit.does("start", "demo")
    assert demo.service("web").status == "running"
    text = TEXT.replace(
        '  web:\n    image: web:1\n    environment: {MODE: a, KEPT: k}\n    ports: ["8080:80", "90"]\n'
        "    depends_on: [db]\n", "",
    )  # fmt: skip
    demo.write(text)
    ended = demo.does()
    assert (ended.status, (ended.result or {})["diff"]["removed"]) == ("completed", ["web"])
    assert {step.id for step in ended.steps} >= {"stop:demo-web", "remove:demo-web"}
    with demo.kit.record.read() as session:
        assert session.scalars(select(Service.id)).all() == ["demo-db"]
    assert "demo-web" not in demo.kit.memory.observe()


def test_what_a_dropped_service_left_goes_although_its_container_was_removed_by_hand(demo: Importer) -> None:
    demo.imports("name: demo\nservices:\n  db: {image: 'db:1'}\n  web: {image: 'web:1'}\n")
    demo.write("name: demo\nservices:\n  db: {image: 'db:1'}\n")
    ended = demo.does()
    assert (ended.status, list(ended.steps)) == ("completed", [])
    assert ("remove", "demo-web") in demo.kit.memory.calls  # a runtime takes its networks away with it


def test_one_that_others_need_is_not_taken_away(demo: Importer) -> None:
    demo.imports(TEXT)
    demo.kit.does("start", "demo")
    with demo.kit.record.write() as session:
        registry_groups.create_group(
            session,
            {"name": "other", "services": [{"name": "a", "image": "x", "depends_on": [{"service": "demo/web"}]}]},
        )
    demo.write("name: demo\nservices:\n  db: {image: 'db:1', volumes: ['data:/data']}\nvolumes: {data: {}}\n")
    ended = demo.does()
    assert (ended.status, (ended.error or {})["code"]) == ("failed", "service_required")
    assert demo.service("web").status == "running"
    assert (list(ended.steps), demo.kit.memory.observe()["demo-web"].alive) == ([], True)


def test_a_new_service_may_be_needed_by_an_old_one(demo: Importer) -> None:
    demo.imports(TEXT)
    text = TEXT.replace("depends_on: [db]", "depends_on: [db, cache]").replace(
        "volumes:\n  data: {}", "  cache: {image: 'cache:1'}\nvolumes:\n  data: {}"
    )
    assert demo.imports(text)["diff"]["added"] == ["cache"]
    assert sorted(each.depends_on for each in demo.service("web").dependencies) == ["demo-cache", "demo-db"]


def test_one_that_was_deleted_by_hand_comes_back_and_that_is_said(demo: Importer) -> None:
    demo.imports(TEXT)
    with demo.kit.record.write() as session:
        registry.delete_service(session, "demo-web")
    assert demo.imports()["diff"]["added_again"] == ["web"]
    assert demo.service("web").image == "web:1"


def test_a_health_check_that_goes_leaves_nothing_behind(demo: Importer) -> None:
    check = "    healthcheck: {test: [CMD, 'true'], interval: 3s}\n"
    with_check = TEXT.replace("    image: db:1\n", f"    image: db:1\n{check}")
    demo.imports(with_check)
    assert demo.service("db").health_check() is not None
    demo.imports(TEXT)
    assert demo.service("db").health_check() is None
    assert demo.service("db").container is None or demo.service("db").container == {}


def test_a_bad_file_writes_nothing_and_names_the_line(demo: Importer) -> None:
    demo.write(TEXT.replace("ports:", "prots:"))
    ended = demo.does()
    error = ended.error or {}
    assert (ended.status, error["code"]) == ("failed", "compose_refused")
    assert error["problems"][0] == {
        "path": "services.web.prots", "reason": "unknown key; did you mean 'ports'?",
        "file": str(demo.folder / "compose.yaml"), "line": 7,
    }  # fmt: skip


def test_what_is_not_carried_out_can_be_left_out_and_is_listed(demo: Importer) -> None:
    demo.write(TEXT.replace("    image: db:1\n", "    image: db:1\n    deploy: {replicas: 2}\n"))
    ended = demo.does()
    problem = (ended.error or {})["problems"][0]
    assert (problem["path"], problem["line"]) == ("services.db.deploy.replicas", 11)
    assert "--leave-out" in (ended.error or {})["hint"]
    result = demo.imports(on_unsupported="leave_out")
    assert result["left_out"]["unsupported"][0]["path"] == "services.db.deploy.replicas"


def test_a_value_that_means_nothing_can_be_left_out_like_what_is_not_carried_out(demo: Importer) -> None:
    wrong = "    restart: sometimes\n    stop_grace_period: -5s\n    x-clos: {depends_on: 5, tags: [kept]}\n"
    demo.write(TEXT.replace("    image: db:1\n", f"    image: db:1\n{wrong}"))
    result = demo.imports(on_unsupported="leave_out")
    left_out = {each["path"]: each["line"] for each in result["left_out"]["unsupported"]}
    assert left_out == {
        "services.db.restart": 11, "services.db.stop_grace_period": 12, "services.db.x-clos.depends_on": 13,
    }  # fmt: skip
    db = demo.service("db")
    assert (db.restart_policy, db.stop_timeout, [row.tag for row in db.tags]) == ("no", 10.0, ["kept"])


def test_all_that_the_policy_forbids_comes_in_one_answer(demo: Importer) -> None:
    text = "name: demo\nservices:\n  a: {image: x, privileged: true, pid: host}\n  b: {image: x, ipc: host}\n"
    own = {"services.a.privileged", "services.a.pid", "services.b.ipc"}
    demo.write(text)
    error = demo.does().error or {}
    assert error["code"] == "policy_denied"
    assert {each["path"].replace("container.", "") for each in error["violations"]} == own

    demo.write(text.replace("ipc: host", "ipc: host, scale: 2"))
    error = demo.does().error or {}
    assert error["code"] == "compose_refused"
    assert {each["path"] for each in error["problems"]} == own | {"services.b.scale"}


def test_a_group_that_was_not_imported_is_not_written_over(demo: Importer) -> None:
    demo.kit.group("demo")
    demo.write(TEXT)
    assert (demo.does().error or {})["code"] == "group_exists"
    assert demo.imports(name="other")["group"] == "other"


def test_a_fixed_port_of_another_group_is_warned_of_by_name_and_a_leased_one_is_not_shared(demo: Importer) -> None:
    demo.imports(TEXT)
    result = demo.imports(name="beside", dry_run=True)
    shared = [each for each in result["warnings"] if "as well" in each]
    assert len(shared) == 1
    assert "services.web.ports: 8080/tcp is a port of demo-web as well" in shared[0]
    assert [each for each in demo.imports(name="beside")["warnings"] if "as well" in each] == shared
    ports = [
        {port.container_port: port.port for port in demo.service("web", each).claims} for each in ("demo", "beside")
    ]
    assert ports[0][80] == ports[1][80] == 8080
    assert ports[0][90] != ports[1][90]
    # It is not a neighbour of its own.
    assert not [each for each in demo.imports(TEXT.replace("8080", "8081"))["warnings"] if "as well" in each]


def test_an_export_of_open_ports_is_the_same_when_it_is_imported_again(demo: Importer) -> None:
    text = """
name: demo
services:
  s: {image: "x:1", ports: ["80", "8080:81"]}
  task:
    command: [python, task.py]
    x-clos: {runtime: process, ports: [{name: http}]}
  hosted:
    image: x:1
    network_mode: host
    x-clos: {ports: [{name: http}]}
"""
    demo.kit.context = replace(demo.kit.context, policy=ContainerPolicy(host_network=True))
    demo.imports(text)
    with demo.kit.record.read() as session:
        views = registry_views.of_group(session, "demo")
        group = groups.get(session, "demo")
        exported = group_answers.export_compose(group_answers.export(group, views), views)["compose"]
    again = demo.imports(exported)
    assert {name: found for name, found in again["diff"].items() if found} == {}
    assert [each.left_open for each in demo.service("s").claims] == [True, False]
    # Beside the original, only what is fixed is the same.
    demo.imports(exported.replace("name: demo", "name: copy", 1))
    for name, place in (("s", 0), ("task", 0), ("hosted", 0)):
        was, now = (demo.service(name, each).claims[place] for each in ("demo", "copy"))
        assert None not in (was.port, now.port)
        assert was.port != now.port
        assert name != "hosted" or now.container_port == now.port


def test_another_name_has_volumes_of_its_own(demo: Importer) -> None:
    demo.imports(TEXT)
    demo.imports(TEXT.replace("8080:80", "8081:80"), name="second")
    with demo.kit.record.read() as session:
        names = {group.name: (group.volumes or {})["data"]["name"] for group in session.scalars(select(Group))}
    assert names == {"demo": "demo_data", "second": "second_data"}


def test_a_group_under_work_is_left_alone(demo: Importer) -> None:
    demo.imports(TEXT)
    with demo.kit.record.write() as session:
        operations.create(session, "group.stop", targets=registry_imports.targets(session, "demo"), group_name="demo")
    assert (demo.does().error or {})["code"] == "operation_in_progress"


def test_what_a_request_holds_in_private_is_gone_when_it_ends(demo: Importer) -> None:
    service = "image: a:1, environment: {T: '${TOKEN:?}'}, x-clos: {secrets: [T]}"
    text = f"name: inline\nservices:\n  a: {{{service}}}\n"
    ended = demo.does(content=text, variables={"TOKEN": "canary-1234"})
    assert ended.status == "completed", ended.error
    with demo.kit.record.read() as session:
        assert session.scalars(select(ImportInput)).all() == []
        group = session.get(Group, "inline")
        assert group is not None
        shown = f"{ended.parameters}{ended.result}{ended.error}{group.compose}"
    assert "canary-1234" not in shown
    assert not any("canary-1234" in str(event) for event in demo.kit.events())
    environment = demo.service("a", "inline").environment
    assert {row.key: (row.value, row.secret) for row in environment} == {"T": ("canary-1234", True)}
    failed = demo.does(content="services: {a: {imge: x}}", variables={"TOKEN": "canary-1234"})
    assert failed.status == "failed"
    with demo.kit.record.read() as session:
        assert session.scalars(select(ImportInput)).all() == []


def test_a_secret_without_a_value_in_the_file_keeps_the_one_that_it_has(demo: Importer) -> None:
    text = "name: demo\nservices:\n  a:\n    image: a:1\n    environment: {T: one}\n    x-clos: {secrets: [T]}\n"
    demo.imports(text)
    result = demo.imports(text.replace("    environment: {T: one}\n", ""))
    assert result["diff"]["changed"] == []
    assert {row.key: row.value for row in demo.service("a").environment} == {"T": "one"}
    demo.imports("name: demo\nservices:\n  a:\n    image: a:1\n")
    assert demo.service("a").environment == []


def test_the_file_is_never_written(demo: Importer) -> None:
    demo.imports(TEXT)
    demo.imports(TEXT.replace("web:1", "web:2"))
    assert [each.name for each in demo.folder.iterdir()] == ["compose.yaml"]
    assert (demo.folder / "compose.yaml").read_text(encoding="utf-8") == TEXT.replace("web:1", "web:2")


def test_processes_stand_in_a_file_beside_containers(demo: Importer) -> None:
    text = """
name: demo
x-clos: {project: apis, start_order: 2}
services:
  api:
    command: [sleep, '60']
    depends_on: [db]
    environment: {URL: '$${url:db}'}
    x-clos: {runtime: process, ports: [{name: http}], tags: [edge]}
  db: {image: 'db:1', ports: ['5432']}
"""
    demo.imports(text)
    api = demo.service("api")
    assert (api.runtime, api.image, api.command) == ("process", None, ["sleep", "60"])
    assert 4000 <= (api.port_requests()[0].host_port or 0) <= 4999
    assert {row.key: row.value for row in api.environment} == {"URL": "${url:db}"}
