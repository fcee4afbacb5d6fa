"""A world once more (`python -m tests.unit.any_world.again FILE [TIMES]`), or new ones (`--new WORLDS SEED`).

FILE is what a world that broke has shown. Steps run in threads, so one may have to be played a few times.
"""

import gc
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.any_world.rules import AnyWorld
from workers import readiness, update_steps, updating


def quickly() -> None:
    """Nobody reads along, and nobody waits a second for an engine that is simulated."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # Thousands of short-lived objects per statement: the collector would take a tenth of the time.
    gc.set_threshold(50_000, 20, 20)
    update_steps._ENGINE_BACK_S, update_steps._ASK_AGAIN_S = 0.3, 0.02
    readiness._LISTEN_TIMEOUT_S = 1.5
    updating._LOOK_S, updating._ASK_AGAIN_S = 0.3, 0.02


def explore(worlds: int, of: int | None = None, shrink: bool = True) -> None:
    """Play that many worlds; `of` is the seed, None for always the same ones."""
    quickly()
    chosen = settings(
        max_examples=worlds, stateful_step_count=10, deadline=None, derandomize=of is None, database=None,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )  # fmt: skip
    machine = AnyWorld if of is None else seed(of)(AnyWorld)
    run_state_machine_as_test(machine, settings=chosen)


def replay(text: str) -> None:
    """Play the world of this text."""
    quickly()
    world = AnyWorld()
    rules: dict[str, Any] = {name: getattr(world, name) for name in dir(AnyWorld) if not name.startswith("_")}
    try:
        for line in text.splitlines():
            if line.strip() and line.strip() != "teardown()":
                eval(line, {"__builtins__": {}}, rules) if not line.startswith("#") else None  # noqa: S307 - a test's own
                world.nothing_is_wrong()
    finally:
        world.teardown()


def leaves(found: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group: Hypothesis makes one where a world does not break twice in the same way."""
    if isinstance(found, BaseExceptionGroup):
        for each in found.exceptions:
            yield from leaves(each)
    else:
        yield found


def main(words: list[str]) -> int:
    """Play; 1 if a world broke."""
    began = time.monotonic()
    try:
        if words[0] == "--new":
            explore(int(words[1]), int(words[2]), shrink="--as-found" not in words)
        else:
            for _ in range(int((words[1:] or ["1"])[0])):
                replay(Path(words[0]).read_text(encoding="utf-8"))
    except (Exception, BaseExceptionGroup) as found:
        for each in leaves(found):
            print(f"{type(each).__name__}: {each}")
        print(
            f"# after {AnyWorld.played} worlds, {time.monotonic() - began:.0f} s, {time.process_time():.0f} s of a core"
        )
        return 1
    print(f"# {AnyWorld.played} worlds held, {time.monotonic() - began:.0f} s, {time.process_time():.0f} s of a core")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
