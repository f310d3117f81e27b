"""A process that is killed at any point changes nothing but the time.

The points are found by trials without a kill, and those of recovery by trials with one. Each kills at its first time
and at one of its later ones. A part of them, chosen by a seed, unless all were asked for.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence

import pytest

from tests.chaos.options import PART_POINTS, Options
from tests.chaos.points import Kill, Point
from tests.chaos.sweep import NotReached, Survey, Sweep

logger = logging.getLogger("chaos")

pytestmark = pytest.mark.slow
POINTS_MIN = 150
FAMILIES = {
    "executor": ("append.agent", "blob", "call", "model", "tool"),
    "gateway": ("append.project", "call", "follow", "projection", "serve"),
    "git": ("append.change", "append.workspace", "file", "git", "serve"),
    "scheduler": ("append.budget", "append.run", "call", "checkpoint", "follow", "serve"),
}


def kills(survey: Survey, asked: Options, chance: random.Random) -> list[Kill]:
    """The first time of every point, and a later time where there is one."""
    wanted = [point for point in (*survey.always, *survey.sometimes) if asked.points.search(str(point))]
    later = [Kill(point, chance.randint(2, survey.counts[point])) for point in wanted if survey.counts[point] > 1]
    return [*(Kill(point) for point in wanted), *later]


def missing(survey: Survey) -> list[str]:
    """Kinds of work that have lost their points."""
    reached = [str(point) for point in survey.counts]
    wanted = [f"{service}/{family}." for service, families in FAMILIES.items() for family in families]
    return [family for family in wanted if not any(name.startswith(family) for name in reached)]


def part(of: Sequence[Kill], asked: Options, chance: random.Random) -> Iterable[Kill]:
    return of if asked.everything or len(of) <= PART_POINTS else chance.sample(of, PART_POINTS)


async def test_a_kill_at_any_point_changes_nothing_but_the_time(
    sweep: Sweep, asked: Options, subtests: pytest.Subtests
) -> None:
    logger.info("SEED=%d", asked.seed)
    chance = asked.random()
    survey = await sweep.look()
    assert len(survey.always) >= POINTS_MIN
    assert not missing(survey)
    chosen = part(kills(survey, asked, chance), asked, chance)
    for kill in chosen:
        with subtests.test(f"SEED={asked.seed} {kill}"):
            await _killed(sweep, kill, required=survey.counts[kill.point] > 0)
    for point, cause in part_of_recovery(sweep, asked, chance):
        with subtests.test(f"SEED={asked.seed} {cause}, then {point}"):
            await _killed(sweep, cause, Kill(point), required=False)


def part_of_recovery(sweep: Sweep, asked: Options, chance: random.Random) -> list[tuple[Point, Kill]]:
    """Recovery that is killed, too."""
    found = sorted(sweep.met_in_recovery.items())
    return found if asked.everything or len(found) <= PART_POINTS // 4 else chance.sample(found, PART_POINTS // 4)


async def _killed(sweep: Sweep, *kills: Kill, required: bool) -> None:
    said = ", then ".join(map(str, kills))
    try:
        seconds = await sweep.kill(*kills)
    except NotReached as reason:
        logger.info("%s: %s", said, reason)
        if required:
            raise
        return
    logger.info("%s: as it should be after %.1f s", said, seconds)
