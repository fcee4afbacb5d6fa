"""Ports: ranges, leases, and who holds one as it was last seen."""

from collections.abc import Collection
from typing import Any

from flask import Response
from flask.views import MethodView
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.idempotency import answer, idempotent, unit_of_work
from api.pages import decode_cursor, page, page_of
from api.parts import parts
from api.schemas import Empty
from api.v2.asking import own_ports
from api.v2.operation_answer import OperationSchema, accepted
from api.v2.port_schemas import (
    SECTIONS,
    AllocateBody,
    LeaseSchema,
    NewRange,
    PortsArgs,
    PortsSchema,
    RangeChange,
    RangesArgs,
    RangeSchema,
    VerdictSchema,
)
from api.v2.service_answers import as_json
from domain.errors import NotFound
from domain.states import OperationStatus
from models import operations, port_ranges, registry_verdicts
from models.base import written
from models.operations import Operation
from models.ports import PortClaim, PortLease, PortRange, SeenListener, live

blp = ClosBlueprint("ports", __name__, url_prefix="/api/v2/ports", description="Who has which port")
ranges_blp = ClosBlueprint("port-ranges", __name__, url_prefix="/api/v2/port-ranges", description="A project's ports")
blps = [blp, ranges_blp]
CHECK = "port.check"
# A host has at most 65535 ports a protocol; what is beyond this is no list to be read.
_MOST_ROWS = 10_000


class PortNotFound(NotFound):
    """No such port."""

    noun = "port"


def _port(port: int) -> int:
    if not 1 <= port <= 65_535:
        raise PortNotFound(str(port))
    return port


@blp.route("")
class Ports(MethodView):
    """All of them."""

    @requires("ports:read")
    @blp.arguments(PortsArgs, location="query")
    @blp.response(200, PortsSchema)
    def get(self, args: dict[str, Any]) -> Response:
        """List ranges, leases, listeners and latent claims"""
        states = args.get("state") or SECTIONS
        with parts().record.read() as session:
            return as_json(_everything(session, args.get("project"), states))


def _everything(session: Session, projects: Collection[str] | None, states: Collection[str]) -> dict[str, Any]:
    ranges = select(PortRange).order_by(PortRange.id)
    leases = select(PortLease).where(live()).order_by(PortLease.port, PortLease.protocol).limit(_MOST_ROWS)
    listeners = select(SeenListener).order_by(SeenListener.port, SeenListener.id).limit(_MOST_ROWS)
    claims = select(PortClaim).where(PortClaim.latent).order_by(PortClaim.port, PortClaim.id).limit(_MOST_ROWS)
    rows: Any = session.scalars(ranges if projects is None else ranges.where(PortRange.project.in_(projects))).all()
    if projects is not None:
        leases = leases.where(PortLease.project.in_(projects))
    used = registry_verdicts.used(session, rows)
    seen = session.scalars(listeners).all()
    called = registry_verdicts.names(session, {each.service_id for each in seen if each.service_id is not None})

    def inside(port: int | None) -> bool:
        return projects is None or any(each.start_port <= (port or 0) <= each.end_port for each in rows)

    return {
        "observed_at": written(registry_verdicts.scanned_at(session)),
        "ranges": [registry_verdicts.range_shown(each, used[each.id]) for each in rows if "ranged" in states],
        "leases": [registry_verdicts.lease_shown(each) for each in session.scalars(leases)]
        if "leased" in states
        else [],
        "listeners": [registry_verdicts.listener_shown(each, called, own_ports()) for each in seen if inside(each.port)]
        if "listening" in states
        else [],
        "claims": [registry_verdicts.claim_shown(each) for each in session.scalars(claims) if inside(each.port)]
        if "latent" in states
        else [],
    }


