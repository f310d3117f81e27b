"""The parts of the scheduler, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from crewlog.domain import admission, budget
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.names import TENANT
from crewlog.domain.run import decider as rules
from crewlog.domain.run.state import Run
from crewlog.eventlog import connection as connections
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.jetstream_leases import JetStreamLeases
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import EventLog
from crewlog.runtime import auth, failpoint_ports
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.runtime.serve import DRAIN_SECONDS, Access, Registration, RunningServer, Verifier, start_server
from crewlog.scheduler.admission_server import AdmissionServer
from crewlog.scheduler.allotments import Allotments
from crewlog.scheduler.checkpoint import Checkpoint
from crewlog.scheduler.child_money import ChildMoney
from crewlog.scheduler.child_runs import ChildRuns
from crewlog.scheduler.claims import Claims
from crewlog.scheduler.closing import Closer
from crewlog.scheduler.config import Config
from crewlog.scheduler.dispatch import Dispatch
from crewlog.scheduler.ends import Ends
from crewlog.scheduler.finishing import Finisher
from crewlog.scheduler.fleet import Fleet
from crewlog.scheduler.following import Following
from crewlog.scheduler.funding import Funding
from crewlog.scheduler.lease import Candidate, IsLeading
from crewlog.scheduler.led_log import LedLog
from crewlog.scheduler.merging import Merger
from crewlog.scheduler.money_server import BudgetServer, GateServer, RunMoney
from crewlog.scheduler.reactor import Reactor
from crewlog.scheduler.server import SchedulerServer
from crewlog.scheduler.tail import Tail
from crewlog.scheduler.timers import Timers
from crewlog.scheduler.waiting import Explainer
from crewlog.v1.admission_pb2_grpc import add_AdmissionServiceServicer_to_server
from crewlog.v1.budget_service_pb2_grpc import add_BudgetServiceServicer_to_server, add_GateServiceServicer_to_server
from crewlog.v1.scheduler_pb2_grpc import add_SchedulerServiceServicer_to_server
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub

if TYPE_CHECKING:
    from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceAsyncStub

CLAIM_TOKEN_SECONDS = 24 * 3_600
RECONCILE_SECONDS = 30.0


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Leads whenever it can, and stands by else, until `stop` is set."""
    async with AsyncExitStack() as stack:
        log = await connect_log(config.nats_url, config.nats_user, config.nats_password, name="scheduler")
        stack.push_async_callback(log.close)
        # A connection of its own: renewals wait for nothing else.
        leases = await connections.connect(
            config.nats_url, config.nats_user, config.nats_password, name="scheduler-lease"
        )
        stack.push_async_callback(leases.close)
        git = await stack.enter_async_context(dial(config.git_address, config.service_token))
        workspaces, led = WorkspaceServiceStub(git), failpoint_ports.log(log)
        candidate = Candidate(JetStreamLeases(leases), config.name)
        await candidate.run(lambda is_leading, over: work(config, led, workspaces, over, is_leading), stop)


async def work(
    config: Config,
    log: EventLog,
    workspaces: WorkspaceServiceAsyncStub,
    stop: asyncio.Event,
    is_leading: IsLeading = lambda: True,
) -> None:
    """The scheduler that leads, on any log, until `stop` is set. When it does not lead any more, it just stops."""
    parts = build(config, log, workspaces, is_leading)
    try:
        await _first_of([parts.tail.open()], stop)
        if not stop.is_set():
            await _serve(config, parts, stop, is_leading)
    finally:
        parts.stop()
        await parts.tail.close()


async def _serve(config: Config, parts: Parts, stop: asyncio.Event, is_leading: IsLeading) -> None:
    server = await _listen(config, parts)
    try:
        await _first_of([parts.tail.follow(), parts.tail.look_again(), parts.claims.watch(), _reconcile(parts)], stop)
    finally:
        await server.stop(DRAIN_SECONDS if is_leading() else 0)


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
    finisher: Finisher
    child_money: ChildMoney
    child_runs: ChildRuns
    merger: Merger
    limits: AdmissionServer
    explainer: Explainer

    def stop(self) -> None:
        """Whatever is done in the background ends: nothing of it may go on when another scheduler leads."""
        self.claims.stop()
        self.timers.stop()
        self.closer.stop()
        self.finisher.stop()
        self.child_runs.stop()
        self.merger.stop()
        self.allotments.funding.stop()
        self.reactor.stop()


