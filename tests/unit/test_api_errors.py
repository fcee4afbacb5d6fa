"""Every code of the contract, its status, and what becomes of mistakes."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import Gone, InternalServerError, ServiceUnavailable

from api import errors, guards
from api.auth import public
from api.errors import STATUS, flatten, status_of
from domain.errors import ClosError, DatabaseBusy, IllegalTransition, ServiceNotFound, ValidationFailed
from tests.unit.api_kit import Kit, api, kit, problem

__all__ = ["api"]

CONTRACT = {
    "malformed_json": 400, "invalid_cursor": 400, "idempotency_key_not_allowed": 400, "not_authenticated": 401,
    "forbidden": 403, "service_not_found": 404, "group_not_found": 404, "operation_not_found": 404,
    "lease_not_found": 404, "port_range_not_found": 404, "conflict_not_found": 404, "method_not_allowed": 405,
    "operation_in_progress": 409, "service_exists": 409, "group_exists": 409, "service_running": 409,
    "port_held": 409, "conflict_closed": 409, "undo_impossible": 409, "operation_final": 409, "stale_version": 412,
    "body_too_large": 413, "wrong_content_type": 415, "validation_failed": 422, "dependency_cycle": 422,
    "unknown_dependency": 422, "unreachable_reference": 422, "idempotency_key_reused": 422, "rate_limited": 429,
    "database_busy": 503, "overloaded": 503, "logs_timeout": 504,
}  # fmt: skip


@pytest.mark.parametrize("code", CONTRACT)
def test_a_code_of_the_contract_has_its_status(code: str) -> None:
    error = ClosError("x")
    error.code = code
    assert status_of(error) == CONTRACT[code]


def everything(kind: type[ClosError]) -> Iterator[type[ClosError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from everything(each)


# What an operation's or a step's error may say, and what workers tell each other: never an HTTP answer.
OF_OPERATIONS = {
    "internal_error", "image_missing", "image_pull_failed", "address_pool_exhausted", "start_failed", "unhealthy",
    "dependency_failed", "timeout", "permission_denied", "poison", "cancelled", "unresolved_conflict", "claim_lost",
    "stopping", "unknown_operation", "compose_refused", "batch_failed", "cut_off",
}  # fmt: skip


def test_every_fact_that_the_api_may_state_has_a_status(api: Kit) -> None:
    for kind in everything(ClosError):
        if kind.__module__.startswith(("api", "domain", "models")) and kind.__name__ not in ("NotFound", "ClosError"):
            known = kind.code in STATUS or kind.code in OF_OPERATIONS or hasattr(kind, "noun")
            assert known, f"{kind.__module__}.{kind.__name__}: {kind.code}"


class Failing:
    """A view that raises whatever it is given."""

    def __init__(self) -> None:
        self.error: Exception = RuntimeError("nothing was given")

    def __call__(self) -> Any:
        raise self.error


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kit, Failing]]:
    with kit(tmp_path_factory.mktemp("failing")) as made:
        view = public(Failing())  # type: ignore[type-var]
        made.app.add_url_rule("/fail", "fail", view)
        yield made, view


def orig(text: str) -> Exception:
    return sqlite3.OperationalError(text)


FAILURES: dict[str, tuple[Exception, int, str]] = {
    "a mistake": (ZeroDivisionError("secret detail"), 500, "internal_error"),
    "a fact without a status": (ClosError("secret detail"), 500, "internal_error"),
    "an illegal transition": (IllegalTransition("operation", "a", "b"), 409, "illegal_transition"),
    "not found": (ServiceNotFound("x"), 404, "service_not_found"),
    "a busy record": (DatabaseBusy("busy"), 503, "database_busy"),
    "a locked database": (OperationalError("SELECT secret", {}, orig("database is locked")), 503, "database_busy"),
    "no connection free": (PoolTimeout("secret"), 503, "database_busy"),
    "no database": (OperationalError("SELECT secret", {}, orig("unable to open")), 503, "database_unavailable"),
    "wrong data": (DataError("SELECT secret", {}, orig("out of range")), 500, "internal_error"),
    "werkzeug's 503": (ServiceUnavailable(), 503, "overloaded"),
    "werkzeug's 500": (InternalServerError(), 500, "internal_error"),
    "werkzeug's 410": (Gone(), 410, "bad_request"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_whatever_fails_is_a_problem_that_gives_nothing_away(failing: tuple[Kit, Failing], what: str) -> None:
    api, view = failing
    view.error, status, code = FAILURES[what]
    answer = api.bare("GET", "/fail")
    problem(answer, status, code)
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    if status == 503 and what != "werkzeug's 503":
        assert answer.headers["Retry-After"] == "1"


def test_facts_and_hints_stand_beside_the_standard_members(failing: tuple[Kit, Failing]) -> None:
    api, view = failing
    view.error = errors.Forbidden("no", hint="ask", permission="a:b", status="facts do not overwrite")
    body = problem(api.bare("GET", "/fail"), 403, "forbidden")
    assert (body["permission"], body["hint"], body["detail"], body["title"]) == ("a:b", "ask", "no", "Forbidden")


def test_nested_messages_become_paths() -> None:
    nested = {"a": {0: {"b": ["x"]}, "c": {"_schema": ["y"]}}, "_schema": ["z"], "d": {"k": {"value": ["w"]}}, "e": "v"}
    assert flatten(nested) == {"a.0.b": ["x"], "a.c": ["y"], "_schema": ["z"], "d.k": ["w"], "e": ["v"]}
    assert flatten(["alone"]) == {"_schema": ["alone"]}
    assert flatten({"k": {"value": ["one"], "_schema": ["two"]}}) == {"k": ["one", "two"]}


def test_facts_named_after_a_field_are_flattened_into_errors(failing: tuple[Kit, Failing]) -> None:
    api, view = failing
    view.error = ValidationFailed({"services": {1: {"name": ["taken"]}}})
    assert problem(api.bare("GET", "/fail"), 422, "validation_failed")["errors"] == {"services.1.name": ["taken"]}


def test_hosts_are_compared_without_their_port() -> None:
    names = {"A.b:1": "a.b", "[::1]:80": "[::1]", "[::1]": "[::1]", "a:b": "", "a:999999": "", "": "", "::1": ""}
    assert {host: guards.host_name(host) for host in names} == names
