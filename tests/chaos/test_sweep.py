"""A process that is killed at any point changes nothing but the time.

The points are found by trials without a kill, and those of recovery by trials with one. Each kills at its first time
and at one of its later ones. A part of them, chosen by a seed, unless all were asked for.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from tests.chaos.options import PART_POINTS, PART_RECOVERY_POINTS, Options
from tests.chaos.person import Doubter, Person
from tests.chaos.points import Kill, Point
from tests.chaos.sweep import Attack, NotReached, Sweep

logger = logging.getLogger("chaos")

pytestmark = pytest.mark.slow
POINTS_MIN = 200
BY_THE_PACE = ("checkpoint.", "follow.", "lease.")
FAMILIES = {
    "executor": ("append.agent", "blob", "call", "model", "tool"),
    "gateway": ("append.project", "call", "follow", "projection", "serve"),
    "git": ("append.change", "append.workspace", "file", "git", "serve"),
    "scheduler": ("append.budget", "append.run", "call", "checkpoint", "follow", "serve"),
}


def attacks(counts: Counter[Point], person: type[Person], asked: Options, chance: random.Random) -> Iterator[Attack]:
    """The first time of every point, which has to come where it always does, and one of the later times."""
    for point, count in sorted(counts.items()):
        if asked.points.search(str(point)):
            yield Attack((Kill(point),), person, is_required=always_comes(point, count, person))
            if count > 1:
                yield Attack((Kill(point, chance.randint(2, count)),), person)


def always_comes(point: Point, count: int, person: type[Person]) -> bool:
    """Whatever the pace of this machine is: which facts share an entry, how many a batch has and what the clock brings
    depend on it, and whether somebody who has doubts is still in time."""
    return count > 0 and person is Person and "+" not in point.name and not point.name.startswith(BY_THE_PACE)


def attacks_of_recovery(sweep: Sweep) -> Iterator[Attack]:
    """What is done after a kill is killed, too."""
    for point, cause in sorted(sweep.met_in_recovery.items(), key=str):
        yield Attack((*cause.kills, Kill(point)), cause.person)


def missing(counts: Counter[Point]) -> list[str]:
    """Kinds of work that have lost their points."""
    reached = [str(point) for point in counts]
    wanted = [f"{service}/{family}." for service, families in FAMILIES.items() for family in families]
    return [family for family in wanted if not any(name.startswith(family) for name in reached)]


def part(of: Iterable[Attack], size: int, asked: Options, chance: random.Random) -> list[Attack]:
    found = list(of)
    return found if asked.everything or len(found) <= size else chance.sample(found, size)


async def test_a_kill_at_any_point_changes_nothing_but_the_time(
    sweep: Sweep, asked: Options, subtests: pytest.Subtests
) -> None:
    logger.info("SEED=%d", asked.seed)
    chance = asked.random()
    counts = await sweep.look()
    assert len(counts) >= POINTS_MIN
    assert not missing(counts)
    usual = attacks(counts, Person, asked, chance)
    doubtful = attacks(await sweep.look(Doubter), Doubter, asked, chance)
    for attack in part(itertools.chain(usual, doubtful), PART_POINTS, asked, chance):
        with subtests.test(f"SEED={asked.seed} {attack}"):
            await carry_out(sweep, attack)
    for attack in part(attacks_of_recovery(sweep), PART_RECOVERY_POINTS, asked, chance):
        with subtests.test(f"SEED={asked.seed} {attack}"):
            await carry_out(sweep, attack)


async def carry_out(sweep: Sweep, attack: Attack) -> None:
    try:
        seconds = await sweep.carry_out(attack)
    except NotReached as reason:
        logger.info("%s", reason)
        if attack.is_required:
            raise
        return
    logger.info("%s: as it should be after %.1f s", attack, seconds)
