"""A cold start of the whole platform on a long log: when each run that was open moves again, and what it took."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Collection
from contextlib import aclosing, suppress
from pathlib import Path

from crewlog.cli.gateway import of_channel
from crewlog.cli.launcher.environment import LOG, MODEL, SERVICES
from crewlog.cli.launcher.platform import Platform
from crewlog.domain import names
from crewlog.eventlog.jetstream import JetStreamLog
from crewlog.runtime.channel import dial
from crewlog.v1.events_pb2 import GetStatus

from bench import processes
from bench.growth import workload

MOVING_SECONDS_MAX = 300.0
CAUGHT_UP_SECONDS_MAX = 600.0
LOOK_SECONDS = 0.2
REMEMBERED = ("scheduler", "gateway")


def forget_everything(data_dir: Path) -> None:
    """Removes what services keep beside the log to start faster."""
    for folder in REMEMBERED:
        for path in (data_dir / folder).glob("*.sqlite*"):
            path.unlink()


async def start(platform: Platform, open_runs: Collection[str], head: int, figures: dict[str, float], name: str) -> int:
    """Starts the platform, which has to be stopped, on a log that ends at `head`, and adds the figures of this start.
    Returns where the log ends then."""
    began = time.time()
    await platform.start()
    figures[f"{name}.ready_s"] = time.time() - began
    log = await workload.operator(platform)
    try:
        moving = await _moving(log, set(open_runs), head, began)
    finally:
        await log.close()
    seconds = sorted(moving.values())
    figures |= {f"{name}.first_moving_s": seconds[0], f"{name}.all_moving_s": seconds[-1]}
    for service in (*SERVICES, LOG):
        figures[f"{name}.{service}_cpu_s"] = processes.cpu_seconds([platform.pid_of(service)])
    figures[f"{name}.scheduler_mib"] = processes.pss_mib([platform.pid_of("scheduler")])
    figures[f"{name}.caught_up_s"] = await _caught_up(platform, began)
    figures[f"{name}.gateway_mib"] = processes.pss_mib([platform.pid_of("gateway")])
    figures[f"{name}.log_mib"] = processes.pss_mib([platform.pid_of(LOG)])
    return await _head(platform)


async def kill(platform: Platform) -> None:
    """Ends every process as a power cut would end it, and the launcher after them."""
    for pid in [platform.pid_of(name) for name in (*SERVICES, MODEL, LOG)]:
        with suppress(ProcessLookupError):
            # 0 is a process that is being started again, and would stand for this one here.
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
    await platform.stop()


async def _moving(log: JetStreamLog, waiting: set[str], head: int, began: float) -> dict[str, float]:
    """After how many seconds the agent of each run had an entry that it had not before."""
    seconds: dict[str, float] = {}
    async with asyncio.timeout(MOVING_SECONDS_MAX), aclosing(log.follow(head, ("agent",))) as batches:
        async for batch in batches:
            for stored in batch:
                run_id = names.run_of(stored.aggregate.id)
                at = workload.recorded_at(stored) if run_id in waiting else 0.0
                if at >= began:
                    waiting.discard(run_id)
                    seconds[run_id] = at - began
            if not waiting:
                return seconds
    raise RuntimeError("the log ended")


async def _head(platform: Platform) -> int:
    log = await workload.operator(platform)
    try:
        return await log.head()
    finally:
        await log.close()


async def _caught_up(platform: Platform, began: float) -> float:
    """After how many seconds reads show everything, nearly."""
    async with dial(platform.gateway_address, platform.token) as channel, asyncio.timeout(CAUGHT_UP_SECONDS_MAX):
        gateway = of_channel(channel, platform.gateway_address)
        while True:
            status = await gateway.events.Status(GetStatus())
            if status.projected_revision + 1_000 >= status.head_revision:
                return time.time() - began
            await asyncio.sleep(LOOK_SECONDS)
