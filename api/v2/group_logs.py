"""The log lines of a group's services together."""

from typing import Any

from flask import Response
from flask.views import MethodView
from marshmallow import Schema, fields

from api.auth import requires
from api.blueprints import ClosBlueprint
from api.parts import parts
from api.schemas import rfc3339
from api.v2.logs import asked
from api.v2.service_answers import as_json
from api.v2.service_schemas import LogLineSchema, LogsArgs
from models import groups, registry_views

blp = ClosBlueprint("group_logs", __name__, url_prefix="/api/v2/groups", description="What a group's services write")


class GroupLineSchema(LogLineSchema):
    """One line, and whose."""

    service_id = fields.String(required=True)


class GroupLogsSchema(Schema):
    """The last lines of all together, oldest first, and of which services they could not be read, with why."""

    group = fields.String(required=True)
    lines = fields.List(fields.Nested(GroupLineSchema), required=True)
    failed = fields.Dict(keys=fields.String(), values=fields.String(), required=True)


@blp.route("/<string:name>/logs")
class GroupLogs(MethodView):
    """Their lines."""

    @requires("services:logs")
    @blp.arguments(LogsArgs, location="query")
    @blp.response(200, GroupLogsSchema)
    def get(self, args: dict[str, Any], name: str) -> Response:
        """Read the last lines of a group's services in the order of their times (504 as for one service)"""
        with parts().record.read() as session:
            groups.get(session, name)
            ids = sorted(registry_views.names_of_group(session, name))
        if not ids:
            return as_json({"group": name, "lines": [], "failed": {}})
        wanted = (args["lines"], rfc3339(args.get("since")), args.get("q"))
        found = asked(name, lambda request_id: parts().sender.read_many_logs(request_id, ids, *wanted))
        failed = {each: str(error.get("message")) for each, error in (found.get("failed") or {}).items()}
        return as_json({"group": name, "lines": found.get("lines", []), "failed": failed})
