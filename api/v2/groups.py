"""Groups: define, change, delete, start, stop, restart; their graph and their export."""

from collections.abc import Sequence
from typing import Any

from flask import Response
from flask.views import MethodView
from sqlalchemy.orm import Session

from api.auth import requires
from api.blueprints import ClosBlueprint
from api.etags import check_if_match, etag
from api.idempotency import answer, idempotent, unit_of_work
from api.pages import decode_cursor, page, page_of
from api.parts import parts
from api.v2.asking import ask, own_ports
from api.v2.clone_schemas import GroupPatch, end_of
from api.v2.graph_answers import graph_shown
from api.v2.group_answers import export, export_compose, shown
from api.v2.group_schemas import (
    ExportArgs,
    ExportSchema,
    GraphSchema,
    GroupsArgs,
    GroupSchema,
    NewGroup,
    StartGroup,
    StopGroup,
    UpdateGroup,
)
from api.v2.operation_answer import OperationSchema, accepted
from api.v2.policy import refuse_denied_group
from api.v2.service_answers import as_json
from api.v2.service_schemas import ForceArgs
from domain.errors import ServiceRunning, ValidationFailed
from models import (
    clone_ends,
    cloning,
    groups,
    registry,
    registry_graph,
    registry_groups,
    registry_views,
    step_timings,
)
from models.groups import Group
from models.operations import group_target, service_target

blp = ClosBlueprint("groups", __name__, url_prefix="/api/v2/groups", description="Services that belong together")


def _shown(session: Session, group: Group) -> dict[str, Any]:
    return shown(group, registry_views.members_by_group(session, [group.name])[group.name])


