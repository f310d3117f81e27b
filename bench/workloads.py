"""The workloads on a real platform: real processes, a real log with fsync, a client over gRPC."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from statistics import median

from crewlog.cli.launcher.platform import Platform
from crewlog.v1.entry_pb2 import RecordedEntry

from bench import processes
from bench.runs import Client, chain, fan, many, types_of

ROUNDS = 5
STEPS = 100
W2_RUNS, W2_TASKS, W2_AT_ONCE = 200, 10, 64
W3_WIDTH = 1_000
W8_REQUESTS = 60
Figures = dict[str, float]


async def w1(client: Client, platform: Platform) -> Figures:
    """100 durable steps in one agent, p50 of the time from one step to the next."""
    medians = []
    for _ in range(ROUNDS):
        entries = await client.finished(chain(1, steps=STEPS))
        medians.append(median(_gaps(entries, "agent", "tool_call_succeeded")))
    return {"W1.p50_ms": median(medians)}


async def w1t(client: Client, platform: Platform) -> Figures:
    """A chain of 100 tasks, each through scheduler and executor, p50 of the time from one task to the next."""
    medians = []
    for _ in range(ROUNDS):
        entries = await client.finished(chain(STEPS))
        medians.append(median(_gaps(entries, "run", "task_claimed")))
    return {"W1t.p50_ms": median(medians)}


async def w2(client: Client, platform: Platform) -> Figures:
    """200 runs of 10 tasks, 64 at a time."""
    rates, costs = [], []
    for _ in range(3):
        before = processes.cpu_seconds(processes.tree(platform))
        seconds = await many(client, chain(W2_TASKS), W2_RUNS, W2_AT_ONCE)
        used = processes.cpu_seconds(processes.tree(platform)) - before
        rates.append(W2_RUNS * W2_TASKS / seconds)
        costs.append(used / (W2_RUNS * W2_TASKS) * 1_000)
    return {"W2.steps_per_s": median(rates), "W2.cpu_s_per_1000": median(costs)}


async def w3f(client: Client, platform: Platform) -> Figures:
    """One run fans out to 1,000 tasks that stand in its workflow, and joins."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        await client.succeeded(fan(W3_WIDTH))
        times.append((time.perf_counter() - began) * 1e3)
    return {"W3f.ms": median(times)}


async def w6(client: Client, platform: Platform) -> Figures:
    """A step at the beginning and a step late in one agent of 5,000 steps, and what a step takes on disk."""
    before = processes.disk_bytes(platform.directory.path / "nats")
    entries = await client.finished(chain(1, steps=5_000))
    gaps = _gaps(entries, "agent", "tool_call_succeeded")
    used = processes.disk_bytes(platform.directory.path / "nats") - before
    return {
        "W6.ms_at_10": median(gaps[5:105]),
        "W6.ms_at_5000": median(gaps[-100:]),
        "W6.bytes_per_step": used / 5_000,
    }


async def w8(client: Client, platform: Platform) -> Figures:
    """From the request of a client to the first entry of the agent that it leads to, p50."""
    times = []
    for _ in range(W8_REQUESTS):
        began = time.time_ns() / 1e6
        entries = await client.finished(chain(1))
        first = next(entry for entry in entries if "agent_started" in types_of(entry))
        times.append(first.entry.recorded_at_unix_micros / 1e3 - began)
    return {"W8.p50_ms": median(times)}


def _gaps(entries: Sequence[RecordedEntry], kind: str, event: str) -> list[float]:
    """Milliseconds between the entries of a kind that hold an event of a type."""
    times = [
        recorded.entry.recorded_at_unix_micros / 1e3
        for recorded in entries
        if recorded.entry.aggregate.kind == kind and event in types_of(recorded)
    ]
    return [later - earlier for earlier, later in itertools.pairwise(times)]
