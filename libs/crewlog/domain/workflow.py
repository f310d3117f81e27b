"""Workflows as graphs: what a valid one is, and the questions that a run asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from crewlog.domain import names
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.run_pb2 import BackEdge, Node, Workflow

NODES_MAX = 2_000
VISITS_MAX = 20
STEPS_MAX = 10_000
PROMPT_BYTES_MAX = 64 * 1024
TOOLS = frozenset({"read", "write", "edit", "glob", "grep", "bash"})


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes in the order in which they were written, with what depends on each. Built once per run."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    _dependents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, workflow: Workflow) -> Graph:
        """The workflow has to be valid."""
        dependents: dict[str, list[str]] = {node.node_id: [] for node in workflow.nodes}
        for node in workflow.nodes:
            for dependency in node.depends_on:
                dependents[dependency].append(node.node_id)
        return cls(
            nodes={node.node_id: node for node in workflow.nodes},
            roots=tuple(node.node_id for node in workflow.nodes if not node.depends_on),
            _dependents={node_id: tuple(others) for node_id, others in dependents.items()},
        )

    def dependents(self, node_id: str) -> tuple[str, ...]:
        return self._dependents[node_id]

    def descendants(self, node_id: str) -> frozenset[str]:
        """Everything that depends on the node, however far."""
        found: set[str] = set()
        waiting = list(self._dependents[node_id])
        while waiting:
            other = waiting.pop()
            if other not in found:
                found.add(other)
                waiting.extend(self._dependents[other])
        return frozenset(found)


def validate(workflow: Workflow) -> None:
    """Raises InvalidCommand that names every field that is wrong."""
    violations = dict(_shape(workflow))
    if not violations:
        violations = dict(_cycle(workflow)) or dict(_back_edges(workflow))
    if violations:
        field_name, why = next(iter(violations.items()))
        raise InvalidCommand(f"workflow {workflow.name[:80]!r} is not valid: {field_name} {why}", violations=violations)


def _shape(workflow: Workflow) -> Iterable[tuple[str, str]]:
    if not 1 <= len(workflow.nodes) <= NODES_MAX:
        yield "nodes", f"have to be 1 to {NODES_MAX}, and there are {len(workflow.nodes)}"
        return
    known = {node.node_id for node in workflow.nodes}
    seen: set[str] = set()
    for number, node in enumerate(workflow.nodes):
        where = f"nodes[{number}]"
        if node.node_id in seen:
            yield f"{where}.node_id", f"{node.node_id!r} is taken by another node"
        seen.add(node.node_id)
        yield from _node(where, node, known)


def _node(where: str, node: Node, known: set[str]) -> Iterable[tuple[str, str]]:
    try:
        names.check_name("node_id", node.node_id, names.NODE_ID_CHARACTERS_MAX)
    except InvalidCommand as refusal:
        yield f"{where}.node_id", refusal.violations["node_id"]
    for other in node.depends_on:
        if other not in known:
            yield f"{where}.depends_on", f"names {other[:80]!r}, which is no node"
    if len(set(node.depends_on)) != len(node.depends_on):
        yield f"{where}.depends_on", "names a node twice"
    yield from _kind(where, node)


def _kind(where: str, node: Node) -> Iterable[tuple[str, str]]:
    kind = node.WhichOneof("kind")
    if kind is None:
        yield where, "has to be of a kind: agent or noop"
    elif kind == "noop" and not 0 <= node.noop.steps <= STEPS_MAX:
        yield f"{where}.noop.steps", f"has to be 0 to {STEPS_MAX}"
    elif kind == "agent":
        yield from _agent(f"{where}.agent", node)


def _agent(where: str, node: Node) -> Iterable[tuple[str, str]]:
    role = node.agent.role
    if not role.name:
        yield f"{where}.role.name", "is missing"
    if not role.prompt.strip():
        yield f"{where}.role.prompt", "is missing"
    for name, text in (("role.prompt", role.prompt), ("prompt", node.agent.prompt)):
        if len(text.encode(errors="replace")) > PROMPT_BYTES_MAX:
            yield f"{where}.{name}", f"is longer than {PROMPT_BYTES_MAX} bytes"
    for tool in role.tools:
        if tool not in TOOLS:
            yield f"{where}.role.tools", f"names {tool[:80]!r}; there are {', '.join(sorted(TOOLS))}"


def _cycle(workflow: Workflow) -> Iterable[tuple[str, str]]:
    """Kahn's algorithm: what is never without an unmet dependency is on a cycle, or behind one."""
    graph = Graph.of(workflow)
    unmet = {node.node_id: len(node.depends_on) for node in workflow.nodes}
    ready = list(graph.roots)
    while ready:
        node_id = ready.pop()
        del unmet[node_id]
        for other in graph.dependents(node_id):
            unmet[other] -= 1
            if unmet[other] == 0:
                ready.append(other)
    if unmet:
        yield "nodes", f"depend on each other in a circle: {', '.join(sorted(unmet)[:10])}"


def _back_edges(workflow: Workflow) -> Iterable[tuple[str, str]]:
    graph = Graph.of(workflow)
    for number, edge in enumerate(workflow.back_edges):
        yield from _back_edge(f"back_edges[{number}]", edge, graph)


def _back_edge(where: str, edge: BackEdge, graph: Graph) -> Iterable[tuple[str, str]]:
    source = getattr(edge, "from")
    for name, node_id in (("from", source), ("to", edge.to)):
        if node_id not in graph.nodes:
            yield f"{where}.{name}", f"names {node_id[:80]!r}, which is no node"
            return
    if source != edge.to and source not in graph.descendants(edge.to):
        yield f"{where}.to", f"{edge.to!r} does not come before {source!r}"
    if not edge.output_contains:
        yield f"{where}.output_contains", "is missing: a way back needs a condition"
    if not 1 <= edge.visits_max <= VISITS_MAX:
        yield f"{where}.visits_max", f"has to be 1 to {VISITS_MAX}"
