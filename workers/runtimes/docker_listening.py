"""Whether something in a container listens, found without the engine's proxy, which accepts for everybody."""

import socket

from domain.observation import Instance
from workers.runtimes.process_identity import read_bytes

# To another container's address on this machine a connection takes well below a millisecond.
_CONNECT_LIMIT_S = 0.05


def listens(instance: Instance, port: int, proc: str = "/proc") -> bool:
    """Whether the container takes connections on that TCP port, at its own address.

    False also where that cannot be told: its engine is on another machine or in a virtual one, which the control group
    of its process tells (the address may be anybody's here), or no way leads there.
    """
    if instance.address is None or instance.pid is None or not instance.ref:
        return False
    if instance.ref.encode() not in (read_bytes(f"{proc}/{instance.pid}/cgroup") or b""):
        return False
    try:
        socket.create_connection((instance.address, port), timeout=_CONNECT_LIMIT_S).close()
    except OSError:
        return False
    return True
