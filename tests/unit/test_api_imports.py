"""Asking for an import over HTTP: the API reads no file, and shows nobody what was given in private."""

from typing import Any

import pytest

from domain.states import OperationStatus
from models import import_inputs, operations
from models.groups import Group
from tests.unit.api_kit import Kit, api, process

__all__ = ["api"]


def imported(api: Kit, **kept: Any) -> str:
    """A group that came from a Compose file."""
    name: str = api.name("shop")
    api.post("/groups", {"name": name, "services": [process("web")]})
    with api.record.write() as session:
        group = session.get(Group, name)
        assert group is not None
        group.compose = {"path": "/srv/shop", "base": {"group": {}, "services": {}}, **kept}
    return name


def test_an_import_is_an_operation_and_its_private_part_is_not_shown(api: Kit) -> None:
    text = "services: {a: {image: 'x', environment: {P: canary-55}}}"
    body = {"content": text, "directory": "/srv", "variables": {"TOKEN": "canary-56"}, "profiles": ["debug"]}
    answer = api.call("POST", "/groups/import", body)
    assert (answer.status_code, answer.json["type"]) == (202, "group.import")
    assert answer.json["parameters"]["content"] is True
    assert answer.json["parameters"]["variables"] == ["TOKEN"]
    shown = api.call("GET", f"/operations/{answer.json['id']}").get_data(as_text=True) + answer.get_data(as_text=True)
    assert "canary" not in shown
    with api.record.read() as session:
        assert import_inputs.of(session, answer.json["id"]) == (text, {"TOKEN": "canary-56"})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "path"),
        ({"path": "/a", "content": "x"}, "path"),
        ({"path": "relative"}, "path"),
        ({"content": "x", "files": ["a"]}, "files"),
        ({"path": "/a", "directory": "/b"}, "directory"),
        ({"path": "/a", "nane": "x"}, "nane"),
        ({"path": "/a", "on_unsupported": "ignore"}, "on_unsupported"),
        ({"path": "/a", "variables": {"A-B": "x"}}, "variables.A-B.key"),
        ({"content": "x" * 262_145}, "content"),
    ],
)
def test_a_wrong_request_names_its_field(api: Kit, body: dict[str, Any], field: str) -> None:
    answer = api.call("POST", "/groups/import", body)
    assert (answer.status_code, answer.json["code"]) == (422, "validation_failed")
    assert field in answer.json["errors"]


def test_only_who_may_import_imports(api: Kit) -> None:
    operator = api.user("operator")["key"]
    assert api.call("POST", "/groups/import", {"path": "/srv"}, key=operator).status_code == 403
    assert api.call("POST", f"/groups/{imported(api)}/import", key=operator).status_code == 403


def test_a_group_is_read_again_from_where_it_came(api: Kit) -> None:
    name = imported(api, profiles=["debug"], given_files=["a.yaml"])
    asked = api.call("POST", f"/groups/{name}/import", {"dry_run": True})
    assert asked.status_code == 202
    parameters = asked.json["parameters"]
    assert (parameters["path"], parameters["name"], parameters["dry_run"]) == ("/srv/shop", name, True)
    assert (parameters["profiles"], parameters["files"]) == (["debug"], ["a.yaml"])
    first = api.call("POST", f"/groups/{name}/import")
    assert first.status_code == 202
    second = api.call("POST", f"/groups/{name}/import")
    assert (second.status_code, second.json["code"]) == (409, "operation_in_progress")
    with api.record.read() as session:
        assert operations.get(session, first.json["id"]).group_name == name


def test_what_is_not_kept_has_to_be_given_again(api: Kit) -> None:
    name = imported(api, variables=["TOKEN"])
    answer = api.call("POST", f"/groups/{name}/import")
    assert (answer.status_code, list(answer.json["errors"])) == (422, ["variables"])
    text = imported(api, path=None, content=True, directory="/srv")
    assert list(api.call("POST", f"/groups/{text}/import").json["errors"]) == ["content"]
    assert api.call("POST", f"/groups/{text}/import", {"content": "services: {}"}).status_code == 202


def test_a_group_that_was_not_imported_says_so(api: Kit) -> None:
    name = api.name("plain")
    api.post("/groups", {"name": name, "services": [process("web")]})
    answer = api.call("POST", f"/groups/{name}/import")
    assert (answer.status_code, answer.json["code"]) == (409, "group_not_imported")
    assert api.call("POST", "/groups/nosuch/import").status_code == 404


def _ended(api: Kit, operation_id: str) -> None:
    with api.record.write() as session:
        operations.finish(session, operations.get(session, operation_id), OperationStatus.FAILED)


def test_an_import_of_files_is_tried_again_also_where_the_group_is_not_there_yet(api: Kit) -> None:
    body = {"path": "/srv/blog", "name": api.name("blog"), "profiles": ["debug"], "adopt": True}
    first = api.call("POST", "/groups/import", body).json
    _ended(api, first["id"])
    again = api.call("POST", f"/operations/{first['id']}/retry")
    assert (again.status_code, again.json["type"], again.json["retry_of"]) == (202, "group.import", first["id"])
    assert again.json["parameters"] == first["parameters"]


def test_an_import_of_what_is_not_kept_is_not_tried_again_and_that_is_said(api: Kit) -> None:
    text = {"content": "services: {a: {image: x}}", "variables": {"TOKEN": "canary-57"}}
    first = api.call("POST", "/groups/import", text).json
    _ended(api, first["id"])
    again = api.call("POST", f"/operations/{first['id']}/retry")
    assert (again.status_code, again.json["code"]) == (422, "validation_failed")
    assert again.json["errors"] == {
        "content": ["It was imported from a text, which is not kept: import it anew, with the text."],
        "variables": ["Their values are not kept: import it anew, with TOKEN."],
    }
