"""The same key and body give the same answer again; work and answer are kept together or not at all."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from api.auth import routes
from api.idempotency import _work, after_commit, answer, unit_of_work
from models.base import now
from models.installation import IdempotencyKey
from models.operations import Operation
from tests.unit.api_kit import Kit, api, problem, process, together

__all__ = ["api"]


def test_every_post_takes_a_key_but_those_of_access(api: Kit) -> None:
    for path, method, view in routes(api.app):
        if method == "POST":
            access = path.startswith(("/api/v2/auth/", "/api/v2/users", "/api/v2/api-keys"))
            assert hasattr(view, "clos_idempotent") != access, path


@pytest.mark.parametrize(
    "path", ["/users", "/api-keys", "/auth/ws-ticket", "/auth/login", "/auth/refresh", "/auth/logout"]
)
def test_a_key_where_none_is_taken_is_refused(api: Kit, path: str) -> None:
    body = api.refused("POST", path, {"name": "x"}, 400, "idempotency_key_not_allowed", Idempotency_Key="k")
    assert body["hint"]


def test_a_repeated_request_gets_the_same_answer_and_nothing_is_done_twice(api: Kit) -> None:
    key, body = api.name("key-"), {"name": api.name()}
    first = api.call("POST", "/groups", body, Idempotency_Key=key)
    again = api.call("POST", "/groups", body, Idempotency_Key=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.data == again.data
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    for name in ("Location", "ETag", "Content-Type"):
        assert first.headers[name] == again.headers[name]
    assert first.headers["X-Request-ID"] != again.headers["X-Request-ID"]
    problem(api.call("POST", "/groups", body), 409, "group_exists")


def test_thirty_identical_posts_make_one_operation(api: Kit) -> None:
    group, key = api.group(), api.name("key-")
    path = f"/api/v2/groups/{group}/start"
    headers = {"X-API-Key": api.key, "Idempotency-Key": key, "Host": "127.0.0.1:18081"}
    answers = together(30, lambda: api.app.test_client().post(path, headers=headers))
    assert {each.status_code for each in answers} == {202}
    assert len({each.json["id"] for each in answers}) == 1
    assert sum("Idempotency-Replayed" in each.headers for each in answers) == 29
    assert (
        len(api.ask(lambda session: session.scalars(select(Operation).where(Operation.group_name == group)).all())) == 1
    )


def test_the_same_key_with_another_body_is_refused(api: Kit) -> None:
    key, name = api.name("key-"), api.name()
    api.call("POST", "/groups", {"name": name}, Idempotency_Key=key)
    for body in ({"name": name, "description": "x"}, {}, {"name": 7}):
        api.refused("POST", "/groups", body, 422, "idempotency_key_reused", Idempotency_Key=key)


def test_no_body_and_an_empty_object_are_the_same(api: Kit) -> None:
    path, key = f"/groups/{api.group()}/start", api.name("key-")
    first = api.call("POST", path, Idempotency_Key=key)
    again = api.call("POST", path, {}, Idempotency_Key=key)
    assert first.json["id"] == again.json["id"]


def test_a_key_belongs_to_its_principal_and_path(api: Kit) -> None:
    key = api.name("key-")
    one, two = api.group(), api.group()
    other = api.user("operator")["key"]
    first = api.call("POST", f"/groups/{one}/start", Idempotency_Key=key)
    assert api.call("POST", f"/groups/{two}/start", Idempotency_Key=key).json["id"] != first.json["id"]
    api.refused("POST", f"/groups/{one}/start", None, 409, "operation_in_progress", key=other, Idempotency_Key=key)


def test_what_was_refused_is_not_kept(api: Kit) -> None:
    group, key = api.group(), api.name("key-")
    running = api.operation(group)
    api.refused("POST", f"/groups/{group}/stop", None, 409, "operation_in_progress", Idempotency_Key=key)
    api.post(f"/operations/{running['id']}/cancel", status=202)
    assert api.call("POST", f"/groups/{group}/stop", Idempotency_Key=key).status_code == 202
    name = api.name()
    api.refused("POST", "/groups", {"name": name, "x": 1}, 422, "validation_failed", Idempotency_Key=key)
    assert api.call("POST", "/groups", {"name": name}, Idempotency_Key=key).status_code == 201


def test_a_key_is_forgotten_after_a_day(api: Kit) -> None:
    key, body = api.name("key-"), {"name": api.name()}
    api.call("POST", "/groups", body, Idempotency_Key=key)
    with api.record.write() as session:
        row = session.scalars(select(IdempotencyKey).where(IdempotencyKey.key == key)).one()
        row.created_at = now() - timedelta(hours=25)
    api.refused("POST", "/groups", body, 409, "group_exists", Idempotency_Key=key)
    api.call("POST", "/groups", {"name": api.name()}, Idempotency_Key=key)
    (row,) = api.ask(lambda session: session.scalars(select(IdempotencyKey).where(IdempotencyKey.key == key)).all())
    assert row.created_at > now() - timedelta(minutes=1)


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256, "a\tb"])
def test_what_is_no_key_is_refused(api: Kit, key: str) -> None:
    errors = api.refused("POST", "/groups", {"name": "a"}, 422, "validation_failed", Idempotency_Key=key)["errors"]
    assert list(errors) == ["Idempotency-Key"]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_key_on_anything_but_a_post_is_ignored(api: Kit, method: str) -> None:
    path, key = f"/groups/{api.group()}", api.name("key-")
    body = {"description": "d"} if method == "PATCH" else None
    assert api.call(method, path, body, Idempotency_Key=key).status_code in (200, 204)
    assert api.ask(lambda session: session.scalar(select(IdempotencyKey).where(IdempotencyKey.key == key))) is None


def test_whoever_may_not_is_told_nothing_of_a_kept_answer(api: Kit) -> None:
    group, key, user = api.group(), api.name("key-"), api.user("operator")
    api.call("POST", f"/groups/{group}/start", key=user["key"], Idempotency_Key=key)
    problem(
        api.bare("POST", f"/api/v2/groups/{group}/start", headers={"Idempotency-Key": key}), 401, "not_authenticated"
    )
    api.call("PATCH", f"/users/{user['id']}", {"role": "viewer"})
    api.refused("POST", f"/groups/{group}/start", None, 403, "forbidden", key=user["key"], Idempotency_Key=key)


def _all_is_sent(api: Kit) -> None:
    api.shared.courier.close()
    api.shared.courier._thread = None


def test_messages_go_out_after_the_commit_and_not_for_a_replay(api: Kit) -> None:
    _all_is_sent(api)  # of the tests before, too
    api.sent("operations")
    path, key = f"/services/{api.post('/services', process('a', group=api.name()))['id']}/start", api.name("key-")
    first = api.call("POST", path, Idempotency_Key=key).json
    api.call("POST", path, Idempotency_Key=key)
    api.refused("POST", path, None, 409, "operation_in_progress")
    _all_is_sent(api)
    assert [each.args[0] for each in api.sent("operations")] == [first["id"]]


def test_an_answer_is_given_inside_a_unit_of_work_only(api: Kit) -> None:
    with api.app.test_request_context("/", method="POST"):
        for outside in (lambda: answer({}), lambda: after_commit(print), _work):
            with pytest.raises(RuntimeError, match="outside"):
                outside()  # type: ignore[no-untyped-call]


def test_a_view_that_gives_no_answer_keeps_no_work(api: Kit) -> None:
    from flask import g

    from api.auth import Principal
    from models.groups import Group

    name, done = api.name(), []

    def work() -> Any:
        with unit_of_work() as session:
            session.add(Group(name=name))
            after_commit(lambda: done.append(1))

    with api.app.test_request_context("/", method="POST", headers={"Idempotency-Key": "k"}):
        g.principal = Principal("me", "admin", frozenset({"*"}), 1)
        with pytest.raises(RuntimeError, match="gave no answer"):
            work()
    assert api.ask(lambda session: session.get(Group, name)) is None
    assert done == []


def test_an_answer_that_is_no_success_is_not_kept(api: Kit) -> None:
    from flask import g

    from api.auth import Principal

    with api.app.test_request_context("/", method="POST", headers={"Idempotency-Key": "teapot"}):
        g.principal = Principal("me", "admin", frozenset({"*"}), 1)
        with unit_of_work():
            assert answer(None, 418).status_code == 418
    assert api.ask(lambda session: session.scalar(select(IdempotencyKey).where(IdempotencyKey.key == "teapot"))) is None
