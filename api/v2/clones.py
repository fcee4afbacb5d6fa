"""Clones of groups, for worktrees and for agents that work side by side."""

from typing import Any

from flask import Response
from flask.views import MethodView
from sqlalchemy.orm import Session

from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.etags import etag
from api.idempotency import answer, idempotent, unit_of_work
from api.v2.asking import ask, own_ports
from api.v2.clone_schemas import ClonedSchema, CloneGroup, end_of
from api.v2.group_answers import shown
from api.v2.operation_answer import OperationSchema, accepted
from api.v2.policy import refuse_denied
from models import cloning, registry_graph, registry_groups, registry_views
from models.cloning import Cloned, Wanted

blp = ClosBlueprint("clones", __name__, url_prefix="/api/v2/groups", description="Groups made anew under another name")


@blp.route("/<string:name>/clone")
class Clone(MethodView):
    """Cloning."""

    @requires("groups:create")
    @idempotent
    @blp.arguments(CloneGroup)
    @blp.response(201, ClonedSchema)
    @blp.alt_response(202, schema=OperationSchema, description="With `start`: it is made, and being started")
    def post(self, body: dict[str, Any], name: str) -> Response:
        """Make the same group again: fresh ports, an own network, own volumes

        Nothing on the machine is touched. With `start` the answer is the operation that starts it (202), and what is
        to be known about the clone stands in its `parameters.clone`.
        """
        if body.get("start"):
            principal().require("groups:start")
        with unit_of_work() as session:
            made = cloning.clone(session, _wanted(name, body), own_ports())
            for each in made.groups:
                # Other paths than the original's may be asked for now.
                refuse_denied(session, registry_groups.members(session, each.name))
            if body.get("start"):
                return _started(session, made)
            group = made.groups[0]
            members = registry_views.members_by_group(session, [group.name])[group.name]
            headers = {"ETag": etag(group.spec_version), "Location": f"/api/v2/groups/{group.name}"}
            return answer(shown(group, members) | _told(made), 201, headers)


def _wanted(name: str, body: dict[str, Any]) -> Wanted:
    return Wanted(name, body["as"], tuple(body.get("with") or ()), body.get("directory"), end_of(body))


def _told(made: Cloned) -> dict[str, Any]:
    return {
        "clones": {str(group.cloned_from): group.name for group in made.groups},
        "warnings": [each.as_dict() for each in made.remarks],
    }


def _started(session: Session, made: Cloned) -> Response:
    name = made.groups[0].name
    found = [registry_graph.targets_for(session, "start", group=each.name) for each in made.groups]
    told = {"clone": {"name": name, **_told(made)}}
    return accepted(ask(session, "start", told, registry_graph.together(found), group=name))
