"""Starting runs on a platform and waiting for them, as a client does; and graphs that do nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crewlog.cli.launcher.platform import Platform
from crewlog.runtime.channel import dial
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.events_pb2 import WatchEvents
from crewlog.v1.events_pb2_grpc import EventServiceStub
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.project_pb2_grpc import ProjectServiceStub
from crewlog.v1.run_pb2 import Node, NoopNode, StartRun, Workflow
from crewlog.v1.run_service_pb2 import WatchRun
from crewlog.v1.run_service_pb2_grpc import RunServiceStub

if TYPE_CHECKING:
    from crewlog.v1.events_pb2_grpc import EventServiceAsyncStub
    from crewlog.v1.run_service_pb2_grpc import RunServiceAsyncStub

_numbers = itertools.count(1)
ENDS = ("run_succeeded", "run_failed", "run_cancelled")


@dataclass(frozen=True)
class Client:
    """A client of one platform, with a project to run on."""

    runs: RunServiceAsyncStub
    events: EventServiceAsyncStub
    project_id: str

    async def start(self, workflow: Workflow, **fields: object) -> str:
        run_id = f"bench-{next(_numbers)}"
        command = StartRun(run_id=run_id, project_id=self.project_id, workflow=workflow, input="bench", **fields)  # type: ignore[arg-type]
        await self.runs.Start(command)
        return run_id

    async def entries(self, run_id: str) -> list[RecordedEntry]:
        """Everything that the log holds of the run, once it is over."""
        found: list[RecordedEntry] = []
        async for message in self.runs.Watch(WatchRun(run_id=run_id)):
            if message.HasField("entry"):
                found.append(message.entry)
                if is_end(message.entry):
                    return found
        raise RuntimeError(f"run {run_id} did not end")

    async def finished(self, workflow: Workflow, **fields: object) -> list[RecordedEntry]:
        """Starts a run and waits for its end; raises RuntimeError when it did not succeed."""
        entries = await self.entries(await self.start(workflow, **fields))
        _check_succeeded(entries[-1])
        return entries

    async def succeeded(self, workflow: Workflow, **fields: object) -> None:
        """As `finished`, for who wants to hear of nothing but the end."""
        wanted = WatchEvents(run_id=await self.start(workflow, **fields), kinds=["run"], types=ENDS)
        ends = [message.entry async for message in self.events.Watch(wanted) if message.HasField("entry")]
        _check_succeeded(ends[-1])


@asynccontextmanager
async def client(platform: Platform, repository: str) -> AsyncIterator[Client]:
    async with dial(platform.gateway_address, platform.token) as channel:
        registered = await ProjectServiceStub(channel).Register(RegisterProject(path=repository))
        yield Client(RunServiceStub(channel), EventServiceStub(channel), registered.project_id)


def _check_succeeded(end: RecordedEntry) -> None:
    if "run_succeeded" not in types_of(end):
        raise RuntimeError(f"the run ended with {types_of(end)}: {end.entry}")


def types_of(recorded: RecordedEntry) -> list[str]:
    return [str(event.WhichOneof("fact")) for decision in recorded.entry.decisions for event in decision.events]


def is_end(recorded: RecordedEntry) -> bool:
    return any(name in ENDS for name in types_of(recorded))


def chain(length: int, steps: int = 0) -> Workflow:
    """Tasks one after the other."""
    nodes = [
        Node(node_id=f"n{number}", depends_on=[f"n{number - 1}"] if number else [], noop=NoopNode(steps=steps))
        for number in range(length)
    ]
    return Workflow(name=f"chain-{length}", nodes=nodes)


def fan(width: int) -> Workflow:
    """One task, then many at once, then one that waits for all of them."""
    leaves = [Node(node_id=f"n{number}", depends_on=["root"], noop=NoopNode()) for number in range(width)]
    join = Node(node_id="join", depends_on=[leaf.node_id for leaf in leaves], noop=NoopNode())
    return Workflow(name=f"fan-{width}", nodes=[Node(node_id="root", noop=NoopNode()), *leaves, join])


async def many(client: Client, workflow: Workflow, count: int, at_once: int) -> float:
    """Runs so many runs, at most `at_once` of them at a time; returns the seconds that it took."""
    gate = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with gate:
            await client.succeeded(workflow)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return time.perf_counter() - began
