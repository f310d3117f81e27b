"""One scheduler leads, the others stand by: whoever holds the lease works, and nobody else listens or follows the log.

A holder renews its lease. What it may do ends by its own clock, which counts from before it asked, some time before the
lease can be another's: in that time it stops everything. A process that was frozen finds its time over when it goes on,
and what it had on its way is refused by the version check.

    standing by --takes the lease--> leading --cannot renew, or is told to stop--> standing by, or the end
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crewlog.domain.errors import Unavailable
from crewlog.eventlog.leases import Lease, LeaseLost, Leases
from crewlog.runtime import failpoints

LEASE_KEY = "scheduler.all"
LEASE_SECONDS = 10
MARGIN_SECONDS = 2.0
RENEW_SECONDS = 2.0
LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a lease is, how long before its end the holder ends its work, and how often it is renewed and wanted."""

    seconds: int = LEASE_SECONDS
    margin_seconds: float = MARGIN_SECONDS
    renew_seconds: float = RENEW_SECONDS
    look_seconds: float = LOOK_SECONDS


TERMS = Terms()
IsLeading = Callable[[], bool]
Work = Callable[[IsLeading, asyncio.Event], Awaitable[None]]
"""Works until the event is set. When it does not lead any more then, it has to end within MARGIN_SECONDS."""

logger = logging.getLogger(__name__)


class StillWorking(Exception):
    """The lease was lost, and the work did not end: the process has to."""


class Tenure:
    """The time from taking the lease to its loss, as the holder may count it."""

    def __init__(self, lease: Lease, asked_at: float, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self.renewed(lease, asked_at)

    def renewed(self, lease: Lease, asked_at: float) -> None:
        self.lease = lease
        self._until = asked_at + self._seconds

    def end(self) -> None:
        self._until = self._clock()

    @property
    def seconds_left(self) -> float:
        return self._until - self._clock()

    def is_leading(self) -> bool:
        return self.seconds_left > 0


class Candidate:
    """A process that leads whenever it can. `name` is unique among the processes that live, and stays when one is
    started again: by it, a new one knows that the one before is gone and does not wait for its lease to end. Without a
    name it waits.
    """

    def __init__(
        self,
        leases: Leases,
        name: str = "",
        terms: Terms = TERMS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._name = name or secrets.token_hex(4)
        self._holder = f"{self._name}_{secrets.token_hex(4)}"
        self._terms = terms
        self._clock = clock

    async def run(self, work: Work, stop: asyncio.Event) -> None:
        """Stands by and leads in turn until `stop` is set; then the lease is given up. What the work raises is raised,
        and StillWorking."""
        while (tenure := await self._elected(stop)) is not None:
            logger.info("leads as %s, number %d", self._holder, tenure.lease.fencing)
            try:
                await self._lead(tenure, work, stop)
            finally:
                await self._give_up(tenure)

    async def _elected(self, stop: asyncio.Event) -> Tenure | None:
        """Returns with the lease, or with nothing when it is told to stop."""
        logger.info("stands by as %s", self._holder)
        while not stop.is_set():
            asked_at = self._clock()
            lease = await self._take()
            if lease is not None:
                return Tenure(lease, asked_at, self._terms.seconds - self._terms.margin_seconds, self._clock)
            await _wait(stop, self._terms.look_seconds)
        return None

    async def _take(self) -> Lease | None:
        try:
            found = await self._leases.look(LEASE_KEY)
            if found is not None and found.holder.rpartition("_")[0] != self._name:
                return None
            with failpoints.around("lease.take"):
                return await self._leases.take(LEASE_KEY, self._holder, self._terms.seconds, instead_of=found)
        except Unavailable as reason:
            logger.debug("cannot ask for the lease: %s", reason)
            return None

    async def _lead(self, tenure: Tenure, work: Work, stop: asyncio.Event) -> None:
        over = asyncio.Event()
        working = asyncio.ensure_future(work(tenure.is_leading, over))
        keeping, stopped = asyncio.create_task(self._keep(tenure)), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((working, keeping, stopped), return_when=asyncio.FIRST_COMPLETED)
            over.set()
            await self._ended(working, keeping)
        finally:
            for task in (working, keeping, stopped):
                task.cancel()
            await asyncio.wait((working, keeping, stopped), timeout=self._terms.margin_seconds)

    async def _ended(self, working: asyncio.Future[None], keeping: asyncio.Future[None]) -> None:
        """Raises what the work raises. It may take its time as long as the lease is kept."""
        await asyncio.wait((working, keeping), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((working,), timeout=self._terms.margin_seconds)
        if not working.done():
            raise StillWorking("the lease is another's now, and the work has not ended")
        working.result()

    async def _keep(self, tenure: Tenure) -> None:
        """Returns when the lease is lost, or may soon be."""
        while tenure.is_leading():
            await asyncio.sleep(min(self._terms.renew_seconds, tenure.seconds_left))
            try:
                async with asyncio.timeout(max(0.0, tenure.seconds_left)):
                    await self._renew(tenure)
            except (LeaseLost, TimeoutError) as reason:
                logger.warning("leads no more: %s", str(reason) or "the lease was not renewed in time")
                tenure.end()

    async def _renew(self, tenure: Tenure) -> None:
        while True:
            asked_at = self._clock()
            try:
                with failpoints.around("lease.renew"):
                    lease = await self._leases.renew(tenure.lease, self._terms.seconds)
                return tenure.renewed(lease, asked_at)
            except Unavailable as reason:
                logger.info("cannot renew the lease: %s", reason)
                await asyncio.sleep(self._terms.look_seconds)

    async def _give_up(self, tenure: Tenure) -> None:
        """The next one need not wait. Where nobody answers, it has to."""
        if not tenure.is_leading():
            return
        tenure.end()
        try:
            with failpoints.around("lease.give_up"):
                await self._leases.give_up(tenure.lease)
        except Unavailable as reason:
            logger.info("cannot give the lease up: %s", reason)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
