"""Who works on what: slots are reserved for claims, claims become grants, and what has to end is told to stop.

Runs that found no free slot wait in a queue, one for each set of labels that is asked for; where others wait, nobody
passes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from crewlog.domain import run_state
from crewlog.domain.run_state import Run, Task
from crewlog.eventlog.owner import Clock, Outcome
from crewlog.scheduler import closing, grants
from crewlog.scheduler.fleet import Executor, Fleet, Held
from crewlog.v1.run_pb2 import AllotmentShrunk, ClaimTask, EndTask, MessageSent, ParkTask, TaskClaimed
from crewlog.v1.scheduler_pb2 import ChangedAllotment, Stop, StopKind
from google.protobuf.message import Message

Labels: TypeAlias = frozenset[str]
GRACE_SECONDS = 5


class Dispatch:
    def __init__(self, fleet: Fleet, sign: grants.ClaimSigner, clock: Clock) -> None:
        self._fleet = fleet
        self._sign = sign
        self._clock = clock
        self._hungry: dict[Labels, dict[str, None]] = {}

    def hungry(self) -> list[str]:
        """The runs that may try again now, longest waiting first; they leave the queue."""
        found: dict[str, None] = {}
        for labels, waiting in list(self._hungry.items()):
            for run_id in list(waiting)[: self._fleet.free(labels)]:
                del waiting[run_id]
                found[run_id] = None
            if not waiting:
                del self._hungry[labels]
        return list(found)

    def forget(self, run_id: str) -> None:
        for waiting in self._hungry.values():
            waiting.pop(run_id, None)

    def give_back(self, claim: ClaimTask) -> None:
        """A claim that will not be made."""
        self._fleet.release(claim.executor_id, (claim.run_id, claim.task_id), 0)

    def free_slot(self, run: Run, command: Message) -> None:
        if isinstance(command, (EndTask, ParkTask)) and command.task_id in run.tasks:
            task = run.tasks[command.task_id]
            # A parking may be an older claim's, read again after a restart: the present one keeps its slot.
            generation = (command.generation if isinstance(command, ParkTask) else 0) or task.generation
            self._fleet.release(task.executor_id, (command.run_id, task.task_id), generation)

    def claims(self, run: Run) -> list[ClaimTask]:
        """A slot is reserved for each claim. Where others wait already, the run joins the end of the queue."""
        run_id = run.started.run_id
        full: set[Labels] = set()
        claims: list[ClaimTask] = []
        for node_id in run_state.claimable(run):
            labels = frozenset(run.graph.nodes[node_id].executor_labels)
            if labels in full:
                continue
            task_id = run_state.next_task(run, node_id).task_id
            others_wait = bool(self._hungry.get(labels, {}).keys() - {run_id})
            executor = None if others_wait else self._fleet.reserve((run_id, task_id), labels)
            if executor is None:
                self._hungry.setdefault(labels, {})[run_id] = None
                full.add(labels)
                if full == run.graph.label_sets:
                    break
            else:
                claims.append(self._claim(run_id, task_id, executor))
        return claims

    def closings(self, run: Run) -> list[ClaimTask]:
        """The claims under which the scheduler itself ends agents that nobody hosts."""
        run_id = run.started.run_id
        return [
            ClaimTask(
                run_id=run_id,
                task_id=task.task_id,
                executor_id=closing.EXECUTOR_ID,
                at_unix_micros=self._clock(),
                to_close=True,
            )
            for task in run_state.closable(run)
        ]

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

    def hold_open_tasks(self, run: Run, now: float) -> None:
        """Claims of which nobody knew whether they were stored have not been granted: their executors do not work on
        them, and so they lapse."""
        for task in run_state.open_tasks(run):
            if task.executor_id != closing.EXECUTOR_ID:
                key = (run.started.run_id, task.task_id)
                self._fleet.hold_if_unknown(task.executor_id, key, Held(task.generation), now)

    def stop_open_tasks(self, run: Run) -> None:
        """Tells whoever works on what has to stop, as often as it is asked."""
        if not (run_state.is_stopping(run) or run.paused is not None or run.cancelling):
            return
        for task in run_state.open_tasks(run):
            stop = stop_of(run, task)
            if stop is not None:
                self._fleet.stop(task.executor_id, stop)

    def repeat_messages(self, run: Run, task_id: str) -> None:
        """An executor has not heard all of them."""
        task = run.tasks[task_id]
        for message in run.messages.get(task_id, ()):
            self._fleet.say(task.executor_id, grants.message(run, task, message))

    def say(self, run: Run, event: MessageSent) -> None:
        """A message was sent to a task: whoever works on it hears of it at once."""
        task = run.tasks.get(event.task_id)
        if task is not None and task.task_id in run.open:
            self._fleet.say(task.executor_id, grants.message(run, task, event))

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


def stop_of(run: Run, task: Task) -> Stop | None:
    """What whoever works on the task has to be told, if it has to stop."""
    stop = Stop(run_id=run.started.run_id, task_id=task.task_id, generation=task.generation)
    if run_state.is_stopping(run) or task.cancel_requested is not None:
        asked = task.cancel_requested or run.cancel_requested
        stop.kind, stop.reason = StopKind.STOP_KIND_CANCEL, asked.reason if asked else "the run is being stopped"
        stop.grace_seconds = (asked.grace_seconds if asked else 0) or GRACE_SECONDS
        return stop
    if run.paused is not None:
        stop.kind, stop.reason = StopKind.STOP_KIND_PAUSE, run.paused.reason or "the run is paused"
        return stop
    return None
