"""Opening one aggregate of 10,000 events: from the log to its folded state, as every owner does it."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from crewlog.domain.agent import decider as agent
from crewlog.domain.decider import Decider
from crewlog.domain.run import decider as run
from crewlog.eventlog.jetstream import JetStreamLog
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.owner import Meta, Owner
from crewlog.eventlog.port import AggregateId, EventLog
from crewlog.v1.agent_pb2 import EffectKey, FinishToolCall, HostAgent, ToolOutput
from crewlog.v1.run_pb2 import ClaimTask, EndTask, LapseClaim, Node, NoopNode, StartRun, TaskResult, Workflow
from google.protobuf.message import Message

TENANT = "local"
EVENTS = 10_000
NODES = EVENTS // 6
ROUNDS = 5
Figures = dict[str, float]


async def measure(log: JetStreamLog) -> Figures:
    await _write(log, run, "opened", _run_commands("opened"))
    await _write(log, agent, "opened_one-1", _agent_commands("opened_one-1"))
    return {
        "opening.run_ms": await _millis(log, run, "opened"),
        "opening.agent_ms": await _millis(log, agent, "opened_one-1"),
    }


async def _write(log: JetStreamLog, rules: Decider[object], id: str, commands: list[list[Message]]) -> None:
    """Decided in memory, and then copied."""
    drafts = MemoryLog(log.epoch)
    owner, meta = _owner(drafts, rules), Meta("command", "service:bench", correlation_id="opened")
    for together in commands:
        await asyncio.gather(*(owner.handle(id, command, meta) for command in together))
    aggregate, revision = AggregateId(TENANT, rules.KIND, id), 0
    for stored in await drafts.read(aggregate):
        revision = await log.append(aggregate, stored.payload, revision)


async def _millis(log: JetStreamLog, rules: Decider[object], id: str) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await _owner(log, rules).state(id)
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


def _owner(log: EventLog, rules: Decider[object]) -> Owner[object]:
    return Owner(log, rules, tenant=TENANT, clock=lambda: 1, code_version="bench")


def _run_commands(run_id: str) -> list[list[Message]]:
    """A start, and for each node two claims that lapse, one that does not, and the end: six events. What follows from
    one thing is one entry, as the reactor makes it."""
    nodes = [Node(node_id=f"n{number}", noop=NoopNode()) for number in range(NODES)]
    plan = Workflow(name="opened", nodes=nodes)
    commands: list[list[Message]] = [[StartRun(run_id=run_id, project_id="bench", workflow=plan)]]
    for node in nodes:
        task_id = f"{node.node_id}-1"
        claim = ClaimTask(run_id=run_id, task_id=task_id, executor_id="executor-1_0")
        commands[-1].append(claim)
        for generation in (1, 2):
            commands.append([LapseClaim(run_id=run_id, task_id=task_id, generation=generation, reason="bench"), claim])
        commands.append([EndTask(run_id=run_id, task_id=task_id, succeeded=TaskResult(), at_unix_micros=1)])
    return commands


def _agent_commands(agent_id: str) -> list[list[Message]]:
    """Steps that do nothing: an outcome and an intent in every entry."""
    host = HostAgent(agent_id=agent_id, run_id="opened", task_id="one-1", generation=1, noop=NoopNode(steps=EVENTS))
    done: list[list[Message]] = [
        [FinishToolCall(agent_id=agent_id, generation=1, key=EffectKey(turn=turn, attempt=1), output=ToolOutput())]
        for turn in range(1, EVENTS // 2 + 1)
    ]
    return [[host], *done]
