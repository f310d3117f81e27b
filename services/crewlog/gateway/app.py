"""The gateway on the real log, from its configuration."""

from __future__ import annotations

import asyncio
from pathlib import Path

from crewlog.crews import load_workflow
from crewlog.eventlog.blobs import FileBlobs
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.live import NatsLive
from crewlog.gateway.config import Config
from crewlog.gateway.parts import Storage, running
from crewlog.models import prices
from crewlog.runtime import failpoint_ports
from crewlog.v1.run_pb2 import Workflow

BLOBS = "blobs"
PROJECT_FILES = ".crewlog"


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    log = await connect_log(config.nats_url, config.nats_user, config.nats_password, name="gateway")
    try:
        blobs = failpoint_ports.blobs(FileBlobs(config.data_directory / BLOBS))
        storage = Storage(failpoint_ports.log(log), blobs, NatsLive(log.connection))
        async with running(config, storage, _load_workflow) as gateway:
            await asyncio.to_thread(prices.warm_up)
            await gateway.until(stop)
    finally:
        await log.close()


def _load_workflow(name: str, repository: Path) -> Workflow:
    """What the repository itself defines wins over what is built in."""
    return load_workflow(name, [repository / PROJECT_FILES])
