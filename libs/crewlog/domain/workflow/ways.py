"""Ways and joins of a graph that can never do what they say: a way back behind one that is always taken before it, and
a quorum of more than lead there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from crewlog.domain.workflow.graph import Graph, Way
from crewlog.v1.node_pb2 import JoinMode, Outcome
from crewlog.v1.run_pb2 import Workflow


def violations(workflow: Workflow, graph: Graph) -> Iterator[tuple[str, str]]:
    """By field. The graph is that of the workflow, and in order."""
    yield from _ways_back(workflow, graph)
    for number, node in enumerate(workflow.nodes):
        ways = graph.incoming[node.node_id]
        is_quorum = node.join.mode == JoinMode.JOIN_MODE_QUORUM
        if is_quorum and 0 < len(ways) < node.join.count and not any(_may_grow(graph, way) for way in ways):
            yield f"nodes[{number}].join.count", f"is more than ever come: edges that lead there are {len(ways)}"


def _ways_back(workflow: Workflow, graph: Graph) -> Iterator[tuple[str, str]]:
    """After a success the first way back that applies is the only one."""
    for ways in graph.back.values():
        for first, other in combinations(ways, 2):
            if _is_before(first, other):
                why = f"{other.source!r} goes back to {first.target!r} then, and to one node only"
                way_out = "lead back to a node that comes before both"
                yield f"{_field(workflow, other)}.to", f"is never gone back to: {why}; {way_out}"


def _is_before(first: Way, other: Way) -> bool:
    """Whether the first applies whenever the other does."""
    is_success = Outcome.OUTCOME_SUCCEEDED in first.on and other.on == {Outcome.OUTCOME_SUCCEEDED}
    return is_success and first.when in ("", other.when) and first.phrase in ("", other.phrase)


def _may_grow(graph: Graph, way: Way) -> bool:
    """What a planner plans leads on to what comes after the planner."""
    return graph.nodes[way.source].agent.HasField("planning")


def _field(workflow: Workflow, way: Way) -> str:
    """Ways are numbered as `graph.ways_of` reads them."""
    number = way.number - sum(len(node.depends_on) for node in workflow.nodes)
    edges = len(workflow.edges)
    return f"edges[{number}]" if number < edges else f"back_edges[{number - edges}]"
