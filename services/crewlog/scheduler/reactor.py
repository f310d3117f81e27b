"""Continuation: what the log says leads to commands on runs, and claims lead to grants. Nothing polls.

One small worker per run that has something to do takes what waits for the run, works out what follows from all of it,
and hands it to the owner as one entry: the end of a task and the claim of the next are one append.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from crewlog.domain import run as rules
from crewlog.domain import run_state
from crewlog.domain.decider import fold
from crewlog.domain.errors import Refused, Unavailable
from crewlog.domain.run_state import Run
from crewlog.eventlog.owner import Clock, Meta, Outcome, Owner
from crewlog.scheduler import grants
from crewlog.scheduler.finishing import Finisher
from crewlog.scheduler.fleet import Executor, Fleet
from crewlog.v1.run_pb2 import ClaimTask, EndTask, TaskClaimed
from crewlog.v1.scheduler_pb2 import Stop
from google.protobuf.message import Message

RETRY_SECONDS = 0.2
PRINCIPAL = "service:scheduler"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Work:
    """What waits for a run. `dirty`: something has changed since the worker looked last."""

    commands: list[Message] = field(default_factory=list)
    dirty: bool = True
    task: asyncio.Task[None] | None = None


class Reactor:
    def __init__(self, owner: Owner[Run], fleet: Fleet, finisher: Finisher, sign: grants.ClaimSigner, clock: Clock):
        self._owner = owner
        self._fleet = fleet
        self._finisher = finisher
        self._sign = sign
        self._clock = clock
        self._boot = f"{clock():x}"
        self._commands = itertools.count(1)
        self._work: dict[str, _Work] = {}
        self._hungry: dict[str, None] = {}
        self.open_runs: set[str] = set()
        self.closed_runs: set[str] = set()

    def wake(self, run_id: str, *commands: Message) -> None:
        """Something has happened to the run. Cheap, and safe to do too often."""
        work = self._work.setdefault(run_id, _Work())
        work.commands.extend(commands)
        work.dirty = True
        if work.task is None:
            work.task = asyncio.get_running_loop().create_task(self._run(run_id, work))

    def feed(self) -> None:
        """Slots are free: the runs that have waited longest for one go first."""
        for run_id in list(self._hungry)[: self._fleet.free()]:
            del self._hungry[run_id]
            self.wake(run_id)

    async def _run(self, run_id: str, work: _Work) -> None:
        try:
            while work.dirty:
                work.dirty = False
                commands, work.commands = work.commands, []
                await self._try(run_id, work, commands)
        except Exception:
            # A bug: this run stops here until something wakes it again; the others go on.
            logger.exception("run %s cannot go on", run_id)
        finally:
            self._work.pop(run_id, None)

    async def _try(self, run_id: str, work: _Work, commands: list[Message]) -> None:
        try:
            await self._advance(run_id, commands)
        except Unavailable as reason:
            logger.warning("run %s waits: %s", run_id, reason)
            work.commands, work.dirty = commands + work.commands, True
            await asyncio.sleep(RETRY_SECONDS)

    async def _advance(self, run_id: str, commands: list[Message]) -> None:
        run, _ = await self._owner.state(run_id)
        for command in commands:
            self._free_slot(run, command)
        after = speculate(run, commands)
        claims = self._claims(after)
        if not claims and run_state.is_finishing(after):
            commands = commands + self._finisher.commands(after, self.wake)
        outcomes = await self._handle(run_id, [*commands, *claims])
        self._grant(run_id, claims, outcomes[len(commands) :])
        self._raise_unavailable(outcomes)
        run, _ = await self._owner.state(run_id)
        self._settle(run_id, run)

    def _free_slot(self, run: Run, command: Message) -> None:
        if isinstance(command, EndTask) and command.task_id in run.tasks:
            task = run.tasks[command.task_id]
            self._fleet.release(task.executor_id, (command.run_id, task.task_id), task.generation)

    def _claims(self, run: Run) -> list[ClaimTask]:
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

    async def _handle(self, run_id: str, commands: Sequence[Message]) -> list[Outcome[Run] | BaseException]:
        """All of them wait for the owner at the same moment, so they become one entry."""
        handled = (self._owner.handle(run_id, command, self._meta(run_id)) for command in commands)
        return list(await asyncio.gather(*handled, return_exceptions=True))

    def _meta(self, run_id: str) -> Meta:
        return Meta(f"{self._boot}-{next(self._commands)}", PRINCIPAL, correlation_id=run_id)

    def _grant(
        self, run_id: str, claims: Sequence[ClaimTask], outcomes: Sequence[Outcome[Run] | BaseException]
    ) -> None:
        for claim, outcome in zip(claims, outcomes, strict=True):
            executor = self._fleet.executors.get(claim.executor_id)
            claimed = isinstance(outcome, Outcome) and any(isinstance(event, TaskClaimed) for event in outcome.events)
            if claimed and isinstance(outcome, Outcome) and executor is not None:
                task = outcome.state.tasks[claim.task_id]
                self._fleet.grant(executor, grants.make(outcome.state, task, outcome.revision, self._sign))
            else:
                self._fleet.release(claim.executor_id, (run_id, claim.task_id), 0)

    def _raise_unavailable(self, outcomes: Sequence[Outcome[Run] | BaseException]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Unavailable) or (
                isinstance(outcome, BaseException) and not isinstance(outcome, Refused)
            ):
                raise outcome

    def _settle(self, run_id: str, run: Run) -> None:
        if run_state.is_over(run):
            self._close(run_id, run)
        if run_state.is_stopping(run):
            self._stop_open_tasks(run)
        if run_state.is_finishing(run) and not self._finisher.is_at_work(run_id):
            self.wake(run_id)
        self.feed()

    def _stop_open_tasks(self, run: Run) -> None:
        run_id = run.started.run_id
        for task in run_state.open_tasks(run):
            stop = Stop(run_id=run_id, task_id=task.task_id, generation=task.generation, reason="the run is stopping")
            self._fleet.stop(task.executor_id, stop)

    def _close(self, run_id: str, run: Run) -> None:
        self._hungry.pop(run_id, None)
        if run_id in self.open_runs:
            self.open_runs.discard(run_id)
            self.closed_runs.add(run_id)
            self._finisher.emit_span(run)
        self._owner.forget(run_id)


def speculate(run: Run, commands: Sequence[Message]) -> Run:
    """The state that the commands will lead to; those that will be refused change nothing."""
    for command in commands:
        try:
            events = rules.decide(run, command)  # type: ignore[arg-type]
        except Refused:
            continue
        run = fold(rules, events, run)
    return run
