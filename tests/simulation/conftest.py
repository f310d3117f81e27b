"""Seeds: `SEED=7` repeats one, `SEEDS=100` runs so many; and nothing in a simulation waits for a clock."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import pytest
from crewlog.scheduler import closing, funding

SeedsOf = Callable[[int], range]


@pytest.fixture
def seeds() -> SeedsOf:
    """seeds(1_000): as many, or as the environment says."""

    def chosen(usual: int) -> range:
        if "SEED" in os.environ:
            seed = int(os.environ["SEED"])
            return range(seed, seed + 1)
        return range(int(os.environ.get("SEEDS", usual)))

    return chosen


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(funding, "RETRY_SECONDS", 0)
    monkeypatch.setattr(closing, "RETRY_SECONDS", 0)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
