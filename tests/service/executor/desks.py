"""Everything that a host needs, with a scheduler that writes down what it is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from crewlog.domain import names
from crewlog.domain.agent import decider as rules
from crewlog.domain.agent.state import Agent
from crewlog.domain.decider import fold
from crewlog.domain.errors import Refused
from crewlog.domain.names import TENANT
from crewlog.eventlog import codec
from crewlog.eventlog.memory import MemoryBlobs, MemoryLive
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import AggregateId, Stored
from crewlog.executor.desk import Desk
from crewlog.executor.host import Host, Shared
from crewlog.executor.workspace import Workspace
from crewlog.models.prices import PriceList
from crewlog.models.provider import AnthropicModel
from crewlog.models.scripted import serve_scripted
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.runtime.serve import Access, Registration, Verifier, start_server
from crewlog.tools.sandbox import Level, Sandbox
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import Node, SendMessage, SpawnChild
from crewlog.v1.scheduler_pb2 import Grant, SpawnedChild
from crewlog.v1.scheduler_pb2_grpc import (
    SchedulerServiceServicer,
    SchedulerServiceStub,
    add_SchedulerServiceServicer_to_server,
)
from crewlog.v1.workspace_pb2 import PinBase
from google.protobuf.message import Message

from tests.service.git.places import PROJECT, RUN, UserRepository
from tests.service.git.serving import CLAIMS, SERVICES, Service, now_seconds, serving

MODEL = "claude-haiku-5-5"
WAIT_SECONDS = 30.0


@dataclass
class Scheduler(SchedulerServiceServicer):
    """Spawns whatever it is asked for, once for each tool call. `refusal` is raised, and `hold` waited for, before."""

    spawned: list[SpawnChild] = field(default_factory=list)
    asked: list[SpawnChild] = field(default_factory=list)
    sent: list[SendMessage] = field(default_factory=list)
    refusal: Refused | None = None
    hold: asyncio.Event | None = None

    async def Spawn(self, request: SpawnChild, context: object) -> SpawnedChild:
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal
        calls = [(child.turn, child.index) for child in self.spawned]
        if (request.turn, request.index) not in calls:
            self.spawned.append(request)
            calls.append((request.turn, request.index))
        if self.hold is not None:
            await self.hold.wait()
        number = calls.index((request.turn, request.index)) + 1
        return SpawnedChild(task_id=f"{names.node_of(request.task_id)}_c{number}-1", revision=number)

    async def Send(self, request: SendMessage, context: object) -> Receipt:
        if self.refusal is not None:
            raise self.refusal
        self.sent.append(request)
        return Receipt(revision=1)


@dataclass
class Desks:
    """Hosts work here, one after the other or one in place of another that was killed."""

    service: Service
    scheduler: Scheduler
    stub: Any
    directory: Path
    sandbox: Sandbox
    stack: AsyncExitStack
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    url: str = ""

    async def play(self, *steps: str) -> None:
        """The model plays these steps, as YAML."""
        path = self.directory / "script.yaml"
        path.write_text("name: desk\nscripts:\n  - steps:\n" + "".join(f"      - {step}\n" for step in steps))
        self.url = await self.stack.enter_async_context(serve_scripted(path))

    async def pin(self, user: UserRepository) -> None:
        """What HEAD of the user names is in the managed clone from then on."""
        await self.service.workspaces.Pin(PinBase(project_id=PROJECT, path=str(user.top)))

    def grant(self, node: Node, generation: int = 1, **other: Any) -> Grant:
        task = names.task_id(node.node_id, 1)
        token = auth.mint_claim_token(CLAIMS.signing_key, RUN, task, generation, now_seconds() + 60)
        grant = Grant(
            revision=generation,
            run_id=RUN,
            task_id=task,
            agent_id=names.agent_id(RUN, task),
            generation=generation,
            project_id=PROJECT,
            node=node,
            model=MODEL,
            allotment=Limit(usd_micros=5_000_000),
            prompt="Do it.",
            base_commits=[self.service.head],
            claim_token=token,
            title="A test",
        )
        for name, value in other.items():
            grant.ClearField(name)  # type: ignore[arg-type]
            grant.MergeFrom(Grant(**{name: value}))
        return grant

    def host(self, grant: Grant) -> Host:
        """As in a process of its own: it knows nothing but what the log says."""
        owner = Owner(self.service.log, rules, tenant=TENANT, clock=now_micros, code_version="test")
        executor = f"executor-{grant.generation}_x"
        shared = Shared(owner, self.blobs, now_micros, executor, self.stub, PriceList(), lambda: 0.0)
        workspace = Workspace(self.service.workspaces, grant)
        return Host(shared, Desk(grant, workspace, self.blobs, MemoryLive(), self.sandbox, self._find), grant)

    async def work(self, node: Node, generation: int = 1, **other: Any) -> Agent:
        """Until the agent has ended or has let go."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self.host(self.grant(node, generation, **other)).run()
        return await self.agent(node)

    async def killed(self, node: Node, condition: Callable[[Agent], bool], **other: Any) -> Agent:
        """As if the process were killed as soon as the condition holds in the log."""
        working = asyncio.ensure_future(self.host(self.grant(node, **other)).run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not condition(await self.agent(node)):
                    assert not working.done()
                    await asyncio.sleep(0.01)
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
        return await self.agent(node)

    async def facts(self, node: Node) -> list[Message]:
        return await self.service.facts("agent", names.agent_id(RUN, names.task_id(node.node_id, 1)))

    async def types(self, node: Node) -> list[str]:
        return [type(fact).__name__ for fact in await self.facts(node)]

    def subject(self, node: Node) -> AggregateId:
        return AggregateId(TENANT, rules.KIND, names.agent_id(RUN, names.task_id(node.node_id, 1)))

    def types_of(self, stored: Stored) -> list[str]:
        return [type(fact).__name__ for fact in codec.facts(Entry.FromString(stored.payload))]

    async def agent(self, node: Node) -> Agent:
        return fold(rules, await self.facts(node))

    async def asked_of_model(self) -> int:
        async with httpx2.AsyncClient(trust_env=False) as http:
            lines = (await http.get(f"{self.url}/ledger")).text.splitlines()
        return sum(json.loads(line)["status"] == 200 for line in lines)

    async def _find(self, grant: Grant, model: str) -> tuple[AnthropicModel, str]:
        client = AnthropicModel("sk-test-0123456789", self.url)
        self.stack.push_async_callback(client.close)
        return client, "scripted"


@asynccontextmanager
async def opened(user: UserRepository, directory: Path) -> AsyncIterator[Desks]:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(user, directory / "git"))
        scheduler = Scheduler()  # type: ignore[abstract]
        registration = Registration(
            "crewlog.v1.SchedulerService", add_SchedulerServiceServicer_to_server, scheduler, Access.SERVICE
        )
        verifier = Verifier(service_verify_key=SERVICES.verify_key)
        server = await start_server([registration], address="127.0.0.1:0", verifier=verifier, drain_seconds=0.5)
        stack.push_async_callback(server.stop)
        token = auth.mint_service_token(SERVICES.signing_key, "executor")
        channel = await stack.enter_async_context(dial(server.address, token))
        sandbox = Sandbox(Level.NONE)
        stack.push_async_callback(sandbox.close)
        yield Desks(service, scheduler, SchedulerServiceStub(channel), directory, sandbox, stack)
