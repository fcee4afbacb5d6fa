"""A group's graph: who waits for whom, across groups, and which chain takes longest."""

from collections.abc import Mapping, Sequence
from typing import Any

from domain import graph
from domain.needs import Need, edges_of, in_order, needs_of
from domain.specs import Condition, Dependency, GroupSpec, HealthCheck, RuntimeKind, ServiceSpec


def graph_shown(
    members: Sequence[Any],
    dependencies: Sequence[Any],
    groups: Sequence[GroupSpec] = (),
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Nodes with what each waits for, edges, an order in which they can be started, and the chain that takes longest
    by how many seconds each usually takes to start.

    Raises:
        DependencyCycle: rows that v1's tools left need each other in a ring.
    """
    known = {row.id for row in members}
    edges = [row for row in dependencies if row.service_id in known and row.depends_on in known]
    specs = [_spec(row, [each for each in edges if each.service_id == row.id]) for row in members]
    needs = needs_of(specs, groups)
    return {
        "nodes": [_node(row, needs[row.id]) for row in members],
        "edges": [_edge(row) for row in edges],
        "groups": [
            {"name": each.name, "dependencies": list(each.dependencies), "start_order": each.start_order}
            for each in groups
        ],
        "order": in_order(specs, groups),
        "critical_path": graph.longest_path(edges_of(specs, groups), seconds),
    }


def _spec(row: Any, edges: Sequence[Any]) -> ServiceSpec:
    """As much of a service as its place in the graph depends on."""
    depends_on = tuple(
        Dependency(each.depends_on, Condition(each.condition), bool(each.required), bool(each.restart))
        for each in edges
    )
    check = HealthCheck() if row.checked else None
    return ServiceSpec(row.id, row.name, row.group_name, RuntimeKind(row.runtime), depends_on=depends_on,
                       health_check=check)  # fmt: skip


def _node(row: Any, needs: Sequence[Need]) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "group": row.group_name,
        "runtime": row.runtime,
        "status": row.status,
        "health": row.health_status,
        "waits_for": [
            {
                "service": need.service,
                "condition": need.condition.value,
                "required": need.required,
                "group": need.group,
            }
            for need in needs
        ],
    }


def _edge(row: Any) -> dict[str, Any]:
    return {
        "source": row.service_id,
        "target": row.depends_on,
        "condition": row.condition,
        "required": bool(row.required),
        "restart": bool(row.restart),
    }
