"""A service's log lines: asked of a worker, since only workers touch the machine."""

import secrets
from collections.abc import Callable
from typing import Any

import redis
import structlog
from flask import Response
from flask.views import MethodView

from api.auth import requires
from api.blueprints import ClosBlueprint
from api.errors import STATUS
from api.parts import parts
from api.schemas import rfc3339
from api.v2.service_answers import as_json
from api.v2.service_schemas import LogsArgs, LogsSchema
from domain.errors import ClosError
from models import registry_views

blp = ClosBlueprint("logs", __name__, url_prefix="/api/v2/services", description="What services write")
WAIT_S = 5.0
_log = structlog.get_logger()


class LogsTimeout(ClosError):
    """No worker gave the lines in time."""

    code = "logs_timeout"


class LogsRefused(ClosError):
    """The worker could not read them, and says why."""

    def __init__(self, service_id: str, error: dict[str, Any]) -> None:
        super().__init__(f"the log of {service_id} could not be read: {error.get('message')}", hint=error.get("hint"))
        # What has no status of its own is a fault of what stands behind us: not to be had in time.
        self.code = str(error.get("code")) if error.get("code") in STATUS else LogsTimeout.code


@blp.route("/<string:service_id>/logs")
class Logs(MethodView):
    """Its lines."""

    @requires("services:logs")
    @blp.arguments(LogsArgs, location="query")
    @blp.response(200, LogsSchema)
    def get(self, args: dict[str, Any], service_id: str) -> Response:
        """Read a service's last lines, also those of containers that are gone

        504 `logs_timeout` where no worker gives them within 5 s. `q` is a text that a line must hold. A line of the
        stream `clos` is a remark of CLOS: of a container that was removed, or an engine that does not answer.
        """
        with parts().record.read() as session:
            registry_views.runtime_of(session, service_id)
        wanted = (args["lines"], rfc3339(args.get("since")), args.get("q"))
        found = asked(service_id, lambda request_id: parts().sender.read_logs(request_id, service_id, *wanted))
        return as_json({"service_id": service_id, "lines": found.get("lines", [])})


def asked(whose: str, ask: Callable[[str], None]) -> dict[str, Any]:
    """What a worker answers to a request that `ask` sends under the id that it is given.

    Raises:
        LogsTimeout: none did in time.
        LogsRefused: it could not read them.
    """
    request_id = secrets.token_hex(16)
    try:
        ask(request_id)
    except (redis.RedisError, OSError) as refusal:
        _log.warning("logs.not_asked", whose=whose, error=type(refusal).__name__)
        raise _too_late(whose, "Redis does not answer") from refusal
    found = parts().replies.wait(request_id, WAIT_S)
    if found is None:
        raise _too_late(whose, f"no worker answered within {WAIT_S:g} s")
    if error := found.get("error"):
        raise LogsRefused(whose, error)
    return found


def _too_late(service_id: str, why: str) -> LogsTimeout:
    return LogsTimeout(f"the log of {service_id} could not be read: {why}", hint="is a worker running? see /health")
