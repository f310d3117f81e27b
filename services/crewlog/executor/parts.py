"""What hosts need, put together: the same for agents in the executor's process and in processes of their own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from crewlog.domain.agent import decider as rules
from crewlog.domain.names import TENANT
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import BlobStore, EventLog, Live
from crewlog.executor.config import Config
from crewlog.executor.desk import Desk
from crewlog.executor.host import Host, Shared
from crewlog.executor.models import Models
from crewlog.executor.workspace import Workspace
from crewlog.models.prices import PriceList
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.tools import sandbox
from crewlog.v1.agent_pb2_grpc import CredentialServiceStub
from crewlog.v1.scheduler_pb2 import Grant
from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceStub
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Parts:
    host_for: Callable[[Grant], Host]
    scheduler: SchedulerServiceAsyncStub


@asynccontextmanager
async def opened(config: Config, log: EventLog, live: Live, blobs: BlobStore, executor_id: str) -> AsyncIterator[Parts]:
    """Raises Refused where the sandbox that is asked for cannot be had, or the price file is not valid."""
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(dial(config.scheduler_address, config.service_token))
        git = await stack.enter_async_context(dial(config.git_address, config.service_token))
        gateway = await stack.enter_async_context(dial(config.gateway_address, config.service_token))
        models = Models(CredentialServiceStub(gateway))
        stack.push_async_callback(models.close)
        level = await sandbox.choose(config.sandbox, path=config.search_path)
        stack.push_async_callback(level.close)
        workspaces, tasks = WorkspaceServiceStub(git), SchedulerServiceStub(scheduler)
        owner = Owner(log, rules, tenant=TENANT, clock=now_micros, code_version=version("crewlog"))
        price_list = PriceList.load(config.prices)
        shared = Shared(owner, blobs, now_micros, executor_id, tasks, price_list, random.random)

        def host_for(grant: Grant) -> Host:
            return Host(shared, Desk(grant, Workspace(workspaces, grant), blobs, live, level, models.find), grant)

        yield Parts(host_for, tasks)
