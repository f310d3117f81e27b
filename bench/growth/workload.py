"""The runs whose histories are copied: agents that read a file in every turn, some of them for ever."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import aclosing
from pathlib import Path

from crewlog.cli.gateway import Gateway, of_channel
from crewlog.cli.launcher.platform import Platform
from crewlog.eventlog.jetstream import JetStreamLog, connect_log
from crewlog.eventlog.port import Stored
from crewlog.runtime.channel import dial
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.run_pb2 import AgentLimits, AgentNode, Node, Role, StartRun, Workflow
from crewlog.v1.run_service_pb2 import WatchRun

from bench.growth.histories import History

FILE = "data.txt"
SAID = "I read it once more. " * 10
CLOSED, OPEN = "grow-a-000000", "grow-b-000000"
CLOSED_TURNS = 20
OPEN_TURNS_BEFORE, OPEN_TURNS = 30, 400
SLOW_MILLIS = 10_000


def script() -> str:
    """One role that ends, and one that goes on, and slowly once it has a past."""
    ending = [_reads(0) for _ in range(CLOSED_TURNS)]
    going_on = [_reads(0 if turn < OPEN_TURNS_BEFORE else SLOW_MILLIS) for turn in range(OPEN_TURNS)]
    scripts = [
        {"system": "Role: ending", "steps": [*ending, {"say": "Done."}]},
        {"system": "Role: going-on", "steps": [*going_on, {"say": "Done."}]},
    ]
    return json.dumps({"name": "growth", "scripts": scripts})


def _reads(delay_millis: int) -> dict[str, object]:
    return {"say": SAID, "tools": [{"tool": "read", "input": {"path": FILE}}], "delay_millis": delay_millis}


def workflow(role: str) -> Workflow:
    limits = AgentLimits(turns_max=10 * OPEN_TURNS, duration_seconds_max=24 * 3_600)
    agent = AgentNode(role=Role(name=role, version="1", prompt=f"Role: {role}", tools=["read"], limits=limits))
    return Workflow(name=role, nodes=[Node(node_id="first", agent=agent)])


async def histories(platform: Platform, repository: Path) -> tuple[History, History]:
    """Makes one run that is over and one that is not, and takes their histories."""
    async with dial(platform.gateway_address, platform.token) as channel:
        gateway = of_channel(channel, platform.gateway_address)
        project = await gateway.projects.Register(RegisterProject(path=str(repository)))
        for run_id, role in ((CLOSED, "ending"), (OPEN, "going-on")):
            command = StartRun(run_id=run_id, project_id=project.project_id, workflow=workflow(role), input="grow")
            await gateway.runs.Start(command)
        await _until(gateway, CLOSED, "run_succeeded", 1)
        await _until(gateway, OPEN, "model_call_succeeded", OPEN_TURNS_BEFORE)
    log = await operator(platform)
    try:
        entries = await everything(log)
    finally:
        await log.close()
    return History.of(CLOSED, entries), History.of(OPEN, entries)


async def operator(platform: Platform) -> JetStreamLog:
    """The log of the platform, for whoever may do everything."""
    password = platform.plan.credentials.log_passwords["operator"]
    return await connect_log(platform.plan.log_url, "operator", password, name="growth")


async def everything(log: JetStreamLog) -> list[Stored]:
    head, entries = await log.head(), list[Stored]()
    async with aclosing(log.follow(0)) as batches:
        async for batch in batches:
            entries += batch
            if entries[-1].revision >= head:
                return entries
    raise RuntimeError("the log ended")


def new_repository(path: Path) -> Path:
    path.mkdir()
    (path / FILE).write_text("x" * 200)
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for arguments in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "growth")):
        subprocess.run(("git", "-C", str(path), *arguments), check=True)
    return path


async def _until(gateway: Gateway, run_id: str, event: str, times: int) -> None:
    seen = 0
    async with asyncio.timeout(60):
        async for message in gateway.runs.Watch(WatchRun(run_id=run_id)):
            for decision in message.entry.entry.decisions:
                seen += sum(one.WhichOneof("fact") == event for one in decision.events)
            if seen >= times:
                return


def recorded_at(stored: Stored) -> float:
    """In seconds since 1970."""
    return Entry.FromString(stored.payload).recorded_at_unix_micros / 1e6
