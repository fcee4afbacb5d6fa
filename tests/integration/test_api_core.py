"""What every call of the API has in common, over real HTTP, on both databases."""

import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import requests

from domain.states import OperationStatus
from models import operations
from models.base import now
from tests.integration.api_fixture import DATABASES, Api, api_on, running_api
from tests.waiting import wait_until


@pytest.fixture(scope="module", params=DATABASES)
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    with api_on(request.param, CLOS_API__READ_TIMEOUT="2s") as running:
        yield running


def started(api: Api) -> dict[str, Any]:
    """An operation that nobody works on."""
    answer = api.post(f"/groups/{api.group()}/start")
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def send_raw(api: Api, raw: bytes, **headers: str) -> requests.Response:
    return api.call("POST", "/groups", data=raw, headers={"Content-Type": "application/json", **headers})


def is_problem(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code", "request_id"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    return body


BAD_BODIES = {
    "not JSON": (b"{", 400, "malformed_json"),
    "a name twice": (b'{"name": "a", "name": "b"}', 400, "malformed_json"),
    "a name twice inside": (b'{"name": "a", "services": [{"name": "x", "name": "y"}]}', 400, "malformed_json"),
    "NaN": (b'{"name": "a", "start_order": NaN}', 400, "malformed_json"),
    "infinity": (b'{"name": "a", "start_order": 1e999}', 400, "malformed_json"),
    "UTF-16": ('{"name": "a"}'.encode("utf-16"), 400, "malformed_json"),
    "a byte-order mark": (b'\xef\xbb\xbf{"name": "a"}', 400, "malformed_json"),
    "depth 33": (b"[" * 33 + b"]" * 33, 400, "malformed_json"),
    "depth 5000": (b'{"name":' * 5000 + b"1" + b"}" * 5000, 400, "malformed_json"),
    "depth 500000 unclosed": (b"[" * 500_000, 400, "malformed_json"),
    "an integer of 5000 digits": (b'{"name": "a", "start_order": ' + b"9" * 5000 + b"}", 400, "malformed_json"),
    "an array": (b"[]", 422, "validation_failed"),
    "a text": (b'"x"', 422, "validation_failed"),
    "null": (b"null", 422, "validation_failed"),
    "an unknown field": (b'{"name": "a", "colour": "red"}', 422, "validation_failed"),
    "a mistyped field": (b'{"name": "a", "descripton": "x"}', 422, "validation_failed"),
    "a read-only field": (b'{"name": "a", "status": "running"}', 422, "validation_failed"),
    "a missing field": (b"{}", 422, "validation_failed"),
    "1.9 for an integer": (b'{"name": "a", "start_order": 1.9}', 422, "validation_failed"),
    "text for an integer": (b'{"name": "a", "start_order": "12"}', 422, "validation_failed"),
    "true for an integer": (b'{"name": "a", "start_order": true}', 422, "validation_failed"),
    "2**63": (b'{"name": "a", "start_order": 9223372036854775808}', 422, "validation_failed"),
    "NUL": (b'{"name": "a\\u0000"}', 422, "validation_failed"),
    "NUL in a description": (b'{"name": "a", "description": "x\\u0000y"}', 422, "validation_failed"),
    "half a surrogate pair": (b'{"name": "a", "description": "\\ud800"}', 422, "validation_failed"),
    "half a surrogate pair as a name": (b'{"name": "a", "\\ud800": 1}', 422, "validation_failed"),
    "a number for a text": (b'{"name": 5}', 422, "validation_failed"),
    "a name with a slash": (b'{"name": "a/b"}', 422, "validation_failed"),
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_bad_body_is_refused_with_a_problem(api: Api, what: str) -> None:
    raw, status, code = BAD_BODIES[what]
    body = is_problem(send_raw(api, raw), status, code)
    assert status != 422 or body["errors"]


def test_a_wrong_field_is_named(api: Api) -> None:
    body = is_problem(send_raw(api, b'{"name": "a", "colour": "red"}'), 422, "validation_failed")
    assert list(body["errors"]) == ["colour"]


def test_a_body_over_a_megabyte_is_refused_announced_or_not(api: Api) -> None:
    raw = b'{"name": "' + b"x" * 1024 * 1024 + b'"}'
    is_problem(send_raw(api, raw), 413, "body_too_large")
    chunks = iter([raw[at : at + 65536] for at in range(0, len(raw), 65536)])
    answer = api.call("POST", "/groups", data=chunks, headers={"Content-Type": "application/json"})
    is_problem(answer, 413, "body_too_large")


def test_a_body_that_is_not_declared_to_be_json_is_refused(api: Api) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = api.call("POST", "/groups", data=b'{"name": "a"}', headers={"Content-Type": kind})
        is_problem(answer, 415, "wrong_content_type")


def test_a_post_without_a_body_counts_as_an_empty_object(api: Api) -> None:
    assert api.post(f"/groups/{api.group()}/start").status_code == 202


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "limit=%205", "limit=1_0", "limit=99999999999999999999", "since=yesterday",
     "status=done", "colour=red", "group=%00", "service=" + "x" * 200],
)  # fmt: skip
def test_a_bad_query_is_refused(api: Api, query: str) -> None:
    is_problem(api.get(f"/operations?{query}"), 422, "validation_failed")


