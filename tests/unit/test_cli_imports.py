"""`clos groups import | export` against a CLOS that speaks the contract."""

import json
from pathlib import Path
from typing import Any

RESULT: dict[str, Any] = {
    "group": "demo",
    "services": ["web", "db"],
    "diff": {
        "added": ["web"],
        "removed": ["old"],
        "added_again": [],
        "changed": [
            {"service": "db", "field": "image", "by": "both", "taken": "file", "base": "a", "file": "b", "record": "c"},
            {"service": "db", "field": "secrets", "by": "file", "taken": "file", "names": ["TOKEN"]},
            {"service": None, "field": "project", "by": "hand", "taken": "record", "base": 1, "file": 1, "record": "x"},
        ],
    },
    "warnings": ["services.web.ports: are published on 127.0.0.1"],
    "left_out": {"profiles": ["debug"], "unsupported": [{"path": "services.web.scale", "reason": "no"}]},
    "containers": [{"name": "demo-web-1", "service": "web", "running": True, "container_id": "1"}],
}


def asked_of(clos) -> list[dict[str, Any]]:
    """The bodies of the imports that were asked for."""
    return [body for method, path, body in clos.calls if method == "POST" and path.endswith("/groups/import")]


def test_an_import_shows_the_difference_and_then_does_it(clos, run, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}", encoding="utf-8")
    clos.imported = RESULT
    code, out, err = run(
        "groups", "import", str(tmp_path), "--profile", "debug", "--var", "A=b=c", "--name", "demo", "--yes"
    )
    assert code == 0, err
    assert asked_of(clos) == [
        {"path": str(tmp_path), "name": "demo", "profiles": ["debug"], "variables": {"A": "b=c"}, "dry_run": True},
        {"path": str(tmp_path), "name": "demo", "profiles": ["debug"], "variables": {"A": "b=c"}},
    ]
    for line in (
        "  + web", "  - old (stopped and removed)", "  ~ db.image: c -> b (changed in both, the file's is taken)",
        "  ~ db.secrets: TOKEN (changed in the file)", "  ~ project: x -> x (changed by hand, kept)",
        "  left out, of other profiles: debug", "  left out: services.web.scale: no",
        "  demo-web-1 was started by Compose and is left alone; its ports stay taken while it runs",
    ):  # fmt: skip
        assert line in out.splitlines(), out
    assert "note: services.web.ports" in err
    assert "clos update demo" in err


def test_without_waiting_the_answer_is_the_operations_id_alone(clos, run, tmp_path: Path) -> None:
    clos.imported = RESULT
    code, out, err = run("groups", "import", str(tmp_path), "--yes", "--no-wait")
    assert (code, len(asked_of(clos)), len(out.split())) == (0, 2, 1)
    assert out.strip() in clos.operations
    assert "  + web" in err.splitlines()


def test_without_waiting_a_machine_is_answered_with_the_operation_as_of_a_start(clos, run, tmp_path: Path) -> None:
    clos.imported = RESULT
    code, out, _err = run("groups", "import", str(tmp_path), "--yes", "--no-wait", "-o", "json")
    assert (code, json.loads(out)["id"] in clos.operations) == (0, True)


def test_a_dry_run_asks_once_and_changes_nothing(clos, run, tmp_path: Path) -> None:
    clos.imported = RESULT
    assert run("groups", "import", str(tmp_path), "--dry-run", "--adopt", "--leave-out")[0] == 0
    assert asked_of(clos) == [{"path": str(tmp_path), "on_unsupported": "leave_out", "adopt": True, "dry_run": True}]


def test_a_file_that_says_what_is_there_is_not_imported_again(clos, run, tmp_path: Path) -> None:
    nothing = RESULT | {"diff": {"added": [], "removed": [], "added_again": [], "changed": []}}
    clos.imported = nothing
    code, _, err = run("groups", "import", str(tmp_path))
    assert (code, len(asked_of(clos))) == (0, 1)
    assert "is as its file says" in err


def test_a_refused_file_is_told_with_every_line(clos, run, tmp_path: Path) -> None:
    problems = [
        {"path": "services.a.prots", "reason": "unknown key", "file": "/x/compose.yaml", "line": 3},
        {"path": "services.b.imge", "reason": "unknown key: image?", "file": "/x/compose.yaml", "line": 7},
    ]
    message = "/x/compose.yaml:3: services.a.prots: unknown key (and 1 more)"
    clos.end = {"status": "failed", "error": {"code": "compose_refused", "message": message, "problems": problems}}
    code, _, err = run("groups", "import", str(tmp_path))
    assert code == 1
    assert "/x/compose.yaml:3" in err
    assert "/x/compose.yaml:7: services.b.imge: unknown key: image?" in err


def test_v1s_templates_are_imported_each_under_its_groups_name(clos, run, tmp_path: Path) -> None:
    for name in ("templates/core.template.yml", "compose/core.yml", "compose/old.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("services: {}", encoding="utf-8")
    clos.imported = RESULT
    assert run("groups", "import", "--v1", "--dry-run")[0] == 0
    assert [(each["name"], Path(each["path"]).name) for each in asked_of(clos)] == [
        ("core", "core.template.yml"), ("old", "old.yml"),
    ]  # fmt: skip


def test_an_export_is_a_compose_file_or_json_and_names_its_secrets(clos, run) -> None:
    clos.services["shop-web"]["secrets"] = ["TOKEN"]
    clos.exported = {"compose": {"name": "shop", "compose": "name: shop\n", "secrets": ["web.TOKEN"]},
                     "json": {"name": "shop", "services": []}}  # fmt: skip
    code, out, err = run("groups", "export", "shop", "--format", "compose")
    assert (code, out) == (0, "name: shop\n")
    assert "web.TOKEN" in err
    assert json.loads(run("groups", "export", "shop")[1]) == {"name": "shop", "services": []}


def test_a_start_in_a_folder_with_a_compose_file_says_how_it_becomes_a_group(clos, run, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "blog"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert "import" not in run("start", "blog")[2]

    (folder / "docker-compose.yml").write_text("services: {}", encoding="utf-8")
    for words, code in ((("start",), 2), (("start", "blog"), 4)):
        ended, _, err = run(*words)
        assert ended == code
        assert "the docker-compose.yml of this folder is not registered: clos groups import ." in err
    assert "import" not in run("stop", "blog")[2]

    clos.groups["shop"]["compose_file"] = str(folder / "docker-compose.yml")
    assert "is the group shop: clos start shop" in run("start")[2]
