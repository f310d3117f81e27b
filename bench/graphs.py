"""Graphs on a real platform: fans whose width is known only at run time, child runs, long graphs, runs that wait."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from statistics import median

from crewlog.cli.launcher.platform import Platform
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.node_pb2 import WaitNode
from crewlog.v1.run_pb2 import MapNode, Node, NoopNode, Workflow, WorkflowNode

from bench import processes
from bench.runs import Client, chain, types_of

ROUNDS = 3
WIDTH = 1_000
LARGE = 10_000
LONG = 1_023
WAITING = 10_000
STARTS_AT_ONCE = 64
IDLE_SECONDS = 10.0
PART = 100
Figures = dict[str, float]


def fan_out(times: int, body: Node) -> Workflow:
    """A map over so many items, all of them at once."""
    return Workflow(
        name=f"map-{times}", nodes=[Node(node_id="m", map=MapNode(times=times, at_once_max=times, body=body))]
    )


def child() -> Node:
    return Node(workflow=WorkflowNode(workflow=chain(1), input="bench"))


async def w3(client: Client, platform: Platform) -> Figures:
    """A map of 1,000 items, joined; from the request to the end of the run."""
    return {"W3.ms": await _millis(client, fan_out(WIDTH, Node(noop=NoopNode())))}


async def w3c(client: Client, platform: Platform) -> Figures:
    """1,000 child runs of one task each, joined."""
    return {"W3c.ms": await _millis(client, fan_out(WIDTH, child()))}


async def _millis(client: Client, workflow: Workflow) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await client.succeeded(workflow)
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


async def large(client: Client, platform: Platform) -> Figures:
    """A map of 10,000 items, and what the scheduler uses for a task when few and when many have ended."""
    before = _scheduler(platform)
    began = time.perf_counter()
    entries = await client.finished(fan_out(LARGE, Node(noop=NoopNode())))
    seconds = time.perf_counter() - began
    after = _scheduler(platform)
    times = _claimed(entries)
    tenth = len(times) // 10
    return {
        "map10k.ms": seconds * 1e3,
        "map10k.scheduler_cpu_ms_per_task": (after[0] - before[0]) * 1e3 / LARGE,
        "map10k.scheduler_mib": after[1],
        "map10k.ms_per_task_early": (times[tenth] - times[0]) / tenth,
        "map10k.ms_per_task_late": (times[-1] - times[-tenth]) / (tenth - 1),
    }


async def long(client: Client, platform: Platform) -> Figures:
    """1,023 tasks one after the other: a task at the beginning and at the end of the graph, and from the last event of
    an agent to the claim of what comes next."""
    entries = await client.finished(chain(LONG))
    times = _claimed(entries)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return {
        "long.ms_at_100": median(gaps[PART // 2 : PART + PART // 2]),
        "long.ms_at_1000": median(gaps[-PART:]),
        "next.p50_ms": median(_from_end_to_claim(entries)),
    }


async def waiting(client: Client, platform: Platform) -> Figures:
    """10,000 runs that wait for an hour, and what the scheduler does meanwhile."""
    workflow = Workflow(name="wait", nodes=[Node(node_id="w", wait=WaitNode(seconds=3_600))])
    gate = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start() -> None:
        async with gate:
            await client.start(workflow)

    began = time.perf_counter()
    await asyncio.gather(*(start() for _ in range(WAITING)))
    started_seconds = time.perf_counter() - began
    await asyncio.sleep(IDLE_SECONDS / 2)
    before = _scheduler(platform)
    await asyncio.sleep(IDLE_SECONDS)
    after = _scheduler(platform)
    return {
        "waiting.starts_per_s": WAITING / started_seconds,
        "waiting.scheduler_cpu_percent": (after[0] - before[0]) / IDLE_SECONDS * 100,
        "waiting.scheduler_mib": after[1],
    }


def _scheduler(platform: Platform) -> tuple[float, float]:
    """Its processor seconds so far, and its memory in MiB."""
    pids = [platform.pid_of("scheduler")]
    return processes.cpu_seconds(pids), processes.pss_mib(pids)


def _claimed(entries: Sequence[RecordedEntry]) -> list[float]:
    """Milliseconds, for every claim."""
    return [
        recorded.entry.recorded_at_unix_micros / 1e3
        for recorded in entries
        for name in types_of(recorded)
        if name == "task_claimed"
    ]


def _from_end_to_claim(entries: Sequence[RecordedEntry]) -> list[float]:
    gaps, ended = list[float](), 0.0
    for recorded in entries:
        at, names = recorded.entry.recorded_at_unix_micros / 1e3, types_of(recorded)
        if "agent_succeeded" in names:
            ended = at
        elif "task_claimed" in names and ended:
            gaps.append(at - ended)
            ended = 0.0
    return gaps
