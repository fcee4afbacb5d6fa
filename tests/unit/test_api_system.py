"""Health, probes, facts, metrics, logs and documents."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from api import condition
from api.auth import routes
from api.v2 import logs
from models.base import now
from models.installation import Heartbeat
from tests.unit.api_kit import Kit, api, kit, problem

__all__ = ["api"]
CHECKS = {"database", "redis", "workers", "scheduler", "docker", "disk"}
ENGINE = {"status": "ok", "id": "I", "name": "N", "version": "20.10", "api_version": "1.41", "latency_ms": 2.0}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Kit]:
    """An API of this test's own."""
    with kit(tmp_path) as made:
        yield made


def beat(api: Kit, role: str, docker: Any = None, ago_s: float = 0.0) -> None:
    from datetime import timedelta

    facts = None if docker is None else {"docker": docker}
    with api.record.write() as session:
        session.merge(Heartbeat(id=f"{role}-1", role=role, facts=facts, at=now() - timedelta(seconds=ago_s)))


def health(api: Kit, status: int = 200) -> Any:
    answer = api.bare("GET", "/health")
    assert answer.status_code == status
    return answer.json


class Answering:
    """A Redis that is there."""

    def ping(self) -> bool:
        return True


@pytest.fixture
def well(own: Kit, monkeypatch: pytest.MonkeyPatch) -> Kit:
    """An API with everything it needs."""
    import dataclasses

    own.app.extensions["clos"] = dataclasses.replace(own.shared, redis=Answering())  # type: ignore[arg-type]
    monkeypatch.setattr(condition, "_LOW_BYTES", 0)
    monkeypatch.setattr(condition, "_FULL_BYTES", 0)
    for role in ("worker", "scheduler"):
        beat(own, role)
    return own


def test_health_has_every_member_of_the_contract_and_needs_no_login(well: Kit) -> None:
    for path in ("/health", "/api/v2/health"):
        answer = well.bare("GET", path)
        body = answer.json
        assert (answer.status_code, body.keys()) == (200, {"status", "version", "uptime", "checks"})
        assert body["checks"].keys() == CHECKS
        for check in body["checks"].values():
            assert check.keys() == {"status", "detail", "latency_ms"}
        assert (body["status"], body["version"]) == ("healthy", well.settings.version)
        assert body["uptime"] >= 0
        assert body["checks"]["docker"]["status"] == "absent"
        assert body["checks"]["database"]["latency_ms"] > 0


def test_without_workers_or_redis_it_is_degraded(own: Kit) -> None:
    checks = health(own)["checks"]
    assert health(own)["status"] == "degraded"
    assert {name: checks[name]["status"] for name in ("redis", "workers", "scheduler", "docker")} == {
        "redis": "failed", "workers": "failed", "scheduler": "failed", "docker": "absent",
    }  # fmt: skip


def test_a_process_that_fell_silent_is_not_heard_of(well: Kit) -> None:
    beat(well, "worker", ago_s=condition.SILENT_AFTER_S + 1)
    body = health(well)
    assert (body["status"], body["checks"]["workers"]["status"]) == ("degraded", "failed")


@pytest.mark.parametrize(
    ("facts", "needed", "status", "whole"),
    [
        (ENGINE, False, "ok", "healthy"),
        ({"status": "absent"}, False, "absent", "healthy"),
        ({"status": "absent", "detail": "no socket"}, True, "failed", "degraded"),
        ({"status": "failed", "detail": "hangs"}, False, "failed", "degraded"),
        (None, True, "failed", "degraded"),
    ],
)
def test_docker_is_missed_only_where_a_service_needs_it(
    well: Kit, facts: Any, needed: bool, status: str, whole: str
) -> None:
    beat(well, "worker", facts)
    if needed:
        well.post("/services", {"name": "a", "group": "g", "image": "x"})
    body = health(well)
    assert (body["checks"]["docker"]["status"], body["status"]) == (status, whole)


@pytest.mark.parametrize(("low", "full", "status"), [(2**63, 0, "degraded"), (2**63, 2**63, "failed")])
def test_a_disk_that_fills_up_is_told(
    well: Kit, monkeypatch: pytest.MonkeyPatch, low: int, full: int, status: str
) -> None:
    monkeypatch.setattr(condition, "_LOW_BYTES", low)
    monkeypatch.setattr(condition, "_FULL_BYTES", full)
    body = health(well)
    assert (body["checks"]["disk"]["status"], body["status"]) == (status, "degraded")
    assert condition.check_disk(Path("/nowhere/at/all"))["status"] == "failed"


