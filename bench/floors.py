"""What the machine and the parts below us can do: fsync, raw JetStream, and our own append on top of it."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from crewlog.eventlog.jetstream import JetStreamLog
from crewlog.eventlog.port import AggregateId

BLOCK = b"x" * 512
SEQUENTIAL = 400
AT_ONCE = 64
PER_WRITER = 60


def fsync_millis(directory: Path) -> float:
    """Appending 512 bytes to a file and waiting until they are on disk, p50."""
    with tempfile.TemporaryFile(dir=directory) as file:
        return median(_timed(lambda: _write_and_sync(file.fileno())) for _ in range(SEQUENTIAL)) * 1e3


async def raw_nats_millis(log: JetStreamLog) -> float:
    """One durable publish with a version check after the other, p50."""
    subject, last, times = "crewlog.events.bench.raw.sequential", 0, []
    for _ in range(SEQUENTIAL):
        began = time.perf_counter()
        last = await _raw_publish(log, subject, last)
        times.append(time.perf_counter() - began)
    return median(times) * 1e3


async def raw_nats_per_second(log: JetStreamLog) -> float:
    async def writer(number: int) -> None:
        last = 0
        for _ in range(PER_WRITER):
            last = await _raw_publish(log, f"crewlog.events.bench.raw.{number}", last)

    return await _rate(writer)


async def append_millis(log: JetStreamLog) -> float:
    """One append after the other through the port, p50."""
    aggregate, last, times = AggregateId("bench", "append", "sequential"), 0, []
    for _ in range(SEQUENTIAL):
        began = time.perf_counter()
        last = await log.append(aggregate, BLOCK, last)
        times.append(time.perf_counter() - began)
    return median(times) * 1e3


async def append_per_second(log: JetStreamLog) -> float:
    async def writer(number: int) -> None:
        last = 0
        for _ in range(PER_WRITER):
            last = await log.append(AggregateId("bench", "append", str(number)), BLOCK, last)

    return await _rate(writer)


async def _rate(writer: Callable[[int], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(writer(number) for number in range(AT_ONCE)))
    return AT_ONCE * PER_WRITER / (time.perf_counter() - began)


async def _raw_publish(log: JetStreamLog, subject: str, last: int) -> int:
    headers = {"Nats-Expected-Last-Subject-Sequence": str(last)}
    answer = await log.connection.request(subject, BLOCK, timeout=5, headers=headers)
    return int(json.loads(answer.data)["seq"])


def _write_and_sync(fd: int) -> None:
    os.write(fd, BLOCK)
    os.fsync(fd)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
