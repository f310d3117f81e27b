"""Who works on what: slots are reserved for claims, claims become grants, and what has to end is told to stop.

Runs that found no free slot, or no room under a limit, wait in a queue; where others wait, nobody passes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from crewlog.domain import names
from crewlog.domain.admission import Admission
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run, Task
from crewlog.eventlog.owner import Clock, Outcome
from crewlog.scheduler import closing, grants
from crewlog.scheduler.admission import Needs
from crewlog.scheduler.fleet import Executor, Fleet, TaskKey
from crewlog.scheduler.queueing import Place, Queue, Turn
from crewlog.v1.run_pb2 import ClaimTask, EndTask, MessageSent, ParkTask, TaskClaimed
from crewlog.v1.scheduler_pb2 import ChangedAllotment, Stop, StopKind
from google.protobuf.message import Message

GRACE_SECONDS = 5


def has_ended_instead(outcome: Outcome[Run] | BaseException) -> bool:
    """A task that could not begin has ended with its claim: what comes after it may be ready by that."""
    events = outcome.events if isinstance(outcome, Outcome) else ()
    return bool(events) and not any(isinstance(event, TaskClaimed) for event in events)


class Dispatch:
    def __init__(self, fleet: Fleet, sign: grants.ClaimSigner, clock: Clock) -> None:
        self.fleet = fleet
        self.queue = Queue(fleet)
        self._sign = sign
        self._clock = clock
        self._reserved: dict[str, list[ClaimTask]] = {}

    def hungry(self) -> list[str]:
        """The runs that may try again now, the best first; a place is kept for each."""
        return self.queue.offer(self._clock)

    def forget(self, run_id: str) -> None:
        self._drop_reserved(run_id)
        self.queue.turn(run_id, 0)
        self.fleet.requirements.forget(run_id)

    def learn(self, limits: Admission) -> None:
        """Limits were set: they hold for what begins from now on."""
        self.fleet.limits.learn(limits)
        self.queue.recheck()

    def give_back(self, claim: ClaimTask) -> None:
        """A claim that will not be made."""
        self.fleet.release(claim.executor_id, (claim.run_id, claim.task_id), 0)

    def free_slot(self, run: Run, command: Message) -> None:
        if isinstance(command, (EndTask, ParkTask)) and command.task_id in run.tasks:
            task = run.tasks[command.task_id]
            # A parking may be an older claim's, read again after a restart: the present one keeps its slot.
            generation = (command.generation if isinstance(command, ParkTask) else 0) or task.generation
            self.fleet.release(task.executor_id, (command.run_id, task.task_id), generation)

    def claims(self, run: Run) -> list[ClaimTask]:
        """A slot is reserved for each claim. For what has to wait, the run joins the queue."""
        run_id = run.started.run_id
        self._drop_reserved(run_id)
        turn = self.queue.turn(run_id, run.started.priority)
        claims: list[ClaimTask] = []
        nodes = run_state.claimable(run)
        for node_id in nodes:
            needs = self.fleet.requirements.of(run, node_id)
            if needs in turn.blocked:
                continue
            task_id = names.task_id(node_id, run.visits[node_id])
            executor = self._reserve(turn, (run_id, task_id), needs)
            if isinstance(executor, Executor):
                claims.append(self._claim(run_id, task_id, executor))
                continue
            self.queue.join(turn, needs, executor, run_state.waits_since(run, node_id), self._clock())
            if len(nodes) > 1 and len(turn.blocked) == self.fleet.requirements.count(run):
                break
        if claims:
            self._reserved[run_id] = claims
        return claims

    def _drop_reserved(self, run_id: str) -> None:
        """What was reserved for claims that were never made, because the log did not answer."""
        for claim in self._reserved.pop(run_id, ()):
            self.give_back(claim)

    def _reserve(self, turn: Turn, key: TaskKey, needs: Needs) -> Executor | Place:
        """The executor whose slot it is now, or what the run has to wait for."""
        obstacle = self.queue.obstacle(turn, needs)
        executor = self.fleet.reserve(key, needs) if obstacle is None else None
        if executor is None:
            return obstacle or Place(needs.labels)
        turn.served.add(needs)
        return executor

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
        self._reserved.pop(run_id, None)
        for claim, outcome in zip(claims, outcomes, strict=True):
            executor = self.fleet.executors.get(claim.executor_id)
            claimed = isinstance(outcome, Outcome) and any(isinstance(event, TaskClaimed) for event in outcome.events)
            if claimed and isinstance(outcome, Outcome) and executor is not None:
                task = outcome.state.tasks[claim.task_id]
                grant = grants.make(outcome.state, task, outcome.revision, self._sign)
                self.fleet.grant(executor, grant, self.fleet.requirements.of(outcome.state, task.node_id))
            else:
                self.fleet.release(claim.executor_id, (run_id, claim.task_id), 0)

    def hold_open_tasks(self, run: Run, now: float) -> None:
        """Claims of which nobody knew whether they were stored have not been granted: their executors do not work on
        them, and so they lapse."""
        for task in run_state.open_tasks(run):
            if task.executor_id != closing.EXECUTOR_ID:
                key = (run.started.run_id, task.task_id)
                self.fleet.hold_if_unknown(task.executor_id, key, self.fleet.claimed(run, task), now)

    def stop_open_tasks(self, run: Run) -> None:
        """Tells whoever works on what has to stop, as often as it is asked."""
        if not (run_state.is_stopping(run) or run.paused is not None or run.cancelling):
            return
        for task in run_state.open_tasks(run):
            stop = stop_of(run, task)
            if stop is not None:
                self.fleet.stop(task.executor_id, stop)

    def repeat_messages(self, run: Run, task_id: str) -> None:
        """An executor has not heard all of them."""
        task = run.tasks[task_id]
        for message in run.messages.get(task_id, ()):
            self.fleet.say(task.executor_id, grants.message(run, task, message))

    def say(self, run: Run, event: MessageSent) -> None:
        """A message was sent to a task: whoever works on it hears of it at once."""
        task = run.tasks.get(event.task_id)
        if task is not None and task.task_id in run.open:
            self.fleet.say(task.executor_id, grants.message(run, task, event))

    def tell(self, run: Run, revision: int, task_id: str) -> None:
        """What the task may spend, as of the run's revision. Doing it twice is doing it once."""
        task = run.tasks[task_id]
        changed = ChangedAllotment(
            run_id=run.started.run_id,
            task_id=task_id,
            generation=task.generation,
            allotment=task.allotment.limit(),
            run_revision=revision,
        )
        self.fleet.change_allotment(task.executor_id, changed)


def stop_of(run: Run, task: Task) -> Stop | None:
    """What whoever works on the task has to be told, if it has to stop."""
    stop = Stop(run_id=run.started.run_id, task_id=task.task_id, generation=task.generation)
    if run_state.is_stopping(run) or run_state.is_to_stop(task):
        asked = task.cancel_requested or run.cancel_requested
        stop.kind, stop.reason = StopKind.STOP_KIND_CANCEL, asked.reason if asked else _why(task)
        stop.grace_seconds = (asked.grace_seconds if asked else 0) or _grace_seconds(run, task)
        return stop
    if run.paused is not None:
        stop.kind, stop.reason = StopKind.STOP_KIND_PAUSE, run.paused.reason or "the run is paused"
        return stop
    return None


def _grace_seconds(run: Run, task: Task) -> int:
    """A command whose time is over, or that nobody needs any more, hears SIGTERM at once, and may tidy up."""
    asked = task.cancel_requested
    is_needless = task.timed_out is not None or (asked is not None and asked.is_needless)
    return 0 if is_needless and run_state.node_of(run, task).HasField("command") else GRACE_SECONDS


def _why(task: Task) -> str:
    return task.timed_out.message if task.timed_out is not None else "the run is being stopped"
