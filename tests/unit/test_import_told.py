"""What an import says of a text, which has no folder, and of a range that is too small for what it needs. No engine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import leases, registry_imports
from models.ports import PortRange
from tests.unit.import_kit import Importer, kit_with_ranges
from tests.unit.worker_kit import Kit

NAMED = "name: demo\n"
# Texts, and how what is said of each begins: nothing, of those that are taken.
TEXTS = {
    "nothing wrong": ("services: {a: {image: 'x:1'}}\n", ""),
    "a key unknown to Compose": ("services: {a: {image: x, prots: ['80']}}\n", "compose.yaml:2: services.a.prots: "),
    "a value that Compose refuses": (
        "services:\n  a:\n    image: x\n    ipc:\n", "compose.yaml:5: validating compose.yaml: services.a.ipc must be "
    ),
    "a service that is not there": (
        "services:\n  a: {image: x, extends: {service: zz}}\n",
        'compose.yaml:3: cannot extend service "a" in compose.yaml: ',
    ),
    "a file that is not there": (
        "services: {a: {image: x, extends: {service: b, file: more.yaml}}}\n", "./more.yaml: it cannot be read"
    ),
    "a file of variables that is not there": (
        "services: {a: {image: x, env_file: x.env}}\n",
        "compose.yaml:2: services.a.env_file: env file ./x.env not found: ",
    ),
    "a file elsewhere": (
        "services: {a: {image: x, env_file: /etc/hostname}}\n",
        "compose.yaml:2: services.a.env_file[0]: /etc/hostname lies outside of the text's folder (",
    ),
    "a mount of a folder that it has not": (
        "services: {a: {image: x, volumes: ['./d:/d']}}\n",
        "compose.yaml:2: services.a.volumes[0]: ./d is outside of the allowed folders (",
    ),
    "what the policy forbids": ("services: {a: {image: x, pid: host}}\n", "compose.yaml:2: services.a.pid: "),
    "what the record refuses": (
        "services: {a: {image: x, environment: {U: '$${url:no}'}}}\n", "compose.yaml:2: services.a.environment.U: "
    ),
    "no mapping": ("- a\n", "compose.yaml:"),
}  # fmt: skip


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with kit_with_ranges(tmp_path) as made:
        yield made


@pytest.fixture
def demo(kit: Kit, tmp_path: Path) -> Importer:
    return Importer(kit, tmp_path / "demo")


@pytest.mark.parametrize("what", TEXTS)
def test_a_text_is_told_of_as_compose_yaml_and_two_runs_give_equal_answers(demo: Importer, what: str) -> None:
    text, said = TEXTS[what]

    asked_only, ended = demo.does(content=NAMED + text, dry_run=True), demo.does(content=NAMED + text)

    assert (asked_only.status, asked_only.error, asked_only.result) == (ended.status, ended.error, ended.result)
    assert "clos-import" not in json.dumps([ended.error, ended.result])
    assert (ended.error or {"message": ""})["message"].startswith(said)
    assert (ended.status, (ended.result or {}).get("files")) == (
        ("failed", None) if said else ("completed", ["compose.yaml"])
    )
    assert {each["file"] for each in (ended.error or {}).get("problems", ())} <= {"compose.yaml", "./more.yaml"}


def test_the_problems_of_a_text_with_a_folder_name_compose_yaml_and_that_folder(demo: Importer) -> None:
    text = f"{NAMED}services:\n  a: {{image: x, env_file: ../x.env}}\n"

    error = demo.does(content=text, directory=str(demo.folder)).error or {}

    assert (error["problems"][0]["file"], error["problems"][0]["line"]) == ("compose.yaml", 3)
    assert f"{demo.folder.parent}/x.env lies outside of {demo.folder} (" in error["message"]


def test_compose_s_warnings_about_a_text_name_no_folder_of_ours(demo: Importer) -> None:
    result = demo.imports(content=f"version: '3'\n{NAMED}services: {{a: {{image: 'x:1'}}}}\n")

    assert ["compose.yaml: " in each for each in result["warnings"] if "version" in each] == [True]
    assert "clos-import" not in json.dumps(result)


def test_a_text_that_nobody_has_named_is_refused_rather_than_called_after_a_folder_of_ours(demo: Importer) -> None:
    text = "services: {a: {image: 'x:1'}}\n"
    refused = demo.does(content=text)

    assert (refused.status, (refused.error or {})["code"]) == ("failed", "compose_refused")
    assert (refused.error or {})["problems"][0]["path"] == "name"
    assert demo.imports(content=text, name="demo")["group"] == "demo"
    assert demo.imports(content=text, directory=str(demo.folder))["group"] == demo.folder.name


def test_a_text_without_a_folder_can_be_read_again_with_what_its_group_remembers(demo: Importer) -> None:
    text = f"{NAMED}services: {{a: {{image: 'x:1'}}}}\n"
    demo.imports(content=text)

    with demo.kit.record.read() as session:
        remembered = registry_imports.remembered(session, "demo")
    again = {key: remembered[key] for key in ("path", "directory") if remembered[key]}

    assert (remembered["content"], again) == (True, {})
    assert not any(demo.imports(content=text, name="demo", **again)["diff"].values())


def _of(services: int, ports: str = "['80', '81', '82', '83']") -> str:
    return NAMED + "services:\n" + "".join(f"  s{n}:\n    image: x\n    ports: {ports}\n" for n in range(services))


def test_ports_that_no_range_has_are_the_import_s_need_and_no_holder_s_doing(demo: Importer) -> None:
    demo.write(_of(26))

    asked_only, ended = demo.does(dry_run=True), demo.does()

    error = ended.error or {}
    assert asked_only.error == error
    said = "the import needs 104 tcp ports, and project 'development' has 100 (9000-9099): no other has any of them"
    place = {"path": "services.s25.ports", "file": f"{demo.folder}/compose.yaml", "line": 80}
    assert (error["code"], error["problems"]) == ("port_held", [place | {"reason": said}])
    assert error["message"] == f"{demo.folder}/compose.yaml:80: services.s25.ports: {said}"
    assert (error["needed"], error["leased"], error["holders"]) == (104, 0, [])


def test_a_range_that_others_have_the_rest_of_names_them_alone(demo: Importer) -> None:
    demo.imports(_of(2))
    with demo.kit.record.write() as session:
        for _ in range(90):
            leases.lease(session, "development")
    demo.write(_of(3) + "  fixed: {image: x, ports: ['9098:80']}\n")

    error = demo.does().error or {}

    assert error["problems"][0]["path"] == "services.s2.ports"
    assert error["problems"][0]["reason"].startswith(
        "the import needs 12 tcp ports beside 1 that it fixes, and project 'development' has 100 (9000-9099): "
        "90 leased by project development (9008, 9009, 9010, 9011, 9012 …)"
    )
    assert "demo-s" not in json.dumps(error)
    assert demo.service("s1").port == 9004


def test_a_range_that_admits_too_few_services_says_so(demo: Importer) -> None:
    with demo.kit.record.write() as session:
        for each in session.query(PortRange).filter_by(project="development"):
            each.max_services = 2
    demo.write(_of(3, "['80']"))

    error = demo.does().error or {}

    assert error["problems"][0]["path"] == "services.s2.ports"
    assert error["message"].endswith("no other has any of them; 9000-9099 admits 2 services")


def test_a_project_without_a_range_is_refused_at_the_ports_that_want_one(demo: Importer) -> None:
    demo.write(
        NAMED + "x-clos: {project: none}\nservices:\n  a:\n    image: x\n    x-clos:\n      ports: [{name: a}]\n"
    )

    error = demo.does().error or {}

    assert [(each["path"], each["line"]) for each in error["problems"]] == [("services.a.x-clos.ports", 7)]
    assert error["message"].endswith("services.a.x-clos.ports: project 'none' has no port range")
