"""Services: define, change, delete, start, stop, restart; what they are and how they feel."""

from typing import Any

from flask import Response
from flask.views import MethodView

from api.auth import requires
from api.blueprints import ClosBlueprint
from api.etags import check_if_match, etag
from api.idempotency import answer, idempotent, unit_of_work
from api.pages import decode_cursor, page, page_of
from api.parts import parts
from api.v2.asking import ask, own_ports
from api.v2.operation_answer import OperationSchema, accepted
from api.v2.policy import refuse_denied, refuse_denied_change
from api.v2.service_answers import as_json, health, point, shown
from api.v2.service_schemas import (
    PERIODS_S,
    ForceArgs,
    HealthSchema,
    MetricsSchema,
    NewService,
    PeriodArgs,
    RestartService,
    ServiceChange,
    ServicesArgs,
    ServiceSchema,
    StartService,
    StopService,
    UpdateService,
)
from domain.errors import ServiceRunning, ValidationFailed
from domain.specs import RuntimeKind
from models import registry, registry_graph, registry_views, service_samples
from models.operations import service_target
from models.registry_views import Filter

blp = ClosBlueprint("services", __name__, url_prefix="/api/v2/services", description="What CLOS runs and watches")


@blp.route("")
class Services(MethodView):
    """All of them."""

    @requires("services:read")
    @blp.arguments(ServicesArgs, location="query")
    @blp.response(200, page_of(ServiceSchema, total=True))
    def get(self, args: dict[str, Any]) -> Response:
        """List services"""
        behind = decode_cursor(args["cursor"], str)
        wanted = Filter(
            **{name: args.get(name) for name in ("group", "status", "health", "runtime", "tag", "q")},
        )
        limit = args["limit"]
        with parts().record.read() as session:
            total = registry_views.count(session, wanted)
            views = registry_views.page(session, wanted, behind[0] if behind else None, limit + 1)
            samples: dict[str, Any] = {}
            if args["include_metrics"]:
                found = registry_views.last_metrics(session, [view.row.id for view in views[:limit]])
                samples = {view.row.id: {"metrics": None} for view in views}
                samples |= {service_id: {"metrics": point(row)} for service_id, row in found.items()}
        envelope = page(views, limit, lambda view: (view.row.id,), total)
        envelope["items"] = [shown(view, samples.get(view.row.id)) for view in envelope["items"]]
        return as_json(envelope)

    @requires("services:create")
    @idempotent
    @blp.arguments(NewService)
    @blp.response(201, ServiceSchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Define a service

        Its group is made if there is none. A port without a `host_port` is given one of the project's range.
        """
        with unit_of_work() as session:
            made = registry.create_service(session, body, own_ports())
            refuse_denied(session, [made])
            headers = {"ETag": etag(made.spec_version), "Location": f"/api/v2/services/{made.id}"}
            return answer(shown(registry_views.one(session, made.id)), 201, headers)


@blp.route("/<string:service_id>")
class OneService(MethodView):
    """One of them."""

    @requires("services:read")
    @blp.response(200, ServiceSchema)
    def get(self, service_id: str) -> Response:
        """Read a service"""
        with parts().record.read() as session:
            view = registry_views.one(session, service_id)
        return as_json(shown(view), headers={"ETag": etag(view.row.spec_version)})

    @requires("services:change")
    @blp.arguments(ServiceChange)
    @blp.response(200, ServiceSchema)
    def patch(self, body: dict[str, Any], service_id: str) -> Response:
        """Change what is wanted of a service

        A field replaces what was, null takes it away; `secrets` and `health_check` are changed key by key. The
        instance stays as it is: `drift` says that it is not what is wanted.
        """
        with unit_of_work() as session:
            service = registry.get(session, service_id)
            check_if_match(service.spec_version)
            registry.change_service(session, service, body, own_ports())
            refuse_denied_change(session, service, body)
            view = registry_views.one(session, service_id)
            return answer(shown(view), 200, {"ETag": etag(view.row.spec_version)})

    @requires("services:delete")
    @blp.arguments(ForceArgs, location="query")
    @blp.response(204)
    @blp.alt_response(202, schema=OperationSchema, description="Its instance is being removed, then it is deleted")
    def delete(self, args: dict[str, Any], service_id: str) -> Response:
        """Delete a service

        One without an instance is gone at once (204). A stopped instance is removed by an operation (202), a running
        one only with `force`. 409 `service_required` where another cannot do without it.
        """
        with unit_of_work() as session:
            service = registry.get(session, service_id)
            check_if_match(service.spec_version)
            registry.refuse_if_held(session, [service_target(service_id)])
            registry.refuse_if_required(session, service_id, [service_id])
            if registry.is_running(service) and not args["force"]:
                raise ServiceRunning(
                    f"{service_id} runs", hint="stop it first, or delete it with ?force=true", service_id=service_id
                )
            if registry.may_have_left(service):
                targets = registry_graph.targets_for(session, "remove", service=service_id)
                return accepted(ask(session, "remove", args, targets, service=service_id))
            registry.delete_service(session, service_id)
            return answer(None, 204)


def _ask(service_id: str, verb: str, body: dict[str, Any], **how: Any) -> Response:
    with unit_of_work() as session:
        if registry_views.runtime_of(session, service_id) == RuntimeKind.EXTERNAL:
            raise ValidationFailed({"runtime": [f"{service_id} is external: it is watched, never started or stopped."]})
        targets = registry_graph.targets_for(session, verb, service=service_id, **how)
        return accepted(ask(session, verb, body, targets, service=service_id))


@blp.route("/<string:service_id>/start")
class Start(MethodView):
    """Starting."""

    @requires("services:start")
    @idempotent
    @blp.arguments(StartService)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], service_id: str) -> Response:
        """Start a service, and before it what it depends on (`no_deps` leaves that out)"""
        return _ask(service_id, "start", body, with_dependencies=not body.get("no_deps", False))


@blp.route("/<string:service_id>/stop")
class Stop(MethodView):
    """Stopping."""

    @requires("services:stop")
    @idempotent
    @blp.arguments(StopService)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], service_id: str) -> Response:
        """Stop a service

        Running dependents are named in `parameters.running_dependents`; `cascade` stops them first.
        """
        return _ask(service_id, "stop", body, cascade=body.get("cascade", False))


@blp.route("/<string:service_id>/restart")
class Restart(MethodView):
    """Restarting."""

    @requires("services:restart")
    @idempotent
    @blp.arguments(RestartService)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], service_id: str) -> Response:
        """Stop a service, then start it"""
        return _ask(service_id, "restart", body, with_dependencies=not body.get("no_deps", False))


@blp.route("/<string:service_id>/update")
class Update(MethodView):
    """Updating."""

    @requires("services:update")
    @idempotent
    @blp.arguments(UpdateService)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], service_id: str) -> Response:
        """Bring a service to what is wanted of it, with a way back

        If it runs as it is not wanted any more (`drift`), a new one takes its place; if that does not get healthy,
        everything is as before. `result.services` says which one runs, and how long none did. One that is stopped
        stays so. Who depends on it with `restart: true` is restarted.
        """
        return _ask(service_id, "update", body)


@blp.route("/<string:service_id>/health")
class Health(MethodView):
    """Its health."""

    @requires("services:read")
    @blp.response(200, HealthSchema)
    def get(self, service_id: str) -> Response:
        """Read what its health check last said"""
        with parts().record.read() as session:
            return as_json(health(registry_views.one(session, service_id).row._mapping))


@blp.route("/<string:service_id>/metrics")
class Metrics(MethodView):
    """Its samples."""

    @requires("metrics:read")
    @blp.arguments(PeriodArgs, location="query")
    @blp.response(200, MetricsSchema)
    def get(self, args: dict[str, Any], service_id: str) -> Response:
        """Read its samples over a period"""
        period_s = PERIODS_S[args["period"]]
        with parts().record.read() as session:
            registry_views.runtime_of(session, service_id)
            resolution_s, rows = service_samples.over(session, service_id, period_s)
            points = [point(row) for row in rows]
        return as_json({"period": args["period"], "resolution": resolution_s, "points": points})
