"""What may happen in the graph of a run, as its history shows it: counted from its facts alone.

order        a node begins when its ways are decided and as many were taken as its join needs; one that was left out
             never begins
visits       each visit begins once and ends once; a node is sent back as often as its edge says, retries aside
edges        each way is decided once for the end of a task, and of exclusive ones at most one is taken
failures     what goes on after a failure is what the failure says: an edge, another try, or that it counts as done
maps         crewlog.domain.conduct.fan, and children
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from crewlog.domain import names
from crewlog.domain.workflow.graph import Graph, Way
from crewlog.v1.node_pb2 import JoinMode
from crewlog.v1.run_pb2 import (
    EdgeSkipped,
    EdgeTaken,
    GraphGrown,
    Handling,
    RunRetried,
    RunStarted,
    TaskCancelled,
    TaskFailed,
    TaskRetried,
    TaskSkipped,
    TaskSucceeded,
)

TaskEnd = TaskSucceeded | TaskFailed | TaskCancelled
JOIN_MISSED = "join_missed"
_STRICT = (JoinMode.JOIN_MODE_UNSPECIFIED, JoinMode.JOIN_MODE_ALL, JoinMode.JOIN_MODE_QUORUM)


@dataclass(slots=True)
class GraphConduct:
    """`decided` says for each node which of the ways that lead to it were decided, and how; `sent` are the visits that
    a way back has led to, `begun`, `ended` and `waiting` the tasks; `verdicts` the ways that each has decided."""

    graph: Graph = field(default_factory=Graph)
    visits_max: int = 0
    visits: dict[str, int] = field(default_factory=dict)
    extra: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    decided: dict[str, dict[int, bool]] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    verdicts: dict[str, dict[int, bool]] = field(default_factory=dict)
    promised: dict[str, Handling.ValueType] = field(default_factory=dict)

    def start(self, fact: RunStarted) -> None:
        self.graph = Graph.of(fact.workflow)
        self.visits = dict.fromkeys(self.graph.nodes, 1)
        self.visits_max = fact.workflow.visits_max

    def begin(self, task_id: str) -> Iterator[str]:
        """A task of a node of the graph begins: it is claimed for the first time, or the run performs it."""
        node_id = names.node_of(task_id)
        if task_id in self.begun:
            yield f"{task_id} begins twice"
        if task_id in self.ended:
            yield f"{task_id} begins after its end"
        if task_id != self.current(node_id):
            yield f"{task_id} begins, and its node is at {self.current(node_id)}"
        elif task_id not in self.sent:
            yield from _check_ways(self.graph, self.decided.get(node_id, {}), node_id, task_id)
        self.begun.add(task_id)

    def current(self, node_id: str) -> str:
        return names.task_id(node_id, self.visits.get(node_id, 0))

    def end(self, fact: TaskEnd) -> Iterator[str]:
        task_id, node_id = fact.task_id, names.node_of(fact.task_id)
        self.ended.add(task_id)
        if task_id != self.current(node_id):
            return
        if isinstance(fact, TaskFailed) and fact.failure.reason == JOIN_MISSED and task_id in self.sent:
            yield f"{task_id} fails for its join, and the work was sent back to it"
        handling = Handling.HANDLING_UNSPECIFIED if isinstance(fact, TaskSucceeded) else fact.handling
        if handling == Handling.HANDLING_CONTINUE and not self.graph.nodes[node_id].continue_on_failure:
            yield f"{task_id} counts as done, and its node does not say so"
        if handling in (Handling.HANDLING_EDGE, Handling.HANDLING_RETRY):
            self.promised[task_id] = handling
        is_done = isinstance(fact, TaskSucceeded) or handling == Handling.HANDLING_CONTINUE
        if is_done and not self.graph.nodes[node_id].exclusive:
            self._decide(task_id, (way for way in self.graph.forward[node_id] if way.is_plain), is_taken=True)

    def skip(self, fact: TaskSkipped) -> Iterator[str]:
        if fact.task_id in self.begun:
            yield f"{fact.task_id} is left out, and has begun"
        if fact.task_id in self.ended:
            yield f"{fact.task_id} is left out after its end"
        self.ended.add(fact.task_id)
        self._decide(fact.task_id, self.graph.forward[fact.node_id], is_taken=False)

    def _decide(self, task_id: str, ways: Iterable[Way], *, is_taken: bool) -> None:
        verdicts = self.verdicts.setdefault(task_id, {})
        for way in ways:
            verdicts[way.number] = is_taken
            self.decided.setdefault(way.target, {})[way.number] = is_taken

    def follow(self, fact: EdgeTaken | EdgeSkipped) -> Iterator[str]:
        """A way is decided."""
        task_id, to = fact.from_task_id, fact.to_node_id
        if task_id not in self.ended:
            yield f"a way from {task_id} to {to} is decided, and it has not ended"
        is_taken = isinstance(fact, EdgeTaken)
        if is_taken and self.promised.get(task_id) == Handling.HANDLING_EDGE:
            del self.promised[task_id]
        if isinstance(fact, EdgeTaken) and not fact.is_forward:
            yield from self._send_back(task_id, to)
            return
        yield from self._go_on(task_id, to, is_taken=is_taken)

    def _go_on(self, task_id: str, to: str, *, is_taken: bool) -> Iterator[str]:
        node_id, verdicts = names.node_of(task_id), self.verdicts.setdefault(task_id, {})
        ways = (way for way in self.graph.forward[node_id] if way.target == to and way.number not in verdicts)
        way = next(ways, None)
        if way is None:
            yield f"the way from {task_id} to {to} is decided again, or is not there"
            return
        if is_taken and self.graph.nodes[node_id].exclusive and any(verdicts.values()):
            yield f"{task_id} takes a way to {to} beside another one, and its node takes only one"
        self._decide(task_id, [way], is_taken=is_taken)

    def _send_back(self, task_id: str, to: str) -> Iterator[str]:
        yield from _check_visits(self.graph, task_id, to, self.visits[to] - self.extra[to])
        if self.visits_max and len(self.begun) > self.visits_max + len(self.graph.nodes):
            yield f"{task_id} sends {to} back after {len(self.begun)} tasks, and the run may have {self.visits_max}"
        again = {to, *self.graph.descendants(to)}
        for node_id in again:
            self.visits[node_id] = self._next_visit(node_id)
            self.tries[node_id] = 0
            for way in self.graph.incoming[node_id]:
                if way.source in again:  # it has to be decided again
                    self.decided.get(node_id, {}).pop(way.number, None)
        self.sent.add(self.current(to))

    def retry(self, fact: TaskRetried) -> Iterator[str]:
        node_id = names.node_of(fact.task_id)
        self.promised.pop(fact.task_id, None)
        known, self.tries[node_id] = self.tries[node_id], fact.number
        most = self.graph.node(node_id).retry.attempts_max
        if not known < fact.number < most:
            yield f"{fact.task_id} is tried again, number {fact.number}, and its node has {most} tries"
        self._visit_again(node_id)

    def _visit_again(self, node_id: str) -> None:
        before = self.current(node_id)
        self.visits[node_id] = self.visits.get(node_id, 0) + 1
        self.extra[node_id] += 1
        if before in self.sent:
            self.sent.add(self.current(node_id))

    def take_up(self, fact: RunRetried, reopened: set[str]) -> None:
        """The run goes on from what has failed; a map and a child run stay the same task."""
        self.tries.clear()
        self.ended -= reopened.intersection(fact.task_ids)
        for task_id in (each for each in fact.task_ids if each not in reopened):
            self._visit_again(names.node_of(task_id))

    def grow(self, fact: GraphGrown) -> None:
        self.graph = self.graph.grown(names.node_of(fact.task_id), fact.nodes)
        for node in fact.nodes:
            self.decided[node.node_id] = {}
            self.visits[node.node_id] = self._next_visit(node.node_id)

    def _next_visit(self, node_id: str) -> int:
        """A round in which a node was not reached is no visit of it."""
        visit, task_id = self.visits.get(node_id, 0), self.current(node_id)
        return visit + (not visit or any(task_id in known for known in (self.begun, self.ended, self.waiting)))

    def check_complete(self, end: str) -> Iterator[str]:
        """The run has ended, and nothing has stopped it before."""
        for task_id in (self.current(node_id) for node_id in self.graph.nodes):
            if task_id not in self.ended:
                yield f"{end}, and {task_id} has not ended"

    def end_of_entry(self) -> Iterator[str]:
        for task_id in self.promised:
            yield f"{task_id} has failed, and what was to come after it does not"
        self.promised.clear()


def _check_visits(graph: Graph, task_id: str, to: str, visits: int) -> Iterator[str]:
    back = (way for way in graph.back.get(names.node_of(task_id), ()) if way.target == to)
    most = max((way.visits_max for way in back), default=0)
    if visits >= most:
        yield f"{task_id} sends {to} back once more than the {most} visits that the workflow allows"


def _check_ways(graph: Graph, decided: Mapping[int, bool], node_id: str, task_id: str) -> Iterator[str]:
    ways = graph.incoming.get(node_id, ())
    taken, join = sum(decided.values()), graph.nodes[node_id].join
    if not ways:
        return
    if join.mode in _STRICT and len(decided) < len(ways):
        yield f"{task_id} begins, and {len(ways) - len(decided)} of {len(ways)} ways to it are not decided"
    needed = _needed(len(ways), join.mode, join.count)
    if taken < needed:
        yield f"{task_id} begins, and {taken} of {len(ways)} ways to it were taken: it needs {needed}"


def _needed(ways: int, mode: JoinMode.ValueType, count: int) -> int:
    match mode:
        case JoinMode.JOIN_MODE_ALL:
            return ways
        case JoinMode.JOIN_MODE_FIRST:
            return min(ways, max(1, count))
        case JoinMode.JOIN_MODE_QUORUM:
            return count or ways // 2 + 1
        case _:
            return 1
