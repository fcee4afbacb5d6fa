"""Users, API keys and the audit log."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from api.first_start import ADMIN
from models.access import ApiKey, User
from tests.unit.api_kit import Kit, api, kit, problem

__all__ = ["api"]


def test_a_user_is_given_back_without_a_password(api: Kit) -> None:
    name = api.name("u")
    answer = api.call("POST", "/users", {"username": name, "password": "12345678", "role": "operator"})
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v2/users/{answer.json['id']}"
    assert answer.json.keys() == {"id", "username", "role", "disabled", "created_at"}
    assert (answer.json["username"], answer.json["role"], answer.json["disabled"]) == (name, "operator", False)
    assert api.get(f"/users/{answer.json['id']}") == answer.json
    assert api.post("/users", {"username": api.name("u"), "password": "12345678"})["role"] == "viewer"
    kept = api.ask(lambda session: session.get(User, answer.json["id"]).password_hash)
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_a_name_is_given_once(api: Kit) -> None:
    body = {"username": api.name("u"), "password": "12345678"}
    api.post("/users", body)
    assert api.refused("POST", "/users", body, 409, "user_exists")["username"] == body["username"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"username": "a b", "password": "12345678"}, "username"),
        ({"username": "a" * 101, "password": "12345678"}, "username"),
        ({"username": "ok", "password": "1234567"}, "password"),
        ({"username": "ok", "password": 12345678}, "password"),
        ({"username": "ok", "password": "12345678", "role": "root"}, "role"),
        ({"username": "ok", "password": "12345678", "disabled": True}, "disabled"),
        ({"username": "ok"}, "password"),
    ],
)
def test_a_wrong_user_is_refused_by_field(api: Kit, body: dict[str, object], field: str) -> None:
    assert list(api.refused("POST", "/users", body, 422, "validation_failed")["errors"]) == [field]


@pytest.mark.parametrize("change", [{"role": "operator"}, {"password": "another password"}, {"disabled": True}])
def test_a_new_role_password_or_state_ends_the_users_logins(api: Kit, change: dict[str, object]) -> None:
    user = api.user("viewer", "12345678")
    body = {"username": user["username"], "password": "12345678"}
    tokens = api.bare("POST", "/api/v2/auth/login", json=body).json
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert api.bare("GET", "/api/v2/auth/me", headers=bearer).status_code == 200
    assert api.call("PATCH", f"/users/{user['id']}", {}).status_code == 200
    assert api.bare("GET", "/api/v2/auth/me", headers=bearer).status_code == 200
    assert api.call("PATCH", f"/users/{user['id']}", change).status_code == 200
    problem(api.bare("GET", "/api/v2/auth/me", headers=bearer), 401, "not_authenticated")


def test_a_user_is_deleted_with_every_key(api: Kit) -> None:
    user = api.user("viewer")
    assert api.call("DELETE", f"/users/{user['id']}").status_code == 204
    api.refused("GET", f"/users/{user['id']}", None, 404, "user_not_found")
    api.refused("GET", "/auth/me", None, 401, "not_authenticated", key=user["key"])
    assert api.ask(lambda session: session.get(ApiKey, user["key_id"])) is None


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("user_id", [999_999, 2**63, 2**70])
def test_an_unknown_user_is_not_found(api: Kit, method: str, user_id: int) -> None:
    api.refused(method, f"/users/{user_id}", {} if method == "PATCH" else None, 404, "user_not_found")


def test_the_last_administrator_stays(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with kit(tmp_path) as api:
        (only,) = api.get("/users")["items"]
        for method, body in (("DELETE", None), ("PATCH", {"role": "viewer"}), ("PATCH", {"disabled": True})):
            api.refused(method, f"/users/{only['id']}", body, 409, "last_admin")
        other = api.user("admin")
        assert api.call("DELETE", f"/users/{other['id']}").status_code == 204


def test_a_new_password_of_the_first_user_removes_the_file_with_the_old_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with kit(tmp_path) as api:
        body = {"username": ADMIN, "password": "12345678", "role": "admin"}
        made = api.post("/users", body)
        file = api.settings.home / "initial-password"
        file.write_text("x")
        assert api.call("PATCH", f"/users/{made['id']}", {"role": "admin"}).status_code == 200
        assert file.exists()
        assert api.call("PATCH", f"/users/{made['id']}", {"password": "another one"}).status_code == 200
        assert not file.exists()


def test_a_key_is_shown_once_and_only_its_hash_is_kept(api: Kit) -> None:
    made = api.call("POST", "/api-keys", {"name": "ci", "scopes": ["services:read"], "expires_in": 60})
    assert made.status_code == 201
    assert made.json.keys() == {"id", "name", "username", "scopes", "created_at", "expires_at", "key"}
    assert made.json["key"].startswith(f"clos_{made.json['id']}_")
    assert made.headers["Location"] == f"/api/v2/api-keys/{made.json['id']}"
    shown = api.get(made.headers["Location"].removeprefix("/api/v2"))
    assert shown == {name: value for name, value in made.json.items() if name != "key"}
    assert made.json["key"] not in api.call("GET", "/api-keys").text
    kept = api.ask(lambda session: session.get(ApiKey, made.json["id"]).key_hash)
    assert len(kept) == 64
    assert made.json["key"] not in kept
    assert api.post("/api-keys", {"name": "forever"})["expires_at"] is None


def test_a_revoked_key_is_not_found_again(api: Kit) -> None:
    made = api.post("/api-keys", {"name": "ci"})
    path = f"/api-keys/{made['id']}"
    assert api.call("DELETE", path).status_code == 204
    api.refused("DELETE", path, None, 404, "api_key_not_found")
    api.refused("GET", path, None, 404, "api_key_not_found")
    api.refused("GET", "/auth/me", None, 401, "not_authenticated", key=made["key"])
    assert made["id"] not in [each["id"] for each in api.get("/api-keys?limit=200")["items"]]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"), ({"name": "x", "scopes": []}, "scopes"), ({"name": "x", "scopes": ["services:fly"]}, "scopes.0"),
        ({"name": "x", "expires_in": 0}, "expires_in"), ({"name": "x", "expires_in": "60"}, "expires_in"),
        ({"name": "x", "key": "mine"}, "key"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_refused_by_field(api: Kit, body: dict[str, object], field: str) -> None:
    assert list(api.refused("POST", "/api-keys", body, 422, "validation_failed")["errors"]) == [field]


def test_users_and_keys_come_in_pages_by_id(api: Kit) -> None:
    for _ in range(3):
        api.user("viewer")
    for path in ("/users", "/api-keys"):
        seen, cursor = [], ""
        while True:
            page = api.get(f"{path}?limit=2{cursor}")
            assert len(page["items"]) <= 2
            seen += [each["id"] for each in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert seen == sorted(seen)
        assert seen == [each["id"] for each in api.get(f"{path}?limit=200")["items"]]


def test_what_somebody_did_is_in_the_audit_log(api: Kit) -> None:
    user = api.user("admin")
    name = api.name()
    answer = api.call("POST", "/groups", {"name": name}, key=user["key"], X_Request_ID="mine-1")
    assert answer.status_code == 201
    api.call("POST", "/groups", {"name": name}, key=user["key"])  # refused: nothing was done
    (entry,) = api.get(f"/audit?actor={user['username']}")["items"]
    assert entry.keys() == {"id", "timestamp", "actor", "action", "resource", "outcome", "request_id", "details"}
    assert (entry["actor"], entry["resource"], entry["outcome"]) == (user["username"], "/api/v2/groups", "ok")
    assert (entry["action"], entry["request_id"]) == ("groups.Groups", "mine-1")


def test_the_audit_log_is_narrowed_by_every_filter(api: Kit) -> None:
    one, two = api.user("admin"), api.user("admin")
    for user in (one, two):
        api.call("POST", "/groups", {"name": api.name()}, key=user["key"])
    api.call("POST", "/ports/9/check", key=one["key"])

    def found(query: str) -> list[str]:
        return [each["resource"] for each in api.get(f"/audit?limit=200&{query}")["items"]]

    assert found(f"actor={one['username']}") == ["/api/v2/ports/9/check", "/api/v2/groups"]
    assert found(f"actor={one['username']},{two['username']}&resource=/api/v2/groups") == ["/api/v2/groups"] * 2
    assert found(f"actor={one['username']}&action=groups.Groups") == ["/api/v2/groups"]
    assert found(f"actor={one['username']}&since=1h") == found(f"actor={one['username']}")
    assert found("since=2030-01-01T00:00:00Z") == []
    first = api.get(f"/audit?actor={one['username']}&limit=1")
    second = api.get(f"/audit?actor={one['username']}&limit=1&cursor={first['next_cursor']}")
    assert (first["items"][0]["id"] > second["items"][0]["id"], second["next_cursor"]) == (True, None)


def test_the_audit_log_is_neither_changed_nor_shortened(api: Kit) -> None:
    api.group()
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"):
        with pytest.raises(DBAPIError, match="append-only"), api.record.write() as session:
            session.execute(text(statement))


def test_the_audit_log_can_be_switched_off(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with kit(tmp_path, CLOS_SECURITY__AUDIT_LOG="false") as api:
        api.group()
        assert api.get("/audit")["items"] == []
