"""A gateway over real gRPC, with the log in memory. The scheduler decides by the real rules; git only pins."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from crewlog.crews import load_workflow
from crewlog.domain import budget
from crewlog.domain.agent import decider as agent
from crewlog.domain.errors import InvalidCommand, NotFound
from crewlog.domain.run import decider as run
from crewlog.eventlog.memory import MemoryBlobs, MemoryLive, MemoryLog
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.owner import Meta, Owner
from crewlog.eventlog.port import AggregateId
from crewlog.gateway.config import Config, ModelAccess
from crewlog.gateway.parts import Gateway, Storage, running
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.runtime.serve import Access, Registration, Verifier, start_server
from crewlog.v1.admission_pb2 import AdmissionLimit, AdmissionLimitList, ListAdmissionLimits, SetAdmissionLimit
from crewlog.v1.admission_pb2_grpc import (
    AdmissionServiceServicer,
    AdmissionServiceStub,
    add_AdmissionServiceServicer_to_server,
)
from crewlog.v1.agent_pb2 import FinishAgent, HostAgent
from crewlog.v1.agent_pb2_grpc import AgentServiceStub
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.budget_pb2 import Amounts, BudgetView, LowerBudget, RaiseBudget, SetBudget
from crewlog.v1.budget_service_pb2 import BudgetList, GateList, GetBudget, ListBudgets, ListGates
from crewlog.v1.budget_service_pb2_grpc import (
    BudgetServiceServicer,
    BudgetServiceStub,
    CostServiceStub,
    GateServiceServicer,
    GateServiceStub,
    add_BudgetServiceServicer_to_server,
    add_GateServiceServicer_to_server,
)
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.events_pb2_grpc import EventServiceStub
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.project_pb2_grpc import ProjectServiceStub
from crewlog.v1.recovery_pb2 import RecoverRun
from crewlog.v1.run_pb2 import (
    AnswerGate,
    ClaimTask,
    EndTask,
    FinishRun,
    Node,
    NoopNode,
    StartRun,
    TaskResult,
    Workflow,
)
from crewlog.v1.run_service_pb2_grpc import RunServiceStub
from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceServicer, add_SchedulerServiceServicer_to_server
from crewlog.v1.waiting_pb2 import ExplainWaiting, Waiting
from crewlog.v1.workspace_pb2 import FileContent, PinBase, PinnedBase, ReadFile
from crewlog.v1.workspace_pb2_grpc import (
    FileServiceServicer,
    FileServiceStub,
    WorkspaceServiceServicer,
    add_FileServiceServicer_to_server,
    add_WorkspaceServiceServicer_to_server,
)

from tests.service.gateway.program import Program

CLIENT_TOKEN = "client-token"
BASE_COMMIT = "b" * 40
NOOP = Workflow(name="noop", version="1", nodes=[Node(node_id="a", noop=NoopNode(steps=1))])
MODEL = ModelAccess(api_key="sk-secret", base_url="http://127.0.0.1:9", default_model="claude-sonnet-4-5")


class Scheduler(SchedulerServiceServicer):
    """Commands on runs by the real rules."""

    def __init__(self, owner: Owner[Any]) -> None:
        self.owner = owner
        self.started: list[StartRun] = []
        self.asked: list[Any] = []
        self.waiting = Waiting()

    async def Start(self, request: StartRun, context: Any) -> Receipt:
        self.started.append(request)
        meta = Meta("start", auth.current_principal(), request.run_id)
        return Receipt(revision=(await self.owner.handle(request.run_id, request, meta)).revision)

    async def _control(self, request: Any, context: Any) -> Receipt:
        """As the scheduler does: it stamps the time."""
        self.asked.append(request)
        meta = Meta("control", auth.current_principal(), request.run_id)
        command = type(request)()
        command.CopyFrom(request)
        command.at_unix_micros = now_micros()
        return Receipt(revision=(await self.owner.handle(request.run_id, command, meta)).revision)

    Cancel = CancelTask = Pause = Resume = Retry = Send = Signal = _control

    async def Explain(self, request: ExplainWaiting, context: Any) -> Waiting:
        self.asked.append(request)
        return self.waiting

    async def Spawn(self, request: Any, context: Any) -> Any:
        raise AssertionError("the gateway does not ask for children")

    async def Recover(self, request: RecoverRun, context: Any) -> Receipt:
        self.asked.append(request)
        return Receipt(revision=(await self.owner.state(request.run_id))[1])

    async def Grow(self, request: Any, context: Any) -> Any:
        raise AssertionError("the gateway does not ask for allotments")

    async def Synchronize(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for report in request_iterator:
            yield report


class Limits(AdmissionServiceServicer):
    """Keeps the last limit of each name."""

    def __init__(self) -> None:
        self.set: dict[str, SetAdmissionLimit] = {}

    async def Set(self, request: SetAdmissionLimit, context: Any) -> Receipt:
        self.set[request.name] = request
        return Receipt(revision=len(self.set))

    async def List(self, request: ListAdmissionLimits, context: Any) -> AdmissionLimitList:
        limits = [
            AdmissionLimit(dimension=it.dimension, name=it.name, tasks_max=it.tasks_max) for it in self.set.values()
        ]
        return AdmissionLimitList(limits=limits)


class Budgets(BudgetServiceServicer):
    """By the real rules; nothing waits for anything."""

    def __init__(self, budgets: Owner[Any]) -> None:
        self.budgets = budgets
        self.ids: list[str] = []

    async def Set(self, request: SetBudget, context: Any) -> Receipt:
        self.ids.append(request.budget_id)
        return await self._handle(request)

    async def Raise(self, request: RaiseBudget, context: Any) -> Receipt:
        return await self._handle(request)

    async def Lower(self, request: LowerBudget, context: Any) -> Receipt:
        return await self._handle(request)

    async def Get(self, request: GetBudget, context: Any) -> BudgetView:
        state, revision = await self.budgets.state(request.budget_id)
        if not budget.is_set(state):
            raise NotFound(f"budget {request.budget_id!r} is not set")
        return budget.view(state, revision=revision)

    async def List(self, request: ListBudgets, context: Any) -> BudgetList:
        found = [await self.budgets.state(budget_id) for budget_id in dict.fromkeys(self.ids)]
        return BudgetList(budgets=[budget.view(state, revision=revision) for state, revision in found])

    async def _handle(self, command: Any) -> Receipt:
        meta = Meta("budget", auth.current_principal(), correlation_id="")
        return Receipt(revision=(await self.budgets.handle(command.budget_id, command, meta)).revision)


class Gates(GateServiceServicer):
    """Answers of gates that ask for the run's own money, by the real rules."""

    def __init__(self, runs: Owner[Any]) -> None:
        self.runs = runs
        self.answers: list[AnswerGate] = []

    async def Answer(self, request: AnswerGate, context: Any) -> Receipt:
        self.answers.append(request)
        meta = Meta("answer", auth.current_principal(), request.run_id)
        return Receipt(revision=(await self.runs.handle(request.run_id, request, meta)).revision)

    async def List(self, request: ListGates, context: Any) -> GateList:
        raise AssertionError("the gateway lists gates")


