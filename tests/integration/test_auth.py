"""Who may come in, for how long, and what each role may do."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests

import settings
from api.app import create_app
from api.auth import public, refuse_unmarked, requires, routes
from domain.permissions import KNOWN, ROLES, allows
from tests.integration.api_fixture import Api, running_api
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with running_api(CLOS_SECURITY__RATE_LIMIT__LOGINS_PER_MINUTE="20") as running:
        yield running


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("home")
    return create_app(settings.load({"CLOS_HOME": str(home), "REDIS_URL": "redis://127.0.0.1:1/0"}))


PUBLIC = {
    "/health", "/health/live", "/health/ready", "/api/v2/health", "/api/v2/openapi.json", "/docs", "/docs/start.js",
    "/docs/assets/<string:name>", "/api/v2/auth/login", "/api/v2/auth/refresh",
}  # fmt: skip


def test_every_route_names_a_known_permission_or_is_one_of_the_few_open_ones(app: Any) -> None:
    found = list(routes(app))
    assert len(found) > 50
    for path, method, view in found:
        if hasattr(view, "clos_public"):
            assert path in PUBLIC, f"{method} {path} is open"
        else:
            assert view.clos_permission in KNOWN | {"self", "*"}, f"{method} {path}"


def test_every_post_takes_an_idempotency_key_but_those_of_access(app: Any) -> None:
    for path, method, view in routes(app):
        if method == "POST":
            access = path.startswith(("/api/v2/auth/", "/api/v2/users", "/api/v2/api-keys"))
            assert hasattr(view, "clos_idempotent") != access, f"{method} {path}"


def test_an_app_with_an_unmarked_route_does_not_start() -> None:
    from flask import Flask

    app = Flask("test", static_folder=None)
    app.add_url_rule("/bare", "bare", lambda: "")
    with pytest.raises(RuntimeError, match="/bare"):
        refuse_unmarked(app)
    with pytest.raises(ValueError, match="services:fly"):
        requires("services:fly")
    assert public(lambda: "").clos_public is True  # type: ignore[attr-defined]


def test_each_role_gets_through_exactly_where_it_may(api: Api, app: Any) -> None:
    sessions = {role: api.user(role)["session"] for role in ROLES}
    for path, method, view in routes(app):
        permission = getattr(view, "clos_permission", None)
        if permission is None or method in ("OPTIONS", "HEAD") or path.endswith(("/logout", "/logs")):
            continue
        url = api.url + path.replace("<string:", "<").replace("<int:", "<")
        while "<" in url:
            url = url[: url.index("<")] + "999999" + url[url.index(">") + 1 :]
        assert requests.request(method, url, timeout=10).status_code == 401, f"{method} {path} without login"
        for role, session in sessions.items():
            # An unknown field: whoever may do it gets 422 or 404, and nothing happens.
            status = session.request(method, url, json={"no such field": 1}, timeout=10).status_code
            may = permission == "self" or allows(ROLES[role], permission)
            assert (status == 403) == (not may), f"{role}: {method} {path} -> {status}"


def test_login_refresh_and_logout(api: Api) -> None:
    user = api.user("viewer")
    tokens = user["tokens"]
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 900)
    me = user["session"].get(f"{api.url}/api/v2/auth/me", timeout=5).json()
    assert (me["username"], me["role"]) == (user["username"], "viewer")
    fresh = refresh(api, tokens["refresh_token"])
    assert fresh.status_code == 200
    session = bearer(fresh.json()["access_token"])
    assert session.post(f"{api.url}/api/v2/auth/logout", timeout=5).status_code == 204
    for dead in (session, user["session"]):
        assert dead.get(f"{api.url}/api/v2/auth/me", timeout=5).status_code == 401
    assert refresh(api, fresh.json()["refresh_token"]).status_code == 401


def refresh(api: Api, token: str) -> requests.Response:
    return requests.post(f"{api.url}/api/v2/auth/refresh", json={"refresh_token": token}, timeout=10)


def bearer(token: str) -> requests.Session:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    return session


def test_a_refresh_token_used_twice_ends_the_whole_login(api: Api) -> None:
    user = api.user("viewer")
    fresh = refresh(api, user["tokens"]["refresh_token"]).json()
    assert refresh(api, user["tokens"]["refresh_token"]).status_code == 401
    assert refresh(api, fresh["refresh_token"]).status_code == 401
    assert bearer(fresh["access_token"]).get(f"{api.url}/api/v2/auth/me", timeout=5).status_code == 401
    audit = api.get(f"/audit?actor={user['username']}").json()["items"]
    assert any(entry["outcome"] == "refused" for entry in audit)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_forged_and_misused_tokens_are_refused(api: Api) -> None:
    key = (api.rig.home / "keys" / "jwt").read_bytes()
    user = api.user("viewer")
    good = jwt.decode(user["tokens"]["access_token"], key, algorithms=["HS256"], options={"verify_aud": False})

    def signed(algorithm: str = "HS256", with_key: Any = key, headers: Any = None, **changes: Any) -> str:
        claims = {name: value for name, value in (good | changes).items() if value is not None}
        return jwt.encode(claims, with_key, algorithm=algorithm, headers=headers)

    now = int(time.time())
    forged = {
        "good": signed(),
        "alg none": jwt.encode(good, "", algorithm="none"),
        "another algorithm": signed("HS512"),
        "another key": signed(with_key=b"x" * 32),
        "no exp": signed(exp=None),
        "no jti": signed(jti=None),
        "no sid": signed(sid=None),
        "no type": signed(type=None),
        "expired": signed(exp=now - 10),
        "not yet": signed(nbf=now + 600),
        "another audience": signed(aud="other"),
        "another issuer": signed(iss="other"),
        "a refresh token": user["tokens"]["refresh_token"],
        "an old version": signed(ver=0),
        "another's session": signed(sub="1"),
        "a user that is none": signed(sub="x"),
        "a huge user": signed(sub=str(2**70)),
        "crit": signed(headers={"crit": ["x"], "x": 1}),
        "rubbish": "a.b.c",
        "a payload that is no object": ".".join(
            [user["tokens"]["access_token"].split(".")[0], base64.urlsafe_b64encode(b"[]").decode(), "x"]
        ),
    }
    for what, token in forged.items():
        status = bearer(token).get(f"{api.url}/api/v2/auth/me", timeout=5).status_code
        assert status == (200 if what == "good" else 401), what


def test_a_wrong_login_says_nothing_of_why_and_too_many_are_limited(api: Api) -> None:
    user = api.user("viewer")
    wrong, nobody = api.login(user["username"], "wrong"), api.login("nobody", "wrong")
    assert wrong.status_code == nobody.status_code == 401
    assert wrong.json()["detail"] == nobody.json()["detail"]
    for _ in range(20):
        limited = api.login(user["username"], "wrong")
    assert (limited.status_code, limited.json()["code"]) == (429, "rate_limited")
    assert int(limited.headers["Retry-After"]) >= 1
    # Another name is not held up by it.
    assert api.login("somebody-else", "wrong").status_code == 401


def test_a_new_role_password_or_state_ends_the_logins_of_a_user(api: Api) -> None:
    for change in ({"role": "operator"}, {"password": "another-password"}, {"disabled": True}):
        user = api.user("viewer")
        assert api.call("PATCH", f"/users/{user['id']}", json=change).status_code == 200
        assert user["session"].get(f"{api.url}/api/v2/auth/me", timeout=5).status_code == 401
        assert refresh(api, user["tokens"]["refresh_token"]).status_code == 401


def test_the_last_administrator_stays(api: Api) -> None:
    admins = [user for user in api.get("/users?limit=200").json()["items"] if user["role"] == "admin"]
    for user in admins:
        if user["username"] != "admin":
            assert api.call("DELETE", f"/users/{user['id']}").status_code == 204
    admin = next(user for user in admins if user["username"] == "admin")
    for method, body in (("DELETE", None), ("PATCH", {"role": "viewer"}), ("PATCH", {"disabled": True})):
        answer = api.call(method, f"/users/{admin['id']}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")


def test_the_initial_password_works_and_its_file_goes_when_it_is_changed() -> None:
    with running_api() as api:
        file = Path(api.rig.home / "initial-password")
        assert api.login("admin", file.read_text().strip()).status_code == 200
        assert api.call("PATCH", "/users/1", json={"password": "a-new-password"}).status_code == 200
        wait_until(lambda: not file.exists(), 5)
        assert api.login("admin", "a-new-password").status_code == 200
        assert api.get("/auth/me").status_code == 200


def test_an_api_key_may_only_what_its_scopes_say_and_dies_when_revoked(api: Api) -> None:
    made = api.post("/api-keys", {"name": "reader", "scopes": ["services:read"], "expires_in": 3600}).json()
    session = api.as_key(made["key"])
    assert session.get(f"{api.url}/api/v2/services", timeout=5).status_code == 200
    assert session.get(f"{api.url}/api/v2/operations", timeout=5).status_code == 403
    listed = api.get("/api-keys").text
    assert made["id"] in listed
    assert made["key"] not in listed
    assert api.call("DELETE", f"/api-keys/{made['id']}").status_code == 204
    assert session.get(f"{api.url}/api/v2/services", timeout=5).status_code == 401


def test_no_secret_stands_in_the_database_or_the_log(api: Api) -> None:
    user = api.user("viewer")
    secrets = [api.key, user["password"], user["tokens"]["access_token"], user["tokens"]["refresh_token"]]
    files = [path for path in api.rig.home.rglob("*") if path.is_file() and path.name != "credentials.json"]
    for path in files:
        content = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, path


def test_what_somebody_did_is_in_the_audit_log(api: Api) -> None:
    user = api.user("admin")
    made = user["session"].post(f"{api.url}/api/v2/groups", json={"name": f"of-{user['username'][-8:]}"}, timeout=5)
    assert made.status_code == 201
    entries = api.get(f"/audit?actor={user['username']}").json()["items"]
    assert (entries[0]["resource"], entries[0]["outcome"]) == ("/api/v2/groups", "ok")
    assert entries[0]["request_id"] == made.headers["X-Request-ID"]
    assert json.dumps(entries).count("password") == 0
