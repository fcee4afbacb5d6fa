"""Orphans: what carries this installation's mark and is no service's instance."""

from typing import Any

from flask import Response
from flask.views import MethodView
from marshmallow import Schema, fields

from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.etags import etag
from api.idempotency import answer, idempotent, unit_of_work
from api.pages import PageArgs, decode_cursor, page, page_of
from api.parts import parts
from api.schemas import Empty, Time
from api.v2.asking import own_ports
from api.v2.definition_fields import Definition, name_field
from api.v2.operation_answer import OperationSchema, accepted
from api.v2.service_answers import as_json
from api.v2.service_answers import shown as service_shown
from api.v2.service_schemas import ServiceSchema
from models import registry_orphans, registry_views
from models.base import written
from models.orphans import Orphan

blp = ClosBlueprint("orphans", __name__, url_prefix="/api/v2/orphans", description="What is marked and not registered")


class AdoptBody(Definition):
    """As which service it is registered, where its mark leaves that open."""

    name = name_field(100)
    group = name_field(50)


class OrphanSchema(Schema):
    """An orphan. `definition` is what it would be as a service; values of its environment are not shown."""

    ref = fields.String(required=True)
    runtime = fields.String(required=True)
    service_id = fields.String(required=True)
    group = fields.String(required=True, allow_none=True)
    name = fields.String(required=True, allow_none=True)
    phase = fields.String(required=True)
    definition = fields.Dict(required=True)
    unread = fields.List(fields.String(), required=True)
    first_seen_at = Time(required=True)
    observed_at = Time(required=True)


def shown(orphan: Orphan) -> dict[str, Any]:
    """An orphan as it goes out."""
    detail = dict(orphan.detail or {})
    unread = detail.pop("unread", [])
    if "environment" in detail:
        detail["environment"] = sorted(detail["environment"])
    return {
        "ref": orphan.ref,
        "runtime": orphan.runtime,
        "service_id": orphan.service_id,
        "group": orphan.group_name,
        "name": orphan.name,
        "phase": orphan.phase,
        "definition": detail,
        "unread": unread,
        "first_seen_at": written(orphan.first_seen_at),
        "observed_at": written(orphan.observed_at),
    }


@blp.route("")
class Orphans(MethodView):
    """All of them."""

    @requires("services:read")
    @blp.arguments(PageArgs, location="query")
    @blp.response(200, page_of(OrphanSchema, total=True))
    def get(self, args: dict[str, Any]) -> Response:
        """List what carries this installation's mark and is no registered service's instance, as last seen"""
        behind = decode_cursor(args["cursor"], str)
        with parts().record.read() as session:
            rows = registry_orphans.page(session, behind[0] if behind else None, args["limit"] + 1)
            total = registry_orphans.count(session)
            items = [shown(row) for row in rows]
        return as_json(page(items, args["limit"], lambda each: (each["ref"],), total))


@blp.route("/<string:ref>/adopt")
class Adopt(MethodView):
    """Registering one."""

    @requires("services:create")
    @idempotent
    @blp.arguments(AdoptBody)
    @blp.response(201, ServiceSchema)
    def post(self, body: dict[str, Any], ref: str) -> Response:
        """Register the service that an orphan is an instance of; it goes on running as it is

        409 `orphan_not_adoptable` names what no definition can keep, or whose mark it carries.
        """
        with unit_of_work() as session:
            made = registry_orphans.adopt(session, ref, body.get("name"), body.get("group"), own_ports())
            headers = {"ETag": etag(made.spec_version), "Location": f"/api/v2/services/{made.id}"}
            return answer(service_shown(registry_views.one(session, made.id)), 201, headers)


@blp.route("/<string:ref>/remove")
class Remove(MethodView):
    """Removing one."""

    @requires("services:delete")
    @idempotent
    @blp.arguments(Empty)
    @blp.response(202, OperationSchema)
    def post(self, _body: dict[str, Any], ref: str) -> Response:
        """Stop and remove exactly this one; volumes stay"""
        with unit_of_work() as session:
            return accepted(registry_orphans.remove(session, ref, principal().name))
