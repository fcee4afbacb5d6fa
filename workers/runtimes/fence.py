"""The last look before an effect: does whoever asked for it still hold the claim?

A worker that was frozen (a suspended laptop, a paused virtual machine) goes on in the middle of a step, long after
another one has finished its operation. So a runtime calls `before_effect` as the last thing before it makes, starts,
stops or removes something. What remains of the race is the moment between that look and the effect.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_look: ContextVar[Callable[[], None] | None] = ContextVar("clos_fence", default=None)


@contextmanager
def guarded(look: Callable[[], None]) -> Iterator[None]:
    """Let `look` be called before each effect of this thread inside the block. It raises to forbid the effect."""
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


def on_whose_behalf() -> object | None:
    """What tells the steps of one operation from those of another; None outside of steps."""
    return _look.get()


def before_effect() -> None:
    """Called by runtimes right before an effect."""
    if (look := _look.get()) is not None:
        look()
