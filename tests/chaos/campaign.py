"""Kills at random moments: services and nats-server, alone and together, while many trials are under way."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crewlog.cli.launcher import ports, readiness
from crewlog.cli.launcher.environment import LOG, SERVICES
from crewlog.v1.entry_pb2 import RecordedEntry

from tests.chaos.checks import check, check_requests
from tests.chaos.trial import Done, new_trial, perform, requests
from tests.e2e.world import World

VICTIMS = (*SERVICES, LOG)
HOW_MANY = (1, 1, 1, 1, 2, 2, 3, len(VICTIMS))
PAUSE_SECONDS = (0.2, 2.5)
PATIENCE_SECONDS = 240.0
BACK_SECONDS = 60.0
LOOK_AGAIN_SECONDS = 0.02
OWNED = {
    "scheduler": ("run", "budget"),
    "executor": ("agent",),
    "git": ("workspace", "change"),
    "gateway": ("project",),
}

Hear = Callable[[RecordedEntry], Awaitable[None]]
logger = logging.getLogger("chaos")


@dataclass(frozen=True)
class Death:
    """One process. `back_seconds` is the time until its successor serves."""

    name: str
    at_unix_seconds: float
    back_seconds: float


@dataclass
class Campaign:
    world: World
    directory: Path
    chance: random.Random
    deaths: list[Death] = field(default_factory=list)
    victims: Sequence[str] = VICTIMS

    @asynccontextmanager
    async def striking_each(self, entries: tuple[int, int]) -> AsyncIterator[Hear]:
        """Gives what is to hear each entry of a history: it strikes after so many of them, at least and at most.

        Counted in entries, as a history may be over before any time that one would wait.
        """
        ahead = self.chance.randint(*entries)
        async with asyncio.TaskGroup() as group:

            async def hear(_: RecordedEntry) -> None:
                nonlocal ahead
                ahead -= 1
                if not ahead:
                    ahead = self.chance.randint(*entries)
                    self._strike(group)

            yield hear

    async def run(self, trials_at_once: int, seconds: float) -> None:
        """Strikes for so long, then waits for the trials, and checks all of them. So many are always under way."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(self._trials(until)) for _ in range(trials_at_once)]
            group.create_task(self._strike_until(group, until))
        done = [one for worker in workers for one in worker.result()]
        entries = [entry for one in done for entry in await check(self.world, one)]
        check_requests(requests(self.world), entries)
        logger.info("%d trials, %d deaths, %d entries", len(done), len(self.deaths), len(entries))
        for line in report(self.deaths, entries):
            logger.info("%s", line)

    async def _trials(self, until: float) -> list[Done]:
        """One after the other; the last one begins before the time is over."""
        done = []
        while time.monotonic() < until:
            done.append(await perform(self.world, new_trial(self.directory), PATIENCE_SECONDS))
        return done

    async def _strike_until(self, group: asyncio.TaskGroup, until: float) -> None:
        while time.monotonic() < until:
            due = time.monotonic() + self.chance.uniform(*PAUSE_SECONDS)
            while time.monotonic() < due:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            self._strike(group)

    def _strike(self, group: asyncio.TaskGroup) -> None:
        victims = self.chance.sample(self.victims, min(len(self.victims), self.chance.choice(HOW_MANY)))
        logger.info("kill -9 %s", " ".join(victims))
        for name in victims:
            self._kill(group, name)

    def _kill(self, group: asyncio.TaskGroup, name: str) -> None:
        """One that is between two lives is not there to be killed."""
        pid = self.world.platform.pid_of(name)
        if pid:
            os.kill(pid, signal.SIGKILL)
            group.create_task(self._note(name, pid))

    async def _note(self, name: str, pid: int) -> None:
        begun, at = time.monotonic(), time.time()
        async with asyncio.timeout(BACK_SECONDS):
            while self.world.platform.pid_of(name) in (0, pid):
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            await self._serving(name)
        self.deaths.append(Death(name, at, time.monotonic() - begun))

    async def _serving(self, name: str) -> None:
        plan = self.world.platform.plan
        if name in SERVICES:
            await readiness.serving(plan.address(name))
        else:
            await readiness.accepting(ports.LOOPBACK, plan.ports[name])


def report(deaths: Iterable[Death], entries: Sequence[RecordedEntry]) -> list[str]:
    """How long each process was away, and how long it took until it wrote again."""
    by_name: Mapping[str, list[Death]] = defaultdict(list)
    for death in deaths:
        by_name[death.name].append(death)
    return [_line(name, by_name[name], entries) for name in VICTIMS if name in by_name]


def _line(name: str, deaths: Sequence[Death], entries: Sequence[RecordedEntry]) -> str:
    written = sorted(
        recorded.entry.recorded_at_unix_micros / 1e6
        for recorded in entries
        if recorded.entry.aggregate.kind in OWNED.get(name, (recorded.entry.aggregate.kind,))
    )
    back = [death.back_seconds for death in deaths]
    again = [next((at for at in written if at > death.at_unix_seconds), None) for death in deaths]
    waits = [at - death.at_unix_seconds for at, death in zip(again, deaths, strict=True) if at is not None]
    return (
        f"{name}: killed {len(deaths)} times; serves again after {_spread(back)}; writes again after {_spread(waits)}"
    )


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} s (at most {max(seconds):.1f} s)" if seconds else "-"
