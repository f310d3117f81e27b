"""A platform without processes: the real owners, rules and moves of money, and executors that come and go.

A task lives until it has ended: it is funded and claimed, worked on, parked, lapsed and claimed again, as the seed will
have it. What the scheduler and the executors hold in memory is lost when they die; only the log stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from crewlog.domain import budget as budget_rules
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import Contention, Refused, Unavailable
from crewlog.domain.run import decider as run_rules
from crewlog.domain.run.state import Run, Task
from crewlog.eventlog.owner import Meta, Outcome, Owner
from crewlog.scheduler import closing, periods
from crewlog.scheduler.allotments import Allotments
from crewlog.scheduler.child_money import ChildMoney
from crewlog.scheduler.funding import Funding
from crewlog.scheduler.money_server import RunMoney
from crewlog.v1.budget_pb2 import OnExhausted, Period, SetBudget
from crewlog.v1.run_pb2 import (
    AgentNode,
    ClaimTask,
    Node,
    Role,
    StartRun,
    TaskCancelled,
    TaskClaimed,
    TaskFailed,
    TaskStatus,
    TaskSucceeded,
    Workflow,
)
from google.protobuf.message import Message

from tests.simulation.faults import Faults, FaultyLog
from tests.simulation.provider import Provider

T = TypeVar("T")
TENANT = "local"
START_MICROS = 1_800_000_000_000_000
TRIES_MAX = 200
TENANT_LIMIT = Amounts(usd_micros=2_000_000, model_calls=300)
PROJECT_LIMIT = Amounts(usd_micros=1_500_000)
NAMED_LIMIT = Amounts(input_tokens=4_000_000)
RUN_LIMIT = Amounts(usd_micros=900_000)
ENDS = (TaskSucceeded, TaskFailed, TaskCancelled)


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the simulation is, and how short of money."""

    runs: int = 2
    tasks: int = 3
    calls: int = 3
    tenant: Amounts = TENANT_LIMIT
    project: Amounts = PROJECT_LIMIT
    named: Amounts = NAMED_LIMIT
    run: Amounts = RUN_LIMIT
    period: Period.ValueType = Period.PERIOD_UNSPECIFIED
    patience: int = 60


class World:
    def __init__(self, seed: int, plan: Plan, faults: Faults, make_log: type[FaultyLog] = FaultyLog) -> None:
        self.chance = Random(seed)
        self.plan = plan
        self.faults = faults
        self.log = make_log(self.chance, faults)
        self.provider = Provider(self.log, self.chance)
        self.paths: Counter[str] = Counter()
        self.sent: list[tuple[Any, str, Message, Meta]] = []
        self._now = START_MICROS
        self._numbers = 0
        self.scheduler = Scheduler(self)

    def clock(self) -> int:
        self._now += 1
        return self._now

    def days_pass(self) -> None:
        self._now += 86_400_000_000

    def owner(self, rules: Any) -> Owner[Any]:
        return Owner(self.log, rules, tenant=TENANT, clock=self.clock, code_version="simulated")

    def meta(self, generation: int = 0) -> Meta:
        self._numbers += 1
        return Meta(f"c{self._numbers}", "simulated", correlation_id="", generation=generation)

    def happens(self, share: float) -> bool:
        return self.chance.random() < share

    def dies(self) -> bool:
        return self.happens(self.faults.deaths)

    async def tell(self, owner: Owner[Any], rules: Any, id: str, command: Message, generation: int = 0) -> Outcome[Any]:
        """Sends a command until the log answers; what was sent may come again later."""
        meta = self.meta(generation)
        if self.happens(self.faults.strays):
            self.sent.append((rules, id, command, meta))
        return await self.answered(lambda: owner.handle(id, command, meta))

    async def answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        for _ in range(TRIES_MAX):
            try:
                return await ask()
            except (Unavailable, Contention) as reason:
                self.paths[type(reason).__name__] += 1
        raise AssertionError("the log never answers")

    async def stray(self) -> None:
        """A command from the past arrives once more, at a process that knows nothing of it."""
        if self.sent:
            rules, id, command, meta = self.sent.pop(self.chance.randrange(len(self.sent)))
            self.paths["stray"] += 1
            try:
                await self.answered(lambda: self.owner(rules).handle(id, command, meta))
            except Refused:
                self.paths["stray refused"] += 1


class Money(RunMoney):
    """The scheduler's, asked by nobody in particular."""

    def __init__(self, world: World, runs: Owner[Run], allotments: Allotments) -> None:
        super().__init__(runs, allotments, ChildMoney(runs, world.clock), lambda _id, _outcome: None, world.clock)
        self._world = world

    def _meta(self, run_id: str, on_behalf_of: str) -> Meta:
        return self._world.meta()


