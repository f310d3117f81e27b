"""The executor, put together."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from crewlog.eventlog.blobs import FileBlobs
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.live import NatsLive
from crewlog.eventlog.port import BlobStore, EventLog, Live
from crewlog.executor import agent_process, parts
from crewlog.executor.config import Config, Isolation
from crewlog.executor.hosting import Hosting
from crewlog.executor.synchronize import Worker
from crewlog.models import provider
from crewlog.runtime import failpoint_ports
from crewlog.runtime.serve import Verifier, start_server
from crewlog.v1.scheduler_pb2 import Grant

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
    """The executor on any log; agents in processes of their own need one that they can reach."""
    executor_id = f"{config.name}_{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(parts.opened(config, log, live, blobs, executor_id))
        host_for = _host_for(config, executor_id, opened)
        worker = Worker(executor_id, config.slots, config.labels, host_for)
        stack.push_async_callback(worker.stop)
        verifier = Verifier(service_verify_key=config.service_verify_key)
        server = await start_server([], address=config.address, verifier=verifier)
        stack.push_async_callback(server.stop)
        await _until(stop, worker, opened.scheduler)


def _host_for(config: Config, executor_id: str, opened: parts.Parts) -> Callable[[Grant], Hosting]:
    if config.isolation is Isolation.NONE:
        return opened.host_for
    nursery = agent_process.Nursery(config, executor_id)
    return lambda grant: opened.host_for(grant) if grant.node.HasField("noop") else nursery.host_for(grant)


async def _until(stop: asyncio.Event, worker: Worker, scheduler: SchedulerServiceAsyncStub) -> None:
    """The model's client is loaded while the first grant is on its way."""
    background = [asyncio.create_task(worker.run(scheduler)), asyncio.create_task(provider.warm_up())]
    await stop.wait()
    await worker.drain()
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
