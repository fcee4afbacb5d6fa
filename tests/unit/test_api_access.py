"""Who may come in, and what each role may do, route by route."""

import base64
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from flask import Flask

from api.auth import Memory, Principal, principal, public, refuse_unmarked, requires, routes
from api.errors import Forbidden, NotAuthenticated
from domain.permissions import ADMIN, KNOWN, OPERATOR, ROLES, VIEWER, allows
from models.access import ApiKey, AuditEntry, User, UserSession
from models.base import now
from tests.unit.api_kit import Kit, api, kit, problem, together

__all__ = ["api"]
PASSWORD = "a long password"
PUBLIC = {
    "/health", "/health/live", "/health/ready", "/api/v2/health", "/api/v2/openapi.json", "/docs", "/docs/start.js",
    "/docs/assets/<string:name>", "/api/v2/auth/login", "/api/v2/auth/refresh",
}  # fmt: skip
NOBODY = frozenset[str]()

# What the contract lets each role do; everything else is the administrator's.
READABLE = ("services", "groups", "ports", "conflicts", "operations", "events", "metrics", "alerts", "system")
CONTRACT_VIEWER = {f"{noun}:read" for noun in READABLE}
CONTRACT_OPERATOR = CONTRACT_VIEWER | {
    "services:start", "services:stop", "services:restart", "services:update", "services:logs", "groups:start",
    "groups:stop", "groups:restart", "groups:update", "ports:allocate", "conflicts:scan", "conflicts:resolve",
    "operations:cancel", "operations:answer", "alerts:acknowledge",
}  # fmt: skip

# (method, path under /api/v2) -> who gets through.
MATRIX: dict[tuple[str, str], str] = {
    ("GET", "/services"): "viewer", ("POST", "/services"): "admin",
    ("GET", "/services/x"): "viewer", ("PATCH", "/services/x"): "admin", ("DELETE", "/services/x"): "admin",
    ("POST", "/services/x/start"): "operator", ("POST", "/services/x/stop"): "operator",
    ("POST", "/services/x/restart"): "operator", ("POST", "/services/x/update"): "operator",
    ("GET", "/services/x/logs"): "operator",
    ("GET", "/services/x/health"): "viewer", ("GET", "/services/x/metrics"): "viewer",
    ("GET", "/groups"): "viewer", ("POST", "/groups"): "admin", ("GET", "/groups/x"): "viewer",
    ("PATCH", "/groups/x"): "admin", ("DELETE", "/groups/x"): "admin", ("POST", "/groups/x/start"): "operator",
    ("POST", "/groups/x/stop"): "operator", ("POST", "/groups/x/restart"): "operator",
    ("POST", "/groups/x/update"): "operator",
    ("POST", "/groups/x/clone"): "admin", ("GET", "/groups/x/graph"): "viewer", ("GET", "/groups/x/export"): "viewer",
    ("POST", "/groups/import"): "admin", ("POST", "/groups/x/import"): "admin",
    ("GET", "/groups/x/logs"): "operator",
    ("GET", "/ports"): "viewer", ("GET", "/ports/9"): "viewer", ("POST", "/ports/9/check"): "viewer",
    ("POST", "/ports/allocate"): "operator", ("DELETE", "/ports/leases/99999"): "operator",
    ("GET", "/port-ranges"): "viewer", ("POST", "/port-ranges"): "admin", ("GET", "/port-ranges/99999"): "viewer",
    ("PATCH", "/port-ranges/99999"): "admin", ("DELETE", "/port-ranges/99999"): "admin",
    ("GET", "/ports/9/conflicts"): "viewer", ("GET", "/conflicts"): "viewer", ("GET", "/conflicts/99999"): "viewer",
    ("POST", "/conflicts/scan"): "operator", ("POST", "/conflicts/resolve"): "operator",
    ("POST", "/conflicts/99999/resolve"): "operator", ("POST", "/conflicts/99999/undo"): "operator",
    ("GET", "/orphans"): "viewer", ("POST", "/orphans/x/adopt"): "admin", ("POST", "/orphans/x/remove"): "admin",
    ("GET", "/operations"): "viewer", ("POST", "/operations"): "viewer",
    ("GET", "/operations/x"): "viewer", ("POST", "/operations/x/cancel"): "operator",
    ("POST", "/operations/x/retry"): "viewer", ("POST", "/operations/x/answer"): "operator",
    ("GET", "/events"): "viewer", ("GET", "/system/info"): "viewer",
    ("GET", "/users"): "admin", ("POST", "/users"): "admin", ("GET", "/users/99999"): "admin",
    ("PATCH", "/users/99999"): "admin", ("DELETE", "/users/99999"): "admin",
    ("GET", "/api-keys"): "admin", ("GET", "/api-keys/x"): "admin",
    ("POST", "/api-keys"): "admin", ("DELETE", "/api-keys/x"): "admin",
    ("GET", "/audit"): "admin", ("GET", "/auth/me"): "viewer",
}  # fmt: skip