class Scheduler:
    """What one scheduler process holds."""

    def __init__(self, world: World) -> None:
        self.runs: Owner[Run] = world.owner(run_rules)
        self.allotments = Allotments(world.clock)
        self.allotments.funding = Funding(world.owner(budget_rules), world.clock, self.allotments.on_room)
        self.allotments.wake = self._wake
        self.money = Money(world, self.runs, self.allotments)
        self.closer = closing.Closer(world.owner(agent_rules), world.clock)
        self.closer.wake = self._wake
        self._world = world
        self._woken: list[tuple[str, Message]] = []

    async def boot(self, budget_ids: Iterable[str]) -> None:
        """What a new process does first."""
        for budget_id in budget_ids:
            await self.allotments.funding.learn(budget_id)
        await self.reconcile()

    async def reconcile(self) -> None:
        async def find_run(run_id: str) -> Run:
            return (await self.runs.state(run_id))[0]

        await self.allotments.funding.reconcile(find_run)

    async def claim(self, run_id: str, task_id: str) -> Task | None:
        """Funds and claims the task, as the reactor does; None where it could not be."""
        run, _ = await self.runs.state(run_id)
        claim = ClaimTask(run_id=run_id, task_id=task_id, executor_id="e", at_unix_micros=self._world.clock())
        refused: list[Message] = []
        if not await self.allotments.fund(run, claim, refused):
            self._world.paths["not funded"] += 1
            for command in refused:
                await self.tell(run_id, command)
            return None
        outcome = await self.tell(run_id, claim)
        is_claimed = any(isinstance(event, TaskClaimed) for event in outcome.events)
        self._world.paths["claimed" if is_claimed else "claim without money"] += 1
        return outcome.state.tasks[task_id] if is_claimed else None

    async def close(self, run_id: str, task_id: str) -> None:
        """Ends the agent of a task that nobody shall work on any more, as the reactor does."""
        run, _ = await self.runs.state(run_id)
        if run.tasks[task_id].status != TaskStatus.TASK_STATUS_CLAIMED:
            claim = ClaimTask(run_id=run_id, task_id=task_id, executor_id=closing.EXECUTOR_ID, to_close=True)
            run = (await self.tell(run_id, claim)).state
        self.closer.close(run, run.tasks[task_id])

    async def tell(self, run_id: str, command: Message) -> Outcome[Run]:
        """A command on a run, with what follows from it for the budgets above."""
        outcome = await self._world.tell(self.runs, run_rules, run_id, command)
        self.settle(outcome)
        return outcome

    def settle(self, outcome: Outcome[Run]) -> None:
        for event in outcome.events:
            if isinstance(event, ENDS):
                self.allotments.settle(outcome.state, event.task_id)
        self.allotments.watch(outcome.state)

    async def carry_on(self) -> None:
        """Does what the budgets' room has woken."""
        woken, self._woken = self._woken, []
        for run_id, command in woken:
            self._world.paths["woken"] += 1
            await self.tell(run_id, command)

    def _wake(self, run_id: str, *commands: Message) -> None:
        self._woken += [(run_id, command) for command in commands]


def limits(plan: Plan) -> dict[str, Amounts]:
    return {"tenant": plan.tenant, "project_p": plan.project, "named_team": plan.named}


def start_run(world: World, number: int) -> StartRun:
    nodes = [
        Node(node_id=f"n{place}", agent=AgentNode(role=Role(name="w", prompt="p"))) for place in range(world.plan.tasks)
    ]
    choices = (OnExhausted.ON_EXHAUSTED_STOP, OnExhausted.ON_EXHAUSTED_ASK, OnExhausted.ON_EXHAUSTED_WAIT)
    return StartRun(
        run_id=f"r{number}",
        project_id="p",
        workflow=Workflow(name="wide", nodes=nodes),
        input="go",
        budget=world.plan.run.limit(),
        budgets=["team"],
        on_exhausted=world.chance.choice(choices),
        at_unix_micros=world.clock(),
    )


def set_budget(world: World, budget_id: str, limit: Amounts) -> SetBudget:
    parent = "" if budget_id == "tenant" else "tenant"
    now, period = world.clock(), world.plan.period
    return SetBudget(
        budget_id=budget_id,
        parent_id=parent,
        limit=limit.limit(),
        period=period,
        bounds=periods.bounds(period, "", now),
        at_unix_micros=now,
    )
