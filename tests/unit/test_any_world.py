"""Any world: random graphs and requests, with faults, cancels and deaths at any boundary. What must hold, holds.

The code under test is all of it from the queue's actor on: claims, runner, planning, executor, steps, journal, queues,
batches, updates, state collector, watchdog. Only the machine (the in-memory runtime) and the clock are not the real
ones: ADR 38, which also lists the mutations of the code that it was seen to catch.
"""

import os

import pytest

from tests.unit.any_world.again import explore


@pytest.mark.timeout(300)
def test_in_any_world_what_must_hold_holds():
    explore(int(os.environ.get("CLOS_WORLDS", "30")))