def build(
    config: Config, log: EventLog, workspaces: WorkspaceServiceAsyncStub, is_leading: IsLeading = lambda: True
) -> Parts:
    code, log = version("crewlog"), LedLog(log, is_leading)
    owner = Owner(log, rules, tenant=TENANT, clock=now_micros, code_version=code)
    budgets = Owner(log, budget, tenant=TENANT, clock=now_micros, code_version=code)
    agents = Owner(log, agent_rules, tenant=TENANT, clock=now_micros, code_version=code)
    fleet, allotments, timers, closer = Fleet(), Allotments(now_micros), Timers(now_micros), Closer(agents, now_micros)
    allotments.funding = Funding(budgets, now_micros, allotments.on_room)
    finisher = Finisher(workspaces, now_micros)
    dispatch = Dispatch(fleet, claim_signer(config.claim_signing_key), now_micros)
    child_money = ChildMoney(owner, now_micros)
    child_runs, merger = ChildRuns(owner, child_money, now_micros), Merger(workspaces, now_micros)
    following = Following(dispatch, allotments, timers, closer, child_runs, merger)
    reactor = Reactor(owner, dispatch, finisher, following, now_micros)
    allotments.wake = timers.wake = closer.wake = child_runs.wake = merger.wake = reactor.wake
    child_runs.opened = reactor.opened
    child_runs.changed = child_money.changed = reactor.changed
    claims = Claims(Ends(log, TENANT, now_micros), fleet, reactor, closer, now_micros, may_judge=is_leading)
    checkpoint = Checkpoint(config.data_directory / "scheduler" / "checkpoint.sqlite", log.epoch)
    limits = AdmissionServer(
        Owner(log, admission, tenant=TENANT, clock=now_micros, code_version=code), dispatch, reactor, now_micros
    )
    tail = Tail(log, owner, reactor, claims, allotments.funding, limits.learn, checkpoint, is_leading, now_micros)
    explainer = Explainer(owner, lambda: reactor.open_runs, dispatch, allotments)
    return Parts(
        owner,
        reactor,
        claims,
        tail,
        allotments,
        timers,
        closer,
        finisher,
        child_money,
        child_runs,
        merger,
        limits,
        explainer,
    )


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
    money = RunMoney(parts.owner, parts.allotments, parts.child_money, parts.reactor.changed, now_micros)
    runs = SchedulerServer(parts.owner, parts.reactor, parts.claims, money, parts.explainer, now_micros)
    budgets = BudgetServer(parts.allotments, money, now_micros)
    gates = GateServer(parts.allotments, money, now_micros)
    served = [
        Registration("crewlog.v1.SchedulerService", add_SchedulerServiceServicer_to_server, runs, Access.SERVICE),
        Registration("crewlog.v1.BudgetService", add_BudgetServiceServicer_to_server, budgets, Access.SERVICE),
        Registration(
            "crewlog.v1.AdmissionService", add_AdmissionServiceServicer_to_server, parts.limits, Access.SERVICE
        ),
        Registration("crewlog.v1.GateService", add_GateServiceServicer_to_server, gates, Access.SERVICE),
    ]
    verifier = Verifier(service_verify_key=config.service_verify_key)
    return await start_server(served, address=config.address, verifier=verifier)


async def _first_of(work: list[Coroutine[None, None, None]], stop: asyncio.Event) -> None:
    """Until the first of it has ended, or `stop` is set; a part that breaks is a bug, and ends the process with it."""
    stopped, working = asyncio.create_task(stop.wait()), [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait((*working, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in working:
            if task.done():
                task.result()
    finally:
        for other in (*working, stopped):
            other.cancel()
