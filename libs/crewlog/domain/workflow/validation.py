"""Workflows: what a valid one is. What a single node may say is in crewlog.domain.workflow.nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from crewlog.domain import names
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow import nodes as workflow_nodes
from crewlog.domain.workflow import references as workflow_references
from crewlog.domain.workflow import roles
from crewlog.domain.workflow import ways as workflow_ways
from crewlog.domain.workflow.graph import RUN_VISITS_MAX, Graph
from crewlog.domain.workflow.graph_order import in_order
from crewlog.domain.workflow.references import CERTAIN, Certain
from crewlog.domain.workflow.remembering import once_for_each
from crewlog.v1.node_pb2 import Edge, Outcome
from crewlog.v1.run_pb2 import BackEdge, Node, Role, Workflow

NODES_MAX = 2_000
DEPENDENCIES_MAX = 20_000
BACK_EDGES_MAX = 100
EDGES_MAX = 5_000
PRIORITY_MAX = 1_000
DEPTH_MAX = 4
PHRASE_CHARACTERS_MAX = 1_000
VISITS_MAX = 20
LABELS_MAX = 8
LABEL_CHARACTERS_MAX = 32

_OF_THE_GRAPH = re.compile(r"nodes\[\d+\]\.(node_id|depends_on)|(back_)?edges\[\d+\]\.(from|to|visits_max)")


def validate(workflow: Workflow) -> None:
    """Raises InvalidCommand that names every field that is wrong."""
    violations = _violations(workflow)
    if violations:
        field_name, why = next(iter(violations.items()))
        raise InvalidCommand(
            f"workflow {workflow.name[:80]!r} is not valid: {field_name} {why}", violations=dict(violations)
        )


@once_for_each
def _violations(workflow: Workflow) -> Mapping[str, str]:
    return violations_of(workflow)


def violations_of(workflow: Workflow, *, depth: int = 1, certain: Certain = CERTAIN) -> dict[str, str]:
    """What is wrong, by field; empty for a valid one. What only follows from something else is left out: the order of
    the nodes is looked at when every edge is right, and nothing that needs what is not `certain`."""
    found = _firsts(roles.check("name", workflow.name, roles.NAME_CHARACTERS_MAX))
    sizes = _firsts(_sizes(workflow))
    if sizes:
        return {**found, **sizes}
    if not _has_ids(workflow):
        certain = Certain(nodes=False, kinds=False, edges=False)
    found |= _firsts(chain(_nodes(workflow, certain), _edges(workflow, certain)))
    is_graph = certain.edges and not any(_OF_THE_GRAPH.fullmatch(field) for field in found)
    found |= (order := _firsts(_order(workflow)) if is_graph else {})
    certain = replace(certain, edges=is_graph and not order)
    return _firsts(chain(found.items(), workflow_references.violations(workflow, certain), _nested(workflow, depth)))


def _firsts(found: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What was said first of each field."""
    firsts: dict[str, str] = {}
    for field, why in found:
        firsts.setdefault(field, why)
    return firsts


def _nested(workflow: Workflow, depth: int) -> Iterable[tuple[str, str]]:
    """Workflows within this one are held to the same rules."""
    for number, node in enumerate(workflow.nodes):
        for where, inner in (("workflow", node), ("map.body.workflow", node.map.body)):
            if not inner.HasField("workflow"):
                continue
            if depth >= DEPTH_MAX:
                yield f"nodes[{number}].{where}", f"is more than {DEPTH_MAX} workflows deep"
                continue
            for field_name, why in violations_of(inner.workflow.workflow, depth=depth + 1).items():
                yield f"nodes[{number}].{where}.workflow.{field_name}", why


def roles_of(workflow: Workflow) -> Iterator[tuple[str, Role]]:
    """Every role that may get to work in a run of the workflow, with where it stands; those of workflows within it,
    of plans and of children included."""
    for node_id, node in _performed(workflow):
        if node.HasField("agent"):
            yield f"{node_id}.role", node.agent.role
            yield from ((f"{node_id}.children", role) for role in node.agent.children)
            yield from ((f"{node_id}.plans", role) for role in node.agent.planning.roles)


def touches_files(workflow: Workflow) -> bool:
    return any(node.HasField("agent") or node.HasField("command") for _, node in _performed(workflow))


def _performed(workflow: Workflow) -> Iterator[tuple[str, Node]]:
    """What is done at each node, by its id; also in workflows within this one."""
    for outer in workflow.nodes:
        node = outer.map.body if outer.HasField("map") else outer
        yield outer.node_id, node
        if node.HasField("workflow"):
            yield from _performed(node.workflow.workflow)


def _sizes(workflow: Workflow) -> Iterable[tuple[str, str]]:
    """What bounds the work of every other check."""
    if not 1 <= len(workflow.nodes) <= NODES_MAX:
        yield "nodes", f"have to be 1 to {NODES_MAX}, and there are {len(workflow.nodes)}"
    if sum(len(node.depends_on) for node in workflow.nodes) > DEPENDENCIES_MAX:
        yield "nodes", f"have more than {DEPENDENCIES_MAX} dependencies in all"
    if len(workflow.back_edges) > BACK_EDGES_MAX:
        yield "back_edges", f"have to be at most {BACK_EDGES_MAX}, and there are {len(workflow.back_edges)}"
    if len(workflow.edges) > EDGES_MAX:
        yield "edges", f"have to be at most {EDGES_MAX}, and there are {len(workflow.edges)}"
    elif sum(edge.visits_max > 0 for edge in workflow.edges) > BACK_EDGES_MAX:
        yield "edges", f"have more than {BACK_EDGES_MAX} that lead back (those with `visits_max`)"
    if not 0 <= workflow.visits_max <= RUN_VISITS_MAX:
        yield "visits_max", f"has to be 0 (the default) to {RUN_VISITS_MAX}"


