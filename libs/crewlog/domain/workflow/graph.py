"""The graph of a run: its nodes and the ways between them. Built once per run, and again when the graph grows.

A way leads forward, or back to a node that comes before; the forward ones make no circle. The items of a map are nodes
as well, by the name `<map>_<index>`, of which nothing is kept: each is the body of the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from crewlog.domain import enums
from crewlog.domain.workflow.remembering import once_for_each
from crewlog.v1.node_pb2 import JoinMode, Outcome
from crewlog.v1.run_pb2 import Node, Workflow

enums.as_attributes(JoinMode, Outcome)
DERIVED = "_"
"""Stands between the id of a node and what was made of it: people cannot write it."""
EXECUTOR_KINDS = frozenset({"agent", "noop", "command"})
RUN_VISITS_MAX = 20_000
TOLERANT = frozenset({JoinMode.JOIN_MODE_ANY, JoinMode.JOIN_MODE_FIRST, JoinMode.JOIN_MODE_QUORUM})

_SUCCEEDED = frozenset({Outcome.OUTCOME_SUCCEEDED})


@dataclass(frozen=True, slots=True)
class Way:
    """An edge, wherever it was written. `number` is its place among those of the graph; `visits_max` is 0 for one that
    leads forward."""

    number: int
    source: str
    target: str
    on: frozenset[Outcome.ValueType] = _SUCCEEDED
    when: str = ""
    phrase: str = ""
    priority: int = 0
    visits_max: int = 0

    @property
    def is_plain(self) -> bool:
        """Taken whenever its source has succeeded."""
        return not self.when and not self.phrase and not self.visits_max and self.on == _SUCCEEDED


@dataclass(frozen=True, slots=True)
class Graph:
    """`forward` and `back` are the ways by their source, in the order in which they are tried; `overtaking` are nodes
    of executors that go on before every way that leads to them was decided, and stop the rest."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    ways: Sequence[Way] = ()
    forward: Mapping[str, tuple[Way, ...]] = field(default_factory=dict)
    back: Mapping[str, tuple[Way, ...]] = field(default_factory=dict)
    incoming: Mapping[str, tuple[Way, ...]] = field(default_factory=dict)
    label_sets: frozenset[frozenset[str]] = frozenset()
    is_plain: Mapping[str, bool] = field(default_factory=dict)
    overtaking: frozenset[str] = frozenset()

    @classmethod
    def of(cls, workflow: Workflow) -> Graph:
        """The workflow has to be valid."""
        return _of(workflow)

    @property
    def roots(self) -> tuple[str, ...]:
        """The nodes that nothing leads to, in the order in which they were written."""
        return tuple(node_id for node_id in self.nodes if not self.incoming[node_id])

    @property
    def order(self) -> dict[str, int]:
        """The place of each node where it comes after everything that leads to it."""
        before = {node_id: [way.source for way in self.incoming[node_id]] for node_id in self.nodes}
        return {node_id: place for place, node_id in enumerate(TopologicalSorter(before).static_order())}

    def node(self, node_id: str) -> Node:
        """Also of an item of a map, whose node is the body of the map."""
        known = self.nodes.get(node_id)
        return known if known is not None else self.nodes[map_of(node_id)].map.body

    def knows(self, node_id: str) -> bool:
        known = self.nodes.get(map_of(node_id))
        return node_id in self.nodes or (known is not None and known.HasField("map"))

    def is_item(self, node_id: str) -> bool:
        return node_id not in self.nodes and self.knows(node_id)

    def dependents(self, node_id: str) -> tuple[str, ...]:
        """Where the forward ways of the node lead to."""
        return tuple(way.target for way in self.forward.get(node_id, ()))

    def descendants(self, node_id: str) -> frozenset[str]:
        """Everything that comes after the node, however far."""
        found: set[str] = set()
        waiting = list(self.dependents(node_id))
        while waiting:
            other = waiting.pop()
            if other not in found:
                found.add(other)
                waiting.extend(self.dependents(other))
        return frozenset(found)

    def needed(self, node_id: str) -> int:
        """How many of the ways that lead to the node have to be taken before it may go on."""
        join, ways = self.nodes[node_id].join, len(self.incoming[node_id])
        match join.mode:
            case JoinMode.JOIN_MODE_ALL:
                return ways
            case JoinMode.JOIN_MODE_FIRST:
                return min(ways, max(1, join.count))
            case JoinMode.JOIN_MODE_QUORUM:
                return join.count or ways // 2 + 1
            case _:
                return 1

    def is_early(self, node_id: str) -> bool:
        """Whether the node goes on before every way that leads to it was decided."""
        return _is_early(self.nodes[node_id])

    def is_tolerant(self, node_id: str) -> bool:
        """Whether the node can do without some of those before it."""
        return self.nodes[node_id].join.mode in TOLERANT

    def with_child(self, node: Node) -> Graph:
        """And a node that no way leads to or from."""
        return _built({**self.nodes, node.node_id: node}, self.ways)

    def grown(self, planner: str, nodes: Sequence[Node]) -> Graph:
        """And what was planned, between the planner and what comes after it, in place of what it had planned before."""
        prefix = planner + DERIVED
        kept = {node_id: node for node_id, node in self.nodes.items() if not node_id.startswith(prefix)}
        ways = [way for way in self.ways if way.source in kept and way.target in kept]
        sinks = _sinks(nodes)
        after = [way.target for way in ways if way.source == planner and not way.visits_max and way.is_plain]
        new = [(before, node.node_id) for node in nodes for before in node.depends_on]
        new += [(sink, target) for sink in sinks for target in after]
        first = 1 + max((way.number for way in ways), default=0)
        ways += [Way(first + number, source, target) for number, (source, target) in enumerate(new)]
        return _built({**kept, **{node.node_id: node for node in nodes}}, ways)


