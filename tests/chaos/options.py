"""What `make chaos` is told: SEED=<number>, POINTS=<regular expression>, and CHAOS=all in place of a part."""

from __future__ import annotations

import os
import random
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

PART_POINTS = 20
PART_RECOVERY_POINTS = 5


@dataclass(frozen=True)
class Options:
    """`everything`: each point and the whole campaign; else what a minute or two allow."""

    seed: int
    points: re.Pattern[str]
    everything: bool

    def random(self) -> random.Random:
        return random.Random(self.seed)


def from_environment(environment: Mapping[str, str] = os.environ) -> Options:
    seed = environment.get("SEED", "")
    points = environment.get("POINTS", "")
    everything = environment.get("CHAOS", "") == "all" or bool(points)
    return Options(int(seed) if seed else secrets.randbelow(1_000_000), re.compile(points), everything)
