"""Dependency graphs: an order, what belongs together, and cycles with their path.

An edge goes from a node to what it needs. Ordering is Kahn's algorithm as `graphlib` has it.
"""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from domain.errors import DependencyCycle

Edges = Mapping[str, Iterable[str]]


def order(edges: Edges) -> list[str]:
    """Every node, what it needs before it; equals in alphabetical order.

    Raises:
        DependencyCycle: nodes need each other in a ring.
    """
    sorter = TopologicalSorter({node: sorted(set(needs)) for node, needs in sorted(edges.items())})
    try:
        sorter.prepare()
    except CycleError as found:
        # graphlib gives predecessors first; a reader expects "a needs b".
        raise DependencyCycle(list(reversed(found.args[1]))) from None
    ordered: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += ready
        sorter.done(*ready)
    return ordered


def closure(edges: Edges, roots: Iterable[str]) -> set[str]:
    """The roots and everything that they need, however far."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += edges.get(node, ())
    return found


def reverse(edges: Edges) -> dict[str, set[str]]:
    """The graph with every edge turned round: from a node to those that need it."""
    turned: dict[str, set[str]] = {node: set() for node in edges}
    for node, needs in edges.items():
        for need in needs:
            turned.setdefault(need, set()).add(node)
    return turned


def longest_path(edges: Edges, weights: Mapping[str, float] | None = None) -> list[str]:
    """The heaviest chain of needs, what is needed first: a plan's critical path.

    A node without a weight weighs as much as the others do on average; without any, all weigh the same.
    """
    known = [weight for node, weight in (weights or {}).items() if node in edges]
    usual = sum(known) / len(known) if sum(known) > 0 else 1.0
    heaviest: dict[str, tuple[float, int]] = {}
    before: dict[str, str | None] = {}
    for node in order(edges):
        needs = [need for need in sorted(edges.get(node, ())) if need in heaviest]
        first = max(needs, key=lambda need: heaviest[need], default=None)
        weight, length = heaviest[first] if first is not None else (0.0, 0)
        heaviest[node], before[node] = (weight + (weights or {}).get(node, usual), length + 1), first
    path: list[str] = []
    last = max(heaviest, key=lambda node: heaviest[node], default=None)
    while last is not None:
        path.append(last)
        last = before[last]
    return path[::-1]
