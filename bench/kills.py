"""W5: processes are killed in mid-chain; how soon the next new step is on disk, and what ran again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from statistics import median

from crewlog.cli.launcher.environment import LOG
from crewlog.cli.launcher.platform import Platform
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_service_pb2 import WatchRun

from bench import processes
from bench.runs import Client, chain, types_of

ROUNDS = 3
STEPS = 4_000
KILLED_AFTER_ENTRIES = 300
SECONDS_MAX = 60.0
LOOK_SECONDS = 0.005
Figures = dict[str, float]


async def w5(client: Client, platform: Platform) -> Figures:
    """From the start of the processes that replace the killed ones: of the executor, and of it and the log."""
    executor = [await _round(client, platform, ["executor"]) for _ in range(ROUNDS)]
    both = [await _round(client, platform, ["executor", LOG]) for _ in range(ROUNDS)]
    return {
        "W5.ms": median(millis for millis, _ in executor),
        "W5.with_log_ms": median(millis for millis, _ in both),
        "W5.steps_again": float(max(again for _, again in executor + both)),
    }


async def _round(client: Client, platform: Platform, names: Sequence[str]) -> tuple[float, int]:
    run_id = await client.start(chain(1, steps=STEPS))
    await _in_the_middle(client, run_id)
    pids = [platform.pid_of(name) for name in names]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    began = max([await _replaced(platform, name, pid) for name, pid in zip(names, pids, strict=True)])
    return _next_step(await client.entries(run_id), began)


async def _in_the_middle(client: Client, run_id: str) -> None:
    seen = 0
    async for message in client.runs.Watch(WatchRun(run_id=run_id)):
        seen += message.HasField("entry")
        if seen >= KILLED_AFTER_ENTRIES:
            return


async def _replaced(platform: Platform, name: str, killed: int) -> float:
    """When the process that replaces the killed one began, in seconds since 1970."""
    async with asyncio.timeout(SECONDS_MAX):
        while (pid := platform.pid_of(name)) in (0, killed):
            await asyncio.sleep(LOOK_SECONDS)
    return processes.began_at(pid)


def _next_step(entries: Sequence[RecordedEntry], began: float) -> tuple[float, int]:
    """Milliseconds until the first outcome of a later claim, and how many steps were in doubt and so ran again."""
    agents = [entry for entry in entries if entry.entry.aggregate.kind == "agent"]
    again = sum(types_of(entry).count("effect_put_in_doubt") for entry in agents)
    later = (entry for entry in agents if entry.entry.generation > 1 and "tool_call_succeeded" in types_of(entry))
    return next(later).entry.recorded_at_unix_micros / 1e3 - began * 1e3, again
