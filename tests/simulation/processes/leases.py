"""Leases as each process reaches them: over the network, with answers that are late or never come."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from crewlog.domain.errors import Unavailable
from crewlog.eventlog.leases import Lease, LeaseLost, Leases

from tests.simulation.processes.log import LOG
from tests.simulation.processes.loop import Process
from tests.simulation.processes.network import Network

ANSWER_SECONDS = 2.0
T = TypeVar("T")


class LeaseClient:
    """Leases for one process. The server of the log counts the time."""

    def __init__(self, network: Network, leases: Leases, process: Process) -> None:
        self._network = network
        self._leases = leases
        self._process = process

    async def look(self, key: str) -> Lease | None:
        return await self._asked(self._leases.look(key))

    async def take(self, key: str, holder: str, seconds: int, *, instead_of: Lease | None = None) -> Lease | None:
        return await self._asked(self._leases.take(key, holder, seconds, instead_of=instead_of))

    async def renew(self, lease: Lease, seconds: int) -> Lease:
        try:
            return await self._asked(self._leases.renew(lease, seconds))
        except LeaseLost:
            self._network.paths["lease lost"] += 1
            raise

    async def give_up(self, lease: Lease) -> None:
        await self._asked(self._leases.give_up(lease))

    async def _asked(self, work: Coroutine[Any, Any, T]) -> T:
        """What was asked for may be done although nobody hears of it."""
        asking = self._network.spawn(self._carry(work))
        done, _ = await asyncio.wait([asking], timeout=ANSWER_SECONDS)
        if not done:
            raise Unavailable("nobody answers about the lease")
        answer: T = asking.result()
        return answer

    async def _carry(self, work: Coroutine[Any, Any, T]) -> T:
        await self._network.leg(self._process.name, LOG)
        try:
            return await work
        finally:
            await self._network.leg(LOG, self._process.name)
