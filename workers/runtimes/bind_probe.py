"""Whether a bind would succeed now: tried. Only in a check and right before a start, never in the scheduled look."""

import errno
import os
import socket
import threading
import time
from typing import Literal

from domain.ports import overlap
from workers.runtimes import sockets

Verdict = Literal["free", "held", "unknown"]
# A bind that somebody else tries at the same moment looks like a holder that no table shows.
_AGAIN_AFTER_S = (0.002, 0.005, 0.011, 0.019, 0.04)
# Within one process that cannot happen.
_one_at_a_time = threading.Lock()


def can_bind(host_ip: str, port: int, protocol: str = "tcp") -> tuple[Verdict, str | None]:
    """Whether a bind to exactly this address would succeed now, and why not.

    An empty `host_ip` and `::` mean every address of both families: the one bind that misses nobody.
    Reasons: `in_use`, `time_wait` (free: nobody listens, but an old connection lingers), `permission_denied`,
    `no_such_address`, or the system's own words.
    """
    verdict = _try_bind(host_ip, port, protocol)
    for pause_s in _AGAIN_AFTER_S:
        if verdict[0] != "held" or _is_bound(host_ip, port, protocol):
            return verdict
        time.sleep(pause_s)
        verdict = _try_bind(host_ip, port, protocol)
    return verdict


def hidden_reason(host_ip: str, port: int, protocol: str) -> str:
    """Why a bind fails although nobody listens.

    `connected`: a connection has the port as its own end, as clients get them. `time_wait`: such a connection has
    ended, and its program had not allowed the port to be used again at once; that lasts a minute. Else
    `bound_not_listening`: a socket that is in no table.
    """
    try:
        if any(overlap(host_ip, each.host_ip) for each in sockets.connected(port, protocol)):
            return "connected"
        if any(overlap(host_ip, each.host_ip) for each in sockets.waiting(port, protocol)):
            return "time_wait"
    except sockets.SocketsUnseen:
        pass
    return "bound_not_listening"


def _is_bound(host_ip: str, port: int, protocol: str) -> bool:
    try:
        return any(overlap(host_ip, each.host_ip) for each in sockets.bound(port, protocol))
    except sockets.SocketsUnseen:
        return False


def _try_bind(host_ip: str, port: int, protocol: str) -> tuple[Verdict, str | None]:
    refusal = _bind(host_ip, port, protocol, reuse=False)
    if refusal == errno.EADDRINUSE:
        # UDP sockets that both reuse share a port, so there the table decides.
        taken = _bind(host_ip, port, protocol, reuse=True) is not None or _is_bound(host_ip, port, protocol)
        return ("held", "in_use") if taken else ("free", "time_wait")
    if refusal is None:
        return "free", None
    if refusal in (errno.EACCES, errno.EPERM):
        return "unknown", "permission_denied"
    if refusal == errno.EADDRNOTAVAIL:
        return "unknown", "no_such_address"
    return "unknown", os.strerror(refusal)


def _bind(host_ip: str, port: int, protocol: str, *, reuse: bool) -> int | None:
    """The errno with which a bind fails, None if it succeeds."""
    address = host_ip or "::"
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    try:
        with _one_at_a_time, socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as probe:
            if ":" in address:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if reuse:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as refusal:
        if address == "::" and refusal.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return _bind("0.0.0.0", port, protocol, reuse=reuse)  # noqa: S104
        return refusal.errno or errno.EINVAL
    return None
