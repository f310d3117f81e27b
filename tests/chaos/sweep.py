"""The crash-point sweep: finds the points that a trial reaches, and kills once at each, in a trial of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crewlog.cli.launcher import readiness
from crewlog.cli.launcher.environment import SERVICES

from tests.chaos.checks import check, check_requests
from tests.chaos.person import Person
from tests.chaos.points import Armed, Failpoints, Kill, Point
from tests.chaos.trial import Done, new_trial, perform, requests
from tests.e2e.world import World

SURVEYED_TRIALS = 3
TRIALS_PER_KILL_MAX = 4
LATE_KILL_SECONDS = 1.5
BACK_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.02

logger = logging.getLogger("chaos")


class NotReached(AssertionError):
    """No process has come to the point."""


@dataclass(frozen=True)
class Attack:
    """A trial with kills. Without `is_required`, whether the points are reached depends on how things fall together."""

    kills: tuple[Kill, ...]
    person: type[Person] = Person
    is_required: bool = False

    def __str__(self) -> str:
        return ", then ".join(map(str, self.kills))


@dataclass
class Sweep:
    """`known` are the points that trials without a kill reach; `met_in_recovery` those that were reached only after a
    kill, each with the attack that led there."""

    world: World
    failpoints: Failpoints
    directory: Path
    known: set[Point] = field(default_factory=set)
    met_in_recovery: dict[Point, Attack] = field(default_factory=dict)

    async def look(self, person: type[Person] = Person) -> Counter[Point]:
        """How often each point that was not known is reached in a trial without a kill, at least: 0 for sometimes."""
        counts: list[Counter[Point]] = []
        for _ in range(SURVEYED_TRIALS):
            position = self.failpoints.now()
            asked_before = len(requests(self.world))
            done = await perform(self.world, new_trial(self.directory, person))
            counts.append(self.failpoints.reached_since(position))
            await self._check(done, asked_before)
        new = {point for count in counts for point in count} - self.known
        self.known |= new
        return Counter({point: min(count[point] for count in counts) for point in new})

    async def carry_out(self, attack: Attack) -> float:
        """Makes trials until in one of them each of the kills has happened; returns the seconds that it took. Raises
        NotReached."""
        begun = time.monotonic()
        for _ in range(TRIALS_PER_KILL_MAX):
            if await self._try(attack):
                return time.monotonic() - begun
        raise NotReached(f"{attack}: no process has come there")

    async def _try(self, attack: Attack) -> bool:
        """One trial; says whether every kill has happened. Nothing dies any more when it is checked."""
        asked_before, restarts = len(requests(self.world)), self._restarts()
        position = self.failpoints.now()
        armed = [self.failpoints.arm(kill) for kill in attack.kills]
        try:
            done = await perform(self.world, new_trial(self.directory, attack.person))
            await self._wait_for(armed)
        finally:
            for one in armed:
                one.disarm()
        killed = [one.kill.point.service for one in armed if one.has_killed]
        await self._back(restarts + Counter(killed))
        for point in self.failpoints.reached_since(position).keys() - self.known:
            self.met_in_recovery.setdefault(point, attack)
        await self._check(done, asked_before)
        return len(killed) == len(armed)

    async def _check(self, done: Done, asked_before: int) -> None:
        entries = await check(self.world, done)
        check_requests(requests(self.world)[asked_before:], entries)

    async def _wait_for(self, armed: Sequence[Armed]) -> None:
        """What is done behind the last answer, such as a checkpoint, is waited for a moment."""
        deadline = time.monotonic() + LATE_KILL_SECONDS
        while time.monotonic() < deadline and not all(one.has_killed for one in armed):
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _back(self, expected: Counter[str]) -> None:
        """Every process that was killed has a successor, and all of them serve."""
        async with asyncio.timeout(BACK_SECONDS):
            while any(self._restarts()[name] < count for name, count in expected.items()):
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
        assert self._restarts() == expected, "a process has died that was not killed"
        await self._serving()

    async def _serving(self) -> None:
        async with asyncio.timeout(BACK_SECONDS):
            await asyncio.gather(*(readiness.serving(self.world.platform.plan.address(name)) for name in SERVICES))

    def _restarts(self) -> Counter[str]:
        return Counter({name: self.world.platform.restarts_of(name) for name in SERVICES})