def break_database(api: Kit, after: int = 0) -> None:
    """Every statement from the `after`th on fails."""
    seen = [0]

    def refuse(*_: Any) -> None:
        seen[0] += 1
        if seen[0] > after:
            raise OperationalError("x", {}, Exception("disk I/O error"))

    event.listen(api.record.engine, "before_cursor_execute", refuse)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_without_a_database_it_is_unhealthy_and_says_so_with_503(well: Kit, after: int) -> None:
    break_database(well, after)
    body = health(well, 503)
    assert (body["status"], body["checks"]["database"]["status"]) == ("unhealthy", "failed")
    assert body["checks"]["workers"]["status"] == "degraded"
    if after == 0:
        answer = well.bare("GET", "/health/ready")
        assert (answer.status_code, answer.json) == (503, {"status": "failed"})
        problem(well.call("GET", "/groups"), 503, "database_unavailable")
    assert well.bare("GET", "/health/live").json == {"status": "ok"}


def test_the_probes_answer(own: Kit) -> None:
    assert own.bare("GET", "/health/live").json == own.bare("GET", "/health/ready").json == {"status": "ok"}


def test_system_info_has_every_member_of_the_contract(well: Kit) -> None:
    body = well.get("/system/info")
    assert body.keys() >= {
        "version", "build", "cpu_count", "memory_total", "disk_total", "docker", "websocket_url",
    }  # fmt: skip
    assert body["docker"] is None
    assert body["websocket_url"] == "ws://127.0.0.1:18082/api/v2/ws"
    assert body["cpu_count"] >= 1
    assert 64 < body["memory_total"] < 2**24
    beat(well, "worker", ENGINE)
    assert well.get("/system/info")["docker"] == {
        "id": "I", "name": "N", "version": "20.10", "api_version": "1.41", "warning": None,
        "supported": {"oldest": "1.41", "newest": "1.51"},
    }  # fmt: skip


def test_an_engine_outside_of_the_window_is_told_with_what_to_do(well: Kit) -> None:
    beat(well, "worker", ENGINE | {"warning": "newer than tested"})
    assert well.get("/system/info")["docker"]["warning"] == "newer than tested"
    check = well.get("/health")["checks"]["docker"]
    assert (check["status"], check["detail"]) == ("ok", "20.10, API 1.41; newer than tested")
    beat(well, "worker", {"status": "failed", "detail": "too old: update it", "version": "19", "api_version": "1.40"})
    shown = well.get("/system/info")["docker"]
    assert (shown["id"], shown["api_version"], shown["warning"]) == (None, "1.40", "too old: update it")
    check = well.get("/health")["checks"]["docker"]
    assert (check["status"], check["detail"]) == ("failed", "too old: update it")


def test_metrics_are_prometheus_text_and_take_a_key_as_bearer(well: Kit) -> None:
    well.operation(well.group("a", "b"))
    answer = well.bare("GET", "/metrics", headers={"Authorization": f"Bearer {well.key}"})
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
    lines = answer.text.splitlines()
    assert 'clos_operations{status="pending"} 1' in lines
    assert 'clos_services{status="stopped"} 2' in lines
    assert "clos_events_total 1" in lines
    assert 'clos_processes{role="worker"} 1' in lines
    for line in lines:
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{\w+=\"\w+\"\})? [0-9]+", line), line
    problem(well.bare("GET", "/metrics"), 401, "not_authenticated")


def line(text: str) -> dict[str, Any]:
    return {"at": "2026-05-04T10:00:00.000000Z", "stream": "stdout", "text": text}


def test_logs_are_what_a_worker_gives(own: Kit) -> None:
    service_id = f"{own.group('web')}-web"
    own.replies.reply = {"lines": [line("one"), line("two")]}
    body = own.get(f"/services/{service_id}/logs?lines=7&since=2026-05-04T10:00:00Z&q=o")
    assert body == {"service_id": service_id, "lines": [line("one"), line("two")]}
    (sent,) = own.sent("logs")
    assert sent.actor_name == "read_logs"
    assert list(sent.args) == [own.replies.asked[0], service_id, 7, "2026-05-04T10:00:00.000000Z", "o"]
    own.replies.reply = {}
    assert own.get(f"/services/{service_id}/logs")["lines"] == []
    assert list(own.sent("logs")[0].args[1:]) == [service_id, 100, None, None]


