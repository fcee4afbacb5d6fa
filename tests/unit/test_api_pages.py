"""Lists: limits, cursors, totals, filters, times."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from marshmallow import ValidationError

from api.pages import decode_cursor, encode_cursor, page
from api.schemas import Choices, Flag, Number, QueryFlag, QueryWhole, Text, Time, Whole, parse_since, read_only, rfc3339
from tests.unit.api_kit import Kit, api

__all__ = ["api"]
LISTS = ("/services", "/groups", "/port-ranges", "/operations", "/events", "/users", "/api-keys", "/audit")
WITH_TOTAL = {"/services", "/groups", "/port-ranges"}


@pytest.fixture(scope="module", autouse=True)
def _full(api: Kit) -> None:
    for number in range(4):
        api.operation(api.group("a", "b"))
        start = 20_000 + 10 * number
        api.post("/port-ranges", {"project": f"p{number}", "start_port": start, "end_port": start + 9})
        api.user("viewer")


@pytest.mark.parametrize("path", LISTS)
def test_pages_of_any_size_give_the_whole_list_once(api: Kit, path: str) -> None:
    def ids(query: str) -> list[Any]:
        found, cursor = [], ""
        while True:
            body = api.get(f"{path}?{query}{cursor}")
            assert body.keys() == {"items", "next_cursor"} | ({"total"} if path in WITH_TOTAL else set())
            found += [each.get("id", each.get("name")) for each in body["items"]]
            if body["next_cursor"] is None:
                assert body.get("total", len(found)) == len(found)
                return found
            cursor = f"&cursor={body['next_cursor']}"

    whole = ids("limit=200")
    assert len(whole) >= 4
    assert len(set(whole)) == len(whole)
    newest_first = path in ("/operations", "/events", "/audit")
    assert whole == sorted(whole, reverse=newest_first)
    for limit in (1, 3, len(whole), len(whole) - 1):
        assert ids(f"limit={limit}") == whole


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=%205", "limit=1_0", "limit=1.0", "limit=", "limit=٣",
     "limit=99999999999999999999", "colour=red", "limit=1&colour=red"],
)  # fmt: skip
def test_a_wrong_limit_or_an_unknown_name_is_refused(api: Kit, path: str, query: str) -> None:
    errors = api.refused("GET", f"{path}?{query}", None, 422, "validation_failed")["errors"]
    assert list(errors) == [query.rpartition("&")[2].partition("=")[0]]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/operations", "status=done", "status"), ("/operations", "since=yesterday", "since"),
        ("/operations", "type=", "type"), ("/operations", "service=" + "x" * 200, "service"),
        ("/operations", "group=a,,b", "group"), ("/operations", "after=", "after"), ("/events", "after=x", "after"),
        ("/events", "after=-1", "after"), ("/events", "severity=loud", "severity"), ("/events", "since=1", "since"),
        ("/services", "status=idle", "status"), ("/services", "health=fine", "health"),
        ("/services", "runtime=podman", "runtime"), ("/services", "include_metrics=1", "include_metrics"),
        ("/services", "q=" + "x" * 201, "q"), ("/services", "group=" + "a," * 60 + "a", "group"),
        ("/ports", "state=open", "state"), ("/audit", "since=2026-01-01T00:00:00", "since"),
    ],
)  # fmt: skip
def test_a_wrong_filter_is_refused_by_name(api: Kit, path: str, query: str, field: str) -> None:
    assert list(api.refused("GET", f"{path}?{query}", None, 422, "validation_failed")["errors"]) == [field]


def forged(*key: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


@pytest.mark.parametrize("path", LISTS)
def test_a_cursor_of_another_list_or_of_nobody_is_refused(api: Kit, path: str) -> None:
    other = "/events" if path != "/events" else "/operations"
    own = f"/api/v2{path}"
    cursors = [
        api.get(f"{other}?limit=1")["next_cursor"], "x", "", "bnVsbA", "%00", "ä", "A" * 10_000, forged(), forged(own),
        forged(own, None), forged(own, 1.5), forged(own, True), forged(own, 2**63), forged(own, "a\x00"),
        forged(own, "up", 2**63), forged(own, {}, []), forged(*[own, "a", "b", "c"]), forged("[" * 5000),
    ]  # fmt: skip
    for cursor in cursors:
        status = api.call("GET", f"{path}?cursor={cursor}").status_code
        assert status == 400 or (cursor == "%00" and status == 422), cursor
    api.refused("GET", f"{path}?cursor=x", None, 400, "invalid_cursor")


@pytest.mark.parametrize("path", ["/operations", "/events"])
def test_after_and_cursor_are_not_given_together(api: Kit, path: str) -> None:
    cursor = api.get(f"{path}?limit=1")["next_cursor"]
    errors = api.refused("GET", f"{path}?after=1&cursor={cursor}", None, 422, "validation_failed")["errors"]
    assert list(errors) == ["after"]


@pytest.mark.parametrize("path", ["/operations", "/events"])
def test_after_turns_the_order_round_and_its_cursor_goes_on_upwards(api: Kit, path: str) -> None:
    whole = [each["id"] for each in api.get(f"{path}?limit=200")["items"]][::-1]
    assert [each["id"] for each in api.get(f"{path}?limit=200&after={whole[1]}")["items"]] == whole[2:]
    first = api.get(f"{path}?limit=1&after={whole[0]}")
    rest = api.get(f"{path}?limit=200&cursor={first['next_cursor']}")
    assert [each["id"] for each in first["items"] + rest["items"]] == whole[1:]
    assert api.get(f"{path}?after={whole[-1]}") == {"items": [], "next_cursor": None}


def test_a_cursor_is_opaque_and_comes_back_as_it_was_given(api: Kit) -> None:
    with api.app.test_request_context("/list"):
        cursor = encode_cursor("ä/ü", 7)
        assert cursor.isascii()
        assert decode_cursor(cursor, str, int) == ["ä/ü", 7]
        assert decode_cursor(None, str) is None
        assert page([1, 2, 3], 2, lambda row: (row,))["next_cursor"] == encode_cursor(2)
        assert page([1, 2], 2, lambda row: (row,), total=9) == {"items": [1, 2], "next_cursor": None, "total": 9}
        assert page([], 2, lambda row: (row,)) == {"items": [], "next_cursor": None}


AT = datetime(2026, 5, 4, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["2026-05-04T10:00:00Z", "2026-05-04t10:00:00Z", "2026-05-04T12:00:00+02:00", "2026-05-04T12:00:00 02:00",
     "2026-05-04 10:00:00.000000Z", "2026-05-04T04:30:00-05:30"],
)  # fmt: skip
def test_since_takes_any_rfc_3339_time(text: str) -> None:
    assert parse_since(text) == AT


def test_since_takes_an_age() -> None:
    for text, age in (("30s", 30), ("15m", 900), ("2h", 7200), ("7d", 604_800)):
        assert abs(datetime.now(UTC) - timedelta(seconds=age) - parse_since(text)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    "text",
    ["", "now", "15", "15 m", "-5m", "1w", "9999999s", "2026-05-04", "2026-05-04T10:00:00", "2026-13-04T10:00:00Z",
     "0001-01-01T00:00:00+23:00"],
)  # fmt: skip
def test_since_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_since(text)


def test_times_go_out_in_utc_with_six_digits() -> None:
    assert rfc3339(AT) == "2026-05-04T10:00:00.000000Z"
    assert rfc3339(None) is None
    assert Time().serialize("a", {"a": AT}) == "2026-05-04T10:00:00.000000Z"
    assert Time().serialize("a", {"a": "as it is"}) == "as it is"
    assert Time().serialize("a", {"a": None}) is None


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (Whole(low=1, high=9), [1, 9], [0, 10, 1.0, "1", True, None, [], {}]),
        (Number(low=0, high=1.5), [0, 1, 1.5], [-0.1, 1.6, "1", True, float("inf")]),
        (Flag(), [True, False], [0, 1, "true", "", None]),
        (QueryWhole(high=20), ["0", "20"], ["21", "-1", " 1", "1.0", 1, "٣", ""]),
        (QueryFlag(), ["true", "false"], ["True", "1", "", True]),
        (Text(longest=3, smallest=1), ["a", "äöü"], ["", "abcd", "a\x00", 5, None, ["a"]]),
        (Text(pattern="[a-c]+"), ["abc"], ["d", "abc\n", "ABC"]),
        (Choices(["a", "b"]), ["a", "a,b"], ["c", "a,c", "", "a,", ",", "a b"]),
        (Choices(longest=2), ["x,yy"], ["xxx", ","]),
    ],
)
def test_a_field_takes_no_wrong_type_for_a_right_one(field: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        field.deserialize(value)
    for value in bad:
        with pytest.raises(ValidationError):
            field.deserialize(value)


def test_what_only_clos_sets_is_refused_by_name() -> None:
    read_only({"a": 1}, {"b"})
    with pytest.raises(ValidationError) as caught:
        read_only({"b": 1, "a": 1}, {"a", "b"})
    assert caught.value.messages == {"a": ["This field is read-only."], "b": ["This field is read-only."]}
