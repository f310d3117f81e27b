"""Who works on what: slots are reserved for claims, claims become grants, and what has to end is told to stop.

Runs that found no free slot wait in a queue; where others wait, nobody passes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from crewlog.domain import run_state
from crewlog.domain.run_state import Run
from crewlog.eventlog.owner import Clock, Outcome
from crewlog.scheduler import grants
from crewlog.scheduler.fleet import Executor, Fleet
from crewlog.v1.run_pb2 import AllotmentShrunk, ClaimTask, EndTask, ParkTask, TaskClaimed
from crewlog.v1.scheduler_pb2 import ChangedAllotment, Stop
from google.protobuf.message import Message


class Dispatch:
    def __init__(self, fleet: Fleet, sign: grants.ClaimSigner, clock: Clock) -> None:
        self._fleet = fleet
        self._sign = sign
        self._clock = clock
        self._hungry: dict[str, None] = {}

    def hungry(self) -> list[str]:
        """The runs that may try again now, longest waiting first; they leave the queue."""
        next_ones = list(self._hungry)[: self._fleet.free()]
        for run_id in next_ones:
            del self._hungry[run_id]
        return next_ones

    def forget(self, run_id: str) -> None:
        self._hungry.pop(run_id, None)

    def give_back(self, claim: ClaimTask) -> None:
        """A claim that will not be made."""
        self._fleet.release(claim.executor_id, (claim.run_id, claim.task_id), 0)

    def free_slot(self, run: Run, command: Message) -> None:
        if isinstance(command, (EndTask, ParkTask)) and command.task_id in run.tasks:
            task = run.tasks[command.task_id]
            self._fleet.release(task.executor_id, (command.run_id, task.task_id), task.generation)

    def claims(self, run: Run) -> list[ClaimTask]:
        """A slot is reserved for each claim. Where others wait already, the run joins the end of the queue."""
        waiting = run_state.claimable(run)
        run_id = run.started.run_id
        if waiting and self._hungry.keys() - {run_id}:
            self._hungry[run_id] = None
            return []
        claims: list[ClaimTask] = []
        for node_id in waiting:
            task_id = run_state.next_task(run, node_id).task_id
            executor = self._fleet.reserve((run_id, task_id))
            if executor is None:
                self._hungry[run_id] = None
                break
            claims.append(self._claim(run_id, task_id, executor))
        return claims

    def _claim(self, run_id: str, task_id: str, executor: Executor) -> ClaimTask:
        return ClaimTask(run_id=run_id, task_id=task_id, executor_id=executor.executor_id, at_unix_micros=self._clock())

    def grant(self, run_id: str, claims: Sequence[ClaimTask], outcomes: Sequence[Outcome[Run] | BaseException]) -> None:
        for claim, outcome in zip(claims, outcomes, strict=True):
            executor = self._fleet.executors.get(claim.executor_id)
            claimed = isinstance(outcome, Outcome) and any(isinstance(event, TaskClaimed) for event in outcome.events)
            if claimed and isinstance(outcome, Outcome) and executor is not None:
                task = outcome.state.tasks[claim.task_id]
                self._fleet.grant(executor, grants.make(outcome.state, task, outcome.revision, self._sign))
            else:
                self._fleet.release(claim.executor_id, (run_id, claim.task_id), 0)

    def stop_open_tasks(self, run: Run) -> None:
        run_id = run.started.run_id
        for task in run_state.open_tasks(run):
            stop = Stop(run_id=run_id, task_id=task.task_id, generation=task.generation, reason="the run is stopping")
            self._fleet.stop(task.executor_id, stop)

    def tell(self, run_id: str, outcome: Outcome[Run], event: AllotmentShrunk) -> None:
        task = outcome.state.tasks[event.task_id]
        changed = ChangedAllotment(
            run_id=run_id,
            task_id=task.task_id,
            generation=task.generation,
            allotment=event.allotment,
            run_revision=outcome.revision,
        )
        self._fleet.change_allotment(task.executor_id, changed)
