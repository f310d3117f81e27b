"""The executors that are connected, and what each of them holds. No I/O: the server and the reactor move it.

Level-triggered: every report is compared with what the log says that the executor holds, so a message that was lost or
came twice heals with the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from crewlog.v1.scheduler_pb2 import ChangedAllotment, ExecutorReport, Grant, SchedulerOrder, Stop

ORDERS_PER_MESSAGE_MAX = 256

TaskKey: TypeAlias = tuple[str, str]
"""Run and task."""


@dataclass(slots=True)
class Held:
    """A claim of an executor. `granted` is the revision of the claim; 0 when it was read from the log at start."""

    generation: int
    granted: int = 0


@dataclass(slots=True)
class Executor:
    """One process that performs tasks, connected or recently lost."""

    executor_id: str
    slots: int = 0
    held: dict[TaskKey, Held] = field(default_factory=dict)
    connections: int = 0
    grants: list[Grant] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    allotments: list[ChangedAllotment] = field(default_factory=list)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.executor_id.rpartition("_")[0] or self.executor_id

    @property
    def free(self) -> int:
        return self.slots - len(self.held) if self.connections else 0

    def order(self) -> SchedulerOrder:
        """Takes what waits to be told; `wanted` is set while something does."""
        grants, self.grants = self.grants[:ORDERS_PER_MESSAGE_MAX], self.grants[ORDERS_PER_MESSAGE_MAX:]
        stops, self.stops = self.stops, []
        allotments, self.allotments = self.allotments, []
        if not self.grants:
            self.wanted.clear()
        return SchedulerOrder(grants=grants, stops=stops, allotments=allotments)


@dataclass(slots=True)
class Fleet:
    executors: dict[str, Executor] = field(default_factory=dict)

    def connect(self, executor_id: str) -> Executor:
        executor = self._get(executor_id)
        executor.connections += 1
        return executor

    def hold(self, executor_id: str, key: TaskKey, held: Held) -> None:
        self._get(executor_id).held[key] = held

    def reserve(self, key: TaskKey) -> Executor | None:
        """A slot of the executor with the most room; None when all are full."""
        best = max(self.executors.values(), key=lambda executor: executor.free, default=None)
        if best is None or best.free <= 0:
            return None
        best.held[key] = Held(generation=0)
        return best

    def release(self, executor_id: str, key: TaskKey, generation: int) -> None:
        """The claim is over; a later one of the same task stays."""
        executor = self.executors.get(executor_id)
        if executor is not None and key in executor.held and executor.held[key].generation <= generation:
            del executor.held[key]
        if executor is not None and not executor.held and not executor.connections:
            del self.executors[executor_id]

    def grant(self, executor: Executor, grant: Grant) -> None:
        executor.held[grant.run_id, grant.task_id] = Held(grant.generation, grant.revision)
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

    def older_boots(self, executor: Executor) -> list[Executor]:
        """Earlier processes of the same name: they are gone."""
        others = self.executors.values()
        return [other for other in others if other.name == executor.name and other is not executor]

    def free(self) -> int:
        return sum(executor.free for executor in self.executors.values() if executor.free > 0)

    def _get(self, executor_id: str) -> Executor:
        return self.executors.setdefault(executor_id, Executor(executor_id))


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
            yield Stop(run_id=task.run_id, task_id=task.task_id, generation=task.generation, reason="not its claim")
