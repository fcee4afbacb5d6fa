"""Lists in pages: `?limit=&cursor=` -> `{"items": […], "next_cursor": …}`.

A view fetches `limit + 1` rows after the cursor's key and gives them to `page`. A cursor is opaque to clients: the
name of its list and the last row's key.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flask import request
from marshmallow import Schema, fields

from api.errors import InvalidCursor
from api.schemas import QueryWhole, Strict

Row = TypeVar("Row")


class PageArgs(Strict):
    """The query of every list; a list's own filters are added by subclassing."""

    limit = QueryWhole(low=1, high=200, load_default=50)
    cursor = fields.String(load_default=None)


page_args = PageArgs


def encode_cursor(*key: str | int) -> str:
    """The cursor that stands behind a row of that key, in the list of the current request's path."""
    raw = json.dumps([request.path, *key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: type) -> list[Any] | None:
    """The key in a cursor; None if there is no cursor. `kinds` are the types that the key must have.

    Raises:
        InvalidCursor: it is not one of this list's.
    """
    if cursor is None:
        return None
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    if not isinstance(found, list) or found[:1] != [request.path] or len(found) != 1 + len(kinds):
        raise InvalidCursor("this cursor was not given for this list", hint="begin again without it")
    for value, kind in zip(found[1:], kinds, strict=True):
        too_large = isinstance(value, int) and not -(2**63) <= value < 2**63
        if type(value) is not kind or too_large or "\x00" in str(value):
            raise InvalidCursor("this cursor was not given for this list", hint="begin again without it")
    return found[1:]


def page(
    rows: Sequence[Row], limit: int, key: Callable[[Row], Sequence[str | int]], total: int | None = None
) -> dict[str, Any]:
    """The envelope of up to `limit` of `rows`; there is a next page if one more was fetched."""
    shown = rows[:limit]
    more = len(rows) > limit
    body: dict[str, Any] = {"items": list(shown), "next_cursor": encode_cursor(*key(shown[-1])) if more else None}
    if total is not None:
        body["total"] = total
    return body


def page_of(item: type[Schema], total: bool = False) -> type[Schema]:
    """The schema of a page of `item`."""
    members: dict[str, Any] = {
        "items": fields.List(fields.Nested(item), required=True),
        "next_cursor": fields.String(required=True, allow_none=True),
    }
    if total:
        members["total"] = fields.Integer(required=True)
    return type(item.__name__.removesuffix("Schema") + "PageSchema", (Schema,), members)
