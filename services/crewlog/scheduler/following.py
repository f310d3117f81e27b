"""What follows outside of a run from what has become of it: money is settled, clocks are set, agents are closed, child
runs and merges are looked after, executors hear of messages.

Doing any of it twice is doing it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run
from crewlog.eventlog.owner import Outcome
from crewlog.scheduler.allotments import Allotments
from crewlog.scheduler.child_runs import ChildRuns
from crewlog.scheduler.closing import EXECUTOR_ID, Closer
from crewlog.scheduler.dispatch import Dispatch
from crewlog.scheduler.merging import Merger
from crewlog.scheduler.timers import Timers
from crewlog.v1.run_pb2 import (
    AllotmentShrunk,
    ChildRunRequested,
    MessageSent,
    TaskCancelled,
    TaskClaimed,
    TaskFailed,
    TaskSucceeded,
)
from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Following:
    dispatch: Dispatch
    allotments: Allotments
    timers: Timers
    closer: Closer
    child_runs: ChildRuns
    merger: Merger

    def commands(self, run: Run, outcomes: Sequence[Outcome[Run] | BaseException]) -> None:
        """After what the scheduler itself has decided."""
        done = (outcome for outcome in outcomes if isinstance(outcome, Outcome))
        self._events(run, (event for outcome in done for event in outcome.events))
        self.allotments.watch(run)
        self.timers.watch(run)
        self.child_runs.look(run)
        self.merger.look(run)

    def request(self, run_id: str, outcome: Outcome[Run]) -> None:
        """After a command of a client: what concerns executors and child runs does not wait."""
        for event in outcome.events:
            if isinstance(event, AllotmentShrunk):
                self.dispatch.tell(outcome.state, outcome.revision, event.task_id)
        told = (event for event in outcome.events if isinstance(event, (MessageSent, ChildRunRequested)))
        self._events(outcome.state, told)

    def doubt(self, run: Run) -> None:
        """What the scheduler did last was stored after all, perhaps: nobody has heard of it."""
        self.child_runs.forget(run.started.run_id)
        for task in run_state.open_tasks(run):
            if task.executor_id == EXECUTOR_ID:
                self.closer.close(run, task)

    def _events(self, run: Run, events: Iterable[Message]) -> None:
        for event in events:
            match event:
                case TaskSucceeded() | TaskFailed() | TaskCancelled():
                    self.allotments.settle(run, event.task_id)
                case TaskClaimed(to_close=True):
                    self.closer.close(run, run.tasks[event.task_id])
                case MessageSent():
                    self.dispatch.say(run, event)
                case ChildRunRequested():
                    self.child_runs.begin(run.started.run_id, event.task_id)
                case _:
                    pass
