"""Ports that no other test process is given: test workers, campaigns and whole runs go on side by side on one machine.

A port is claimed by a lock on that byte of one file; the kernel lets go of it when the process ends.
"""

import fcntl
import functools
import os
import random
import tempfile
from pathlib import Path
from typing import IO

from workers.runtimes import listeners

# Below the ports of outgoing connections.
_LOW, _HIGH = 20_000, 32_000
_TRIES = 200
# The kernel's locks do not keep a process from what it has itself.
_OURS: set[int] = set()


@functools.cache
def _locks() -> IO[bytes]:
    return (Path(tempfile.gettempdir()) / f"clos-test-ports-{os.getuid()}.lock").open("ab")


def claim(port: int) -> bool:
    """Whether this process has the port for itself from now on, for as long as it runs."""
    if port in _OURS:
        return False
    try:
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _OURS.add(port)
    return True


def _is_free(port: int) -> bool:
    return all(listeners.can_bind("", port, protocol) == ("free", None) for protocol in ("tcp", "udp"))


def _give_back(ports: range) -> None:
    for port in ports:
        _OURS.discard(port)
        fcntl.lockf(_locks(), fcntl.LOCK_UN, 1, port)


def free_run(size: int) -> range:
    """That many ports in a row, all of them free at this moment, and this process's own.

    Raises:
        AssertionError: none was found.
    """
    # Seeds are set alike in every test process: the same places would be tried.
    for first in random.SystemRandom().sample(range(_LOW, _HIGH - size), _TRIES):
        for port in range(first, first + size):
            if not claim(port):
                _give_back(range(first, port))
                break
            if not _is_free(port):
                _give_back(range(first, port + 1))
                break
        else:
            return range(first, first + size)
    raise AssertionError(f"no {size} free ports in a row were found in {_TRIES} places")
