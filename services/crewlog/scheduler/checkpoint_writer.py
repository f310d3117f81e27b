"""Keeps the checkpoint near what is open, behind everything else: what it misses is seen again in the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from crewlog.scheduler.checkpoint import Checkpoint

CHECKPOINT_SECONDS = 1.0


class CheckpointWriter:
    """Writes nothing until everything that was open has been opened: what is not would be forgotten, since the position
    is behind its last entry. And nothing when another scheduler may be writing."""

    def __init__(self, checkpoint: Checkpoint, may_save: Callable[[], bool]) -> None:
        self._checkpoint = checkpoint
        self._may_save = may_save
        self._saved: set[str] | None = None
        self._saved_at = 0.0
        # One thread, so that a save that was given up has ended before the next one begins.
        self._thread = ThreadPoolExecutor(1, "checkpoint")

    def begin(self, open_runs: Iterable[str]) -> None:
        """Everything is open. `open_runs` are those that the checkpoint has."""
        self._saved = set(open_runs)

    def is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS

    async def save(self, revision: int, open_runs: set[str], budgets: Iterable[str]) -> None:
        if self._saved is None or not self._may_save():
            return
        opened, closed = open_runs - self._saved, self._saved - open_runs
        self._saved, self._saved_at = set(open_runs), time.monotonic()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._checkpoint.save, revision, opened, closed, tuple(budgets))

    def close(self) -> None:
        self._thread.shutdown()
        self._checkpoint.close()
