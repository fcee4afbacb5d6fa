"""Conflicts: who wants a port that another has or wants, what can be done about it, and taking that back."""

import hashlib
from typing import Any

from flask import Response
from flask.views import MethodView

from api import audit
from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.idempotency import idempotent, unit_of_work
from api.pages import PageArgs, decode_cursor, page, page_of
from api.parts import parts
from api.schemas import Empty
from api.v2.answers import TERMINATE
from api.v2.asking import conflicts_policy, own_ports
from api.v2.conflict_schemas import ConflictsArgs, ConflictSchema, ResolveAllBody, ResolveBody
from api.v2.operation_answer import OperationSchema, accepted
from api.v2.ports import PortNotFound
from api.v2.service_answers import as_json
from domain.conflicts import ConflictStatus
from domain.strategies import Strategy, confirmation
from models import conflict_requests, registry_conflicts
from models.ports import PortConflict

blp = ClosBlueprint("conflicts", __name__, url_prefix="/api/v2/conflicts", description="Ports that two want")
ports_blp = ClosBlueprint("port-conflicts", __name__, url_prefix="/api/v2/ports", description="One port's conflicts")
blps = [blp, ports_blp]
_PAGE = page_of(ConflictSchema, total=True)
_ID = "<int(max=9223372036854775807):conflict_id>"


@blp.route("")
class Conflicts(MethodView):
    """All of them."""

    @requires("conflicts:read")
    @blp.arguments(ConflictsArgs, location="query")
    @blp.response(200, _PAGE)
    def get(self, args: dict[str, Any]) -> Response:
        """List conflicts: the active ones, or those of the statuses that are named"""
        behind = decode_cursor(args["cursor"], int)
        statuses = args.get("status") or [ConflictStatus.ACTIVE.value]
        with parts().record.read() as session:
            total, rows = registry_conflicts.page(session, statuses, behind[0] if behind else None, args["limit"] + 1)
            shown = [registry_conflicts.shown(row) for row in rows]
        return as_json(page(shown, args["limit"], lambda each: (each["id"],), total))


@blp.route("/scan")
class Scan(MethodView):
    """A fresh look."""

    @requires("conflicts:scan")
    @idempotent
    @blp.arguments(Empty)
    @blp.response(202, OperationSchema)
    def post(self, _body: dict[str, Any]) -> Response:
        """Look afresh for conflicts; those that are found stand in the operation's `result`"""
        with unit_of_work() as session:
            return accepted(conflict_requests.scan(session, initiated_by=principal().name))


@blp.route("/resolve")
class ResolveAll(MethodView):
    """Resolving what needs no question."""

    @requires("conflicts:resolve")
    @idempotent
    @blp.arguments(ResolveAllBody)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Resolve every active conflict that can be resolved within `max_risk`, each in its least risky way

        Warnings are left alone, and no process that CLOS does not own is ended, whatever `max_risk` says.
        """
        with unit_of_work() as session:
            made = conflict_requests.resolve_all(
                session,
                body["max_risk"],
                initiated_by=principal().name,
                own_ports=own_ports(),
                dry_run=bool(body.get("dry_run")),
                installation=conflicts_policy(),
            )
            return accepted(made)


@blp.route(f"/{_ID}")
class OneConflict(MethodView):
    """One of them."""

    @requires("conflicts:read")
    @blp.response(200, ConflictSchema)
    def get(self, conflict_id: int) -> Response:
        """Read a conflict, with its options"""
        with parts().record.read() as session:
            return as_json(registry_conflicts.shown(registry_conflicts.get(session, conflict_id)))


@blp.route(f"/{_ID}/resolve")
class Resolve(MethodView):
    """Resolving one."""

    @requires("conflicts:resolve")
    @idempotent
    @blp.arguments(ResolveBody)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], conflict_id: int) -> Response:
        """Resolve a conflict by one of its options

        409 `conflict_closed` where somebody was quicker, 409 `port_held` where `port` is another's. `kill_process`
        and `allow_foreign` need the permission `ports:terminate` too.
        """
        if body["strategy"] == Strategy.KILL_PROCESS or body.get("allow_foreign"):
            principal().require(TERMINATE)
        with unit_of_work() as session:
            row = registry_conflicts.get(session, conflict_id)
            if body["strategy"] == Strategy.KILL_PROCESS:
                _note_process(row)
            made = conflict_requests.resolve(
                session,
                row,
                body,
                initiated_by=principal().name,
                own_ports=own_ports(),
                installation=conflicts_policy(),
            )
            return accepted(made)


def _note_process(row: PortConflict) -> None:
    """Which process is to be ended stands in the audit log; its command line as a hash, since it may hold secrets."""
    holder = row.holder or {}
    command = hashlib.sha256(str(holder.get("command") or "").encode("utf-8", "replace")).hexdigest()
    audit.note(strategy=Strategy.KILL_PROCESS.value, process=confirmation(holder), command_sha256=command)


@blp.route(f"/{_ID}/undo")
class Undo(MethodView):
    """Taking a resolution back."""

    @requires("conflicts:resolve")
    @idempotent
    @blp.arguments(Empty)
    @blp.response(202, OperationSchema)
    def post(self, _body: dict[str, Any], conflict_id: int) -> Response:
        """Take a migration back: the old port, in the registry and in what runs

        409 `undo_impossible`, and nothing changed, where there is none or the old port is another's by now.
        """
        with unit_of_work() as session:
            row = registry_conflicts.get(session, conflict_id)
            made = conflict_requests.undo(session, row, initiated_by=principal().name, own_ports=own_ports())
            return accepted(made)


@ports_blp.route("/<int:port>/conflicts")
class OfPort(MethodView):
    """One port's conflicts."""

    @requires("conflicts:read")
    @ports_blp.arguments(PageArgs, location="query")
    @ports_blp.response(200, _PAGE)
    def get(self, args: dict[str, Any], port: int) -> Response:
        """List the conflicts about a port that last, ignored ones as well"""
        if not 1 <= port <= 65_535:
            raise PortNotFound(str(port))
        behind = decode_cursor(args["cursor"], int)
        with parts().record.read() as session:
            lasting = [registry_conflicts.shown(row) for row in registry_conflicts.on_port(session, port)]
        rest = [each for each in lasting if behind is None or each["id"] > behind[0]]
        return as_json(page(rest, args["limit"], lambda each: (each["id"],), len(lasting)))
