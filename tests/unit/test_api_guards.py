"""Host, origin, headers, compression, CORS, limits: what every request and answer goes through."""

import gzip
from collections.abc import Iterator

import pytest

from api import guards
from api.errors import RateLimited
from api.limits import RateLimits
from tests.unit.api_kit import DASHBOARD_PORT, PORT, WS_PORT, Kit, api, kit, problem

__all__ = ["api"]
DASHBOARD = "https://clos.example"


@pytest.fixture(scope="module")
def open_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """An API that another host's pages may call."""
    public = {"CLOS_API__PUBLIC_URL": "https://api.example:444", "CLOS_API__CORS": DASHBOARD}
    with kit(tmp_path_factory.mktemp("open"), **public) as made:
        yield made


@pytest.mark.parametrize(
    "host", ["evil.example", f"127.0.0.1.evil.example:{PORT}", "[::1]x", "127.0.0.1:port", "a b", "api.example"]
)
def test_a_host_that_is_not_ours_is_refused(api: Kit, host: str) -> None:
    body = problem(api.bare("GET", "/health", headers={"Host": host}), 400, "wrong_host")
    assert body["hint"]


@pytest.mark.parametrize("host", [f"LOCALHOST:{PORT}", f"[::1]:{PORT}", "127.0.0.1", "localhost"])
def test_our_own_names_are_let_in(api: Kit, host: str) -> None:
    assert api.bare("GET", "/health/live", headers={"Host": host}).status_code == 200


def test_a_public_name_is_one_of_ours(open_api: Kit) -> None:
    assert open_api.bare("GET", "/health/live", headers={"Host": "api.example:444"}).status_code == 200
    own = guards.known_hosts(open_api.settings)
    assert own >= {"api.example", "127.0.0.1", "localhost", "[::1]"}


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", f"http://localhost.evil.example:{PORT}", "http://localhost:9", "file://", "x",
     "http://127.0.0.1:99999", "ftp://127.0.0.1"],
)  # fmt: skip
def test_a_foreign_page_changes_nothing_but_may_be_read_for_by_nobody(api: Kit, origin: str) -> None:
    named = {"Origin": origin}
    problem(api.call("POST", "/groups", {"name": "a"}, **named), 403, "forbidden")
    read = api.call("GET", "/groups", **named)
    assert read.status_code == 200
    api.refused("GET", "/groups/a", None, 404, "group_not_found")
    assert "Access-Control-Allow-Origin" not in read.headers


@pytest.mark.parametrize("port", [PORT, WS_PORT, DASHBOARD_PORT])
def test_pages_of_clos_itself_may_change_things(api: Kit, port: int) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        api.refused("POST", "/groups", {}, 422, "validation_failed", Origin=f"http://{host}:{port}")


def test_configured_and_public_origins_may(open_api: Kit) -> None:
    for origin in (DASHBOARD, "https://api.example:444"):
        open_api.refused("POST", "/groups", {}, 422, "validation_failed", Origin=origin)
    open_api.refused("POST", "/groups", {}, 403, "forbidden", Origin="https://api.example")
    answer = open_api.call("GET", "/groups", Origin=DASHBOARD)
    assert answer.headers["Access-Control-Allow-Origin"] == DASHBOARD
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert "Origin" in answer.headers["Vary"]


def test_a_preflight_is_answered_for_configured_origins_only(open_api: Kit) -> None:
    asks = {"Access-Control-Request-Method": "PATCH"}
    answer = open_api.bare("OPTIONS", "/api/v2/groups/x", headers=asks | {"Origin": DASHBOARD})
    assert (answer.status_code, answer.data) == (204, b"")
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    assert "If-Match" in answer.headers["Access-Control-Allow-Headers"]
    for headers in (asks | {"Origin": "http://evil.example"}, {"Origin": DASHBOARD}, {}):
        refused = open_api.bare("OPTIONS", "/api/v2/groups/x", headers=headers)
        problem(refused, 405, "method_not_allowed")


def test_every_answer_says_that_it_is_private_and_is_nobodys_frame(api: Kit) -> None:
    for answer in (api.call("GET", "/groups"), api.bare("GET", "/nowhere"), api.bare("GET", "/health")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("given", "kept"), [("mine-1", True), ("a" * 100, True), ("a" * 101, False), ("no spaces", False), ("", False)]
)
def test_a_request_id_is_echoed_if_it_is_fit_or_made(api: Kit, given: str, kept: bool) -> None:
    answer = api.call("GET", "/operations/none", X_Request_ID=given)
    assert (answer.headers["X-Request-ID"] == given) == kept
    assert problem(answer, 404, "operation_not_found")["request_id"] == answer.headers["X-Request-ID"]


