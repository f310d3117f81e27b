"""kill -9 of anything at any moment, while many trials are under way: all of them end as they should."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.options import Options
from tests.chaos.trial import chaos_platform

pytestmark = pytest.mark.slow
logger = logging.getLogger("chaos")

TRIALS_AT_ONCE = 20
SECONDS = 60.0
TRIALS_AT_ONCE_OF_PART = 6
SECONDS_OF_PART = 12.0
DEATHS_MIN = 3


async def test_kills_at_random_moments_change_nothing_but_the_time(tmp_path: Path, asked: Options) -> None:
    if asked.points.pattern:
        pytest.skip("points were asked for, and nothing else")
    logger.info("SEED=%d", asked.seed)
    async with chaos_platform(tmp_path / "world") as world:
        campaign = Campaign(world, tmp_path, asked.random())
        if asked.everything:
            await campaign.run(TRIALS_AT_ONCE, SECONDS)
        else:
            await campaign.run(TRIALS_AT_ONCE_OF_PART, SECONDS_OF_PART)
        assert len(campaign.deaths) >= DEATHS_MIN
