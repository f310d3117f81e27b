"""What comes before what in the graph of a workflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from crewlog.domain.workflow.graph import Graph


def in_order(graph: Graph) -> list[str]:
    """Every node behind those before it, by Kahn's algorithm; without those that are on a circle, or behind one."""
    unmet = {node_id: len(ways) for node_id, ways in graph.incoming.items()}
    free, ordered = list(graph.roots), []
    while free:
        node_id = free.pop()
        ordered.append(node_id)
        for other in graph.dependents(node_id):
            unmet[other] -= 1
            if unmet[other] == 0:
                free.append(other)
    return ordered


@dataclass(frozen=True, slots=True)
class Earlier:
    """Which nodes may have run before which, in this round or in one before it.

    Kept as bits, one for each node: of the largest workflow these are millions of pairs.
    """

    bits: Mapping[str, int]
    before: Mapping[str, int]

    @classmethod
    def of(cls, graph: Graph) -> Earlier:
        """The forward ways make no circle."""
        bits = {node_id: 1 << number for number, node_id in enumerate(graph.nodes)}
        before = dict.fromkeys(bits, 0)
        for node_id in in_order(graph):
            for other in graph.dependents(node_id):
                before[other] |= before[node_id] | bits[node_id]
        for way in chain.from_iterable(graph.back.values()):
            if not before[way.target] & bits[way.source]:
                before = _led_back(before, way.target, bits[way.target], before[way.source] | bits[way.source])
        return cls(bits, before)

    def may_precede(self, node_id: str, other: str) -> bool:
        """Of a node and itself: whether there is a way back to it."""
        return bool(self.before[other] & self.bits[node_id])


def _led_back(before: Mapping[str, int], target: str, bit: int, added: int) -> dict[str, int]:
    """The same comes before the target now, and before all that it comes before."""
    return {node_id: found | added if node_id == target or found & bit else found for node_id, found in before.items()}
