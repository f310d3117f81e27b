"""The parts of the scheduler, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from crewlog.domain import run as rules
from crewlog.domain.names import TENANT
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import EventLog
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.runtime.serve import Access, Registration, RunningServer, Verifier, start_server
from crewlog.scheduler.checkpoint import Checkpoint
from crewlog.scheduler.claims import Claims
from crewlog.scheduler.config import Config
from crewlog.scheduler.finishing import Finisher
from crewlog.scheduler.fleet import Fleet
from crewlog.scheduler.reactor import Reactor
from crewlog.scheduler.server import SchedulerServer
from crewlog.scheduler.tail import Tail
from crewlog.v1.scheduler_pb2_grpc import add_SchedulerServiceServicer_to_server
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub

if TYPE_CHECKING:
    from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceAsyncStub

CLAIM_TOKEN_SECONDS = 24 * 3_600


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    log = await connect_log(config.nats_url, config.nats_user, config.nats_password, name="scheduler")
    git = dial(config.git_address, config.service_token)
    try:
        await work(config, log, WorkspaceServiceStub(git), stop)
    finally:
        await git.close()
        await log.close()


async def work(config: Config, log: EventLog, workspaces: WorkspaceServiceAsyncStub, stop: asyncio.Event) -> None:
    """The scheduler on any log."""
    owner = Owner(log, rules, tenant=TENANT, clock=now_micros, code_version=version("crewlog"))
    fleet = Fleet()
    finisher = Finisher(workspaces, now_micros)
    reactor = Reactor(owner, fleet, finisher, claim_signer(config.claim_signing_key), now_micros)
    claims = Claims(log, TENANT, fleet, reactor, now_micros)
    checkpoint = Checkpoint(config.data_directory / "scheduler" / "checkpoint.sqlite", log.epoch)
    tail = Tail(log, owner, reactor, claims, checkpoint)
    await tail.open()
    server = await _listen(config, SchedulerServer(owner, reactor, claims, tail, now_micros))
    following = asyncio.create_task(tail.follow())
    try:
        await _first_of(following, stop)
    finally:
        await server.stop()
        following.cancel()
        claims.stop()
        await tail.close()


def claim_signer(signing_key: str) -> Callable[[str, str, int], str]:
    def sign(run_id: str, task_id: str, generation: int) -> str:
        expires_at = time.time() + CLAIM_TOKEN_SECONDS
        return auth.mint_claim_token(signing_key, run_id, task_id, generation, int(expires_at))

    return sign


async def _listen(config: Config, servicer: SchedulerServer) -> RunningServer:
    registration = Registration(
        "crewlog.v1.SchedulerService", add_SchedulerServiceServicer_to_server, servicer, Access.SERVICE
    )
    verifier = Verifier(service_verify_key=config.service_verify_key)
    return await start_server([registration], address=config.address, verifier=verifier)


async def _first_of(following: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Waits for the signal; a tail that breaks is a bug, and ends the process with it."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if following.done():
        following.result()
