"""How the scheduler follows the log: it learns of runs that were started and of agents that have ended.

The checkpoint is written behind: what it misses is seen again, and seen twice is seen once. And whatever was missed all
the same is found by looking at every open run again and again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence

from crewlog.domain import names
from crewlog.domain.errors import Unavailable, UnknownEvent, WrongState
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run
from crewlog.eventlog.limits import check_head
from crewlog.eventlog.owner import Clock, Owner
from crewlog.eventlog.port import Stored
from crewlog.scheduler.checkpoint import Checkpoint
from crewlog.scheduler.checkpoint_writer import CheckpointWriter
from crewlog.scheduler.claims import Claims
from crewlog.scheduler.ends import end_of
from crewlog.scheduler.funding import Funding
from crewlog.scheduler.led_log import LedLog
from crewlog.scheduler.reactor import Reactor
from crewlog.scheduler.survey import says_over, survey
from crewlog.v1.entry_pb2 import Entry

OPENING_AT_ONCE_MAX = 128
LOOK_AGAIN_SECONDS = 30.0
SLICES = 60

logger = logging.getLogger(__name__)


class Tail:
    def __init__(
        self,
        log: LedLog,
        owner: Owner[Run],
        reactor: Reactor,
        claims: Claims,
        funding: Funding,
        learn_limits: Callable[[], Awaitable[None]],
        checkpoint: Checkpoint,
        may_save: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._log = log
        self._owner = owner
        self._reactor = reactor
        self._claims = claims
        self._funding = funding
        self._learn_limits = learn_limits
        self._checkpoint = checkpoint
        self._writer = CheckpointWriter(checkpoint, may_save)
        self._clock = clock
        self._opened_at: dict[str, int] = {}
        self._revision = 0
        self._moved, self._moved_before = set[str](), set[str]()

    async def open(self) -> None:
        """Opens the runs of the checkpoint, or those that the log shows; until then the scheduler does not serve."""
        remembered = self._checkpoint.load()
        if remembered is not None:
            check_head(await self._log.head(), remembered.revision)
        position = remembered or await survey(self._log)
        self._revision = position.revision
        for budget_id in position.budgets:
            await self._funding.learn(budget_id)
        await self._learn_limits()
        gate = asyncio.Semaphore(OPENING_AT_ONCE_MAX)

        async def open_one(run_id: str) -> None:
            async with gate:
                await self._open(run_id)

        await asyncio.gather(*(open_one(run_id) for run_id in position.open_runs))
        self._writer.begin(remembered.open_runs if remembered else ())

    async def follow(self) -> None:
        """Runs until it is cancelled."""
        async for batch in self._log.follow(self._revision, ("run", "agent", "budget", "admission")):
            await self._see(batch)
            self._revision = batch[-1].revision
            if self._writer.is_due():
                await self.save()

    async def look_again(self) -> None:
        """Looks at every open run within LOOK_AGAIN_SECONDS, a slice at a time, until it is cancelled."""
        while True:
            self._moved_before, self._moved = self._moved, set()
            for some in _slices(list(self._reactor.open_runs)):
                await asyncio.sleep(LOOK_AGAIN_SECONDS / SLICES)
                for run_id in some:
                    await self._look(run_id)

    async def save(self) -> None:
        for run_id in self._reactor.closed_runs:
            self._opened_at.pop(run_id, None)
        self._reactor.closed_runs = set()
        await self._writer.save(self._revision, self._reactor.open_runs, self._funding.known)

    async def close(self) -> None:
        """Saves for the last time."""
        await self.save()
        self._writer.close()

    async def _see(self, batch: Sequence[Stored]) -> None:
        for stored in batch:
            id = stored.aggregate.id
            if stored.aggregate.kind == "agent":
                self._moved.add(id)
                if (end := end_of(Entry.FromString(stored.payload), self._clock())) is not None:
                    self._reactor.wake(names.run_of(id), end)
            elif stored.aggregate.kind == "budget":
                await self._funding.learn(id)
            elif stored.aggregate.kind == "admission":
                await self._learn_limits()
            else:
                await self._see_run(stored, await self._log.is_foreign(stored))

    async def _see_run(self, stored: Stored, is_foreign: bool) -> None:
        """An earlier scheduler may have had an entry on its way when this one opened the run."""
        run_id, revision = stored.aggregate.id, stored.revision
        is_news = is_foreign and revision > self._opened_at.get(run_id, 0)
        if run_id not in self._reactor.open_runs:
            if (is_news or run_id not in self._reactor.closed_runs) and not says_over(stored):
                await self._open(run_id)
        elif is_news:
            run, self._opened_at[run_id] = await self._owner.refresh(run_id)
            await self._claims.resume(run)
            self._reactor.wake(run_id)

    async def _open(self, run_id: str) -> None:
        try:
            # What is followed may be ahead of the answer to the command that wrote it.
            run, self._opened_at[run_id] = await self._owner.refresh(run_id)
        except (UnknownEvent, WrongState) as reason:
            # To go on would be a guess; it stays open, for a release that knows more, or a log that is put back.
            logger.error("run %s waits: %s", run_id, reason)
            self._reactor.open_runs.add(run_id)
            return
        if run_state.is_over(run):
            self._owner.forget(run_id)
            self._reactor.closed_runs.add(run_id)
            return
        # Before anything of the run is claimed: a budget that was set after the checkpoint limits it, too.
        for budget_id in run.started.budget_ids:
            await self._funding.learn(budget_id)
        await self._claims.resume(run)
        self._reactor.opened(run_id)

    async def _look(self, run_id: str) -> None:
        """Whatever has become of the run and of its agents without being noticed is noticed now."""
        if run_id not in self._reactor.open_runs:
            return
        try:
            run, _ = await self._owner.state(run_id)
            await self._claims.look_again(run, lambda id: id in self._moved or id in self._moved_before)
        except (UnknownEvent, WrongState, Unavailable) as reason:
            logger.warning("run %s waits: %s", run_id, reason)
            return
        self._reactor.look_again(run_id)


def _slices(run_ids: list[str]) -> Iterator[list[str]]:
    """SLICES of them, of which the last may be empty."""
    size = math.ceil(len(run_ids) / SLICES)
    for number in range(SLICES):
        yield run_ids[number * size : (number + 1) * size]