@pytest.fixture(scope="module")
def keys(api: Kit) -> dict[str, str]:
    """A key of each role."""
    return {role: api.user(role)["key"] for role in ROLES}


def login(api: Kit, username: str, password: str = PASSWORD) -> Any:
    return api.bare("POST", "/api/v2/auth/login", json={"username": username, "password": password})


def refresh(api: Kit, token: str) -> Any:
    return api.bare("POST", "/api/v2/auth/refresh", json={"refresh_token": token})


def me(api: Kit, token: str, scheme: str = "Bearer") -> Any:
    return api.bare("GET", "/api/v2/auth/me", headers={"Authorization": f"{scheme} {token}"})


def test_the_roles_are_those_of_the_contract() -> None:
    assert VIEWER == CONTRACT_VIEWER
    assert ROLES["operator"] == OPERATOR == CONTRACT_OPERATOR
    assert ROLES["admin"] == ADMIN == {"*"}
    assert all(allows(ADMIN, permission) for permission in KNOWN)
    assert allows(["services:*"], "services:delete")
    assert not allows(["services:*"], "groups:read")


def test_every_route_names_a_known_permission_or_is_one_of_the_few_open_ones(api: Kit) -> None:
    for path, method, view in routes(api.app):
        if hasattr(view, "clos_public"):
            assert path in PUBLIC, f"{method} {path} is open"
        else:
            assert view.clos_permission in KNOWN | {"self", "*"}, f"{method} {path}"


@pytest.mark.parametrize(("method", "path"), MATRIX)
def test_each_role_gets_through_exactly_where_it_may(api: Kit, keys: dict[str, str], method: str, path: str) -> None:
    least = ["viewer", "operator", "admin"].index(MATRIX[method, path])
    problem(api.bare(method, f"/api/v2{path}"), 401, "not_authenticated")
    for place, role in enumerate(("viewer", "operator", "admin")):
        # An unknown field or thing: whoever may gets 422, 404 or an empty list, and nothing happens.
        answer = api.call(method, path, {"no such field": 1} if method != "GET" else None, key=keys[role])
        if place < least:
            assert "permission" in problem(answer, 403, "forbidden")
        else:
            assert answer.status_code not in (401, 403, 500), f"{role}: {method} {path}: {answer.text}"


def test_no_route_of_the_api_is_left_out_of_the_matrix(api: Kit) -> None:
    def matched(method: str, path: str) -> bool:
        adapter = api.app.url_map.bind("127.0.0.1")
        return any(
            known == method and adapter.match(f"/api/v2{each}", known, return_rule=True)[0].rule == path
            for known, each in MATRIX
        )

    left = [
        f"{method} {path}"
        for path, method, view in routes(api.app)
        if path.startswith("/api/v2") and hasattr(view, "clos_permission") and view.clos_permission != "self"
        if not matched(method, path)
    ]
    assert left == []


def test_an_app_with_an_unmarked_route_does_not_start() -> None:
    app = Flask("test", static_folder=None)
    app.add_url_rule("/bare", "bare", lambda: "")
    with pytest.raises(RuntimeError, match="GET /bare"):
        refuse_unmarked(app)
    with pytest.raises(ValueError, match="services:fly"):
        requires("services:fly")
    assert public(lambda: "").clos_public is True  # type: ignore[attr-defined]


def test_outside_of_a_login_there_is_no_principal(api: Kit) -> None:
    with api.app.test_request_context("/"), pytest.raises(NotAuthenticated):
        principal()
    nobody = Principal("n", "none", NOBODY, 0)
    assert not nobody.may("services:read")
    with pytest.raises(Forbidden) as caught:
        nobody.require("services:read")
    assert caught.value.facts == {"permission": "services:read"}


