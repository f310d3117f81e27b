"""The parts of the executor, put together."""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING

from crewlog.domain import agent as rules
from crewlog.domain.names import TENANT
from crewlog.eventlog.blobs import FileBlobs
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.live import NatsLive
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import BlobStore, EventLog, Live
from crewlog.executor.config import Config
from crewlog.executor.desk import Desk
from crewlog.executor.host import Host, Shared
from crewlog.executor.models import Models
from crewlog.executor.synchronize import Worker
from crewlog.executor.workspace import Workspace
from crewlog.models import provider
from crewlog.models.prices import PriceList
from crewlog.runtime import failpoint_ports
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.runtime.serve import Verifier, start_server
from crewlog.tools import sandbox
from crewlog.v1.agent_pb2_grpc import CredentialServiceStub
from crewlog.v1.scheduler_pb2 import Grant
from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceStub
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Works until `stop` is set. Serves nothing but its health."""
    log = await connect_log(config.nats_url, config.nats_user, config.nats_password, name="executor")
    try:
        blobs = failpoint_ports.blobs(FileBlobs(config.data_directory / "blobs"))
        await work(config, failpoint_ports.log(log), NatsLive(log.connection), blobs, stop)
    finally:
        await log.close()


async def work(config: Config, log: EventLog, live: Live, blobs: BlobStore, stop: asyncio.Event) -> None:
    """The executor on any log."""
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(dial(config.scheduler_address, config.service_token))
        git = await stack.enter_async_context(dial(config.git_address, config.service_token))
        gateway = await stack.enter_async_context(dial(config.gateway_address, config.service_token))
        models = Models(CredentialServiceStub(gateway))
        stack.push_async_callback(models.close)
        level = await sandbox.choose(config.sandbox, path=config.search_path)
        stack.push_async_callback(level.close)
        workspaces = WorkspaceServiceStub(git)
        owner = Owner(log, rules, tenant=TENANT, clock=now_micros, code_version=version("crewlog"))
        tasks = SchedulerServiceStub(scheduler)
        price_list = PriceList.load(config.prices)
        executor_id = f"{config.name}_{secrets.token_hex(4)}"
        shared = Shared(owner, blobs, now_micros, executor_id, tasks, price_list, random.random)

        def desk_for(grant: Grant) -> Desk:
            return Desk(grant, Workspace(workspaces, grant), blobs, live, level, models.find)

        def host_for(grant: Grant) -> Host:
            return Host(shared, desk_for(grant), grant)

        worker = Worker(executor_id, config.slots, config.labels, host_for)
        stack.push_async_callback(worker.stop)
        verifier = Verifier(service_verify_key=config.service_verify_key)
        server = await start_server([], address=config.address, verifier=verifier)
        stack.push_async_callback(server.stop)
        await _until(stop, worker, tasks)


async def _until(stop: asyncio.Event, worker: Worker, scheduler: SchedulerServiceAsyncStub) -> None:
    """The model's client is loaded while the first grant is on its way."""
    background = [asyncio.create_task(worker.run(scheduler)), asyncio.create_task(provider.warm_up())]
    await stop.wait()
    await worker.drain()
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
