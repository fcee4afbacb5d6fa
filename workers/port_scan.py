"""One look at the host's ports: sockets and containers at the same time, then into the record."""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy import select

from domain import ports as decide
from domain.errors import EngineUnreachable
from domain.observation import Listener, PortFacts
from domain.specs import RuntimeKind
from models import registry_verdicts
from models.base import now
from models.ports import PortClaim
from models.services import Service
from workers.context import Context
from workers.runtimes import listeners, sockets
from workers.runtimes.bind_probe import can_bind, hidden_reason
from workers.runtimes.docker_bindings import Published
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.host_process import HostProcess
from workers.runtimes.listeners import Lookout
from workers.runtimes.sockets import SocketsUnseen

log = structlog.get_logger()
# A look waits so long for the engine. It knows its answer within 0.1 s, or hangs.
_ENGINE_LIMIT_S = 5.0
# The engine lists a container's ports a moment after it has bound them, a loaded one later.
_UNLISTED_LIMIT_S = 2.0
_UNLISTED_PAUSE_S = 0.05


def look(context: Context, port: int | None = None, protocol: str | None = None) -> PortFacts:
    """What there is now, of one port or of all. A source that cannot be read stands in `unseen`, with its reason."""
    at = now()
    unseen: dict[str, str] = {}
    found: list[Listener] = []
    try:
        found = _lookout(context).look(port, protocol)
    except SocketsUnseen as refusal:
        unseen["sockets"] = str(refusal)
    except Exception as refusal:
        # Whatever it is: what was not seen is unknown, and the other source is still worth a look.
        log.warning("ports.sockets_unseen", error=str(refusal), exc_info=True)
        unseen["sockets"] = f"the sockets cannot be read: {refusal}"
    published = _published(context, unseen)
    bindings = [each for each in published.bindings if port is None or each.port == port]
    return PortFacts(
        at,
        tuple(_attributed(found, published)),
        tuple(bindings),
        unseen,
        sockets.reserved_ranges(),
        sockets.ephemeral_range(),
    )


def _lookout(context: Context) -> Lookout:
    processes = context.runtimes.get(RuntimeKind.PROCESS.value)
    return processes.lookout if isinstance(processes, HostProcess) else Lookout()


def _published(context: Context, unseen: dict[str, str]) -> Published:
    engine = context.runtimes.get(RuntimeKind.DOCKER.value)
    if not isinstance(engine, DockerEngine):
        return Published()
    try:
        return engine.bindings(_ENGINE_LIMIT_S)
    except EngineUnreachable as refusal:
        # Where no engine ever was, nothing is hidden: a host without Docker has its ports judged like any other.
        if not engine.absent() or _needs_engine(context):
            unseen["containers"] = refusal.message
    except Exception as refusal:
        log.warning("ports.containers_unseen", error=str(refusal), exc_info=True)
        unseen["containers"] = f"the containers cannot be listed: {refusal}"
    return Published()


def _needs_engine(context: Context) -> bool:
    with context.record.read() as session:
        wanted = select(Service.id).where(Service.runtime == RuntimeKind.DOCKER.value).limit(1)
        seen = select(PortClaim.id).where(PortClaim.source == "container").limit(1)
        return session.scalar(wanted) is not None or session.scalar(seen) is not None


def _attributed(found: Iterable[Listener], published: Published) -> Iterable[Listener]:
    """Sockets with the containers that they belong to: processes on the host's network, and the engine's proxies."""
    by_place = {(each.host_ip, each.port, each.protocol): each for each in published.bindings if each.running}
    for each in found:
        container_id = each.container_id
        if decide.is_proxy(each) and (binding := by_place.get((each.host_ip, each.port, each.protocol))):
            container_id = binding.container_id
        whose = published.containers.get(container_id or "")
        if whose is None:
            yield each
            continue
        yield replace(
            each,
            container_id=container_id,
            container_name=whose.name,
            own=each.own or whose.own,
            service_id=each.service_id or whose.service_id,
        )


def scan(context: Context) -> PortFacts:
    """Look, and write down what was found."""
    found = look(context)
    with context.record.write() as session:
        registry_verdicts.record_facts(session, found, sockets.boot())
    return found


def check(context: Context, port: int) -> dict[str, Any]:
    """Look afresh, try what can be bound, and say what that makes of a port (interface.md, Verdict)."""
    found = scan(context)
    probes: dict[tuple[str, str], tuple[str, str | None]] = {}
    if not found.unseen:
        probes = {
            (host_ip, protocol): _probe(host_ip, port, protocol)
            for host_ip in decide.addresses(port, found)
            for protocol in decide.PROTOCOLS
            if not decide.in_the_way(host_ip, protocol, port, found)
        }
    with context.record.read() as session:
        return registry_verdicts.verdict(session, port, context.own_ports, found, probes)


def _probe(host_ip: str, port: int, protocol: str) -> tuple[str, str | None]:
    verdict, reason = can_bind(host_ip, port, protocol)
    return verdict, hidden_reason(host_ip, port, protocol) if verdict == "held" else reason


def holders_now(context: Context, host_ip: str, protocol: str, port: int) -> list[dict[str, Any]]:
    """Who stands in the way of a bind there at this moment, with containers and services by their names."""
    found = _listed(context, host_ip, protocol, port)
    with context.record.read() as session:
        called = registry_verdicts.names(session, {each.service_id for each in found.listeners if each.service_id})
        shown = decide.holders(host_ip, protocol, port, found, called, context.own_ports)
        return registry_verdicts.dated(session, shown)


def _listed(context: Context, host_ip: str, protocol: str, port: int) -> PortFacts:
    """A look in which what the engine's proxies stand for has a name: a container that starts just now gets it late."""
    give_up_at = time.monotonic() + _UNLISTED_LIMIT_S
    while True:
        found = look(context, port, protocol)
        there = decide.in_the_way(host_ip, protocol, port, found)
        nameless = any(decide.is_proxy(each) and not each.container_id for each in there)
        if not nameless or "containers" in found.unseen or time.monotonic() >= give_up_at:
            return found
        time.sleep(_UNLISTED_PAUSE_S)


def blocking_now(context: Context, host_ip: str, protocol: str, port: int) -> dict[str, Any]:
    """Who makes a bind there fail, after one has failed: a holder, or what is known where nobody listens."""
    found = holders_now(context, host_ip, protocol, port)
    return found[0] if found else listeners.blocking(port, protocol, host_ip)
