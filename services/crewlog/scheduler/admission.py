"""What a task needs before an executor may take it, and how many are at work under every limit.

Counted is what executors hold, in memory: after a start it is the same again as soon as the open tasks are held again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakValueDictionary

from crewlog.domain import admission, names
from crewlog.domain.admission import Admission, Key
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run
from crewlog.domain.workflow.graph import Graph, map_of
from crewlog.v1.admission_pb2 import AdmissionDimension
from crewlog.v1.run_pb2 import Node

Labels: TypeAlias = frozenset[str]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Needs:
    """The labels of an executor, and room under each key. The same needs are the same object."""

    labels: Labels = frozenset()
    keys: tuple[Key, ...] = ()


NOTHING = Needs()
_Kind: TypeAlias = tuple[str, str, tuple[str, ...]]
"""Role, model of the role, labels: nodes of a run that have the same need the same."""


@dataclass(slots=True)
class _Known:
    """Of the nodes of a graph, as far as somebody has asked."""

    graph: Graph
    of_node: dict[str, Needs] = field(default_factory=dict)
    of_kind: dict[_Kind, Needs] = field(default_factory=dict)
    count: int = 0


class Requirements:
    """What the nodes of runs need; worked out once for each."""

    def __init__(self) -> None:
        self._runs: dict[str, _Known] = {}
        self._all: WeakValueDictionary[tuple[Labels, tuple[Key, ...]], Needs] = WeakValueDictionary()

    def of(self, run: Run, node_id: str) -> Needs:
        known = self._known(run)
        # All items of a map need the same.
        defined = node_id if node_id in run.graph.nodes else map_of(node_id)
        needs = known.of_node.get(defined)
        if needs is None:
            needs = known.of_node[defined] = self._of_kind(run, known, run_state.node(run, node_id))
        return needs

    def count(self, run: Run) -> int:
        """How many different ones a run has."""
        known = self._known(run)
        if not known.count:
            performed = (node.map.body if node.HasField("map") else node for node in run.graph.nodes.values())
            known.count = len({self._of_kind(run, known, node) for node in performed})
        return known.count

    def forget(self, run_id: str) -> None:
        self._runs.pop(run_id, None)

    def _known(self, run: Run) -> _Known:
        known = self._runs.get(run.started.run_id)
        if known is None or known.graph is not run.graph:
            known = self._runs[run.started.run_id] = _Known(run.graph)
        return known

    def _of_kind(self, run: Run, known: _Known, node: Node) -> Needs:
        role = node.agent.role if node.HasField("agent") else None
        kind = (role.name if role else "", role.model if role else "", tuple(node.executor_labels))
        needs = known.of_kind.get(kind)
        if needs is None:
            needs = known.of_kind[kind] = self._shared(run, node)
        return needs

    def _shared(self, run: Run, node: Node) -> Needs:
        labels, keys = frozenset(node.executor_labels), tuple(_keys(run, node))
        found = self._all.get((labels, keys))
        if found is None:
            found = self._all[labels, keys] = Needs(labels, keys)
        return found


def _keys(run: Run, node: Node) -> Iterable[Key]:
    role = node.agent.role
    named = (
        (AdmissionDimension.ADMISSION_DIMENSION_TENANT, names.TENANT),
        (AdmissionDimension.ADMISSION_DIMENSION_PROJECT, run.started.project_id),
        (AdmissionDimension.ADMISSION_DIMENSION_WORKFLOW, run.started.workflow.name),
        (AdmissionDimension.ADMISSION_DIMENSION_ROLE, role.name),
        (
            AdmissionDimension.ADMISSION_DIMENSION_MODEL,
            (role.model or run.started.model) if node.HasField("agent") else "",
        ),
        *((AdmissionDimension.ADMISSION_DIMENSION_POOL, label) for label in sorted(set(node.executor_labels))),
    )
    return (Key(dimension, name) for dimension, name in named if name)


class Limits:
    """`freed` are the keys under which there may be room that was not there before."""

    def __init__(self) -> None:
        self.admission: Admission = admission.INITIAL
        self.freed: set[Key] = set()
        self._at_work: dict[Key, int] = {}
        self._tasks_max: dict[Key, int | None] = {}

    def learn(self, known: Admission) -> None:
        self.admission = known
        self._tasks_max.clear()

    def begin(self, needs: Needs) -> None:
        for key in needs.keys:
            self._at_work[key] = self._at_work.get(key, 0) + 1

    def end(self, needs: Needs) -> None:
        for key in needs.keys:
            left = self._at_work[key] - 1
            if left:
                self._at_work[key] = left
            else:
                del self._at_work[key]
        if self.admission.limits:
            self.freed.update(needs.keys)

    def at_work(self, key: Key) -> int:
        return self._at_work.get(key, 0)

    def names_at_work(self, dimension: AdmissionDimension.ValueType) -> list[str]:
        return sorted(key.name for key in self._at_work if key.dimension == dimension)

    def tasks_max(self, key: Key) -> int | None:
        """None: any number."""
        if key not in self._tasks_max:
            self._tasks_max[key] = admission.tasks_max(self.admission, key)
        return self._tasks_max[key]

    def has_room(self, key: Key, beside: int = 0) -> bool:
        """Whether one more may begin, where so many others are about to."""
        tasks_max = self.tasks_max(key)
        return tasks_max is None or self.at_work(key) + beside < tasks_max

    def full(self, needs: Needs) -> Key | None:
        """The first limit that has no room for one more."""
        if not self.admission.limits:
            return None
        return next((key for key in needs.keys if not self.has_room(key)), None)