@blp.route("")
class Groups(MethodView):
    """All of them."""

    @requires("groups:read")
    @blp.arguments(GroupsArgs, location="query")
    @blp.response(200, page_of(GroupSchema, total=True))
    def get(self, args: dict[str, Any]) -> Response:
        """List groups"""
        behind = decode_cursor(args["cursor"], str)
        with parts().record.read() as session:
            rows = groups.page(session, behind[0] if behind else None, args["limit"] + 1)
            members = registry_views.members_by_group(session, [row.name for row in rows])
            total = registry_views.count_groups(session)
            items = [shown(row, members[row.name]) for row in rows]
        return as_json(page(items, args["limit"], lambda group: (group["name"],), total))

    @requires("groups:create")
    @idempotent
    @blp.arguments(NewGroup)
    @blp.response(201, GroupSchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Define a group and its services, all of it or nothing; they may refer to each other in any order"""
        _refuse_other_groups(body)
        with unit_of_work() as session:
            made = registry_groups.create_group(session, body, own_ports())
            refuse_denied_group(session, made.name, body)
            headers = {"ETag": etag(made.spec_version), "Location": f"/api/v2/groups/{made.name}"}
            return answer(_shown(session, made), 201, headers)


def _refuse_other_groups(body: dict[str, Any]) -> None:
    wrong = {
        place: {"group": [f"It stands in the request of group {body['name']!r}."]}
        for place, each in enumerate(body.get("services") or ())
        if each.get("group", body["name"]) != body["name"]
    }
    if wrong:
        raise ValidationFailed({"services": wrong})


@blp.route("/<string:name>")
class OneGroup(MethodView):
    """One of them."""

    @requires("groups:read")
    @blp.response(200, GroupSchema)
    def get(self, name: str) -> Response:
        """Read a group"""
        with parts().record.read() as session:
            group = groups.get(session, name)
            body = _shown(session, group)
        return as_json(body, headers={"ETag": etag(body["spec_version"])})

    @requires("groups:change")
    @blp.arguments(GroupPatch)
    @blp.response(200, GroupSchema)
    def patch(self, body: dict[str, Any], name: str) -> Response:
        """Change what is wanted of a group; its services are changed one by one"""
        with unit_of_work() as session:
            group = groups.get(session, name)
            check_if_match(group.spec_version)
            if "ttl" in body or "expires_at" in body:
                clone_ends.keep_until(group, end_of(body))
            registry_groups.change_group(session, group, body)
            refuse_denied_group(session, name, body)
            return answer(_shown(session, group), 200, {"ETag": etag(group.spec_version)})

    @requires("groups:delete")
    @blp.arguments(ForceArgs, location="query")
    @blp.response(204)
    @blp.alt_response(202, schema=OperationSchema, description="Its instances are being removed, then it is deleted")
    def delete(self, args: dict[str, Any], name: str) -> Response:
        """Delete a group and its services

        204 where none has an instance; stopped ones are removed by an operation (202), running ones only with
        `force`. 409 `service_required` where something outside cannot do without it.
        """
        with unit_of_work() as session:
            group = groups.get(session, name)
            check_if_match(group.spec_version)
            members = registry_groups.members(session, name)
            registry.refuse_if_held(session, [group_target(name), *(service_target(each.id) for each in members)])
            registry_groups.refuse_if_required(session, name)
            running = [each.id for each in members if registry.is_running(each)]
            if running and not args["force"]:
                raise ServiceRunning(
                    f"{', '.join(running[:10])} of group {name} runs",
                    hint="stop the group first, or delete it with ?force=true",
                    services=running,
                )
            # A clone goes with its volumes, which only a worker can take away.
            if any(registry.may_have_left(each) for each in members) or cloning.own_volumes(group):
                targets = registry_graph.targets_for(session, "remove", group=name)
                return accepted(ask(session, "remove", args, targets, group=name))
            registry_groups.delete_group(session, name)
            return answer(None, 204)


def _only(session: Session, name: str, wanted: Sequence[str] | None) -> list[str] | None:
    """The ids that names or ids of a group's services mean.

    Raises:
        ValidationFailed: one is not of this group.
    """
    if wanted is None:
        return None
    groups.get(session, name)
    known = registry_views.names_of_group(session, name)
    by_name = {service_name: service_id for service_id, service_name in known.items()}
    found, errors = [], {}
    for place, each in enumerate(wanted):
        service_id = by_name.get(each) or (each if each in known else None)
        if service_id is None:
            errors[place] = [f"Group {name!r} has no service {each!r}."]
        else:
            found.append(service_id)
    if errors:
        raise ValidationFailed({"services": errors})
    return found


def _ask(name: str, verb: str, body: dict[str, Any], **how: Any) -> Response:
    # `services` in the parameters are ids of all that is worked on, so the request's own list is not kept beside it.
    asked = {key: value for key, value in body.items() if key != "services"}
    with unit_of_work() as session:
        only = _only(session, name, body.get("services"))
        targets = registry_graph.targets_for(session, verb, group=name, only=only, **how)
        return accepted(ask(session, verb, asked, targets, group=name))


@blp.route("/<string:name>/start")
class Start(MethodView):
    """Starting."""

    @requires("groups:start")
    @idempotent
    @blp.arguments(StartGroup)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], name: str) -> Response:
        """Start a group in the order of its dependencies, and before it what it depends on"""
        return _ask(name, "start", body, with_dependencies=not body.get("no_deps", False))


@blp.route("/<string:name>/stop")
class Stop(MethodView):
    """Stopping."""

    @requires("groups:stop")
    @idempotent
    @blp.arguments(StopGroup)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], name: str) -> Response:
        """Stop a group in reverse order; running dependents outside are named, `cascade` stops them first"""
        return _ask(name, "stop", body, cascade=body.get("cascade", False))


@blp.route("/<string:name>/restart")
class Restart(MethodView):
    """Restarting."""

    @requires("groups:restart")
    @idempotent
    @blp.arguments(StartGroup)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], name: str) -> Response:
        """Stop all of a group, then start all of it"""
        return _ask(name, "restart", body, with_dependencies=not body.get("no_deps", False))


@blp.route("/<string:name>/update")
class Update(MethodView):
    """Updating."""

    @requires("groups:update")
    @idempotent
    @blp.arguments(UpdateGroup)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], name: str) -> Response:
        """Bring what drifted of a group to what is wanted, dependencies first, with a way back

        Either all of its new versions stand in the end, or everything is as before (`on_failure: keep` leaves it).
        """
        return _ask(name, "update", body)


@blp.route("/<string:name>/graph")
class Graph(MethodView):
    """Its graph."""

    @requires("groups:read")
    @blp.response(200, GraphSchema)
    def get(self, name: str) -> Response:
        """Read who needs whom, with the services of other groups that are needed"""
        with parts().record.read() as session:
            taken = registry_graph.targets_for(session, "start", group=name).services
            members, dependencies = registry_views.graph_rows(session, taken)
            concerned = groups.with_dependencies(session, {name, *(row.group_name for row in members)})
            seconds = step_timings.of_services(session, taken)
        return as_json(graph_shown(members, dependencies, [each.spec() for each in concerned], seconds))


@blp.route("/<string:name>/export")
class Export(MethodView):
    """Its export."""

    @requires("groups:read")
    @blp.arguments(ExportArgs, location="query")
    @blp.response(200, ExportSchema)
    def get(self, args: dict[str, Any], name: str) -> Response:
        """Write a group as a body of `POST /groups`, or as a Compose file, without the values of its secrets"""
        with parts().record.read() as session:
            group = groups.get(session, name)
            views = registry_views.of_group(session, name)
            body = export(group, views)
        return as_json(body if args["format"] == "json" else export_compose(body, views))