def test_a_login_gives_tokens_that_last_as_long_as_they_say(api: Kit) -> None:
    user = api.user("operator", PASSWORD)
    answer = login(api, user["username"])
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert set(answer.json) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 900)
    found = me(api, answer.json["access_token"])
    assert found.json == {
        "username": user["username"], "role": "operator", "permissions": sorted(OPERATOR),
    }  # fmt: skip
    assert me(api, answer.json["access_token"], "bEaReR").status_code == 200
    assert me(api, api.key).json["permissions"] == ["*"]


def test_a_wrong_login_says_nothing_of_why_and_is_written_down(api: Kit) -> None:
    user, locked = api.user("viewer", PASSWORD), api.user("viewer", PASSWORD)
    api.call("PATCH", f"/users/{locked['id']}", {"disabled": True})
    keyed = api.user("viewer")  # has no password at all
    said = {
        problem(login(api, name, "wrong"), 401, "not_authenticated")["detail"]
        for name in (user["username"], locked["username"], keyed["username"], "nobody")
    }
    said.add(problem(login(api, locked["username"]), 401, "not_authenticated")["detail"])
    assert len(said) == 1
    entry = api.get(f"/audit?actor={user['username']}")["items"][0]
    assert (entry["outcome"], entry["resource"]) == ("refused", "/api/v2/auth/login")
    assert PASSWORD not in str(entry)


def test_a_refresh_token_is_good_once_and_its_second_use_ends_the_login(api: Kit) -> None:
    user = api.user("viewer", PASSWORD)
    first = login(api, user["username"]).json
    fresh = refresh(api, first["refresh_token"]).json
    assert fresh["refresh_token"] != first["refresh_token"]
    assert me(api, fresh["access_token"]).status_code == 200
    problem(refresh(api, first["refresh_token"]), 401, "not_authenticated")
    for dead in (first, fresh):
        problem(refresh(api, dead["refresh_token"]), 401, "not_authenticated")
        problem(me(api, dead["access_token"]), 401, "not_authenticated")
    items = api.get(f"/audit?actor={user['username']}")["items"]
    assert {"reason": "refresh token used twice"} in [each["details"] for each in items]


def test_a_refresh_token_that_many_use_at_once_is_good_for_one(api: Kit) -> None:
    token = login(api, api.user("viewer", PASSWORD)["username"]).json["refresh_token"]
    body = {"refresh_token": token}
    headers = {"Host": "127.0.0.1:18081"}
    path = "/api/v2/auth/refresh"
    answers = together(4, lambda: api.app.test_client().post(path, json=body, headers=headers).status_code)
    assert sorted(answers) == [200, 401, 401, 401]


