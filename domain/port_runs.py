"""Many ports told of as few: consecutive ones as their first and last. Pure."""

from collections.abc import Collection, Sequence

Span = tuple[int, int]
_MOST_RUNS = 8


def runs(numbers: Collection[int]) -> list[Span]:
    """Consecutive numbers as their first and last."""
    found: list[Span] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def told_together(runs: Sequence[Span]) -> list[Sequence[Span]]:
    """Each run by itself; all as one where there are many, as with every second port of a thousand."""
    return [runs] if len(runs) > _MOST_RUNS else [[run] for run in runs]


def called(spans: Sequence[Span], protocol: str) -> str:
    """These ports as the subject of a sentence."""
    first, last = spans[0]
    if len(spans) == 1 and first == last:
        return f"port {first}/{protocol}"
    named = [str(low) if low == high else f"{low}-{high}" for low, high in spans[:_MOST_RUNS]]
    more = f" and {len(spans) - _MOST_RUNS} more" if len(spans) > _MOST_RUNS else ""
    return f"each of the ports {', '.join(named)}{more} ({protocol})"
