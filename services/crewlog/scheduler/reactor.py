"""Continuation: what the log says leads to commands on runs, and claims lead to grants. Nothing polls.

One small worker per run that has something to do takes what waits for the run, works out what follows from all of it,
and hands it to the owner as one entry: the end of a task and the claim of the next are one append.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from crewlog.domain.errors import Contention, Unavailable
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run
from crewlog.eventlog.owner import Clock, Outcome, Owner
from crewlog.scheduler.dispatch import Dispatch, has_ended_instead
from crewlog.scheduler.entries import Draft, Entries, raise_unless_refused
from crewlog.scheduler.finishing import Finisher
from crewlog.scheduler.following import Following
from crewlog.v1.run_pb2 import ClaimTask, RunStatus
from google.protobuf.message import Message

RETRY_SECONDS = 0.2

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Work:
    """What waits for a run. `dirty`: something has changed since the worker looked last; `in_doubt`: nobody knows
    whether what it did last was stored."""

    commands: list[Message] = field(default_factory=list)
    dirty: bool = True
    in_doubt: bool = False
    task: asyncio.Task[None] | None = None


class Reactor:
    def __init__(
        self,
        owner: Owner[Run],
        dispatch: Dispatch,
        finisher: Finisher,
        following: Following,
        clock: Clock,
    ):
        self._owner, self._entries = owner, Entries(owner, clock)
        self._following = following
        self._dispatch = dispatch
        self._finisher = finisher
        self._work: dict[str, _Work] = {}
        self._stopped = False
        self.open_runs: set[str] = set()
        self.closed_runs: set[str] = set()

    def wake(self, run_id: str, *commands: Message) -> None:
        """Something has happened to the run. Cheap, and safe to do too often."""
        if self._stopped:
            return
        work = self._work.setdefault(run_id, _Work())
        work.commands.extend(commands)
        work.dirty = True
        if work.task is None:
            work.task = asyncio.get_running_loop().create_task(self._run(run_id, work))

    def changed(self, run_id: str, outcome: Outcome[Run]) -> None:
        """A client's command has changed the run."""
        self._following.request(run_id, outcome)
        self.wake(run_id)

    def opened(self, run_id: str) -> None:
        """The run has something to do: it was started, or found open, or was taken up again."""
        self.closed_runs.discard(run_id)
        self.open_runs.add(run_id)
        self.look_again(run_id)

    def look_again(self, run_id: str) -> None:
        """Whatever the run has asked for is looked after, also where nobody remembers it."""
        self._following.child_runs.forget(run_id)
        self.wake(run_id)

    async def repeat_messages(self, run_id: str, task_id: str) -> None:
        """An executor says that it has not heard all of them."""
        run, _ = await self._owner.state(run_id)
        if task_id in run.open:
            self._dispatch.repeat_messages(run, task_id)

    async def repeat_allotment(self, run_id: str, task_id: str) -> None:
        """An executor may not have heard that there is less than it was given."""
        run, revision = await self._owner.state(run_id)
        if task_id in run.open and run.tasks[task_id].allotment:
            self._dispatch.tell(run, revision, task_id)

    def stop(self) -> None:
        """Nothing follows from anything any more."""
        self._stopped = True
        for work in self._work.values():
            if work.task is not None:
                work.task.cancel()

    def feed(self) -> None:
        """Slots are free: the runs that have waited longest for one go first."""
        for run_id in self._dispatch.hungry():
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
            if work.in_doubt:
                await self._make_sure(run_id)
                work.in_doubt = False
            await self._advance(run_id, commands)
        except (Unavailable, Contention) as reason:
            logger.warning("run %s waits: %s", run_id, reason)
            work.commands, work.dirty, work.in_doubt = commands + work.commands, True, True
            await asyncio.sleep(RETRY_SECONDS)

    async def _make_sure(self, run_id: str) -> None:
        """Claims that were stored after all: nobody was told of them."""
        run, _ = await self._owner.state(run_id)
        self._dispatch.hold_open_tasks(run, asyncio.get_running_loop().time())
        self._following.doubt(run)

    async def _advance(self, run_id: str, commands: list[Message]) -> None:
        run, _ = await self._owner.state(run_id)
        if run.status == RunStatus.RUN_STATUS_UNSPECIFIED:
            return
        for command in commands:
            self._dispatch.free_slot(run, command)
        draft = Draft(run)
        draft.add(commands)
        after = draft.run
        claims, refused = await self._funded(after, self._dispatch.claims(after))
        draft.add([*refused, *self._dispatch.closings(after)])
        if not claims and run_state.is_finishing(after):
            draft.add(self._finisher.commands(after, self.wake))
        draft.add(claims)
        outcomes = await self._entries.store(run_id, draft)
        claimed = outcomes[len(outcomes) - len(claims) :]
        self._dispatch.grant(run_id, claims, claimed)
        raise_unless_refused(outcomes)
        if any(has_ended_instead(outcome) for outcome in claimed):
            self.wake(run_id)
        run, _ = await self._owner.state(run_id)
        self._following.commands(run, outcomes)
        self._settle(run_id, run)

    async def _funded(self, run: Run, claims: list[ClaimTask]) -> tuple[list[ClaimTask], list[Message]]:
        """The claims that the budgets above the run pay for. For the others slots are given back."""
        funded: list[ClaimTask] = []
        refused: list[Message] = []
        for claim in claims:
            if await self._following.allotments.fund(run, claim, refused):
                funded.append(claim)
            else:
                self._dispatch.give_back(claim)
        return funded, refused

    def _settle(self, run_id: str, run: Run) -> None:
        if run_state.is_over(run):
            self._close(run_id, run)
        self._dispatch.stop_open_tasks(run)
        if run_state.is_finishing(run) and not self._finisher.is_at_work(run_id):
            self.wake(run_id)
        self.feed()

    def _close(self, run_id: str, run: Run) -> None:
        self._dispatch.forget(run_id)
        if run_id in self.open_runs:
            self.open_runs.discard(run_id)
            self.closed_runs.add(run_id)
            self._finisher.emit_span(run)
            self._following.child_runs.told(run)
        self._owner.forget(run_id)