def test_a_logout_ends_every_token_of_the_login_but_not_the_key_of_others(api: Kit) -> None:
    user = api.user("viewer", PASSWORD)
    tokens = login(api, user["username"]).json
    gone = api.bare("POST", "/api/v2/auth/logout", headers={"Authorization": f"Bearer {tokens['access_token']}"})
    assert (gone.status_code, gone.data) == (204, b"")
    problem(me(api, tokens["access_token"]), 401, "not_authenticated")
    problem(refresh(api, tokens["refresh_token"]), 401, "not_authenticated")
    assert api.call("POST", "/auth/logout", key=user["key"]).status_code == 204
    assert api.call("GET", "/auth/me", key=user["key"]).status_code == 200


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_forged_and_misused_tokens_are_refused(api: Kit) -> None:
    key = (api.settings.home / "keys" / "jwt").read_bytes()
    tokens = login(api, api.user("viewer", PASSWORD)["username"]).json
    good = jwt.decode(tokens["access_token"], key, algorithms=["HS256"], options={"verify_aud": False})

    def signed(algorithm: str = "HS256", with_key: Any = key, headers: Any = None, **changes: Any) -> str:
        claims = {name: value for name, value in (good | changes).items() if value is not None}
        return jwt.encode(claims, with_key, algorithm=algorithm, headers=headers)

    at = int(time.time())
    payload = base64.urlsafe_b64encode(b"[]").decode()
    forged = {
        "alg none": jwt.encode(good, "", algorithm="none"), "another algorithm": signed("HS512"),
        "another key": signed(with_key=b"x" * 32), "no exp": signed(exp=None), "no jti": signed(jti=None),
        "no sid": signed(sid=None), "no type": signed(type=None), "no version": signed(ver=None),
        "expired": signed(exp=at - 10), "not yet": signed(nbf=at + 600), "another audience": signed(aud="other"),
        "another issuer": signed(iss="other"), "a refresh token": tokens["refresh_token"], "old": signed(ver=0),
        "another's session": signed(sub="1"), "a user that is none": signed(sub="x"), "minus": signed(sub="-1"),
        "a huge user": signed(sub=str(2**70)), "a session that is none": signed(sid="x"),
        "crit": signed(headers={"crit": ["x"], "x": 1}), "rubbish": "a.b.c", "no dots": "abc",
        "no object": ".".join([tokens["access_token"].split(".")[0], payload, "x"]),
    }  # fmt: skip
    assert me(api, signed()).status_code == 200
    for what, token in forged.items():
        assert me(api, token).status_code == 401, what
    problem(refresh(api, tokens["access_token"]), 401, "not_authenticated")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer "}, {"X-API-Key": ""},
     {"X-API-Key": "clos_a_b"}, {"Authorization": "Bearer clos_a_b"}, {"X-API-Key": "ä"}],
)  # fmt: skip
def test_without_a_good_login_the_answer_is_401_and_says_how(api: Kit, headers: dict[str, str]) -> None:
    answer = api.bare("GET", "/api/v2/groups", headers=headers)
    problem(answer, 401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_beside_a_token_is_the_one_that_counts(api: Kit) -> None:
    headers = {"X-API-Key": "clos_wrong", "Authorization": f"Bearer {api.key}"}
    problem(api.bare("GET", "/api/v2/auth/me", headers=headers), 401, "not_authenticated")


def test_a_key_may_only_what_its_scopes_say_and_never_more_than_its_user(api: Kit) -> None:
    narrow = api.user("viewer", scopes=["services:read", "groups:create"])
    assert api.get("/auth/me", key=narrow["key"])["permissions"] == ["services:read"]
    api.get("/services", key=narrow["key"])
    api.refused("GET", "/groups", None, 403, "forbidden", key=narrow["key"])
    api.refused("POST", "/groups", {}, 403, "forbidden", key=narrow["key"])


def test_an_unknown_role_may_nothing(api: Kit) -> None:
    key = api.user("janitor")["key"]
    assert api.get("/auth/me", key=key)["permissions"] == []
    api.refused("GET", "/services", None, 403, "forbidden", key=key)


def test_a_revoked_or_expired_key_and_a_disabled_users_are_refused(api: Kit) -> None:
    user = api.user("viewer")
    made = api.post("/api-keys", {"name": "short", "expires_in": 3600})
    assert api.get("/auth/me", key=made["key"])["role"] == "admin"
    with api.record.write() as session:
        key = session.get(ApiKey, made["id"])
        assert key is not None
        key.expires_at = now()
    api.shared.principals.forget()
    api.refused("GET", "/auth/me", None, 401, "not_authenticated", key=made["key"])
    api.get("/auth/me", key=user["key"])
    assert api.call("PATCH", f"/users/{user['id']}", {"disabled": True}).status_code == 200
    api.refused("GET", "/auth/me", None, 401, "not_authenticated", key=user["key"])


def test_a_remembered_key_ends_when_its_time_comes(api: Kit) -> None:
    made = api.post("/api-keys", {"name": "soon", "expires_in": 3600})
    api.get("/auth/me", key=made["key"])
    memory = api.shared.principals
    known = next(name for name, (_, who) in memory._known.items() if who is not None and who.key_id == made["id"])
    at, who = memory._known[known]
    assert who is not None
    assert who.expires_at is not None
    memory._known[known] = (at, Principal(**{**vars(who), "expires_at": time.time() - 1}))
    api.refused("GET", "/auth/me", None, 401, "not_authenticated", key=made["key"])


def test_a_login_that_is_over_in_the_record_is_over(api: Kit) -> None:
    tokens = login(api, api.user("viewer", PASSWORD)["username"]).json
    with api.record.write() as session:
        for each in session.query(UserSession):
            each.expires_at = now()
    api.shared.principals.forget()
    problem(me(api, tokens["access_token"]), 401, "not_authenticated")
    problem(refresh(api, tokens["refresh_token"]), 401, "not_authenticated")


def test_what_is_remembered_is_bounded_and_guesses_are_not() -> None:
    memory, asked = Memory(60.0), []
    known = Principal("a", "viewer", NOBODY, 1)

    def load(found: Principal | None) -> Any:
        return lambda: asked.append(1) or found

    for _ in range(2):
        assert memory.recall("a", load(known)) is known
        assert memory.recall("guess", load(None)) is None
    assert len(asked) == 3
    for number in range(2500):
        memory.recall(f"k{number}", load(known))
    assert len(memory._known) <= 2000
    memory.forget()
    assert not memory._known
    hasty = Memory(0.0)
    hasty.recall("a", load(known))
    assert hasty.recall("a", load(None)) is None


def test_a_ticket_stands_for_who_asked_for_it(api: Kit) -> None:
    user = api.user("viewer", PASSWORD)
    answer = api.post("/auth/ws-ticket", status=200, key=user["key"])
    assert answer.keys() == {"ticket", "expires_in"}
    assert answer["expires_in"] == 30
    by_key = api.tickets.issued[answer["ticket"]]
    assert (by_key["user_id"], by_key["key_id"], by_key["session_id"]) == (user["id"], user["key_id"], None)
    token = login(api, user["username"]).json["access_token"]
    made = api.bare("POST", "/api/v2/auth/ws-ticket", headers={"Authorization": f"Bearer {token}"}).json
    by_login = api.tickets.issued[made["ticket"]]
    assert by_login["session_id"]
    assert by_login["expires_at"] > time.time()
    assert user["key"] not in str(api.tickets.issued)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """An API whose Redis is not there."""
    with kit(tmp_path_factory.mktemp("alone"), redis=False, CLOS_SECURITY__RATE_LIMIT__LOGINS_PER_MINUTE="3") as made:
        yield made


def test_without_redis_there_are_no_tickets_and_the_answer_says_so(alone: Kit) -> None:
    answer = alone.call("POST", "/auth/ws-ticket")
    problem(answer, 503, "overloaded")
    assert answer.headers["Retry-After"] == "1"


def test_logins_of_one_name_are_limited_and_others_go_on(alone: Kit) -> None:
    user = alone.user("viewer", PASSWORD)
    assert [login(alone, user["username"], "x").status_code for _ in range(3)] == [401, 401, 401]
    limited = login(alone, user["username"])
    problem(limited, 429, "rate_limited")
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    assert login(alone, "another", "x").status_code == 401
    assert alone.call("GET", "/auth/me", key=user["key"]).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("login", {"username": "a"}, "password"), ("login", {"password": "a"}, "username"),
        ("login", {"username": 1, "password": "a"}, "username"),
        ("login", {"username": "", "password": "a"}, "username"),
        ("login", {"username": "a", "password": "b" * 1001}, "password"),
        ("login", {"username": "a", "password": "b", "otp": 1}, "otp"), ("refresh", {}, "refresh_token"),
        ("refresh", {"refresh_token": None}, "refresh_token"),
    ],
)  # fmt: skip
def test_a_wrong_login_body_is_refused_by_field(api: Kit, path: str, body: Any, field: str) -> None:
    answer = api.bare("POST", f"/api/v2/auth/{path}", json=body)
    assert list(problem(answer, 422, "validation_failed")["errors"]) == [field]


def test_a_password_changed_while_one_logs_in_is_the_wrong_one(api: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    user = api.user("viewer", PASSWORD)
    record, real = api.shared.record, api.record.write
    changed = []

    def write() -> Any:
        # Between the comparison and the transaction that makes the session.
        if not changed:
            changed.append(1)
            with real() as session:
                found = session.get(User, user["id"])
                assert found is not None
                found.password_hash = "another"
        return real()

    monkeypatch.setattr(record, "write", write)
    problem(login(api, user["username"]), 401, "not_authenticated")


def test_nothing_secret_is_written_into_the_audit_log(api: Kit) -> None:
    user = api.user("viewer", PASSWORD)
    tokens = login(api, user["username"]).json
    refresh(api, tokens["refresh_token"])
    rows = api.ask(lambda session: [vars(each) for each in session.query(AuditEntry).all()])
    text = str(rows)
    assert user["username"] in text
    for secret in (PASSWORD, user["key"], tokens["access_token"], tokens["refresh_token"]):
        assert secret not in text