def test_answers_over_a_kibibyte_are_compressed_for_those_who_take_it(api: Kit) -> None:
    for _ in range(3):
        api.operation()
    plain = api.call("GET", "/operations")
    assert len(plain.data) > 1024
    packed = api.call("GET", "/operations", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert int(packed.headers["Content-Length"]) == len(packed.data) < len(plain.data)
    for answer in (packed, plain):
        assert "Accept-Encoding" in answer.headers["Vary"]
    for wish in ("identity", "gzip;q=0", "*", "br"):
        assert "Content-Encoding" not in api.call("GET", "/operations", Accept_Encoding=wish).headers
    assert "Content-Encoding" not in api.call("GET", "/auth/me", Accept_Encoding="gzip").headers


@pytest.mark.parametrize("path", ["/services/a%00b", "/groups/%00", "/operations/x%00"])
def test_nul_in_a_path_names_nothing(api: Kit, path: str) -> None:
    assert api.call("GET", path).status_code == 404


@pytest.mark.parametrize("query", ["q=%00", "%00=1", "group=a%00b"])
def test_nul_in_a_query_is_refused(api: Kit, query: str) -> None:
    assert api.refused("GET", f"/services?{query}", None, 422, "validation_failed")["errors"]


@pytest.mark.parametrize("path", ["/services/%ff", "/services/%ed%a0%80", "/groups/" + "x" * 5000])
def test_a_path_that_is_no_text_names_nothing(api: Kit, path: str) -> None:
    assert api.call("GET", path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("DELETE", "/operations", {"GET", "HEAD", "POST"}), ("PUT", "/services/x", {"GET", "HEAD", "PATCH", "DELETE"}),
     ("GET", "/auth/login", {"POST"}), ("TRACE", "/groups", {"GET", "HEAD", "POST"}), ("BREW", "/groups", None)],
)  # fmt: skip
def test_a_wrong_method_is_told_the_right_ones(api: Kit, method: str, path: str, allowed: set[str] | None) -> None:
    answer = api.bare(method, f"/api/v2{path}")
    problem(answer, 405, "method_not_allowed")
    if allowed is not None:
        assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/", "/api", "/api/v2", "/api/v2/", "/api/v1/services", "/api/v2/nowhere", "/x//y"])
def test_an_unknown_path_is_a_problem_for_everybody(api: Kit, path: str) -> None:
    problem(api.bare("GET", path), 404, "route_not_found")


def test_a_trailing_slash_is_no_redirect(api: Kit) -> None:
    assert api.call("GET", "/groups/").status_code == 200
    assert api.call("POST", "/groups/", {"name": "slashed"}).status_code == 201
    assert api.call("DELETE", "/groups/slashed/").status_code == 204


def test_head_gives_the_head_of_get(api: Kit) -> None:
    for path in ("/health", "/api/v2/health", "/health/live", "/health/ready"):
        answer = api.bare("HEAD", path)
        assert (answer.status_code, answer.data) == (200, b"")
    assert api.call("HEAD", "/groups").status_code == 200


def test_requests_over_the_limit_are_told_when_to_come_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with kit(tmp_path, CLOS_SECURITY__RATE_LIMIT__REQUESTS_PER_MINUTE="3") as api:
        other = api.user("viewer")["key"]
        assert [api.call("GET", "/auth/me").status_code for _ in range(4)] == [200, 200, 200, 429]
        answer = api.call("GET", "/auth/me")
        assert "wait" in problem(answer, 429, "rate_limited")["hint"]
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert api.call("GET", "/auth/me", key=other).status_code == 200
        assert api.bare("GET", "/health").status_code == 200


def test_a_window_begins_again_and_the_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [1000.0]
    monkeypatch.setattr("api.limits.time.monotonic", lambda: at[0])
    monkeypatch.setattr("api.limits._MAX_KEYS", 5)
    limits = RateLimits()
    limits.count("a", 0)
    assert not limits._counts
    limits.count("a", 1)
    with pytest.raises(RateLimited) as caught:
        limits.count("a", 1)
    assert caught.value.retry_after_s == 60
    at[0] += 59.5
    with pytest.raises(RateLimited) as caught:
        limits.count("a", 1)
    assert caught.value.retry_after_s == 1
    at[0] += 1
    limits.count("a", 1)
    for number in range(20):
        limits.count(f"k{number}", 1)
    assert len(limits._counts) == 5
    at[0] += 61
    limits.count("new", 1)
    assert set(limits._counts) == {"new"}
