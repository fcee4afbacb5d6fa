"""Every bad body of the issue, against the real API: 4xx and a problem, never a 500."""

from typing import Any

import pytest

from api.errors import MalformedJson
from api.json_provider import MAX_DEPTH, loads
from domain.errors import ValidationFailed
from tests.unit.api_kit import Kit, api, problem

__all__ = ["api"]

BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "not JSON": (b"{", 400, "malformed_json"),
    "a trailing comma": (b'{"name": "a",}', 400, "malformed_json"),
    "two values": (b"{} {}", 400, "malformed_json"),
    "a name twice": (b'{"name": "a", "name": "b"}', 400, "malformed_json"),
    "a name twice, once escaped": (b'{"name": "a", "n\\u0061me": "b"}', 400, "malformed_json"),
    "a name twice inside": (b'{"name": "a", "services": [{"name": "x", "name": "y"}]}', 400, "malformed_json"),
    "NaN": (b'{"name": "a", "start_order": NaN}', 400, "malformed_json"),
    "-Infinity": (b'{"name": "a", "start_order": -Infinity}', 400, "malformed_json"),
    "1e999": (b'{"name": "a", "start_order": 1e999}', 400, "malformed_json"),
    "UTF-16": ('{"name": "a"}'.encode("utf-16"), 400, "malformed_json"),
    "Latin-1": ('{"name": "ä"}'.encode("latin-1"), 400, "malformed_json"),
    "a byte-order mark": (b'\xef\xbb\xbf{"name": "a"}', 400, "malformed_json"),
    "depth 33": (b"[" * 33 + b"]" * 33, 400, "malformed_json"),
    "depth 5000": (b'{"name":' * 5000 + b"1" + b"}" * 5000, 400, "malformed_json"),
    "depth 500000 unclosed": (b"[" * 500_000, 400, "malformed_json"),
    "an integer of 5000 digits": (b'{"name": "a", "start_order": ' + b"9" * 5000 + b"}", 400, "malformed_json"),
    "an array": (b"[]", 422, "validation_failed"),
    "a text": (b'"x"', 422, "validation_failed"),
    "a number": (b"7", 422, "validation_failed"),
    "null": (b"null", 422, "validation_failed"),
    "an unknown field": (b'{"name": "a", "colour": "red"}', 422, "validation_failed"),
    "a mistyped field": (b'{"name": "a", "descripton": "x"}', 422, "validation_failed"),
    "a read-only field": (b'{"name": "a", "status": "running"}', 422, "validation_failed"),
    "a missing field": (b"{}", 422, "validation_failed"),
    "nothing": (b"", 422, "validation_failed"),
    "1.9 for an integer": (b'{"name": "a", "start_order": 1.9}', 422, "validation_failed"),
    "1.0 for an integer": (b'{"name": "a", "start_order": 1.0}', 422, "validation_failed"),
    "text for an integer": (b'{"name": "a", "start_order": "12"}', 422, "validation_failed"),
    "true for an integer": (b'{"name": "a", "start_order": true}', 422, "validation_failed"),
    "null for an integer": (b'{"name": "a", "start_order": null}', 422, "validation_failed"),
    "2**63": (b'{"name": "a", "start_order": 9223372036854775808}', 422, "validation_failed"),
    "-2**63-1": (b'{"name": "a", "start_order": -9223372036854775809}', 422, "validation_failed"),
    "NUL": (b'{"name": "a\\u0000"}', 422, "validation_failed"),
    "NUL in a description": (b'{"name": "a", "description": "x\\u0000y"}', 422, "validation_failed"),
    "NUL in a key": (b'{"name": "a", "x\\u0000": 1}', 422, "validation_failed"),
    "half a surrogate pair": (b'{"name": "a", "description": "\\ud800"}', 422, "validation_failed"),
    "the other half": (b'{"name": "a", "description": "\\udc00x"}', 422, "validation_failed"),
    "half a surrogate pair as a key": (b'{"name": "a", "\\ud800": 1}', 422, "validation_failed"),
    "a number for a text": (b'{"name": 5}', 422, "validation_failed"),
    "a list for a text": (b'{"name": ["a"]}', 422, "validation_failed"),
    "text for a list": (b'{"name": "a", "dependencies": "b"}', 422, "validation_failed"),
    "a name with a slash": (b'{"name": "a/b"}', 422, "validation_failed"),
    "an empty name": (b'{"name": ""}', 422, "validation_failed"),
    "a name of 51": (b'{"name": "' + b"a" * 51 + b'"}', 422, "validation_failed"),
    "a name that ends a line": (b'{"name": "a\\n"}', 422, "validation_failed"),
}


