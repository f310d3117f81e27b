"""The parts of the scheduler, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from crewlog.domain import agent as agent_rules
from crewlog.domain import budget
from crewlog.domain import run as rules
from crewlog.domain.names import TENANT
from crewlog.domain.run_state import Run
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import EventLog
from crewlog.runtime import auth, failpoint_ports
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.runtime.serve import Access, Registration, RunningServer, Verifier, start_server
from crewlog.scheduler.allotments import Allotments
from crewlog.scheduler.checkpoint import Checkpoint
from crewlog.scheduler.claims import Claims
from crewlog.scheduler.closing import Closer
from crewlog.scheduler.config import Config
from crewlog.scheduler.dispatch import Dispatch
from crewlog.scheduler.finishing import Finisher
from crewlog.scheduler.fleet import Fleet
from crewlog.scheduler.funding import Funding
from crewlog.scheduler.money_server import BudgetServer, GateServer, RunMoney
from crewlog.scheduler.reactor import Reactor
from crewlog.scheduler.server import SchedulerServer
from crewlog.scheduler.tail import Tail
from crewlog.scheduler.timers import Timers
from crewlog.v1.budget_service_pb2_grpc import add_BudgetServiceServicer_to_server, add_GateServiceServicer_to_server
from crewlog.v1.scheduler_pb2_grpc import add_SchedulerServiceServicer_to_server
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub

if TYPE_CHECKING:
    from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceAsyncStub

CLAIM_TOKEN_SECONDS = 24 * 3_600
RECONCILE_SECONDS = 30.0


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    log = await connect_log(config.nats_url, config.nats_user, config.nats_password, name="scheduler")
    git = dial(config.git_address, config.service_token)
    try:
        await work(config, failpoint_ports.log(log), WorkspaceServiceStub(git), stop)
    finally:
        await git.close()
        await log.close()


async def work(config: Config, log: EventLog, workspaces: WorkspaceServiceAsyncStub, stop: asyncio.Event) -> None:
    """The scheduler on any log."""
    parts = build(config, log, workspaces)
    await parts.tail.open()
    server = await _listen(config, parts)
    working = [
        asyncio.create_task(parts.tail.follow()),
        asyncio.create_task(parts.claims.watch()),
        asyncio.create_task(_reconcile(parts)),
    ]
    try:
        await _first_of(working, stop)
    finally:
        await server.stop()
        for task in working:
            task.cancel()
        parts.claims.stop()
        parts.timers.stop()
        parts.closer.stop()
        await parts.tail.close()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a scheduler is made of."""

    owner: Owner[Run]
    reactor: Reactor
    claims: Claims
    tail: Tail
    allotments: Allotments
    timers: Timers
    closer: Closer


def build(config: Config, log: EventLog, workspaces: WorkspaceServiceAsyncStub) -> Parts:
    code = version("crewlog")
    owner = Owner(log, rules, tenant=TENANT, clock=now_micros, code_version=code)
    budgets = Owner(log, budget, tenant=TENANT, clock=now_micros, code_version=code)
    agents = Owner(log, agent_rules, tenant=TENANT, clock=now_micros, code_version=code)
    fleet, allotments, timers, closer = Fleet(), Allotments(now_micros), Timers(now_micros), Closer(agents, now_micros)
    allotments.funding = Funding(budgets, now_micros, allotments.on_room)
    finisher = Finisher(workspaces, now_micros)
    dispatch = Dispatch(fleet, claim_signer(config.claim_signing_key), now_micros)
    reactor = Reactor(owner, dispatch, finisher, allotments, timers, closer, now_micros)
    allotments.wake = timers.wake = closer.wake = reactor.wake
    claims = Claims(log, TENANT, fleet, reactor, closer, now_micros)
    checkpoint = Checkpoint(config.data_directory / "scheduler" / "checkpoint.sqlite", log.epoch)
    tail = Tail(log, owner, reactor, claims, allotments.funding, checkpoint)
    return Parts(owner, reactor, claims, tail, allotments, timers, closer)


async def _reconcile(parts: Parts) -> None:
    """Closes allotments that a crash has left open, and lets those go on that a crash or a new period would have: now,
    and again and again.
    """

    async def find_run(run_id: str) -> Run:
        run, _ = await parts.owner.state(run_id)
        return run

    while True:
        await parts.allotments.funding.reconcile(find_run)
        for budget_id in parts.allotments.funding.known:
            await parts.allotments.on_room(budget_id)
        await asyncio.sleep(RECONCILE_SECONDS)


def claim_signer(signing_key: str) -> Callable[[str, str, int], str]:
    def sign(run_id: str, task_id: str, generation: int) -> str:
        expires_at = time.time() + CLAIM_TOKEN_SECONDS
        return auth.mint_claim_token(signing_key, run_id, task_id, generation, int(expires_at))

    return sign


async def _listen(config: Config, parts: Parts) -> RunningServer:
    money = RunMoney(parts.owner, parts.allotments, parts.reactor.changed, now_micros)
    runs = SchedulerServer(parts.owner, parts.reactor, parts.claims, parts.tail, money, now_micros)
    budgets = BudgetServer(parts.allotments, money, now_micros)
    gates = GateServer(parts.allotments, money, now_micros)
    served = [
        Registration("crewlog.v1.SchedulerService", add_SchedulerServiceServicer_to_server, runs, Access.SERVICE),
        Registration("crewlog.v1.BudgetService", add_BudgetServiceServicer_to_server, budgets, Access.SERVICE),
        Registration("crewlog.v1.GateService", add_GateServiceServicer_to_server, gates, Access.SERVICE),
    ]
    verifier = Verifier(service_verify_key=config.service_verify_key)
    return await start_server(served, address=config.address, verifier=verifier)


async def _first_of(working: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Waits for the signal; a part that breaks is a bug, and ends the process with it."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((*working, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in working:
        if task.done():
            task.result()
