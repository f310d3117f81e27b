"""What may become of the items of maps and of the children of agents, as histories show it: from their facts alone.

items        each item of an expansion begins once, tries aside, and no more at once than the map says; the map succeeds
             when every item has ended, and no more have failed than may
children     numbered without gaps, one for a call, no more than the node may have, no deeper than the rules say; none
             is left at work when its parent has ended; a parent that waits for them goes on when the last has ended
shares       one for a call that spawns a child, while it is under way, and never more than is left
waiting      for children waits only an agent that has some, right after it was asked to
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from crewlog.domain import names
from crewlog.domain.agent.state import SPAWN_TOOL, WAIT_TOOL
from crewlog.domain.amounts import Amounts
from crewlog.domain.conduct.effects import Place, place_of
from crewlog.domain.conduct.ledgers import AgentLedger
from crewlog.domain.run.children import CHILDREN_DEFAULT, CHILDREN_MAX, DEPTH_MAX
from crewlog.domain.workflow.graph import map_of
from crewlog.domain.workflow.nodes import ITEMS_MAX
from crewlog.v1.agent_pb2 import AgentParked, AllotmentShared, ToolCallFailed, ToolCallStarted, ToolCallSucceeded
from crewlog.v1.run_pb2 import ChildSpawned, MapExpanded, ParkCause, TaskClaimed, TaskParked, TaskUnparked
from google.protobuf.message import Message


@dataclass(slots=True)
class Items:
    """Of one map: `tasks` are the latest tasks of its items that have begun, `open` those that have not ended."""

    count: int
    at_once_max: int
    failures_max: int
    tasks: dict[int, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)


@dataclass(slots=True)
class MapConduct:
    """`maps` are the expansions by their task, `latest` the task by the node, `owners` by the task of an item that has
    begun; `again` are the items that may begin once more."""

    maps: dict[str, Items] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)

    def is_item(self, node_id: str) -> bool:
        return map_of(node_id) in self.latest

    def expand(self, fact: MapExpanded, failures_max: int) -> Iterator[str]:
        if fact.task_id in self.maps:
            yield f"{fact.task_id} is expanded again"
        if fact.items > ITEMS_MAX or (fact.items_json and len(fact.items_json) != fact.items):
            yield f"{fact.task_id} has {fact.items} items"
        self.maps[fact.task_id] = Items(fact.items, fact.at_once_max, failures_max)
        self.latest[fact.node_id] = fact.task_id

    def begin(self, task_id: str) -> Iterator[str]:
        node_id = names.node_of(task_id)
        owner, index = self.latest[map_of(node_id)], int(node_id.rpartition("_")[2])
        items = self.maps[owner]
        if owner in self.ended:
            yield f"item {task_id} begins after the end of {owner}"
        if index >= items.count:
            yield f"item {task_id} begins, and {owner} has {items.count}"
        if index in items.tasks and node_id not in self.again:
            yield f"item {task_id} begins after {items.tasks[index]}"
        self.again.discard(node_id)
        self.owners[task_id] = owner
        items.tasks[index] = task_id
        items.open.add(task_id)
        if len(items.open) > items.at_once_max:
            yield f"{len(items.open)} items of {owner} are worked on, and {items.at_once_max} may be"

    def end_item(self, task_id: str, *, is_success: bool, is_tried_again: bool) -> None:
        node_id = names.node_of(task_id)
        owner = self.owners.get(task_id, self.latest[map_of(node_id)])
        items, index = self.maps[owner], int(node_id.rpartition("_")[2])
        items.open.discard(task_id)
        if is_tried_again:
            self.again.add(node_id)
            return
        items.ended.add(index)
        (items.failed.discard if is_success else items.failed.add)(index)

    def end_map(self, task_id: str, *, is_success: bool) -> Iterator[str]:
        items = self.maps.get(task_id)
        self.ended.add(task_id)
        if items is None or not is_success:
            return
        if len(items.ended) != items.count:
            yield f"{task_id} has succeeded, and {items.count - len(items.ended)} of its items have not ended"
        if len(items.failed) > items.failures_max:
            yield f"{task_id} has succeeded, and {len(items.failed)} of its items have failed"

    def take_up(self, task_ids: Iterable[str]) -> None:
        """The run was taken up again: these go on, or are tried once more."""
        for task_id in task_ids:
            node_id = names.node_of(task_id)
            self.ended.discard(task_id)
            if self.is_item(node_id):
                self.again.add(node_id)
                items = self.maps[self.latest[map_of(node_id)]]
                items.ended.discard(int(node_id.rpartition("_")[2]))


@dataclass(slots=True)
class ChildConduct:
    """`children` are the nodes by the task that has spawned them, `parents` the other way round; `waiting` are the
    tasks that wait for theirs."""

    children: dict[str, list[str]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    calls: set[tuple[str, int, int]] = field(default_factory=set)
    at_work: dict[str, set[str]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)

    def spawn(self, fact: ChildSpawned) -> Iterator[str]:
        siblings = self.children.setdefault(fact.task_id, [])
        call = (fact.task_id, fact.turn, fact.index)
        most = min(CHILDREN_MAX, fact.node.children_max or CHILDREN_DEFAULT)
        if fact.number != len(siblings) + 1 or fact.number > most:
            yield f"{fact.task_id} spawns child {fact.number} after {len(siblings)}, and may have {most}"
        if call in self.calls:
            yield f"call {fact.turn}/{fact.index} of {fact.task_id} spawns a second child"
        if fact.node_id in self.parents:
            yield f"child {fact.node_id} is spawned again"
        siblings.append(fact.node_id)
        self.calls.add(call)
        self.parents[fact.node_id] = fact.task_id
        self.at_work.setdefault(fact.task_id, set()).add(fact.node_id)
        if self._depth(fact.node_id) > DEPTH_MAX:
            yield f"child {fact.node_id} is deeper than {DEPTH_MAX}"

    def _depth(self, node_id: str) -> int:
        depth = 0
        while node_id in self.parents:
            depth, node_id = depth + 1, names.node_of(self.parents[node_id])
        return depth

    def wait(self, fact: TaskParked | TaskUnparked | TaskClaimed) -> Iterator[str]:
        """One that is claimed while it waits is to be closed."""
        if isinstance(fact, TaskUnparked) and fact.task_id in self.waiting:
            for node_id in sorted(self.at_work.get(fact.task_id, ())):
                yield f"{fact.task_id} goes on, and its child {node_id} has not ended"
        self.waiting.discard(fact.task_id)
        if isinstance(fact, TaskParked) and fact.cause == ParkCause.PARK_CAUSE_CHILDREN:
            self.waiting.add(fact.task_id)

    def check_waited(self) -> Iterator[str]:
        """Nothing of what may still happen would let these go on."""
        for task_id in sorted(self.waiting):
            if not self.at_work.get(task_id):
                yield f"{task_id} waits for its children, and all of them have ended"

    def end(self, node_id: str) -> None:
        """Of a child."""
        self.at_work.get(self.parents[node_id], set()).discard(node_id)

    def check_left(self, parent: str, cancelling: set[str]) -> Iterator[str]:
        """The task has ended: its children are not left alone."""
        for node_id in sorted(self.at_work.get(parent, ())):
            if names.task_id(node_id, 1) not in cancelling:
                yield f"{parent} has ended, and nobody stops its child {node_id}"


@dataclass(slots=True)
class ParentConduct:
    """An agent, as far as it has children. `open` are the tools of the calls that are under way, `shared` went to
    children, by the call, and `money` is what is left to the agent itself; `has_waited`: the last thing that was
    recorded is the outcome of a call that waits."""

    open: dict[Place, str] = field(default_factory=dict)
    shared: dict[Place, Amounts] = field(default_factory=dict)
    money: AgentLedger = field(default_factory=AgentLedger)
    children: int = 0
    has_waited: bool = False

    def enter(self, fact: Message) -> Iterator[str]:
        has_waited, self.has_waited = self.has_waited, False
        above = list(self.money.enter(fact))
        yield from above if self.shared else ()
        match fact:
            case ToolCallStarted():
                self.open[place_of(fact.key)] = fact.call.tool
            case ToolCallSucceeded():
                tool = self.open.pop(place_of(fact.key), "")
                self.children += tool == SPAWN_TOOL
                self.has_waited = tool == WAIT_TOOL
            case ToolCallFailed():
                self.open.pop(place_of(fact.key), None)
            case AllotmentShared():
                yield from self._share(fact)
            case AgentParked() if fact.cause == ParkCause.PARK_CAUSE_CHILDREN:
                yield from self._wait(has_waited=has_waited)

    def _share(self, fact: AllotmentShared) -> Iterator[str]:
        place = place_of(fact.key)
        if self.open.get(place) != SPAWN_TOOL:
            yield f"effect {place} gives a share away, and spawns no child"
        if place in self.shared:
            yield f"effect {place} gives a second share away"
        self.shared[place] = Amounts.of(fact.share)
        yield from self._give(fact)

    def _give(self, fact: AllotmentShared) -> Iterator[str]:
        """Something of each unit that is limited, and something stays."""
        for unit, limit in self.money.limit.items():
            used = sum(each.get(unit, 0) for each in (self.money.spent, *self.money.open.values()))
            part, left = getattr(fact.share, unit), max(0, limit - used)
            if (part or limit) and not 0 < part < left:
                yield f"{part} {unit} are shared, and {left} are left"
            self.money.limit[unit] = max(1, limit - part) if limit else 0

    def _wait(self, *, has_waited: bool) -> Iterator[str]:
        if not self.children:
            yield "AgentParked for children, and there are none"
        if not has_waited:
            yield "AgentParked for children, and nobody has asked it to wait"
