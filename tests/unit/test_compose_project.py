"""Reading a Compose project: what is refused, on which line, and how soon. The real Compose runs."""

import os
import time
from pathlib import Path

import pytest

from domain.bind_policy import BindPolicy
from domain.compose.problems import ComposeRefused
from domain.container_policy import ContainerPolicy
from domain.errors import TimedOut
from workers.runtimes import compose, compose_project, compose_yaml
from workers.runtimes.compose_place import Wish
from workers.runtimes.compose_project import Project

_SOON_S = 1.0


def write(folder: Path, text: str, name: str = "compose.yaml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def read(path: Path, **more: object) -> Project:
    return compose_project.read(Wish(path=path, **more))  # type: ignore[arg-type]


def refusal(path: Path, **more: object) -> ComposeRefused:
    with pytest.raises(ComposeRefused) as refused:
        read(path, **more)
    return refused.value


def bomb(levels: int, width: int) -> str:
    lines = ["x-0: &a0 [x" + ",x" * (width - 1) + "]"]
    lines += [f"x-{i}: &a{i} [{','.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\nservices:\n  a:\n    image: x\n"


def deep(levels: int) -> str:
    return "services:\n  a:\n    image: x\n    x-deep: " + "[" * levels + "]" * levels + "\n"


BAD = {
    "many aliases": (bomb(2, 60), 2, "more than 50 aliases"),
    "few aliases that stand for much": (bomb(11, 5), 6, "20000 values"),
    "an alias inside of what it means": ("services:\n  a:\n    image: x\n    x-a: &a [*a]\n", 4, "inside of what it"),
    "an alias of nothing": ("services:\n  a: *b\n", 2, "*b refers to nothing"),
    "nested too deep": (deep(40), 4, "deeper than 20"),
    "nested very deep": (deep(50_000), 4, "deeper than 20"),
    "many values": ("services:\n  a:\n    image: x\nx-b:\n" + "  - 1\n" * 25_000, None, "20000 values"),
    "a key twice": ("services:\n  a:\n    image: x\n    image: y\n", 4, "'image' is given twice"),
    "no YAML": ("services:\n  a: {image: x\n", 3, "not valid YAML"),
    "two documents": ("services:\n  a: {image: x}\n---\nb: 1\n", 3, "second document"),
    "a tag of Python's": ("services:\n  a: !!python/object:os.system {}\n", 2, None),
    "a list": ("- a\n", 1, "not a mapping"),
    "an unknown key": ("services:\n  a:\n    image: x\n    prots: ['80:80']\n", 4, "did you mean 'ports'?"),
    "an unknown key of the project": ("servces:\n  a: {image: x}\n", 1, "did you mean 'services'?"),
    "an unknown key deep inside": (
        "services:\n  a:\n    image: x\n    healthcheck:\n      test: [CMD, a]\n      intervall: 3s\n", 6,
        "did you mean 'interval'?",
    ),
    "an include of a URL": ("include:\n  - https://example.com/a.git\nservices: {}\n", 2, "another machine"),
    "an include from a registry": ("include:\n  - oci://example.com/a\nservices: {}\n", 2, "another machine"),
    "an include from a repository": ("include:\n  - path: git@example.com:a/b\nservices: {}\n", 2, "another machine"),
    "an include with a variable": ("include: ['${X}/a.yaml']\nservices: {}\n", 1, "write the path out"),
    "an include outside": ("include: [../other.yaml]\nservices: {}\n", 1, "lies outside"),
    "an extends outside": (
        "services:\n  a:\n    extends: {file: /etc/hosts, service: b}\n", 3, "lies outside"
    ),
    "an extends of a URL": (
        "services:\n  a:\n    extends: {file: 'https://example.com/a.yaml', service: b}\n", 3, "another machine"
    ),
    "an env_file outside": ("services:\n  a:\n    image: x\n    env_file:\n      - /etc/passwd\n", 5, "lies outside"),
    "an env_file above": ("services:\n  a:\n    image: x\n    env_file: ../secret.env\n", 4, "lies outside"),
    "a secret outside": (
        "services:\n  a: {image: x, secrets: [s]}\nsecrets:\n  s:\n    file: /etc/shadow\n", 5, "lies outside"
    ),
    "a build outside": ("services:\n  a:\n    build:\n      context: /etc\n", 4, "lies outside"),
    "a mount outside": ("services:\n  a:\n    image: x\n    volumes:\n      - /etc:/x\n", 5, "lies outside"),
    "a mount of a volume's options": (
        "services:\n  a: {image: x, volumes: ['vv:/v']}\n"
        "volumes:\n  vv:\n    driver_opts: {type: none, o: bind, device: /etc}\n", 5, "lies outside",
    ),
    "a home that nobody has": ("services:\n  a:\n    image: x\n    volumes: ['~/x:/x']\n", None, "give HOME"),
    "a service that there is not": ("services:\n  a:\n    image: x\n    depends_on: [b]\n", 2, "undefined service"),
    "a cycle": (
        "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [a]}\n", 2, "cycle"
    ),
    "a cycle of one": ("services:\n  a:\n    image: x\n    depends_on: [a]\n", 4, "a -> a"),
    "a range of every port": ("services:\n  a:\n    image: x\n    ports:\n      - 1-65535\n", 4, "65535 ports"),
    "ranges of two addresses": (
        "services:\n  a:\n    image: x\n    ports: ['127.0.0.1:1-600:1-600', '[::1]:1-600:1-600/udp']\n", 4,
        "1200 ports",
    ),
    "a range from a variable": ("services:\n  a:\n    image: x\n    ports: ['${LOW:-1}-2000']\n", 4, "2000 ports"),
    "a port that is none": (
        "services:\n  a:\n    image: x\n    ports:\n      - 80\n      - 99999:80\n", 6, "services.a.ports[1]: invalid"
    ),
    "a port inside that is none": (
        "services:\n  a: {image: x}\n  b:\n    image: x\n    ports: [70000]\n", 5, "services.b.ports[0]: invalid"
    ),
    "a range that runs backwards": ("services:\n  a:\n    image: x\n    ports: ['9-8:80']\n", 4, "9-8"),
    "a port that says nothing": ("services:\n  a:\n    image: x\n    ports: ['']\n", 4, "services.a.ports[0]: no port"),
    "an address that is none": (
        "services:\n  a:\n    image: x\n    ports: ['1.2.3.400:80:80']\n", 4, "services.a.ports[0]: invalid IP"
    ),
    "a file of variables that is not there": (
        "services:\n  a:\n    image: x\n    env_file:\n      - ./no.env\n", 5, "services.a.env_file[0]: env file"
    ),
    "a file of labels that is not there": (
        "services:\n  a:\n    image: x\n    label_file: no.labels\n", 4, "services.a.label_file: label file"
    ),
    "a file of variables without a name": (
        "services:\n  a:\n    image: x\n    env_file: ''\n", 4, "services.a.env_file[0]: it names no file"
    ),
    "what Compose itself breaks on": ("services:\n  a:\n    image: x\n    pid:\n", None, "give every key a value"),
    "a duration that is none": (
        "services:\n  a:\n    image: x\n    healthcheck:\n      test: [CMD, a]\n      interval: abc\n", 6, "abc"
    ),
    "networks that are no mapping": ("services:\n  a: {image: x}\nnetworks: []\n", 3, "must be a mapping"),
    "an include that is no list": ("services:\n  a: {image: x}\ninclude: 5\n", 3, "must be a list"),
    "a name that is no text": ("services:\n  a: {image: x}\nname: 5\n", 3, "must be a string"),
    "a model that is no mapping": ("services:\n  a: {image: x}\nmodels:\n  m: 5\n", 4, "must be a mapping"),
    "an extends that names nothing": ("services:\n  a:\n    image: x\n    extends: {}\n", 4, "is required"),
    "services that are no mapping": ("name: demo\nservices: 5\n", 2, "must be a mapping"),
    "a variable that must be set": ("services:\n  a:\n    image: 'x:${TAG:?say which}'\n", 3, "say which"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_at_once_and_its_line_is_named(what: str, tmp_path: Path) -> None:
    text, line, reason = BAD[what]
    write(tmp_path / "project", text)
    began = time.monotonic()
    refused = refusal(tmp_path / "project")
    took_s = time.monotonic() - began
    problem = refused.problems[0]
    assert reason is None or reason in problem.text()
    assert line is None or problem.line == line, problem.text()
    assert problem.file == str(tmp_path / "project" / "compose.yaml")
    # Measured generously: other tests have the machine's two cores, too.
    assert took_s < _SOON_S * 3


def test_all_that_the_policy_forbids_is_told_beside_a_mount(tmp_path: Path) -> None:
    service = "privileged: true, network_mode: host, pid: host, volumes: ['/var/run/docker.sock:/s']"
    refused = refusal(write(tmp_path, f"services:\n  a: {{image: x, {service}}}\n"))
    told = {each.path: each.reason for each in refused.problems}
    assert set(told) == {"services.a." + key for key in ("volumes[0]", "privileged", "network_mode", "pid")}
    assert "security.containers.privileged" in told["services.a.privileged"]
    assert {each.line for each in refused.problems} == {2}


def test_what_lies_outside_and_what_the_policy_forbids_come_in_one_answer(tmp_path: Path) -> None:
    text = (
        "services:\n"
        "  a: {image: x, privileged: true, volumes: ['/etc:/e'], secrets: [s]}\n"
        "  b: {build: {context: /etc}, pid: host}\n"
        "  c: {image: x, ipc: host, profiles: [other]}\n"
        "secrets: {s: {file: /etc/shadow}}\n"
    )
    own = {
        "services.a.volumes[0]",
        "services.a.privileged",
        "services.b.build.context",
        "services.b.build.dockerfile",
        "services.b.pid",
        "secrets.s.file",
    }
    assert {each.path for each in refusal(write(tmp_path, text)).problems} == own
    read_too = text.replace("pid: host}", "pid: host, env_file: /etc/passwd}")
    told = {each.path for each in refusal(write(tmp_path, read_too)).problems}
    assert told == own | {"services.b.env_file[0]"}


def test_a_thousand_ports_are_taken_and_any_port_of_a_range_is_one(tmp_path: Path) -> None:
    text = "services:\n  a: {image: x, ports: ['1-1000']}\n  b: {image: x, ports: ['1-65535:80']}\n"
    services = read(write(tmp_path, text)).model["services"]
    assert [len(services[name]["ports"]) for name in ("a", "b")] == [1000, 1]


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    write(tmp_path, "services:\n  a: {image: x}\n# " + "x" * compose_yaml.MAX_BYTES)
    assert "larger than 256 KiB" in refusal(tmp_path).problems[0].text()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "compose.yaml")
    assert "not a regular file" in refusal(tmp_path / "compose.yaml").problems[0].text()


def test_a_folder_without_a_compose_file_says_which_names_are_looked_for(tmp_path: Path) -> None:
    assert "docker-compose.yml" in refusal(tmp_path).message


def test_a_link_that_leads_outside_is_outside(tmp_path: Path) -> None:
    write(tmp_path / "outside", "SECRET=1\n", "secret.env")
    file = write(tmp_path / "project", "services:\n  a:\n    image: x\n    env_file: mine.env\n")
    (file.parent / "mine.env").symlink_to(tmp_path / "outside" / "secret.env")
    assert "lies outside" in refusal(file).message
    (file.parent / "mine.env").unlink()
    (file.parent / ".env").symlink_to(tmp_path / "outside" / "secret.env")
    assert "lies outside" in refusal(file).message


def test_a_further_root_may_be_read_from_where_it_is_configured(tmp_path: Path) -> None:
    write(tmp_path / "shared", "COLOUR=red\n", "colours.env")
    file = write(tmp_path / "project", "services:\n  a:\n    image: x\n    env_file: ../shared/colours.env\n")
    found = compose_project.read(Wish(path=file), ContainerPolicy(binds=BindPolicy(roots=(str(tmp_path / "shared"),))))
    assert found.model["services"]["a"]["environment"] == {"COLOUR": "red"}


def test_nothing_of_the_workers_environment_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOS_CANARY", "leaked")
    text = (
        "services:\n  a:\n    image: x\n    environment:\n      - CLOS_CANARY\n      - B=${CLOS_CANARY:-none}${HOME}\n"
    )
    found = read(write(tmp_path, text))
    assert found.model["services"]["a"]["environment"] == {"CLOS_CANARY": None, "B": "none"}
    assert any("HOME" in warning for warning in found.warnings)


def test_variables_come_from_the_projects_env_and_from_who_asks(tmp_path: Path) -> None:
    write(tmp_path, "TAG=1\nMODE=file\n", ".env")
    file = write(tmp_path, "services:\n  a:\n    image: x:${TAG}\n    command: [echo, '${MODE}', '$$HOME']\n")
    found = read(file, variables={"MODE": "it's $given"})
    assert found.model["services"]["a"]["image"] == "x:1"
    assert found.model["services"]["a"]["command"] == ["echo", "it's $given", "$HOME"]


@pytest.mark.parametrize("name", ["COMPOSE_FILE", "DOCKER_HOST", "LD_PRELOAD", "PATH", "GODEBUG"])
def test_variables_that_steer_the_program_are_not_given_to_it(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, "services:\n  a: {image: x}\n")
    assert f"variables.{name}" in refusal(file, variables={name: "x"}).message


def test_ports_that_look_like_a_time_are_ports(tmp_path: Path) -> None:
    found = read(write(tmp_path, "services:\n  a:\n    image: x\n    ports:\n      - 22:22\n"))
    port = found.model["services"]["a"]["ports"][0]
    assert (port["target"], port["published"]) == (22, "22")


def test_services_of_profiles_that_nobody_chose_are_listed(tmp_path: Path) -> None:
    file = write(tmp_path, "services:\n  a: {image: x}\n  b: {image: x, profiles: [debug]}\n")
    assert (sorted(read(file).model["services"]), read(file).left_out) == (["a"], ("b",))
    assert read(file, profiles=("debug",)).left_out == ()


def test_includes_extends_overrides_and_anchors_are_followed(tmp_path: Path) -> None:
    write(tmp_path, "services: {base: {image: 'x:1', labels: {a: b}}}\n", "parts/base.yaml")
    write(tmp_path, "services: {db: {image: 'db:1', env_file: db.env}}\n", "parts/db.yaml")
    write(tmp_path, "POSTGRES=1\n", "parts/db.env")
    write(tmp_path, "services: {web: {labels: {c: d}}}\n", "compose.override.yaml")
    write(
        tmp_path,
        "include: [parts/db.yaml]\nx-env: &env {A: '1'}\nservices:\n  web:\n"
        "    extends: {file: parts/base.yaml, service: base}\n    environment: {<<: *env, B: '2'}\n",
    )
    found = read(tmp_path)
    assert found.model["services"]["web"]["labels"] == {"a": "b", "c": "d"}
    assert found.model["services"]["web"]["environment"] == {"A": "1", "B": "2"}
    assert found.model["services"]["db"]["environment"] == {"POSTGRES": "1"}
    assert len(found.files.documents) == 4


def test_what_an_included_file_has_wrong_is_named_in_that_file(tmp_path: Path) -> None:
    write(tmp_path, "services:\n  db:\n    image: x\n    env_fil: x\n", "parts/db.yaml")
    refused = refusal(write(tmp_path, "include: [parts/db.yaml]\nservices:\n  a: {image: x}\n"))
    assert (refused.problems[0].file, refused.problems[0].line) == (str(tmp_path / "parts/db.yaml"), 4)


def test_a_text_may_come_with_the_folder_that_its_paths_count_from(tmp_path: Path) -> None:
    write(tmp_path, "A=1\n", "a.env")
    text = "name: demo\nservices:\n  a:\n    image: x\n    env_file: a.env\n"
    found = compose_project.read(Wish(content=text, directory=tmp_path))
    assert (found.name, found.model["services"]["a"]["environment"]) == ("demo", {"A": "1"})


def test_a_process_needs_no_image(tmp_path: Path) -> None:
    text = "services:\n  api:\n    command: [./run]\n    x-clos: {runtime: process}\n"
    assert read(write(tmp_path, text)).model["services"]["api"]["image"] == compose_project.PLACEHOLDER


def test_compose_is_told_neither_to_fetch_nor_where_its_configuration_is(tmp_path: Path) -> None:
    environment = compose._environment(None, str(tmp_path))
    assert environment["COMPOSE_EXPERIMENTAL_GIT_REMOTE"] == environment["COMPOSE_EXPERIMENTAL_OCI_REMOTE"] == "0"
    assert set(environment) == {
        "COMPOSE_EXPERIMENTAL_GIT_REMOTE", "COMPOSE_EXPERIMENTAL_OCI_REMOTE", "COMPOSE_DISABLE_ENV_FILE",
        "DOCKER_CONFIG",
    }  # fmt: skip


def test_a_bomb_that_came_past_the_look_dies_of_its_limits(tmp_path: Path) -> None:
    file = write(tmp_path, bomb(9, 10))
    began = time.monotonic()
    with pytest.raises((ComposeRefused, TimedOut)):
        compose.config(compose.Request((file,), tmp_path))
    assert time.monotonic() - began < compose.TIME_LIMIT_S * 2


def test_its_version_is_known() -> None:
    assert compose.version().startswith(("5.", "2."))


@pytest.mark.parametrize("separator", [None, ","])
def test_a_folders_env_may_name_the_files_as_for_compose(tmp_path: Path, separator: str | None) -> None:
    names = f"sub/a.yaml{separator or ':'}b.yaml"
    how = f"COMPOSE_PATH_SEPARATOR={separator}\n" if separator else ""
    write(tmp_path, f"WHERE=top\nCOMPOSE_FILE='{names}'\n{how}", ".env")
    write(tmp_path, "WHERE=below\nBELOW=yes\n", "sub/.env")
    text = 'services: {a: {image: x, environment: {W: "${WHERE}", B: "${BELOW}"}, volumes: ["./d:/d"]}}\n'
    write(tmp_path, text, "sub/a.yaml")
    write(tmp_path, "services: {b: {image: y}}\n", "b.yaml")

    found = read(tmp_path)

    assert (found.directory, found.name) == (tmp_path / "sub", "sub")
    assert set(found.model["services"]) == {"a", "b"}
    a = found.model["services"]["a"]
    assert (a["environment"], a["volumes"][0]["source"]) == ({"W": "top", "B": "yes"}, str(tmp_path / "sub" / "d"))
    assert set(read(tmp_path / "b.yaml").model["services"]) == {"b"}
    assert set(read(tmp_path, files=("b.yaml",)).model["services"]) == {"b"}


@pytest.mark.parametrize(("named", "why"), [("../other.yaml", "lies outside"), ("github.com/a/b", "another machine")])
def test_what_a_folders_env_names_is_as_bounded_as_what_a_person_names(tmp_path: Path, named: str, why: str) -> None:
    write(tmp_path, f"COMPOSE_FILE={named}\n", ".env")
    write(tmp_path, "services: {a: {image: x}}\n")
    assert why in str(refusal(tmp_path))