@blp.route("/allocate")
class Allocate(MethodView):
    """Leasing."""

    @requires("ports:allocate")
    @idempotent
    @blp.arguments(AllocateBody)
    @blp.response(201, LeaseSchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Lease a port: the preferred one, else the service's last one, else the first free one of the project's ranges

        The project is the one of the service's group unless it is named. 409 `port_held` with its `holder` where the
        preferred one is leased or was last seen to be held, and with `holders` where the ranges are full.
        """
        with unit_of_work() as session:
            made = port_ranges.allocate(session, body, own_ports())
            return answer(registry_verdicts.lease_shown(made), 201)


@blp.route("/leases/<int(max=9223372036854775807):lease_id>")
class OneLease(MethodView):
    """One lease."""

    @requires("ports:allocate")
    @blp.response(204)
    def delete(self, lease_id: int) -> Response:
        """Give a lease back (409 `lease_in_use` where a service's definition names it)"""
        with unit_of_work() as session:
            port_ranges.give_back(session, lease_id)
            return answer(None, 204)


@blp.route("/<int:port>")
class OnePort(MethodView):
    """One port."""

    @requires("ports:read")
    @blp.response(200, VerdictSchema)
    def get(self, port: int) -> Response:
        """Read who holds a port, as it was last seen"""
        with parts().record.read() as session:
            return as_json(registry_verdicts.verdict(session, _port(port), own_ports()))


@blp.route("/<int:port>/check")
class Check(MethodView):
    """A fresh look."""

    @requires("ports:read")
    @idempotent
    @blp.arguments(Empty)
    @blp.response(202, OperationSchema)
    def post(self, _body: dict[str, Any], port: int) -> Response:
        """Look afresh who holds a port; the verdict comes in the operation's `result`"""
        with unit_of_work() as session:
            made = _pending(session, _port(port)) or operations.create(
                session, CHECK, parameters={"port": port}, initiated_by=principal().name
            )
            return accepted(made)


def _pending(session: Session, port: int) -> Operation | None:
    """An equal check that no worker has begun: it will look no earlier than now."""
    return session.scalar(
        select(Operation)
        .where(
            Operation.type == CHECK,
            Operation.status == OperationStatus.PENDING.value,
            Operation.parameters["port"].as_integer() == port,
        )
        .order_by(Operation.id)
        .limit(1)
    )


@ranges_blp.route("")
class Ranges(MethodView):
    """All ranges."""

    @requires("ports:read")
    @ranges_blp.arguments(RangesArgs, location="query")
    @ranges_blp.response(200, page_of(RangeSchema, total=True))
    def get(self, args: dict[str, Any]) -> Response:
        """List port ranges"""
        behind = decode_cursor(args["cursor"], int)
        with parts().record.read() as session:
            total, rows = port_ranges.page(session, behind[0] if behind else None, args["limit"] + 1)
            used = registry_verdicts.used(session, rows)
            shown = [registry_verdicts.range_shown(each, used[each.id]) for each in rows]
        return as_json(page(shown, args["limit"], lambda each: (each["id"],), total))

    @requires("ports:define")
    @idempotent
    @ranges_blp.arguments(NewRange)
    @ranges_blp.response(201, RangeSchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Define a port range; it shares no port with another"""
        with unit_of_work() as session:
            made = port_ranges.add(session, body)
            headers = {"Location": f"/api/v2/port-ranges/{made.id}"}
            return answer(_range_shown(session, made), 201, headers)


def _range_shown(session: Session, row: PortRange) -> dict[str, Any]:
    return registry_verdicts.range_shown(row, registry_verdicts.used(session, [row])[row.id])


@ranges_blp.route("/<int(max=9223372036854775807):range_id>")
class OneRange(MethodView):
    """One range."""

    @requires("ports:read")
    @ranges_blp.response(200, RangeSchema)
    def get(self, range_id: int) -> Response:
        """Read a port range"""
        with parts().record.read() as session:
            return as_json(_range_shown(session, port_ranges.get(session, range_id)))

    @requires("ports:define")
    @ranges_blp.arguments(RangeChange)
    @ranges_blp.response(200, RangeSchema)
    def patch(self, body: dict[str, Any], range_id: int) -> Response:
        """Change a port range; leases outside of it stay"""
        with unit_of_work() as session:
            row = port_ranges.get(session, range_id)
            port_ranges.change(session, row, body)
            return answer(_range_shown(session, row))

    @requires("ports:define")
    @ranges_blp.response(204)
    def delete(self, range_id: int) -> Response:
        """Delete a port range; its leases stay"""
        with unit_of_work() as session:
            session.delete(port_ranges.get(session, range_id))
            return answer(None, 204)
