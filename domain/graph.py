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


def longest_path(edges: Edges) -> list[str]:
    """The longest chain of needs, what is needed first: a plan's critical path when all steps weigh the same."""
    best: dict[str, list[str]] = {}
    for node in order(edges):
        before = max((best.get(need, []) for need in sorted(edges.get(node, ()))), key=len, default=[])
        best[node] = [*before, node]
    return max(best.values(), key=len, default=[])
