"""`Idempotency-Key`: one effect and one answer, whatever is repeated, at once or later."""

import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
import requests
from sqlalchemy import update

from models.base import now
from models.installation import IdempotencyKey
from tests.integration.api_fixture import DATABASES, Api, api_on


@pytest.fixture(scope="module", params=DATABASES)
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    with api_on(request.param) as running:
        yield running


def keyed() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


def test_a_repeated_request_gets_the_same_answer_and_has_one_effect(api: Api) -> None:
    group, headers = api.group(), keyed()
    first = api.post(f"/groups/{group}/start", headers=headers)
    again = api.post(f"/groups/{group}/start", {}, headers=headers)
    assert first.status_code == again.status_code == 202
    assert first.content == again.content
    assert first.headers["Location"] == again.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(api.get(f"/operations?group={group}").json()["items"]) == 1


def test_the_same_key_with_another_body_is_refused(api: Api) -> None:
    group, headers = api.group(), keyed()
    api.post(f"/groups/{group}/start", headers=headers)
    answer = api.post(f"/groups/{group}/start", {"dry_run": True}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_belongs_to_one_principal_and_one_path(api: Api) -> None:
    group, other, headers = api.group(), api.group(), keyed()
    assert api.post(f"/groups/{group}/start", headers=headers).status_code == 202
    assert api.post(f"/groups/{other}/start", headers=headers).status_code == 202
    operator = api.user("operator")["session"]
    answer = operator.post(f"{api.url}/api/v2/groups/{group}/start", headers=headers, timeout=10)
    assert answer.json()["code"] == "operation_in_progress"


def test_an_error_is_not_kept(api: Api) -> None:
    group, headers = api.group(), keyed()
    blocking = api.post(f"/groups/{group}/stop").json()
    assert api.post(f"/groups/{group}/start", headers=headers).status_code == 409
    api.post(f"/operations/{blocking['id']}/cancel")
    assert api.post(f"/groups/{group}/start", headers=headers).status_code == 202


def test_a_created_service_is_answered_again_with_its_etag(api: Api) -> None:
    body = {"name": "x", "group": api.group(), "runtime": "process", "command": ["true"]}
    headers = keyed()
    first = api.post("/services", body, headers=headers)
    again = api.post("/services", body, headers=headers)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert first.headers["ETag"] == again.headers["ETag"]


def test_a_key_where_none_is_taken_or_that_is_none_is_refused(api: Api) -> None:
    for path in ("/auth/logout", "/users", "/api-keys", "/auth/login"):
        answer = api.post(path, {}, headers=keyed())
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_not_allowed")
    for key in ("", "x" * 256, "two words"):
        answer = api.post(f"/groups/{api.group()}/start", headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


def test_a_key_is_forgotten_after_a_day(api: Api) -> None:
    group, headers = api.group(), keyed()
    first = api.post(f"/groups/{group}/start", headers=headers).json()
    api.post(f"/operations/{first['id']}/cancel")
    with api.rig.record.write() as session:
        session.execute(update(IdempotencyKey).values(created_at=now() - timedelta(hours=25)))
    again = api.post(f"/groups/{group}/start", headers=headers)
    assert again.status_code == 202
    assert again.json()["id"] != first["id"]


def test_thirty_identical_posts_at_once_make_one_operation(api: Api) -> None:
    group, headers = api.group(), keyed() | {"X-API-Key": api.key}
    answers: list[requests.Response] = []
    url = f"{api.url}/api/v2/groups/{group}/start"
    ready = threading.Barrier(30)

    def ask() -> None:
        ready.wait(20)
        answers.append(requests.post(url, json={}, headers=headers, timeout=30))

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert [answer.status_code for answer in answers] == [202] * 30
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert len(api.get(f"/operations?group={group}").json()["items"]) == 1
