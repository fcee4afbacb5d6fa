"""Dependency graphs."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import graph
from domain.errors import DependencyCycle


def test_what_is_needed_comes_first_and_equals_in_alphabetical_order():
    assert graph.order({"web": ["api"], "api": ["db", "cache"], "cache": [], "db": []}) == ["cache", "db", "api", "web"]


def test_a_cycle_is_named_along_its_path():
    with pytest.raises(DependencyCycle) as refusal:
        graph.order({"a": ["b"], "b": ["c"], "c": ["a"], "d": []})

    cycle = refusal.value.cycle
    assert cycle[0] == cycle[-1]
    assert sorted(cycle[:-1]) == ["a", "b", "c"]
    needs = {"a": "b", "b": "c", "c": "a"}
    assert all(needs[here] == there for here, there in pairwise(cycle))
    assert " -> ".join(cycle) in refusal.value.message


def test_the_closure_holds_everything_that_is_needed_however_far():
    edges = {"web": ["api"], "api": ["db"], "db": [], "other": ["db"]}

    assert graph.closure(edges, ["web"]) == {"web", "api", "db"}


def test_a_reversed_graph_leads_to_the_dependents():
    assert graph.reverse({"web": ["api"], "jobs": ["api"], "api": []}) == {
        "web": set(),
        "jobs": set(),
        "api": {"web", "jobs"},
    }


def test_the_longest_path_is_the_longest_chain_of_needs():
    assert graph.longest_path({"web": ["api"], "api": ["db"], "db": [], "lonely": []}) == ["db", "api", "web"]


def test_with_weights_it_is_the_chain_that_takes_longest():
    edges = {"web": ["api"], "api": ["db"], "db": [], "lonely": []}

    assert graph.longest_path(edges, {"web": 1.0, "api": 1.0, "db": 1.0, "lonely": 9.0}) == ["lonely"]
    # What was never timed takes as long as the rest usually does.
    assert graph.longest_path(edges, {"api": 2.0, "lonely": 2.0}) == ["db", "api", "web"]


def test_the_longest_path_of_nothing_is_nothing():
    assert graph.longest_path({}) == []


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))))
def test_every_node_comes_after_all_that_it_needs(pairs):
    # Edges from higher to lower numbers only: such a graph has no cycle.
    edges = {str(number): set() for pair in pairs for number in pair}
    for first, second in pairs:
        if first != second:
            edges[str(max(first, second))].add(str(min(first, second)))

    ordered = graph.order(edges)

    assert sorted(ordered) == sorted(edges)
    assert all(ordered.index(need) < ordered.index(node) for node, needs in edges.items() for need in needs)