@once_for_each
def _of(workflow: Workflow) -> Graph:
    return _built({node.node_id: node for node in workflow.nodes}, ways_of(workflow))


def ways_of(workflow: Workflow) -> list[Way]:
    """Every edge of the workflow, in the order: those of `depends_on`, `edges`, `back_edges`."""
    ways = [
        Way(number, before, node.node_id)
        for number, (node, before) in enumerate((node, before) for node in workflow.nodes for before in node.depends_on)
    ]
    for edge in workflow.edges:
        on = frozenset(outcome or Outcome.OUTCOME_SUCCEEDED for outcome in edge.on) or _SUCCEEDED
        source = getattr(edge, "from")
        ways.append(
            Way(len(ways), source, edge.to, on, edge.when, edge.output_contains, edge.priority, max(0, edge.visits_max))
        )
    for back in workflow.back_edges:
        source = getattr(back, "from")
        ways.append(Way(len(ways), source, back.to, phrase=back.output_contains, visits_max=max(1, back.visits_max)))
    return ways


def map_of(node_id: str) -> str:
    """The map that a node would be an item of."""
    return node_id.rpartition(DERIVED)[0]


def _sinks(nodes: Sequence[Node]) -> list[str]:
    inner = {before for node in nodes for before in node.depends_on}
    return [node.node_id for node in nodes if node.node_id not in inner]


def _built(nodes: dict[str, Node], ways: Sequence[Way]) -> Graph:
    ordered = sorted(ways, key=lambda way: (-way.priority, way.number))
    forward = _grouped(nodes, ((way.source, way) for way in ordered if not way.visits_max))
    return Graph(
        nodes=nodes,
        ways=ways,
        forward=forward,
        back=_grouped((), ((way.source, way) for way in ordered if way.visits_max)),
        incoming=_grouped(nodes, ((way.target, way) for way in ways if not way.visits_max)),
        label_sets=frozenset(frozenset(_performed(node).executor_labels) for node in nodes.values()),
        is_plain={
            node_id: not nodes[node_id].exclusive and all(way.is_plain for way in out)
            for node_id, out in forward.items()
        },
        overtaking=frozenset(node_id for node_id, node in nodes.items() if _is_overtaking(node)),
    )


def _is_early(node: Node) -> bool:
    return node.join.mode in (JoinMode.JOIN_MODE_ANY, JoinMode.JOIN_MODE_FIRST)


def _is_overtaking(node: Node) -> bool:
    is_performed = (node.WhichOneof("kind") or "noop") in EXECUTOR_KINDS
    return is_performed and _is_early(node) and not node.join.keep_rest


def _performed(node: Node) -> Node:
    return node.map.body if node.HasField("map") else node


def _grouped(keys: Iterable[str], ways: Iterable[tuple[str, Way]]) -> dict[str, tuple[Way, ...]]:
    groups: dict[str, list[Way]] = {key: [] for key in keys}
    for key, way in ways:
        groups.setdefault(key, []).append(way)
    return {key: tuple(group) for key, group in groups.items()}
