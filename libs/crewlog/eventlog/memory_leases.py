"""Leases in memory: for tests. They do what the real ones do, by a clock that a test can own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from crewlog.eventlog.leases import Lease, LeaseLost


@dataclass(frozen=True, slots=True)
class _Held:
    lease: Lease
    until: float


class MemoryLeases:
    """Leases for the tasks of one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._revision = 0

    async def look(self, key: str) -> Lease | None:
        await asyncio.sleep(0)
        lease = self._now(key)
        return replace(lease, fencing=lease.revision) if lease else None

    async def take(self, key: str, holder: str, seconds: int, *, instead_of: Lease | None = None) -> Lease | None:
        await asyncio.sleep(0)
        lease = self._now(key)
        if lease is not None and (instead_of is None or instead_of.revision != lease.revision):
            return None
        return self._put(Lease(key, holder, self._revision + 1, 0), seconds)

    async def renew(self, lease: Lease, seconds: int) -> Lease:
        await asyncio.sleep(0)
        now = self._now(lease.key)
        if now is None or now.holder != lease.holder:
            raise LeaseLost(f"{lease.key} is held by {now.holder if now else 'nobody'}")
        return self._put(lease, seconds)

    async def give_up(self, lease: Lease) -> None:
        await asyncio.sleep(0)
        now = self._now(lease.key)
        if now is not None and now.holder == lease.holder:
            del self._held[lease.key]
            self._revision += 1

    def _now(self, key: str) -> Lease | None:
        held = self._held.get(key)
        return held.lease if held is not None and self._clock() < held.until else None

    def _put(self, lease: Lease, seconds: int) -> Lease:
        self._revision += 1
        renewed = replace(lease, revision=self._revision)
        self._held[lease.key] = _Held(renewed, self._clock() + seconds)
        return renewed
