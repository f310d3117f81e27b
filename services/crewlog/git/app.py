"""The parts of the git service, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

from crewlog.domain import change, workspace
from crewlog.domain.names import TENANT
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import EventLog
from crewlog.git.config import Config
from crewlog.git.one_at_a_time import OneAtATime
from crewlog.git.repository import Git
from crewlog.git.server import FileServer, Host, WorkspaceServer
from crewlog.runtime import failpoint_ports
from crewlog.runtime.clock import now_micros
from crewlog.runtime.serve import Access, Registration, RunningServer, Verifier, start_server
from crewlog.v1.workspace_pb2_grpc import (
    add_FileServiceServicer_to_server,
    add_WorkspaceServiceServicer_to_server,
)


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Raises Unavailable when there is no git, or one that is too old."""
    log = await connect_log(config.nats_url, config.nats_user, config.nats_password, name="git")
    try:
        async with running(config, failpoint_ports.log(log)):
            await stop.wait()
    finally:
        await log.close()


@asynccontextmanager
async def running(config: Config, log: EventLog) -> AsyncIterator[RunningServer]:
    """The git service on any log."""
    git = Git(config.directory, config.search_path)
    git.check_version()
    code_version = version("crewlog")
    workspaces = Owner(log, workspace, tenant=TENANT, clock=now_micros, code_version=code_version)
    changes = Owner(log, change, tenant=TENANT, clock=now_micros, code_version=code_version)
    one_at_a_time = OneAtATime()
    with ThreadPoolExecutor(config.commands_at_once, "git") as threads:
        host = Host(git, config.directory, threads)
        server = await _listen(config, WorkspaceServer(host, workspaces, changes, one_at_a_time), FileServer(host))
        try:
            yield server
        finally:
            await server.stop()
            await one_at_a_time.wait_until_idle()


async def _listen(config: Config, workspaces: WorkspaceServer, files: FileServer) -> RunningServer:
    registrations = [
        Registration("crewlog.v1.WorkspaceService", add_WorkspaceServiceServicer_to_server, workspaces, Access.SERVICE),
        Registration("crewlog.v1.FileService", add_FileServiceServicer_to_server, files, Access.SERVICE),
    ]
    verifier = Verifier(service_verify_key=config.service_verify_key, claim_verify_key=config.claim_verify_key)
    return await start_server(registrations, address=config.address, verifier=verifier)
