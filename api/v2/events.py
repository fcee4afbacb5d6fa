"""The event log, read in pages."""

from typing import Any

from flask.views import MethodView
from marshmallow import Schema, ValidationError, fields, validates_schema

from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.pages import PageArgs, decode_cursor, page, page_of
from api.parts import parts
from api.schemas import Choices, QueryWhole, Since, Time
from domain.events import EventType, Severity, permission_for
from models import events

blp = ClosBlueprint("events", __name__, url_prefix="/api/v2/events", description="What happened, in order")


class EventSchema(Schema):
    """Something that happened. Ids only grow."""

    id = fields.Integer(required=True)
    type = fields.String(required=True)
    severity = fields.String(required=True, metadata={"enum": [severity.value for severity in Severity]})
    actor = fields.String(required=True, allow_none=True)
    service_id = fields.String(required=True, allow_none=True)
    group_name = fields.String(required=True, allow_none=True)
    operation_id = fields.String(required=True, allow_none=True)
    data = fields.Dict(required=True)
    timestamp = Time(required=True)


class EventArgs(PageArgs):
    """Newest first; with `after`, oldest first from behind that id."""

    type = Choices()
    service = Choices(longest=160)
    group = Choices(longest=50)
    severity = Choices([severity.value for severity in Severity])
    since = Since()
    after = QueryWhole()

    @validates_schema
    def _one_direction(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data.get("after") is not None and data.get("cursor") is not None:
            raise ValidationError("Give after or cursor, not both.", "after")


@blp.route("")
class Events(MethodView):
    """The log."""

    @requires("events:read")
    @blp.arguments(EventArgs, location="query")
    @blp.response(200, page_of(EventSchema))
    def get(self, args: dict[str, Any]) -> dict[str, Any]:
        """Read events

        Newest first, or with `after=<id>` oldest first from behind that id.
        Events whose kind the reader may not see are left out.
        """
        asked_by = principal()
        readable = [each.value for each in EventType if asked_by.may(permission_for(each.value))]
        behind = decode_cursor(args["cursor"], str, int)
        ascending = args.get("after") is not None or (behind is not None and behind[0] == "up")
        edge = args.get("after") if behind is None else behind[1]
        wanted = events.Filter(
            types=args.get("type"),
            readable=readable,
            severities=args.get("severity"),
            service_ids=args.get("service"),
            group_names=args.get("group"),
            since=args.get("since"),
        )
        with parts().record.read() as session:
            rows = events.page(session, wanted, edge=edge, ascending=ascending, limit=args["limit"] + 1)
            found = [row.as_dict() for row in rows]
        direction = "up" if ascending else "down"
        return page(found, args["limit"], lambda event: (direction, int(event["id"])))