def test_the_logs_of_a_group_are_one_answer(own: Kit) -> None:
    name = own.group("web", "api")
    own.replies.reply = {
        "lines": [{**line("one"), "service_id": f"{name}-web"}],
        "failed": {f"{name}-api": {"code": "engine_unreachable", "message": "gone"}},
    }
    body = own.get(f"/groups/{name}/logs?lines=7&q=o")
    assert body["lines"] == [{**line("one"), "service_id": f"{name}-web"}]
    assert body["failed"] == {f"{name}-api": "gone"}
    (sent,) = own.sent("logs")
    assert sent.actor_name == "read_many_logs"
    assert list(sent.args) == [own.replies.asked[-1], [f"{name}-api", f"{name}-web"], 7, None, "o"]
    empty = own.name()
    own.post("/groups", {"name": empty})
    assert own.get(f"/groups/{empty}/logs") == {"group": empty, "lines": [], "failed": {}}
    own.refused("GET", "/groups/nowhere/logs", None, 404, "group_not_found")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"code": "engine_unreachable", "message": "gone", "hint": "start it"}, 503, "engine_unreachable"),
        ({"code": "start_failed", "message": "no file"}, 504, "logs_timeout"),
        ({"message": "odd"}, 504, "logs_timeout"),
    ],
)
def test_why_a_worker_could_not_read_is_said(own: Kit, error: Any, status: int, code: str) -> None:
    own.replies.reply = {"error": error}
    body = own.refused("GET", f"/services/{own.group('web')}-web/logs", None, status, code)
    assert error["message"] in body["detail"]
    assert body.get("hint") == error.get("hint")


def test_logs_that_nobody_gives_are_a_timeout(own: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/services/{own.group('web')}-web/logs"
    assert logs.WAIT_S == 5.0
    assert "worker" in own.refused("GET", path, None, 504, "logs_timeout")["hint"]

    def away(*_: Any) -> None:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(own.shared.sender, "read_logs", away)
    assert "Redis" in own.refused("GET", path, None, 504, "logs_timeout")["detail"]


@pytest.mark.parametrize("query", ["lines=0", "lines=5001", "lines=x", "since=then", "q=", "tail=5"])
def test_a_wrong_wish_for_logs_is_refused(api: Kit, query: str) -> None:
    errors = api.refused("GET", f"/services/x/logs?{query}", None, 422, "validation_failed")["errors"]
    assert list(errors) == [query.partition("=")[0]]


def document(api: Kit) -> Any:
    answer = api.bare("GET", "/api/v2/openapi.json")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    return json.loads(answer.data)


def test_the_document_is_openapi_3_1_and_has_every_route_with_its_right(api: Kit) -> None:
    found = document(api)
    assert found["openapi"] == "3.1.0"
    for path, method, view in routes(api.app):
        if path.startswith("/docs") or path.endswith("openapi.json") or method in ("HEAD", "OPTIONS"):
            continue
        shown = found["paths"][re.sub(r"<(?:\w+(?:\(.*?\))?:)?(\w+)>", r"{\1}", path)][method.lower()]
        permission = getattr(view, "clos_permission", None)
        assert shown.get("x-permission") == permission, path
        assert (shown.get("security") == []) == (permission is None), path
        assert shown["summary"], path
        keyed = any(each.get("name") == "Idempotency-Key" for each in shown.get("parameters", []))
        assert keyed == hasattr(view, "clos_idempotent"), path
        assert "default" in shown["responses"], path


def test_every_reference_in_the_document_leads_somewhere(api: Kit) -> None:
    found = document(api)
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(found)):
        place = found
        for step in reference.split("/"):
            place = place[step]
    problems = found["components"]["responses"]["DEFAULT_ERROR"]["content"]
    assert list(problems) == ["application/problem+json"]


def test_the_document_is_made_once_and_many_may_ask_at_once(own: Kit) -> None:
    from tests.unit.api_kit import together

    answers = together(4, lambda: own.app.test_client().get("/api/v2/openapi.json", headers={"Host": "localhost"}).data)
    assert len(set(answers)) == 1


def test_the_page_needs_no_asset_from_another_host(api: Kit) -> None:
    page = api.bare("GET", "/docs")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert not re.findall(r"(?:src|href)=\"(?!/docs/)", page.text)
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"].split("style-src")[0]
    for asset in re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text):
        answer = api.bare("GET", asset)
        assert answer.status_code == 200, asset
        if "assets" in asset:
            assert answer.headers["Cache-Control"] == "public, max-age=86400"
    assert "/api/v2/openapi.json" in api.bare("GET", "/docs/start.js").text


@pytest.mark.parametrize("name", ["nothing.js", "..%2f..%2f__init__.py", "../../setup.py", "%00", "a%00.js"])
def test_what_is_no_asset_is_not_found(api: Kit, name: str) -> None:
    answer = api.bare("GET", f"/docs/assets/{name}")
    assert answer.status_code == 404
    assert answer.mimetype == "application/problem+json"


def test_no_thread_of_the_api_keeps_the_process_alive(own: Kit) -> None:
    own.operation()
    own.shared.reader.start()
    assert all(each.daemon for each in threading.enumerate() if each.name.startswith("clos-"))