def send(api: Kit, raw: Any, kind: str | None = "application/json", **headers: str) -> Any:
    named = {"X-API-Key": api.key} | ({} if kind is None else {"Content-Type": kind}) | headers
    return api.bare("POST", "/api/v2/groups", data=raw, headers=named)


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_bad_body_is_refused_with_a_problem(api: Kit, what: str) -> None:
    raw, status, code = BAD_BODIES[what]
    body = problem(send(api, raw), status, code)
    assert ("errors" in body) == (status == 422)
    assert api.get("/groups")["total"] == 0


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"name": "a", "colour": "red"}', "colour"),
        (b'{"name": "a", "services": [{"name": "x", "image": "i", "port": "80"}]}', "services.0.port"),
        (b'{"name": "a", "services": [{"name": "x", "image": "i", "ports": [{}, {"host_port": 0}]}]}',
         "services.0.ports.1.host_port"),
        (b'{"name": "a", "services": [{"name": "x", "environment": {"A": "\\u0000"}}]}', "services.0.environment.A"),
        (b'{"name": "a", "conflicts": {"on_start": "maybe"}}', "conflicts.on_start"),
        (b'{"name": "a", "dependencies": [99999999999999999999]}', "dependencies.0"),
        (b"[]", "_schema"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_by_its_path(api: Kit, raw: bytes, field: str) -> None:
    errors = problem(send(api, raw), 422, "validation_failed")["errors"]
    assert list(errors) == [field]
    assert all(isinstance(text, str) for text in errors[field])


def test_a_guess_is_made_at_what_was_meant(api: Kit) -> None:
    errors = problem(send(api, b'{"name": "a", "descripton": "x"}'), 422, "validation_failed")["errors"]
    assert errors == {"descripton": ["Unknown field. Did you mean 'description'?"]}


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx",
             "", None],
)  # fmt: skip
def test_a_body_that_is_not_declared_to_be_json_is_refused(api: Kit, kind: str | None) -> None:
    problem(send(api, b'{"name": "a"}', kind), 415, "wrong_content_type")


def test_a_declared_character_set_does_no_harm(api: Kit) -> None:
    assert send(api, b'{"name": "utf8"}', "application/json; charset=utf-8").status_code == 201
    assert api.call("DELETE", "/groups/utf8").status_code == 204


def test_depth_is_counted_outside_of_texts_only() -> None:
    assert loads(b'["' + b"[{" * 500 + b'\\"["]') == ["[{" * 500 + '"[']
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(MalformedJson, match="deeper"):
        loads(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    wide = b"[" + b"{}," * 100 + b"{}]"
    assert len(loads(wide)) == 101


def test_where_json_breaks_is_said() -> None:
    with pytest.raises(MalformedJson, match="line 2, column 1"):
        loads(b'{"a": 1,\n}')
    with pytest.raises(MalformedJson, match="byte 2"):
        loads(b'"a\xff"')
    with pytest.raises(MalformedJson, match="'a' is given twice"):
        loads(b'{"a": 1, "a": 2}')


def test_what_fits_is_given_unchanged() -> None:
    assert loads(b'{"a": 9223372036854775807, "b": -9223372036854775808, "c": "\\ud83d\\ude00"}') == {
        "a": 2**63 - 1, "b": -(2**63), "c": "\N{GRINNING FACE}",
    }  # fmt: skip
    with pytest.raises(ValidationFailed) as caught:
        loads(b'{"a": [1, 9223372036854775808]}')
    assert list(caught.value.errors) == ["a.1"]