def _nodes(workflow: Workflow, certain: Certain) -> Iterable[tuple[str, str]]:
    known = _known(workflow, certain)
    seen: set[str] = set()
    for number, node in enumerate(workflow.nodes):
        where = f"nodes[{number}]"
        if node.node_id in seen:
            yield f"{where}.node_id", f"{node.node_id!r} is taken by another node"
        seen.add(node.node_id)
        yield from _node(where, node, known)


def _has_ids(workflow: Workflow) -> bool:
    """Whether each node has one, and no other has the same."""
    node_ids = {node.node_id for node in workflow.nodes}
    return len(node_ids) == len(workflow.nodes) and "" not in node_ids


def _known(workflow: Workflow, certain: Certain) -> set[str] | None:
    """The ids of all nodes; None where they are not certain."""
    return {node.node_id for node in workflow.nodes} if certain.nodes else None


def _node(where: str, node: Node, known: set[str] | None) -> Iterable[tuple[str, str]]:
    yield from roles.check(f"{where}.node_id", node.node_id, names.NODE_ID_CHARACTERS_MAX)
    for other in node.depends_on:
        if known is not None and other not in known:
            yield f"{where}.depends_on", f"names {other[:80]!r}, which is no node"
    if len(set(node.depends_on)) != len(node.depends_on):
        yield f"{where}.depends_on", "names a node twice"
    yield from _labels(f"{where}.executor_labels", node.executor_labels)
    yield from workflow_nodes.violations(where, node)


def _labels(where: str, labels: Sequence[str]) -> Iterable[tuple[str, str]]:
    if len(labels) > LABELS_MAX:
        yield where, f"have to be at most {LABELS_MAX}, and there are {len(labels)}"
        return
    if len(set(labels)) != len(labels):
        yield where, "names a label twice"
    for label in labels:
        yield from roles.check(where, label, LABEL_CHARACTERS_MAX)


def _edges(workflow: Workflow, certain: Certain) -> Iterable[tuple[str, str]]:
    known = _known(workflow, certain)
    for number, edge in enumerate(workflow.edges):
        yield from _edge(f"edges[{number}]", edge, known)
    for number, back in enumerate(workflow.back_edges):
        where = f"back_edges[{number}]"
        yield from _ends(where, getattr(back, "from"), back.to, known)
        if not back.output_contains:
            yield f"{where}.output_contains", "is missing: a way back needs a condition"
        yield from _phrase(where, back.output_contains)
        if not 1 <= back.visits_max <= VISITS_MAX:
            yield f"{where}.visits_max", f"has to be 1 to {VISITS_MAX}"


def _edge(where: str, edge: Edge, known: set[str] | None) -> Iterable[tuple[str, str]]:
    source = getattr(edge, "from")
    yield from _ends(where, source, edge.to, known)
    yield from _phrase(where, edge.output_contains)
    if any(outcome not in Outcome.values() for outcome in edge.on) or len(set(edge.on)) != len(edge.on):
        yield f"{where}.on", "has to be outcomes, each once: succeeded, failed, timed_out, cancelled, conflicted"
    if not -PRIORITY_MAX <= edge.priority <= PRIORITY_MAX:
        yield f"{where}.priority", f"has to be -{PRIORITY_MAX} to {PRIORITY_MAX}"
    if not 0 <= edge.visits_max <= VISITS_MAX:
        yield f"{where}.visits_max", f"has to be 1 to {VISITS_MAX} for a way back, and 0 for a way on"
    if edge.when:
        yield from workflow_nodes.expression(f"{where}.when", edge.when, {"run", "task", "tasks"})


def _ends(where: str, source: str, target: str, known: set[str] | None) -> Iterable[tuple[str, str]]:
    for name, node_id in (("from", source), ("to", target)):
        if known is not None and node_id not in known:
            yield f"{where}.{name}", f"names {node_id[:80]!r}, which is no node"


def _phrase(where: str, phrase: str) -> Iterable[tuple[str, str]]:
    if len(phrase) > PHRASE_CHARACTERS_MAX:
        yield f"{where}.output_contains", f"is longer than {PHRASE_CHARACTERS_MAX} characters"


def _order(workflow: Workflow) -> Iterable[tuple[str, str]]:
    graph = Graph.of(workflow)
    unmet = graph.nodes.keys() - in_order(graph)
    if unmet:
        circle = ", ".join(sorted(unmet)[:10])
        yield "nodes", f"depend on each other in a circle: {circle}; give an edge that leads back `visits_max`"
    else:
        yield from _ways_back(workflow, graph)
        yield from workflow_ways.violations(workflow, graph)


def _ways_back(workflow: Workflow, graph: Graph) -> Iterable[tuple[str, str]]:
    """A way back leads to a node that comes before its source, or to the source itself."""
    after: dict[str, frozenset[str]] = {}
    for where, edge in _all_edges(workflow):
        source = getattr(edge, "from")
        if not edge.visits_max or source == edge.to:
            continue
        after[edge.to] = after.get(edge.to) or graph.descendants(edge.to)
        if source not in after[edge.to]:
            yield f"{where}.to", f"{edge.to!r} does not come before {source!r}: leave `visits_max` out"


def _all_edges(workflow: Workflow) -> Iterable[tuple[str, Edge | BackEdge]]:
    yield from ((f"edges[{number}]", edge) for number, edge in enumerate(workflow.edges))
    yield from ((f"back_edges[{number}]", edge) for number, edge in enumerate(workflow.back_edges))
