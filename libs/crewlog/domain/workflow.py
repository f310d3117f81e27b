"""Workflows as graphs: what a valid one is, and the questions that a run asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from crewlog.domain import names
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.run_pb2 import AgentLimits, BackEdge, Node, OnUnknown, Role, Workflow

NAME_CHARACTERS_MAX = 48
NODES_MAX = 2_000
DEPENDENCIES_MAX = 20_000
BACK_EDGES_MAX = 100
PHRASE_CHARACTERS_MAX = 1_000
VISITS_MAX = 20
STEPS_MAX = 10_000
PROMPT_BYTES_MAX = 64 * 1024
LABELS_MAX = 8
LABEL_CHARACTERS_MAX = 32
CALL_SECONDS_MAX = 24 * 3_600
"""The longest that one call of a model or a tool may be allowed."""
TOOLS = frozenset({"read", "write", "edit", "glob", "grep", "bash", "ask"})


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes in the order in which they were written, with what depends on each. Built once per run."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    label_sets: frozenset[frozenset[str]] = frozenset()
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
            label_sets=frozenset(frozenset(node.executor_labels) for node in workflow.nodes),
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


def validate_role(role: Role) -> None:
    """Raises InvalidCommand that names every field that is wrong."""
    violations = dict(_role("", role))
    if violations:
        field_name, why = next(iter(violations.items()))
        raise InvalidCommand(f"role {role.name[:80]!r} is not valid: {field_name} {why}", violations=violations)


def _shape(workflow: Workflow) -> Iterable[tuple[str, str]]:
    yield from _name("name", workflow.name, NAME_CHARACTERS_MAX)
    sizes = list(_sizes(workflow))
    yield from sizes
    if not sizes:
        yield from _nodes(workflow)


def _sizes(workflow: Workflow) -> Iterable[tuple[str, str]]:
    """What bounds the work of every other check."""
    if not 1 <= len(workflow.nodes) <= NODES_MAX:
        yield "nodes", f"have to be 1 to {NODES_MAX}, and there are {len(workflow.nodes)}"
    if sum(len(node.depends_on) for node in workflow.nodes) > DEPENDENCIES_MAX:
        yield "nodes", f"have more than {DEPENDENCIES_MAX} dependencies in all"
    if len(workflow.back_edges) > BACK_EDGES_MAX:
        yield "back_edges", f"have to be at most {BACK_EDGES_MAX}, and there are {len(workflow.back_edges)}"


def _nodes(workflow: Workflow) -> Iterable[tuple[str, str]]:
    known = {node.node_id for node in workflow.nodes}
    seen: set[str] = set()
    for number, node in enumerate(workflow.nodes):
        where = f"nodes[{number}]"
        if node.node_id in seen:
            yield f"{where}.node_id", f"{node.node_id!r} is taken by another node"
        seen.add(node.node_id)
        yield from _node(where, node, known)


def _node(where: str, node: Node, known: set[str]) -> Iterable[tuple[str, str]]:
    yield from _name(f"{where}.node_id", node.node_id, names.NODE_ID_CHARACTERS_MAX)
    for other in node.depends_on:
        if other not in known:
            yield f"{where}.depends_on", f"names {other[:80]!r}, which is no node"
    if len(set(node.depends_on)) != len(node.depends_on):
        yield f"{where}.depends_on", "names a node twice"
    yield from _labels(f"{where}.executor_labels", node.executor_labels)
    yield from _kind(where, node)


def _labels(where: str, labels: Sequence[str]) -> Iterable[tuple[str, str]]:
    if len(labels) > LABELS_MAX:
        yield where, f"have to be at most {LABELS_MAX}, and there are {len(labels)}"
        return
    if len(set(labels)) != len(labels):
        yield where, "names a label twice"
    for label in labels:
        yield from _name(where, label, LABEL_CHARACTERS_MAX)


def _kind(where: str, node: Node) -> Iterable[tuple[str, str]]:
    kind = node.WhichOneof("kind")
    if kind is None:
        yield where, "has to be of a kind: agent or noop"
    elif kind == "noop" and not 0 <= node.noop.steps <= STEPS_MAX:
        yield f"{where}.noop.steps", f"has to be 0 to {STEPS_MAX}"
    elif kind == "agent":
        yield from _agent(f"{where}.agent", node)


def _agent(where: str, node: Node) -> Iterable[tuple[str, str]]:
    yield from _role(f"{where}.role.", node.agent.role)
    yield from _length(f"{where}.prompt", node.agent.prompt, PROMPT_BYTES_MAX)


def _role(prefix: str, role: Role) -> Iterable[tuple[str, str]]:
    yield from _name(f"{prefix}name", role.name, NAME_CHARACTERS_MAX)
    if not role.prompt.strip():
        yield f"{prefix}prompt", "is missing"
    yield from _length(f"{prefix}prompt", role.prompt, PROMPT_BYTES_MAX)
    for tool in role.tools:
        if tool not in TOOLS:
            yield f"{prefix}tools", f"names {tool[:80]!r}; there are {', '.join(sorted(TOOLS))}"
    if len(set(role.tools)) != len(role.tools):
        yield f"{prefix}tools", "names a tool twice"
    if role.on_unknown not in OnUnknown.values():
        yield f"{prefix}on_unknown", "has to be tell or ask"
    yield from _limits(f"{prefix}limits.", role.limits)


_CALL_LIMITS = ("model_call_seconds_max", "first_byte_seconds_max", "silence_seconds_max", "tool_seconds_max")


def _limits(prefix: str, limits: AgentLimits) -> Iterable[tuple[str, str]]:
    for limit, value in limits.ListFields():
        if value < 0:
            yield f"{prefix}{limit.name}", "has to be 0 (the default) or more"
        elif limit.name in _CALL_LIMITS and value > CALL_SECONDS_MAX:
            yield f"{prefix}{limit.name}", f"has to be at most {CALL_SECONDS_MAX} (a day)"


def _name(where: str, value: str, characters_max: int) -> Iterable[tuple[str, str]]:
    try:
        names.check_name("name", value, characters_max)
    except InvalidCommand as refusal:
        yield where, f"{value[:80]!r} {refusal.violations['name']}" if value else "is missing"


def _length(where: str, text: str, bytes_max: int) -> Iterable[tuple[str, str]]:
    if len(text.encode(errors="replace")) > bytes_max:
        yield where, f"is longer than {bytes_max} bytes"


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
    if len(edge.output_contains) > PHRASE_CHARACTERS_MAX:
        yield f"{where}.output_contains", f"is longer than {PHRASE_CHARACTERS_MAX} characters"
    if not 1 <= edge.visits_max <= VISITS_MAX:
        yield f"{where}.visits_max", f"has to be 1 to {VISITS_MAX}"
