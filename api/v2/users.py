"""Users, API keys and the audit log: an administrator's."""

from datetime import timedelta
from typing import Any

from flask import Response
from flask.views import MethodView
from marshmallow import Schema, fields, validate
from sqlalchemy.orm import Session

from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.first_start import ADMIN, forget_initial_password
from api.idempotency import after_commit, answer, unit_of_work
from api.pages import PageArgs, decode_cursor, page, page_of
from api.parts import parts
from api.passwords import hash_password, new_key
from api.schemas import Choices, Flag, Since, Strict, Text, Time, Whole
from domain.errors import ClosError, NotFound
from domain.permissions import KNOWN, ROLES
from models import access
from models.access import ApiKey, User
from models.base import now

users = ClosBlueprint("users", __name__, url_prefix="/api/v2/users", description="Who may come in")
keys = ClosBlueprint("api-keys", __name__, url_prefix="/api/v2/api-keys", description="Keys for programs")
log = ClosBlueprint("audit", __name__, url_prefix="/api/v2/audit", description="Who did what")
blps = (users, keys, log)
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.@-]*"
_MAX_ID = 2**63 - 1


class UserNotFound(NotFound):
    """No such user."""

    noun = "user"


class ApiKeyNotFound(NotFound):
    """No such key."""

    noun = "api_key"


class UserExists(ClosError):
    """A user of that name exists."""

    code = "user_exists"


class LastAdmin(ClosError):
    """Nobody would be left who may do everything."""

    code = "last_admin"


class UserSchema(Schema):
    """A user. The password is never given back."""

    id = fields.Integer(required=True)
    username = fields.String(required=True)
    role = fields.String(required=True)
    disabled = fields.Boolean(required=True)
    created_at = Time(required=True)


class NewUserBody(Strict):
    """A new user."""

    username = Text(longest=100, smallest=1, pattern=_NAME, required=True)
    password = Text(longest=1000, smallest=8, required=True)
    role = fields.String(validate=validate.OneOf(sorted(ROLES)), load_default="viewer")


class UserChangeBody(Strict):
    """What is to be changed; any change of these ends the user's logins."""

    password = Text(longest=1000, smallest=8)
    role = fields.String(validate=validate.OneOf(sorted(ROLES)))
    disabled = Flag()


class KeySchema(Schema):
    """A key, without its secret."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    username = fields.String(required=True)
    scopes = fields.List(fields.String(), required=True, allow_none=True)
    created_at = Time(required=True)
    expires_at = Time(required=True, allow_none=True)


class NewKeySchema(KeySchema):
    """A new key; `key` is shown this once."""

    key = fields.String(required=True)


class NewKeyBody(Strict):
    """A new key for oneself. `scopes` narrow what it may do, `expires_in` is in seconds."""

    name = Text(longest=100, smallest=1, required=True)
    scopes = fields.List(
        fields.String(validate=validate.OneOf(sorted(KNOWN))), validate=validate.Length(min=1, max=100)
    )
    expires_in = Whole(low=1, high=10 * 365 * 86400)


class AuditArgs(PageArgs):
    """Newest first."""

    actor = Choices(longest=100)
    action = Choices(longest=100)
    resource = Choices(longest=250)
    since = Since()


class AuditSchema(Schema):
    """Something that somebody did."""

    id = fields.Integer(required=True)
    timestamp = Time(required=True)
    actor = fields.String(required=True)
    action = fields.String(required=True)
    resource = fields.String(required=True, allow_none=True)
    outcome = fields.String(required=True)
    request_id = fields.String(required=True, allow_none=True)
    details = fields.Dict(required=True, allow_none=True)


def _user(session: Session, user_id: int) -> User:
    found = session.get(User, user_id) if user_id <= _MAX_ID else None
    if found is None:
        raise UserNotFound(str(user_id))
    return found


@users.route("")
class Users(MethodView):
    """All of them."""

    @requires("users:read")
    @users.arguments(PageArgs, location="query")
    @users.response(200, page_of(UserSchema))
    def get(self, args: dict[str, Any]) -> dict[str, Any]:
        """List users"""
        behind = decode_cursor(args["cursor"], int)
        with parts().record.read() as session:
            rows = access.users_page(session, behind[0] if behind else None, args["limit"] + 1)
            return page(rows, args["limit"], lambda user: (user.id,))

    @requires("users:change")
    @users.arguments(NewUserBody)
    @users.response(201, UserSchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Add a user"""
        kept = hash_password(body["password"])
        with unit_of_work() as session:
            if access.user_named(session, body["username"]) is not None:
                raise UserExists(f"there is a user {body['username']!r} already", username=body["username"])
            user = User(username=body["username"], password_hash=kept, role=body["role"], disabled=False)
            session.add(user)
            session.flush()
            return answer(UserSchema().dump(user), 201, {"Location": f"/api/v2/users/{user.id}"})


