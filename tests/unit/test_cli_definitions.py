"""Files that define groups."""

import io
import json
import sys

import pytest

from cli.definitions import parse, read_group, read_service
from cli.errors import CliError


def write(folder, text, name="group.yaml"):
    file = folder / name
    file.write_text(text)
    return str(file)


def test_relative_paths_count_from_the_file(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    file = write(
        tmp_path / "sub",
        """
name: shop
compose_file: compose.yaml
services:
  - {name: a, working_dir: ., build: ../image, volumes: ["./data:/data", "named:/x", "../up:/y:ro", "/abs:/z"]}
  - {name: b, build: {context: ./b, dockerfile: D}, working_dir: /srv}
""",
    )
    monkeypatch.chdir("/")
    body = read_group(file)
    a, b = body["services"]
    assert body["compose_file"] == f"{tmp_path}/sub/compose.yaml"
    assert a["working_dir"] == f"{tmp_path}/sub"
    assert a["build"] == {"context": f"{tmp_path}/image"}
    assert a["volumes"] == [f"{tmp_path}/sub/data:/data", "named:/x", f"{tmp_path}/up:/y:ro", "/abs:/z"]
    assert b["build"] == {"context": f"{tmp_path}/sub/b", "dockerfile": "D"}
    assert b["working_dir"] == "/srv"


def test_paths_of_a_container_count_from_the_file_too(tmp_path):
    text = """
name: a
image: x
container:
  init: true
  secrets: [{source: s, file: ./s.txt}, {source: t, environment: T}]
  configs: [{source: c, file: /abs/c}]
  volumes: [{type: bind, source: data, target: /d}, {type: volume, source: data, target: /v}]
"""
    assert read_service(write(tmp_path, text))["container"] == {
        "init": True,
        "secrets": [{"source": "s", "file": f"{tmp_path}/s.txt"}, {"source": "t", "environment": "T"}],
        "configs": [{"source": "c", "file": "/abs/c"}],
        "volumes": [
            {"type": "bind", "source": f"{tmp_path}/data", "target": "/d"},
            {"type": "volume", "source": "data", "target": "/v"},
        ],
    }


def test_environment_values_become_text_as_they_were_written(tmp_path):
    file = write(tmp_path, "name: x\nenvironment: {A: 1, B: true, C: no, D: 22:22, E: 012, F: 1.5, G: null}\n")
    assert read_service(file)["environment"] == {
        "A": "1", "B": "true", "C": "no", "D": "22:22", "E": "012", "F": "1.5", "G": None,
    }  # fmt: skip


def test_services_may_be_a_mapping_by_name_as_in_a_compose_file(tmp_path):
    body = read_group(write(tmp_path, "name: x\nservices: {a: {image: i}, b: }\n"))
    assert body["services"] == [{"name": "a", "image": "i"}, {"name": "b"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: shop\nservices: {web: 1}", "services.web: must be a mapping"),
        ("name: shop\nservices: {web: [image]}", "services.web: must be a mapping"),
        ("name: shop\nservices: {web: nginx}", "services.web: must be a mapping"),
        ("name: shop\ndirectory: 5", "directory: must be a path"),
        ("name: shop\ndirectory: [a]", "directory: must be a path"),
        ("name: shop\ndirectory: false", "directory: must be a path"),
    ],
)
def test_what_is_no_service_or_no_directory_is_refused_by_its_file_and_key(tmp_path, text, said):
    file = write(tmp_path, text)
    with pytest.raises(CliError) as refused:
        read_group(file)
    assert refused.value.message.startswith(f"{file}: {said}")
    assert refused.value.exit_code == 2


def test_a_service_of_which_nothing_is_said_is_left_to_clos_to_refuse(tmp_path):
    assert read_group(write(tmp_path, "name: shop\nservices: {web: }"))["services"] == [{"name": "web"}]


def test_json_and_stdin_are_read_too(tmp_path, monkeypatch):
    text = json.dumps({"name": "x", "services": [{"name": "a", "working_dir": "w"}]})
    assert read_group(write(tmp_path, text, "g.json"))["name"] == "x"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert read_group("-")["services"][0]["working_dir"] == str(tmp_path / "w")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "'name' stands twice"),
        ('{"name": "a", "name": "b"}', "'name' stands twice"),
        ("a: &a [*a]\n", "recursive"),
        ("- 1\n", "not a mapping"),
        ("a: [\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system [id]\n", "not valid YAML"),
        ("[" * 3000, "too deep"),
        ('{"a":' * 30000, "too deep|Expecting|recursion"),
        ("? [a, b]\n: c\n", "a key must be text"),
        ("a: " + "x" * 300_000, "larger than"),
    ],
)
def test_what_is_malformed_is_refused_with_exit_code_2(tmp_path, text, said):
    file = write(tmp_path, text)
    with pytest.raises(CliError, match=said) as refused:
        read_group(file)
    assert refused.value.exit_code == 2
    assert file in refused.value.message


def test_a_bomb_of_aliases_is_refused_before_it_grows():
    bomb = "a: &a [x]\n" + "".join(
        f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(CliError, match="aliases"):
        parse(bomb, "bomb")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CliError, match="No such file") as refused:
        read_group(str(tmp_path / "none.yaml"))
    assert refused.value.exit_code == 2


def test_merge_keys_and_anchors_work_as_in_compose(tmp_path):
    body = read_group(write(tmp_path, "name: x\nservices:\n  - &a {name: a, image: i}\n  - {<<: *a, name: b}\n"))
    assert body["services"][1] == {"image": "i", "name": "b"}