def test_a_cursor_of_another_list_or_of_nobody_is_refused(api: Api) -> None:
    started(api), started(api)
    cursor = api.get("/operations?limit=1").json()["next_cursor"]
    assert cursor
    for wrong in ("x", "", "bnVsbA", cursor + "A"):
        is_problem(api.get(f"/operations?cursor={wrong}"), 400, "invalid_cursor")
    is_problem(api.get(f"/events?cursor={cursor}"), 400, "invalid_cursor")


def test_pages_give_every_operation_once_newest_first_and_ascending_after_one(api: Api) -> None:
    mine = [started(api)["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    while len(seen) < 5:
        page = api.get(f"/operations?limit=2{cursor}").json()
        seen += [each["id"] for each in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert seen[:5] == mine[::-1]
    assert [each["id"] for each in api.get(f"/operations?after={mine[1]}").json()["items"]] == mine[2:]
    first = api.get(f"/operations?after={mine[0]}&limit=2").json()
    rest = api.get(f"/operations?limit=2&cursor={first['next_cursor']}").json()
    assert [each["id"] for each in first["items"] + rest["items"]] == mine[1:]


def test_events_are_filtered_and_follow_each_other(api: Api) -> None:
    operation = started(api)
    api.post(f"/operations/{operation['id']}/cancel")
    group = operation["group_name"]
    found = api.get(f"/events?group={group}&type=operation.created,operation.completed").json()["items"]
    assert [each["type"] for each in found] == ["operation.completed", "operation.created"]
    after = found[1]["id"]
    ascending = api.get(f"/events?group={group}&after={after}").json()["items"]
    assert [each["type"] for each in ascending] == ["operation.completed", "group.operation_completed"]
    assert all(each["id"] > after for each in ascending)
    assert not api.get(f"/events?group={group}&since=2030-01-01T00:00:00Z").json()["items"]


def test_unknown_paths_methods_and_things_are_problems(api: Api) -> None:
    is_problem(api.get("/nowhere"), 404, "route_not_found")
    is_problem(api.get("/operations/none"), 404, "operation_not_found")
    is_problem(api.get("/services/a%00b"), 404, "service_not_found")
    answer = api.call("DELETE", "/operations")
    is_problem(answer, 405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]
    is_problem(requests.options(f"{api.url}/api/v2/operations", timeout=5), 405, "method_not_allowed")


def test_what_is_not_even_http_is_answered_without_html(api: Api) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as client:
        client.sendall(b"GET / HTTP/9.9\r\nno colon\r\n\r\n")
        answer = client.makefile("rb").read()
    assert b"application/problem+json" in answer
    assert b"<html" not in answer.lower()


def test_a_foreign_host_and_a_foreign_origin_are_refused(api: Api) -> None:
    for host in ("evil.example", f"127.0.0.1.evil.example:{api.port}", "", "[::1]x"):
        is_problem(api.get("/operations", headers={"Host": host}), 400, "wrong_host")
    for host in (f"LOCALHOST:{api.port}", f"[::1]:{api.port}", "127.0.0.1"):
        assert api.get("/operations", headers={"Host": host}).ok
    for origin in ("null", "http://evil.example", f"http://localhost.evil.example:{api.port}"):
        is_problem(api.post("/groups", {"name": "a"}, headers={"Origin": origin}), 403, "forbidden")
    answer = api.post("/groups", {}, headers={"Origin": f"http://localhost:{api.port}"})
    is_problem(answer, 422, "validation_failed")
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_answers_carry_an_id_are_never_kept_and_large_ones_are_compressed(api: Api) -> None:
    answer = api.get("/operations", headers={"X-Request-ID": "mine-1"})
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    made = api.get("/operations", headers={"X-Request-ID": "no spaces allowed"}).headers["X-Request-ID"]
    assert made
    assert " " not in made
    for _ in range(5):
        started(api)
    large = api.get("/operations", headers={"Accept-Encoding": "gzip"})
    assert large.headers["Content-Encoding"] == "gzip"
    assert len(large.json()["items"]) >= 5
    assert "Content-Encoding" not in api.get("/auth/me", headers={"Accept-Encoding": "gzip"}).headers
    assert "Content-Encoding" not in api.get("/operations", headers={"Accept-Encoding": "identity"}).headers


def test_health_needs_no_login_and_tells_what_is_missing(api: Api) -> None:
    for path in ("/health", "/api/v2/health"):
        answer = requests.get(f"{api.url}{path}", timeout=5)
        assert answer.status_code == 200
        body = answer.json()
        assert body["status"] == "degraded"
        assert body["checks"]["database"]["status"] == "ok"
        assert body["checks"]["redis"]["status"] == "ok"
        assert body["checks"]["workers"]["status"] == "failed"
        assert body["checks"]["docker"]["status"] == "absent"
    assert requests.head(f"{api.url}/health", timeout=5).status_code == 200
    assert requests.get(f"{api.url}/health/live", timeout=5).ok
    assert requests.get(f"{api.url}/health/ready", timeout=5).ok


def test_metrics_are_prometheus_text_and_take_a_key_as_bearer(api: Api) -> None:
    answer = requests.get(f"{api.url}/metrics", headers={"Authorization": f"Bearer {api.key}"}, timeout=5)
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "\nclos_events_total " in answer.text
    is_problem(requests.get(f"{api.url}/metrics", timeout=5), 401, "not_authenticated")


def test_a_pending_operation_is_cancelled_at_once_and_lets_go_of_its_locks(api: Api) -> None:
    operation = started(api)
    group = operation["group_name"]
    rival = is_problem(api.post(f"/groups/{group}/stop"), 409, "operation_in_progress")
    assert rival["operation_id"] == operation["id"]
    cancelled = api.post(f"/operations/{operation['id']}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.json()["status"] == "cancelled"
    is_problem(api.post(f"/operations/{operation['id']}/cancel"), 409, "operation_final")
    assert api.post(f"/groups/{group}/stop").status_code == 202


def test_a_running_operation_is_asked_to_end_and_asking_twice_changes_nothing(api: Api) -> None:
    operation = started(api)
    claim(api, operation["id"])
    for _ in range(2):
        answer = api.post(f"/operations/{operation['id']}/cancel")
        assert answer.status_code == 202
        assert answer.json()["status"] == "cancelling"


def test_a_retry_is_a_new_operation_on_the_same_targets(api: Api) -> None:
    first = started(api)
    is_problem(api.post(f"/operations/{first['id']}/retry"), 409, "operation_in_progress")
    api.post(f"/operations/{first['id']}/cancel")
    again = api.post(f"/operations/{first['id']}/retry")
    assert again.status_code == 202
    assert again.json()["retry_of"] == first["id"]
    assert again.json()["parameters"] == first["parameters"]
    assert again.headers["Location"] == f"/api/v2/operations/{again.json()['id']}"
    is_problem(api.post(f"/groups/{first['group_name']}/stop"), 409, "operation_in_progress")


def test_only_a_waiting_operation_can_be_answered_and_only_with_one_of_its_choices(api: Api) -> None:
    operation = started(api)
    path = f"/operations/{operation['id']}/answer"
    is_problem(api.post(path, {"choice": "yes"}), 409, "operation_not_waiting")
    with api.rig.record.write() as session:
        found = operations.get(session, operation["id"])
        found.status = OperationStatus.WAITING.value
        found.question = {"text": "?", "choices": [{"choice": "yes"}, {"choice": "no"}], "expires_at": None}
    is_problem(api.post(path, {"choice": "perhaps"}), 422, "validation_failed")
    answer = api.post(path, {"choice": "yes"})
    assert answer.status_code == 202
    assert answer.json()["status"] == "pending"
    assert answer.json()["question"] is None


def listeners(api: Api) -> int:
    with redis.Redis.from_url(api.rig.redis.url) as client:
        return int(client.pubsub_numsub("clos:feed:wake")[0][1])


def claim(api: Api, operation_id: str) -> None:
    with api.rig.record.write() as session:
        assert operations.claim(session, operation_id, {"pid": 1}, now()) is not None


def finish(api: Api, operation_id: str) -> None:
    with api.rig.record.write() as session:
        operations.finish(session, operations.get(session, operation_id), OperationStatus.COMPLETED)
    api.rig.feed.wake()


def test_a_wait_is_answered_when_the_operation_ends(api: Api) -> None:
    operation = started(api)
    claim(api, operation["id"])
    answers: list[dict[str, Any]] = []
    waiter = threading.Thread(target=lambda: answers.append(api.get(f"/operations/{operation['id']}?wait=30").json()))
    began = time.monotonic()
    waiter.start()
    wait_until(waiter.is_alive, 5)
    finish(api, operation["id"])
    waiter.join(10)
    assert answers[0]["status"] == "completed"
    assert time.monotonic() - began < 5


def test_a_wait_that_is_over_gives_what_is_there(api: Api) -> None:
    answer = api.get(f"/operations/{started(api)['id']}?wait=1")
    assert answer.json()["status"] == "pending"
    is_problem(api.get(f"/operations/{started(api)['id']}?wait=61"), 422, "validation_failed")


@pytest.mark.fault
def test_two_hundred_waiters_leave_the_others_their_threads(api: Api) -> None:
    operation = started(api)
    claim(api, operation["id"])
    answers: list[requests.Response] = []
    url, key = f"{api.url}/api/v2/operations/{operation['id']}?wait=60", {"X-API-Key": api.key}
    waiters = [
        threading.Thread(target=lambda: answers.append(requests.get(url, headers=key, timeout=70))) for _ in range(200)
    ]
    for waiter in waiters:
        waiter.start()
    # Half of the threads wait; everybody else was answered at once and told to come again.
    wait_until(lambda: len(answers) >= 184, 20, "the answers of those who may not wait")
    assert {answer.headers.get("Retry-After") for answer in answers} == {"1"}
    took = []
    for _ in range(20):
        began = time.monotonic()
        assert api.get("/operations?limit=5").ok
        took.append(time.monotonic() - began)
    finish(api, operation["id"])
    for waiter in waiters:
        waiter.join(20)
    assert len(answers) == 200
    assert sorted(took)[10] < 0.1
    assert all(answer.status_code == 200 for answer in answers)


@pytest.mark.fault
def test_bodies_that_come_a_byte_a_second_are_cut_off_and_hurt_nobody(api: Api) -> None:
    slow = [socket.create_connection(("127.0.0.1", api.port), timeout=30) for _ in range(6)]
    head = (
        f"POST /api/v2/groups HTTP/1.1\r\nHost: 127.0.0.1:{api.port}\r\nX-API-Key: {api.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    )
    for client in slow:
        client.sendall(head.encode() + b"{")
    began = time.monotonic()
    for _ in range(10):
        assert api.post("/groups", {}).status_code == 422
    assert time.monotonic() - began < 2
    for client in slow:
        answer = client.makefile("rb").read()
        assert b" 408 " in answer.split(b"\r\n", 1)[0]
        assert b"request_timeout" in answer
        client.close()
    assert time.monotonic() - began < 8


def test_the_first_start_leaves_files_that_only_the_owner_may_read(api: Api) -> None:
    for name in ("credentials.json", "initial-password"):
        assert stat.S_IMODE((api.rig.home / name).stat().st_mode) == 0o600
    credentials = json.loads((api.rig.home / "credentials.json").read_text())
    assert credentials["url"] == api.url
    assert credentials["username"] == "admin"
    assert credentials["websocket_url"] == api.websocket_url == api.get("/system/info").json()["websocket_url"]
    ranges = api.get("/port-ranges").json()["items"]
    assert {each["project"] for each in ranges} >= {"core", "development"}


def test_a_second_start_changes_nothing_and_sigterm_answers_who_waits() -> None:
    with running_api() as api:
        before = (api.rig.home / "credentials.json").read_text()
        password = (api.rig.home / "initial-password").read_text()
        operation = started(api)
        answers: list[requests.Response] = []
        waiter = threading.Thread(target=lambda: answers.append(api.get(f"/operations/{operation['id']}?wait=60")))
        waiter.start()
        # The first waiter makes the API listen for wake-ups.
        wait_until(lambda: listeners(api) >= 1, 10, "the waiter")
        assert api.process is not None
        began = time.monotonic()
        api.process.terminate()
        assert api.process.wait(10) == 0
        assert time.monotonic() - began < 5
        waiter.join(5)
        assert answers[0].json()["status"] == "pending"
        api.start()
        assert (api.rig.home / "credentials.json").read_text() == before
        assert (api.rig.home / "initial-password").read_text() == password
        assert len(api.get("/users").json()["items"]) == 1
        assert len(api.get("/api-keys").json()["items"]) == 1


@pytest.mark.fault
def test_without_redis_reads_work_starts_are_accepted_and_nothing_takes_long() -> None:
    with running_api() as api:
        group = api.group()
        api.rig.redis.stop()
        for call in (
            lambda: api.get("/operations"),
            lambda: api.post(f"/groups/{group}/start"),
            lambda: requests.get(f"{api.url}/health", timeout=10),
        ):
            began = time.monotonic()
            answer = call()
            assert time.monotonic() - began < 1.5
            assert answer.status_code in (200, 202), answer.text
        health = requests.get(f"{api.url}/health", timeout=10).json()
        assert health["checks"]["redis"]["status"] == "failed"
        assert health["status"] == "degraded"
        operation = api.get(f"/operations?group={group}").json()["items"][0]
        answer = api.post(f"/operations/{operation['id']}/cancel")
        assert answer.json()["status"] == "cancelled"
        # A waiter finds the end without a wake-up as well.
        operation = started(api)
        answers: list[dict[str, Any]] = []
        waiter = threading.Thread(
            target=lambda: answers.append(api.get(f"/operations/{operation['id']}?wait=20").json())
        )
        waiter.start()
        finish(api, operation["id"])
        waiter.join(5)
        assert answers[0]["status"] == "completed"


def test_strangers_whose_bodies_never_end_hold_nobody_up(api: Api) -> None:
    head = "POST /api/v2/services HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += "Content-Length: 999\r\n\r\n{"
    strangers = [socket.create_connection(("127.0.0.1", api.port)) for _ in range(60)]
    try:
        for each in strangers:
            each.sendall(head.encode())
        began = time.monotonic()
        assert requests.get(f"{api.url}/health/live", timeout=15).ok
        assert time.monotonic() - began < 5
    finally:
        for each in strangers:
            each.close()
