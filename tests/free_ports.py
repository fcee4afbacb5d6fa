"""Ports for tests: free now, outside of the range from which clients get theirs, and never the same one twice."""

import random

from workers.runtimes import listeners

# Seeds are set alike in every test process; equal ports would be the result.
_DICE = random.SystemRandom()
# A service that is stopped keeps its port, though nobody listens there: so none is given twice.
_GIVEN: set[int] = set()


def free_port() -> int:
    """A port on which nothing is bound, and that this process was not given before."""
    ports = _DICE.sample(range(20000, 32000), 400)
    port = next(each for each in ports if each not in _GIVEN and listeners.can_bind("", each) == ("free", None))
    _GIVEN.add(port)
    return port
