"""The executors that are connected, and what each of them holds. No I/O: the server and the reactor move it.

Level-triggered: every report is compared with what the log says that the executor holds, so a message that was lost or
came twice heals with the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import TypeAlias, TypeVar

from crewlog.domain.run.state import Run, Task
from crewlog.scheduler.admission import NOTHING, Labels, Limits, Needs, Requirements
from crewlog.v1.scheduler_pb2 import (
    ChangedAllotment,
    ExecutorReport,
    Grant,
    RunningTask,
    SchedulerOrder,
    Stop,
    StopKind,
    TaskMessage,
)

ORDERS_PER_MESSAGE_MAX = 256
ORDER_BYTES_MAX = 16 * 1024 * 1024
"""Of the grants, and of the messages, that are told at once: an order that is too large would end the stream."""

TaskKey: TypeAlias = tuple[str, str]
"""Run and task."""
T = TypeVar("T", Grant, TaskMessage)


@dataclass(slots=True)
class Held:
    """A claim of an executor. `granted` is the revision of the claim; 0 when it was read from the log at start, or told
    on a stream that is gone.
    `messages` is how many the task has got; `progress` is the last revision that was reported of its agent, `moved_at`
    when that changed, and `step_seconds` how long the step that it is in may take. `is_lost`: it is to lapse. What it
    counts under is `needs`."""

    generation: int
    granted: int = 0
    messages: int = 0
    progress: int = 0
    moved_at: float = 0.0
    step_seconds: float = 0.0
    is_lost: bool = False
    needs: Needs = NOTHING

    def saw(self, task: RunningTask, now: float) -> None:
        if task.progress_revision != self.progress or not self.moved_at:
            self.progress, self.moved_at = task.progress_revision, now
        self.step_seconds = task.step_seconds_max

    def is_stuck(self, now: float, margin_seconds: float) -> bool:
        """It is lost already, or has been in one step for longer than that step may take."""
        return self.is_lost or (
            bool(self.moved_at and self.step_seconds) and now - self.moved_at > self.step_seconds + margin_seconds
        )


@dataclass(slots=True)
class Executor:
    """One process that performs tasks, connected or recently lost. `heard_at` is when it last reported, or was lost;
    `is_silent`: its stream is open, and it says nothing. It listens to the newest of its `streams` alone."""

    executor_id: str
    slots: int = 0
    labels: frozenset[str] = frozenset()
    heard_at: float = 0.0
    is_silent: bool = False
    held: dict[TaskKey, Held] = field(default_factory=dict)
    connections: int = 0
    streams: int = 0
    grants: list[Grant] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    allotments: list[ChangedAllotment] = field(default_factory=list)
    messages: list[TaskMessage] = field(default_factory=list)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.executor_id.rpartition("_")[0] or self.executor_id

    @property
    def free(self) -> int:
        return self.slots - len(self.held) if self.connections and not self.is_silent else 0

    def order(self) -> SchedulerOrder:
        """Takes what waits to be told; `wanted` is set while something does. Grants go first: the rest may be about one
        of them."""
        grants, self.grants = _first(self.grants)
        if self.grants:
            return SchedulerOrder(grants=grants)
        stops, self.stops = self.stops, []
        allotments, self.allotments = self.allotments, []
        messages, self.messages = _first(self.messages)
        if not self.messages:
            self.wanted.clear()
        return SchedulerOrder(grants=grants, stops=stops, allotments=allotments, messages=messages)


@dataclass(slots=True)
class Fleet:
    """`limits` counts what is held by what it needs."""

    executors: dict[str, Executor] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    requirements: Requirements = field(default_factory=Requirements)

    def connect(self, executor_id: str) -> Executor:
        """What was told on an older stream it has heard by now, or never will."""
        executor = self._get(executor_id)
        executor.connections += 1
        executor.streams += 1
        executor.wanted.set()
        untold = {(grant.run_id, grant.task_id) for grant in executor.grants}
        for key, held in executor.held.items():
            held.granted = held.granted if key in untold else 0
        return executor

    def claimed(self, run: Run, task: Task) -> Held:
        """A claim of which only the log tells."""
        messages = len(run.messages.get(task.task_id, ()))
        return Held(task.generation, messages=messages, needs=self.requirements.of(run, task.node_id))

    def hold(self, executor_id: str, key: TaskKey, held: Held, now: float) -> None:
        """A claim that was made by an earlier scheduler."""
        if executor_id not in self.executors:
            self._get(executor_id).heard_at = now
        self._put(self._get(executor_id), key, held)

    def hold_if_unknown(self, executor_id: str, key: TaskKey, held: Held, now: float) -> None:
        known = self.executors[executor_id].held.get(key) if executor_id in self.executors else None
        if known is None or known.generation < held.generation:
            self.hold(executor_id, key, held, now)

    def knows(self, executor_id: str, key: TaskKey, generation: int) -> bool:
        """A claim that this scheduler has made, or is about to make known."""
        executor = self.executors.get(executor_id)
        return executor is not None and key in executor.held and executor.held[key].generation in (0, generation)

    def forget_idle(self, executor: Executor) -> None:
        """An executor that is gone and holds nothing."""
        if not executor.held and not executor.connections:
            self.executors.pop(executor.executor_id, None)

    def reserve(self, key: TaskKey, needs: Needs = NOTHING) -> Executor | None:
        """A slot of an executor that has the labels, and no more of them than it takes; of these, the one with the most
        room. None when all are full."""
        labels = needs.labels
        able = [executor for executor in self.executors.values() if executor.free > 0 and labels <= executor.labels]
        if not able:
            return None
        best = able[0] if len(able) == 1 else max(able, key=lambda executor: (-len(executor.labels), executor.free))
        self._put(best, key, Held(generation=0, needs=needs))
        return best

    def release(self, executor_id: str, key: TaskKey, generation: int) -> None:
        """The claim is over; a later one of the same task stays."""
        executor = self.executors.get(executor_id)
        if executor is None:
            return
        held = executor.held.get(key)
        if held is not None and held.generation <= generation:
            del executor.held[key]
            self.limits.end(held.needs)
        self.forget_idle(executor)

    def grant(self, executor: Executor, grant: Grant, needs: Needs = NOTHING) -> None:
        held = Held(grant.generation, grant.revision, messages=len(grant.messages), needs=needs)
        self._put(executor, (grant.run_id, grant.task_id), held)
        executor.grants.append(grant)
        executor.wanted.set()

    def stop(self, executor_id: str, stop: Stop) -> None:
        executor = self.executors.get(executor_id)
        if executor is not None:
            executor.stops.append(stop)
            executor.wanted.set()

    def change_allotment(self, executor_id: str, changed: ChangedAllotment) -> None:
        executor = self.executors.get(executor_id)
        if executor is not None:
            executor.allotments.append(changed)
            executor.wanted.set()

    def say(self, executor_id: str, message: TaskMessage) -> None:
        executor = self.executors.get(executor_id)
        if executor is not None:
            held = executor.held.get((message.run_id, message.task_id))
            if held is not None:
                held.messages = max(held.messages, message.number)
            executor.messages.append(message)
            executor.wanted.set()

    def older_boots(self, executor: Executor) -> list[Executor]:
        """Earlier processes of the same name: they are gone."""
        others = self.executors.values()
        return [other for other in others if other.name == executor.name and other is not executor]

    def free(self, labels: Labels = frozenset()) -> int:
        able = (executor for executor in self.executors.values() if labels <= executor.labels)
        return sum(executor.free for executor in able if executor.free > 0)

    def slots(self, labels: Labels) -> int:
        """Of all executors that are there and have the labels, taken or free."""
        able = (executor for executor in self.executors.values() if labels <= executor.labels)
        return sum(executor.slots for executor in able if executor.connections and not executor.is_silent)

    def shares(self, one: Labels, other: Labels) -> bool:
        """Whether some executor with room has the labels of both."""
        return any(executor.free > 0 and one | other <= executor.labels for executor in self.executors.values())

    def _put(self, executor: Executor, key: TaskKey, held: Held) -> None:
        before = executor.held.get(key)
        executor.held[key] = held
        if before is None or before.needs is not held.needs:
            self.limits.begin(held.needs)
            self.limits.end(before.needs if before is not None else NOTHING)

    def _get(self, executor_id: str) -> Executor:
        return self.executors.setdefault(executor_id, Executor(executor_id))


def _first(waiting: list[T]) -> tuple[list[T], list[T]]:
    """What one order has room for, at least one; and the rest."""
    sizes = accumulate(each.ByteSize() for each in waiting[:ORDERS_PER_MESSAGE_MAX])
    count = max(1, sum(1 for _ in takewhile(lambda size: size <= ORDER_BYTES_MAX, sizes)))
    return waiting[:count], waiting[count:]


def lost_tasks(executor: Executor, report: ExecutorReport) -> list[tuple[TaskKey, Held]]:
    """What the executor should be working on, was told so, and is not."""
    running = {(task.run_id, task.task_id, task.generation) for task in report.running}
    return [
        (key, held)
        for key, held in executor.held.items()
        if held.generation and held.granted <= report.last_grant and (*key, held.generation) not in running
    ]


def stray_tasks(executor: Executor, report: ExecutorReport) -> Iterable[Stop]:
    """What the executor works on and should not."""
    for task in report.running:
        held = executor.held.get((task.run_id, task.task_id))
        if held is None or held.generation != task.generation:
            yield Stop(
                run_id=task.run_id,
                task_id=task.task_id,
                generation=task.generation,
                reason="not its claim",
                kind=StopKind.STOP_KIND_DROP,
            )


def deaf_tasks(executor: Executor, report: ExecutorReport) -> Iterable[TaskKey]:
    """Tasks whose agents have not heard everything that was said to them."""
    for task in report.running:
        held = executor.held.get((task.run_id, task.task_id))
        if held is not None and held.generation == task.generation and task.messages < held.messages:
            yield task.run_id, task.task_id
