"""Coming in: login, refresh, logout, tickets for the gateway, and who one is."""

from datetime import timedelta
from typing import Any

import redis
from flask import Response, g
from flask_jwt_extended import create_access_token, create_refresh_token, get_jti
from marshmallow import Schema, fields
from sqlalchemy.orm import Session

from api import audit
from api.auth import claims_of, principal, public, requires
from api.blueprints import ClosBlueprint
from api.errors import NotAuthenticated, Overloaded
from api.idempotency import answer, unit_of_work
from api.parts import parts
from api.passwords import is_password
from api.schemas import Empty, Strict, Text
from models import access
from models.access import User, UserSession
from models.base import now
from models.operations import new_id

blp = ClosBlueprint("access", __name__, url_prefix="/api/v2/auth", description="Coming in")
TICKET_TTL_S = 30


class LoginBody(Strict):
    """A name and a password."""

    username = Text(longest=100, smallest=1, required=True)
    password = Text(longest=1000, smallest=1, required=True)


class RefreshBody(Strict):
    """A refresh token; each is good once."""

    refresh_token = Text(longest=4000, smallest=1, required=True)


class TokensSchema(Schema):
    """`expires_in` is the access token's, in seconds."""

    access_token = fields.String(required=True)
    refresh_token = fields.String(required=True)
    token_type = fields.String(required=True)
    expires_in = fields.Integer(required=True)


class TicketSchema(Schema):
    """Good once, for `expires_in` seconds."""

    ticket = fields.String(required=True)
    expires_in = fields.Integer(required=True)


class MeSchema(Schema):
    """Who one is and what one may do."""

    username = fields.String(required=True)
    role = fields.String(required=True)
    permissions = fields.List(fields.String(), required=True)


@blp.route("/login", methods=["POST"])
@public
@blp.arguments(LoginBody)
@blp.response(200, TokensSchema)
def login(body: dict[str, Any]) -> Response:
    """Log in"""
    shared = parts()
    shared.limits.count(f"login:{body['username']}", shared.settings.security.login_rate_limit)
    with shared.record.read() as session:
        user = access.user_named(session, body["username"])
        kept = user.password_hash if user is not None and not user.disabled else None
    if not is_password(kept, body["password"]) or user is None:
        # Not a unit of work: it stands although the request is refused.
        with shared.record.write() as session:
            audit.write(session, "refused", actor=body["username"])
        raise NotAuthenticated("the name or the password is wrong")
    with unit_of_work() as session:
        current = session.get(User, user.id)
        if current is None or current.disabled or current.password_hash != kept:
            raise NotAuthenticated("the name or the password is wrong")
        g.actor = current.username
        return answer(_tokens(session, current, None))


def _tokens(session: Session, user: User, family: UserSession | None) -> dict[str, Any]:
    security = parts().settings.security
    family_id = family.id if family else new_id()
    claims = {"sid": family_id, "ver": user.token_version}
    refresh = create_refresh_token(str(user.id), additional_claims=claims)
    expires_at = now() + timedelta(seconds=security.refresh_ttl_s)
    if family is None:
        session.add(UserSession(id=family_id, user_id=user.id, refresh_jti=get_jti(refresh), expires_at=expires_at))
    else:
        family.refresh_jti = str(get_jti(refresh))
        family.expires_at = expires_at
    return {
        "access_token": create_access_token(str(user.id), additional_claims=claims),
        "refresh_token": refresh,
        "token_type": "Bearer",
        "expires_in": int(security.access_ttl_s),
    }


@blp.route("/refresh", methods=["POST"])
@public
@blp.arguments(RefreshBody)
@blp.response(200, TokensSchema)
def refresh(body: dict[str, Any]) -> Response:
    """Get new tokens

    Each refresh token is good once. One that comes a second time was stolen: then the whole login ends.
    """
    claims = claims_of(body["refresh_token"], "refresh")
    with unit_of_work() as session:
        family = session.get(UserSession, str(claims["sid"]))
        user = access.live_session(session, int(claims["sub"]), str(claims["sid"]))
        if family is None or user is None or user.token_version != claims["ver"]:
            raise NotAuthenticated("this login has ended")
        g.actor = user.username
        if family.refresh_jti == claims["jti"]:
            return answer(_tokens(session, user, family))
        family.revoked_at = now()
        audit.write(session, "refused", actor=user.username, details={"reason": "refresh token used twice"})
        answer(None)
    parts().principals.forget()
    raise NotAuthenticated("this refresh token was used before: the login has ended")


@blp.route("/logout", methods=["POST"])
@requires("self")
@blp.arguments(Empty)
@blp.response(204)
def logout(_body: dict[str, Any]) -> Response:
    """Log out

    Ends this login and every token of it. An API key is not changed by it.
    """
    with unit_of_work() as session:
        family = session.get(UserSession, principal().session_id or "")
        if family is not None:
            family.revoked_at = now()
        answer(None, 204)
    parts().principals.forget()
    return Response(status=204)


@blp.route("/ws-ticket", methods=["POST"])
@requires("self")
@blp.arguments(Empty)
@blp.response(200, TicketSchema)
def ws_ticket(_body: dict[str, Any]) -> dict[str, Any]:
    """Get a ticket for the WebSocket gateway"""
    asked_by = principal()
    stands_for = {
        "user_id": asked_by.user_id,
        "session_id": asked_by.session_id,
        "version": asked_by.version,
        "key_id": asked_by.key_id,
        "expires_at": asked_by.expires_at,
    }
    try:
        ticket = parts().tickets.issue(stands_for, TICKET_TTL_S)
    except (redis.RedisError, OSError) as refusal:
        raise Overloaded("tickets cannot be issued while Redis is away", hint="try again") from refusal
    return {"ticket": ticket, "expires_in": TICKET_TTL_S}


@blp.route("/me")
@requires("self")
@blp.response(200, MeSchema)
def me() -> dict[str, Any]:
    """Read who I am"""
    asked_by = principal()
    return {
        "username": asked_by.name,
        "role": asked_by.role,
        "permissions": sorted(asked_by.permissions),
    }