class Git(WorkspaceServiceServicer, FileServiceServicer):
    """Knows repositories by their path: whatever begins with /repos."""

    def __init__(self) -> None:
        self.pinned: list[PinBase] = []

    async def Pin(self, request: PinBase, context: Any) -> PinnedBase:
        if not request.path.startswith("/repos/"):
            raise InvalidCommand(f"{request.path} is no git repository", violations={"path": "is no git repository"})
        if request.base not in ("", "main"):
            raise NotFound(f"there is no commit {request.base!r}")
        self.pinned.append(request)
        return PinnedBase(commit=BASE_COMMIT)

    async def Read(self, request: ReadFile, context: Any) -> FileContent:
        return FileContent(content=f"{request.project_id} {request.path}".encode(), mode="100644")

    async def _none(self, request: Any, context: Any) -> Any:
        raise AssertionError("nobody asks for this")

    Prepare = Snapshot = Restore = Commit = Merge = Remove = Deliver = List = Compare = _none


class World:
    """A gateway and what it stands on; `restart` makes a new gateway over the same log and file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = MemoryLog()
        self.blobs, self.live = MemoryBlobs(), MemoryLive()
        self.services, self.claims = auth.new_keypair(), auth.new_keypair()
        self.service_token = auth.mint_service_token(self.services.signing_key, "executor")
        options = {"tenant": "local", "clock": now_micros, "code_version": "test"}
        self.runs: Owner[Any] = Owner(self.log, run, **options)  # type: ignore[arg-type]
        self.agents: Owner[Any] = Owner(self.log, agent, **options)  # type: ignore[arg-type]
        self.scheduler, self.git = Scheduler(self.runs), Git()
        self.budgets = Budgets(Owner(self.log, budget, **options))  # type: ignore[arg-type]
        self.gates, self.limits = Gates(self.runs), Limits()
        self.model = MODEL
        self.prices: Path | None = None
        self.noop = NOOP
        self.token = CLIENT_TOKEN
        self._around = AsyncExitStack()
        self._gateway = AsyncExitStack()

    @property
    def projection_file(self) -> Path:
        return self.directory / "gateway" / "projection.sqlite"

    async def open(self) -> None:
        verifier = Verifier(service_verify_key=self.services.verify_key)
        servers: list[list[tuple[str, Any, Any]]] = [
            [
                ("SchedulerService", add_SchedulerServiceServicer_to_server, self.scheduler),
                ("BudgetService", add_BudgetServiceServicer_to_server, self.budgets),
                ("GateService", add_GateServiceServicer_to_server, self.gates),
                ("AdmissionService", add_AdmissionServiceServicer_to_server, self.limits),
            ],
            [
                ("WorkspaceService", add_WorkspaceServiceServicer_to_server, self.git),
                ("FileService", add_FileServiceServicer_to_server, self.git),
            ],
        ]
        self.addresses = []
        for services in servers:
            registrations = [Registration(f"crewlog.v1.{name}", add, it, Access.SERVICE) for name, add, it in services]
            server = await start_server(registrations, address="127.0.0.1:0", verifier=verifier, drain_seconds=0.2)
            self._around.push_async_callback(server.stop)
            self.addresses.append(server.address)
        await self.start_gateway()

    async def start_gateway(self) -> None:
        config = Config(
            data_directory=self.directory,
            nats_url="",
            nats_user="",
            nats_password="",
            address="127.0.0.1:0",
            scheduler_address=self.addresses[0],
            git_address=self.addresses[1],
            client_token=CLIENT_TOKEN,
            service_token=auth.mint_service_token(self.services.signing_key, "gateway"),
            service_verify_key=self.services.verify_key,
            claim_verify_key=self.claims.verify_key,
            model=self.model,
            prices=self.prices,
        )
        storage = Storage(self.log, self.blobs, self.live)
        self.gateway: Gateway = await self._gateway.enter_async_context(running(config, storage, self.load_workflow))
        self.address = self.gateway.server.address
        self.channel = await self._gateway.enter_async_context(dial(self.address, CLIENT_TOKEN))
        self.run_service, self.project_service = RunServiceStub(self.channel), ProjectServiceStub(self.channel)
        self.event_service, self.file_service = EventServiceStub(self.channel), FileServiceStub(self.channel)
        self.agent_service, self.cost_service = AgentServiceStub(self.channel), CostServiceStub(self.channel)
        self.budget_service, self.gate_service = BudgetServiceStub(self.channel), GateServiceStub(self.channel)
        self.admission_service = AdmissionServiceStub(self.channel)

    def load_workflow(self, name: str, repository: Path) -> Workflow:
        return self.noop if name == "noop" else load_workflow(name, [repository])

    async def stop_gateway(self) -> None:
        await self._gateway.aclose()
        self._gateway = AsyncExitStack()

    async def restart(self) -> None:
        await self.stop_gateway()
        await self.start_gateway()

    async def close(self) -> None:
        await self._gateway.aclose()
        await self._around.aclose()

    async def register(self, path: str = "/repos/slug") -> str:
        return (await self.project_service.Register(RegisterProject(path=path))).project_id

    async def start_run(self, run_id: str, project_id: str, **changes: Any) -> int:
        request = StartRun(run_id=run_id, project_id=project_id, workflow_name="noop", input="do it")
        request.MergeFrom(StartRun(**changes))
        return (await self.run_service.Start(request)).revision

    async def claim(self, run_id: str, task_id: str = "a-1") -> int:
        command = ClaimTask(run_id=run_id, task_id=task_id, executor_id="e-1", at_unix_micros=now_micros())
        return await self._run(command)

    async def host(self, run_id: str, task_id: str = "a-1") -> int:
        """The agent of the task begins, and has ended when its steps are done."""
        agent_id = f"{run_id}_{task_id}"
        command = HostAgent(
            agent_id=agent_id, run_id=run_id, task_id=task_id, generation=1, executor_id="e-1", noop=NoopNode(steps=1)
        )
        return (await self.agents.handle(agent_id, command, Meta("host", "service:executor", run_id))).revision

    async def act(self, run_id: str, task_id: str, *commands: Any) -> int:
        """What the agent of a task does, by the real rules."""
        agent_id, revision = f"{run_id}_{task_id}", 0
        for command in commands:
            command.agent_id = agent_id
            command.generation = command.generation or 1
            outcome = await self.agents.handle(agent_id, command, Meta("act", "service:executor", run_id))
            revision = outcome.revision
        return revision

    async def run_command(self, command: Any) -> int:
        """A command on a run, by the real rules."""
        return await self._run(command)

    async def finish(self, run_id: str, task_id: str = "a-1") -> int:
        """The task succeeds and the run is over."""
        at = now_micros()
        await self._run(
            EndTask(
                run_id=run_id,
                task_id=task_id,
                succeeded=TaskResult(summary="done", cost_usd_micros=5, spent=Amounts(usd_micros=5)),
                at_unix_micros=at,
            )
        )
        return await self._run(FinishRun(run_id=run_id, at_unix_micros=at))

    async def finish_agent(self, run_id: str, task_id: str = "a-1") -> int:
        agent_id = f"{run_id}_{task_id}"
        command = FinishAgent(agent_id=agent_id, generation=1, cancelled=TaskResult(summary="stopped"))
        return (await self.agents.handle(agent_id, command, Meta("end", "service:executor", run_id))).revision

    async def append_raw(self, kind: str, id: str, entry: Entry) -> int:
        """Appends whatever it is, behind the last entry of the aggregate."""
        aggregate = AggregateId("local", kind, id)
        known = await self.log.read(aggregate)
        return await self.log.append(aggregate, entry.SerializeToString(), known[-1].revision if known else 0)

    async def _run(self, command: Any) -> int:
        meta = Meta("command", "service:scheduler", command.run_id)
        return (await self.runs.handle(command.run_id, command, meta)).revision


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.open()
    yield world
    await world.close()


@pytest.fixture
async def gateway(tmp_path: Path, own_nats_server: NatsServer) -> AsyncIterator[Program]:
    """A process, on a log of its own: others append to the shared one what is no entry."""
    gateway = Program(tmp_path, own_nats_server)
    await gateway.start()
    yield gateway
    if gateway.process is not None and gateway.process.returncode is None:
        await gateway.end(signal.SIGKILL)
