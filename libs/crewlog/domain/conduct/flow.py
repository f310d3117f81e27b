"""What a run does next, as its history shows it: each fact about a task, with the part of the graph that it concerns.

Nothing begins once a failure that nothing handles, a request or the time has stopped the run. A task that is a child
run ends as that run has ended, and the run knows whose child it is. Histories without their beginning pass: nobody
knows their graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from crewlog.domain import names
from crewlog.domain.conduct.fan import ChildConduct, MapConduct
from crewlog.domain.conduct.graph import GraphConduct, TaskEnd
from crewlog.domain.conduct.shares import ShareConduct
from crewlog.v1.run_pb2 import (
    ChildRunRequested,
    ChildSpawned,
    EdgeSkipped,
    EdgeTaken,
    GateOpened,
    GraphGrown,
    Handling,
    MapExpanded,
    MergeRequested,
    RunCancelRequested,
    RunFailed,
    RunRetried,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    TaskCancelRequested,
    TaskClaimed,
    TaskFailed,
    TaskParked,
    TaskRetried,
    TaskSkipped,
    TaskSucceeded,
    TaskTimedOut,
    TaskUnparked,
    WaitStarted,
)
from google.protobuf.message import Message

Begun = GateOpened | WaitStarted | MapExpanded | MergeRequested | ChildRunRequested


class Other(Protocol):
    """Another run of the same log."""

    @property
    def flow(self) -> FlowConduct:
        """Its tasks."""

    @property
    def has_succeeded(self) -> bool | None:
        """None while it is not over."""


@dataclass(slots=True)
class FlowConduct:
    """`runs` are those of the same log, `child_runs` are by the task, `merging` are the tasks whose files are being put
    together, `retried` those whose node is visited again in this entry; `stopped` is why nothing begins any more."""

    runs: Mapping[str, Other] = field(default_factory=dict)
    graph: GraphConduct = field(default_factory=GraphConduct)
    maps: MapConduct = field(default_factory=MapConduct)
    children: ChildConduct = field(default_factory=ChildConduct)
    shares: ShareConduct = field(default_factory=ShareConduct)
    child_runs: dict[str, str] = field(default_factory=dict)
    merging: set[str] = field(default_factory=set)
    cancelling: set[str] = field(default_factory=set)
    parents_ended: list[str] = field(default_factory=list)
    stopped: str = ""

    @property
    def is_known(self) -> bool:
        return bool(self.graph.graph.nodes)

    def enter(self, fact: Message) -> Iterator[str]:
        yield from self.shares.enter(fact, self.runs)
        if isinstance(fact, RunStarted):
            self.graph.start(fact)
            yield from self._check_parent(fact)
        elif self.is_known:
            yield from self._enter(fact)

    def _enter(self, fact: Message) -> Iterator[str]:
        match fact:
            case TaskClaimed() if fact.generation == 1:
                yield from self._begin(fact.task_id)
            case GateOpened() if not fact.node_id:
                pass
            case GateOpened() | WaitStarted() | MapExpanded() | MergeRequested() | ChildRunRequested():
                yield from self._perform(fact)
            case EdgeTaken() | EdgeSkipped():
                yield from self.graph.follow(fact)
            case TaskSkipped():
                yield from self.graph.skip(fact)
            case TaskRetried():
                node_id = names.node_of(fact.task_id)
                if not self.maps.is_item(node_id):
                    yield from self.graph.retry(fact)
                    self.graph.waiting.add(self.graph.current(node_id))
            case GraphGrown():
                self.graph.grow(fact)
            case ChildSpawned():
                yield from self.children.spawn(fact)
            case TaskParked() | TaskUnparked() | TaskClaimed():
                self.graph.waiting.add(fact.task_id)
                yield from self.children.wait(fact)
            case RunSucceeded():
                yield from self.graph.check_complete("RunSucceeded")
            case RunFailed() if not self.stopped:  # what was done could not be brought home
                yield from self.graph.check_complete("RunFailed")
            case _:
                self._control(fact)

    def _control(self, fact: Message) -> None:
        match fact:
            case TaskCancelRequested() | TaskTimedOut():
                self.cancelling.add(fact.task_id)
            case RunCancelRequested() | RunTimedOut():
                self.stopped = fact.DESCRIPTOR.name
            case RunRetried():
                self._take_up(fact)

    def _take_up(self, fact: RunRetried) -> None:
        reopened = {task_id for task_id in fact.task_ids if task_id in self.maps.maps or task_id in self.child_runs}
        self.cancelling -= reopened
        self.maps.take_up(fact.task_ids)
        items = {task_id for task_id in fact.task_ids if self.maps.is_item(names.node_of(task_id))}
        graph = RunRetried(task_ids=[task_id for task_id in fact.task_ids if task_id not in items])
        self.graph.take_up(graph, reopened)
        self.stopped = ""

    def _check_parent(self, fact: RunStarted) -> Iterator[str]:
        parent = self.runs.get(fact.parent.run_id)
        if parent is not None and parent.flow.child_runs.get(fact.parent.task_id) != fact.run_id:
            yield f"{fact.parent.task_id} of {fact.parent.run_id} has not asked for this run"

    def _begin(self, task_id: str) -> Iterator[str]:
        if self.stopped:
            yield f"{task_id} begins after {self.stopped}"
        node_id = names.node_of(task_id)
        if node_id in self.children.parents:
            return
        yield from (self.maps if self.maps.is_item(node_id) else self.graph).begin(task_id)

    def _perform(self, fact: Begun) -> Iterator[str]:
        if fact.task_id not in self.merging:
            yield from self._begin(fact.task_id)
        self.merging.discard(fact.task_id)
        match fact:
            case MapExpanded():
                yield from self.maps.expand(fact, self.graph.graph.nodes[fact.node_id].map.failures_max)
            case MergeRequested():
                self.merging.add(fact.task_id)
            case ChildRunRequested():
                if fact.child_run_id in self.child_runs.values():
                    yield f"child run {fact.child_run_id} is asked for again"
                self.child_runs[fact.task_id] = fact.child_run_id

    def end(self, fact: TaskEnd) -> Iterator[str]:
        task_id, node_id = fact.task_id, names.node_of(fact.task_id)
        if not self.is_known:
            return
        self.children.waiting.discard(task_id)
        is_success = isinstance(fact, TaskSucceeded)
        handling = Handling.HANDLING_UNSPECIFIED if isinstance(fact, TaskSucceeded) else fact.handling
        yield from self._check_child_run(task_id, is_success=is_success)
        if task_id in self.children.children:
            self.parents_ended.append(task_id)
        if node_id in self.children.parents:
            self.children.end(node_id)
            return
        if self.maps.is_item(node_id):
            again = handling == Handling.HANDLING_RETRY
            self.maps.end_item(task_id, is_success=is_success, is_tried_again=again)
            return
        yield from self.maps.end_map(task_id, is_success=is_success)
        if self._stops(fact, handling):
            self.stopped = f"{task_id} has not succeeded"
        yield from self.graph.end(fact)

    def _stops(self, fact: TaskEnd, handling: Handling.ValueType) -> bool:
        """Nothing handles the failure, or the end that somebody or the time has asked for."""
        is_asked = isinstance(fact, TaskFailed) or fact.task_id in self.cancelling
        is_current = fact.task_id == self.graph.current(names.node_of(fact.task_id))
        return is_asked and is_current and not handling and not isinstance(fact, TaskSucceeded)

    def _check_child_run(self, task_id: str, *, is_success: bool) -> Iterator[str]:
        child_run_id = self.child_runs.get(task_id, "")
        child = self.runs.get(child_run_id)
        if child is None:
            return
        if child.has_succeeded is None:
            yield f"{task_id} has ended, and its child run {child_run_id} has not"
        elif child.has_succeeded != is_success:
            yield f"{task_id} has ended otherwise than its child run {child_run_id}"

    def end_of_entry(self) -> Iterator[str]:
        if not self.stopped:
            yield from self.children.check_waited()
            for task_id in self.parents_ended:
                yield from self.children.check_left(task_id, self.cancelling)
        self.parents_ended.clear()
        yield from self.shares.end_of_entry()
        yield from self.graph.end_of_entry()
