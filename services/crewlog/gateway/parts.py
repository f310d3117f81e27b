"""The parts of the gateway, put together over whatever log, blobs and live plane they are given."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import grpc
from crewlog.domain import project as rules
from crewlog.domain.errors import Unavailable
from crewlog.domain.names import TENANT
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import BlobStore, EventLog, Live
from crewlog.gateway.admission import AdmissionServer
from crewlog.gateway.budgets import BudgetServer, BudgetTree, GateServer
from crewlog.gateway.config import Config
from crewlog.gateway.costing import CostServer
from crewlog.gateway.credentials import CredentialServer
from crewlog.gateway.projection import Projection
from crewlog.gateway.projects import Projects, ProjectServer
from crewlog.gateway.reading import AgentServer, EventServer, FileServer
from crewlog.gateway.runs import RunServer, Scheduler
from crewlog.gateway.server import Servers, registrations
from crewlog.gateway.starting import LoadWorkflow, Starting
from crewlog.models.prices import PriceList
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.runtime.serve import RunningServer, Verifier, start_server
from crewlog.v1.admission_pb2_grpc import AdmissionServiceStub
from crewlog.v1.budget_service_pb2_grpc import BudgetServiceStub, GateServiceStub
from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceStub
from crewlog.v1.workspace_pb2_grpc import FileServiceStub, WorkspaceServiceStub

READY_SECONDS_MAX = 10.0
PROJECTION = Path("gateway", "projection.sqlite")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Storage:
    """What the gateway stands on."""

    log: EventLog
    blobs: BlobStore
    live: Live


class Gateway:
    """A gateway that serves. It is ready once reads show what the log held when it started; where that takes long,
    before: commands go on, and reads wait."""

    def __init__(self, server: RunningServer, projection: Projection, following: asyncio.Task[None]) -> None:
        self.server = server
        self.projection = projection
        self._following = following

    async def until(self, stop: asyncio.Event) -> None:
        """A tail that breaks is a bug, and ends the process with it."""
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((self._following, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._following.done():
            self._following.result()


@asynccontextmanager
async def running(config: Config, storage: Storage, load_workflow: LoadWorkflow) -> AsyncIterator[Gateway]:
    """Serves inside the context."""
    projection = Projection(config.data_directory / PROJECTION, storage.log)
    await projection.open()
    following = asyncio.create_task(projection.follow())
    scheduler, git = (dial(address, config.service_token) for address in (config.scheduler_address, config.git_address))
    server = await _listen(config, _servers(config, storage, projection, load_workflow, scheduler, git))
    try:
        await _until_ready(server, projection, following)
        yield Gateway(server, projection, following)
    finally:
        await server.stop()
        await asyncio.gather(scheduler.close(), git.close())
        following.cancel()
        await asyncio.wait([following])
        await projection.close()


async def _until_ready(server: RunningServer, projection: Projection, following: asyncio.Task[None]) -> None:
    catching_up = asyncio.create_task(projection.caught_up(READY_SECONDS_MAX))
    await asyncio.wait((catching_up, following), return_when=asyncio.FIRST_COMPLETED)
    if following.done():
        catching_up.cancel()
        following.result()
    try:
        await catching_up
    except Unavailable as behind:
        logger.warning("%s; the rest is being read", behind)
    await server.set_ready(True)


def _servers(
    config: Config,
    storage: Storage,
    projection: Projection,
    load_workflow: LoadWorkflow,
    scheduler: grpc.aio.Channel,
    git: grpc.aio.Channel,
) -> Servers:
    workspaces, commands = WorkspaceServiceStub(git), SchedulerServiceStub(scheduler)
    owner = Owner(storage.log, rules, tenant=TENANT, clock=now_micros, code_version=version("crewlog"))
    projects = Projects(owner, projection, workspaces.Pin, now_micros)
    starting = Starting(load_workflow, PriceList.load(config.prices).price_of, workspaces.Pin, config.model, now_micros)
    budgets = BudgetServiceStub(scheduler)
    tree = BudgetTree(budgets)
    forwarded = Scheduler(commands, tree.charged)
    return Servers(
        runs=RunServer(projection, projects, starting, forwarded, storage.live),
        projects=ProjectServer(projects, projection),
        agents=AgentServer(projection),
        events=EventServer(projection, storage.log, storage.blobs, config.model),
        files=FileServer(projects, FileServiceStub(git)),
        credentials=CredentialServer(projection, config.model),
        budgets=BudgetServer(budgets, tree, projects),
        gates=GateServer(GateServiceStub(scheduler), projection),
        costs=CostServer(projection),
        admission=AdmissionServer(AdmissionServiceStub(scheduler)),
    )


async def _listen(config: Config, servers: Servers) -> RunningServer:
    verifier = Verifier(config.client_token, config.service_verify_key, config.claim_verify_key)
    return await start_server(registrations(servers), address=config.address, verifier=verifier, ready=False)