@users.route("/<int:user_id>")
class OneUser(MethodView):
    """One of them."""

    @requires("users:read")
    @users.response(200, UserSchema)
    def get(self, user_id: int) -> User:
        """Read a user"""
        with parts().record.read() as session:
            return _user(session, user_id)

    @requires("users:change")
    @users.arguments(UserChangeBody)
    @users.response(200, UserSchema)
    def patch(self, body: dict[str, Any], user_id: int) -> Response:
        """Change a user

        A new password, role or state ends the user's logins.
        """
        kept = hash_password(body["password"]) if "password" in body else None
        with unit_of_work() as session:
            user = _user(session, user_id)
            if kept is not None:
                user.password_hash = kept
            user.role = body.get("role", user.role)
            user.disabled = body.get("disabled", user.disabled)
            if (user.disabled or user.role != "admin") and not access.other_admins(session, user):
                raise LastAdmin("nobody would be left who may do everything")
            if body:
                access.end_sessions(session, user)
            if kept is not None and user.username == ADMIN:
                after_commit(lambda: forget_initial_password(parts().settings.home))
            response = answer(UserSchema().dump(user))
        parts().principals.forget()
        return response

    @requires("users:change")
    @users.response(204)
    def delete(self, user_id: int) -> Response:
        """Delete a user with every login and key"""
        with unit_of_work() as session:
            user = _user(session, user_id)
            if not access.other_admins(session, user):
                raise LastAdmin("nobody would be left who may do everything")
            session.delete(user)
            answer(None, 204)
        parts().principals.forget()
        return Response(status=204)


def _shown_key(key: ApiKey, username: str) -> dict[str, Any]:
    names = ("id", "name", "scopes", "created_at", "expires_at")
    return {name: getattr(key, name) for name in names} | {"username": username}


def _good_key(session: Session, key_id: str) -> ApiKey:
    found = session.get(ApiKey, key_id)
    if found is None or found.revoked_at is not None:
        raise ApiKeyNotFound(key_id)
    return found


@keys.route("")
class Keys(MethodView):
    """All of them."""

    @requires("keys:read")
    @keys.arguments(PageArgs, location="query")
    @keys.response(200, page_of(KeySchema))
    def get(self, args: dict[str, Any]) -> dict[str, Any]:
        """List API keys"""
        behind = decode_cursor(args["cursor"], str)
        with parts().record.read() as session:
            rows = access.keys_page(session, None, behind[0] if behind else None, args["limit"] + 1)
            shown = [_shown_key(key, name) for key, name in rows]
        return page(shown, args["limit"], lambda key: (str(key["id"]),))

    @requires("keys:change")
    @keys.arguments(NewKeyBody)
    @keys.response(201, NewKeySchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Add an API key for oneself"""
        made, expires_in = new_key(), body.get("expires_in")
        with unit_of_work() as session:
            key = ApiKey(
                id=made.id,
                user_id=principal().user_id,
                name=body["name"],
                key_hash=made.digest,
                scopes=body.get("scopes"),
                created_at=now(),
                expires_at=now() + timedelta(seconds=expires_in) if expires_in else None,
            )
            session.add(key)
            session.flush()
            shown = NewKeySchema().dump(_shown_key(key, principal().name) | {"key": made.text})
            return answer(shown, 201, {"Location": f"/api/v2/api-keys/{key.id}"})


@keys.route("/<string:key_id>")
class OneKey(MethodView):
    """One of them."""

    @requires("keys:read")
    @keys.response(200, KeySchema)
    def get(self, key_id: str) -> dict[str, Any]:
        """Read an API key, without its secret"""
        with parts().record.read() as session:
            key = _good_key(session, key_id)
            user = session.get(User, key.user_id)
            return _shown_key(key, user.username if user else "")

    @requires("keys:change")
    @keys.response(204)
    def delete(self, key_id: str) -> Response:
        """Revoke an API key"""
        with unit_of_work() as session:
            _good_key(session, key_id).revoked_at = now()
            answer(None, 204)
        parts().principals.forget()
        return Response(status=204)


@log.route("")
@requires("audit:read")
@log.arguments(AuditArgs, location="query")
@log.response(200, page_of(AuditSchema))
def read_audit(args: dict[str, Any]) -> dict[str, Any]:
    """Read the audit log"""
    behind = decode_cursor(args["cursor"], int)
    with parts().record.read() as session:
        rows = access.audit_page(
            session,
            actors=args.get("actor"),
            actions=args.get("action"),
            resources=args.get("resource"),
            since=args.get("since"),
            before=behind[0] if behind else None,
            limit=args["limit"] + 1,
        )
        return page(rows, args["limit"], lambda entry: (entry.id,))
