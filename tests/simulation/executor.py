"""An executor's work on one task: it reserves, calls, settles, asks for more, parks, and ends."""

from __future__ import annotations

from crewlog.domain import names
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.agent.state import Agent, amounts_of, is_over
from crewlog.domain.amounts import ZERO, Amounts, over
from crewlog.domain.errors import BudgetExceeded, Refused
from crewlog.domain.run import money as run_money
from crewlog.domain.run.state import Run, Task
from crewlog.eventlog.owner import Owner
from crewlog.v1.agent_pb2 import (
    EffectKey,
    FinishAgent,
    FinishModelCall,
    HostAgent,
    ParkAgent,
    RaiseAllotment,
    StartModelCall,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import OnExhausted, Reservation
from crewlog.v1.run_pb2 import AgentNode, TaskFailure, TaskResult
from crewlog.v1.scheduler_pb2 import RequestAllotment
from google.protobuf.message import Message

from tests.simulation.world import World

SPENT_UP = Failure(reason="budget_exhausted")


class Executor:
    """A process of its own for each claim: it has its own owner, and knows only what the log says."""

    def __init__(self, world: World, run: Run, task: Task, revision: int) -> None:
        self.world = world
        self.run = run
        self.task = task
        self.revision = revision
        self.agent_id = names.agent_id(run.started.run_id, task.task_id)
        self.agents: Owner[Agent] = world.owner(agent_rules)

    async def work(self) -> None:
        """Ends with the agent, or where it parks. Refusals say that somebody else has the task."""
        agent = await self._do(self._host())
        agent = await self._do(self._raised(self.task.allotment, self.revision))
        while not is_over(agent) and agent.parked is None:
            agent = await self._step(agent)

    async def _step(self, agent: Agent) -> Agent:
        if len(agent.turns) >= self.world.plan.calls:
            return await self._do(FinishAgent(agent_id=self.agent_id, succeeded=TaskResult()))
        if self.task.has_to_stop:
            self.world.paths["stopped"] += 1
            return await self._give_up()
        reservation = self._reservation()
        while not self._fits(agent, reservation):
            missing = over(agent.allotment, agent.spent + agent.reserved + amounts_of(reservation))
            exhausted, agent = await self._grow(agent, missing)
            if exhausted:
                return await self._exhausted(exhausted, missing)
        return await self._call(agent, reservation)

    async def _call(self, agent: Agent, reservation: Reservation) -> Agent:
        key = EffectKey(turn=len(agent.turns) + 1, index=-1, attempt=agent.attempts + 1)
        try:
            await self._do(StartModelCall(agent_id=self.agent_id, key=key, reservation=reservation))
        except BudgetExceeded:
            self.world.paths["allotment smaller than thought"] += 1
            return (await self.agents.state(self.agent_id))[0]
        outcome = await self.world.provider.call(self.agent_id, key, reservation)
        finish = FinishModelCall(agent_id=self.agent_id, key=key, answer=outcome.answer, failure=outcome.failure)
        return await self._do(finish)

    async def _grow(self, agent: Agent, missing: Amounts) -> tuple[str, Agent]:
        request = RequestAllotment(
            run_id=self.run.started.run_id,
            task_id=self.task.task_id,
            generation=self.task.generation,
            wanted=missing.message(),
        )
        world = self.world
        granted = await world.answered(lambda: world.scheduler.money.grow(request))
        if granted.exhausted_budget_id:
            world.paths["growth refused"] += 1
            return granted.exhausted_budget_id, agent
        world.paths["grown"] += 1
        raised = await self._do(self._raised(Amounts.of(granted.allotment), granted.revision))
        missing_still = over(raised.allotment, raised.spent + raised.reserved)
        return (run_money.own_budget(self.run) if missing_still else ""), raised

    async def _exhausted(self, budget_id: str, missing: Amounts) -> Agent:
        if self.run.started.on_exhausted == OnExhausted.ON_EXHAUSTED_STOP:
            self.world.paths["ended without money"] += 1
            return await self._give_up()
        self.world.paths["parked"] += 1
        return await self._do(ParkAgent(agent_id=self.agent_id, budget_id=budget_id, wanted=missing.message()))

    async def _give_up(self) -> Agent:
        return await self._do(FinishAgent(agent_id=self.agent_id, failed=TaskFailure(failure=SPENT_UP)))

    async def _do(self, command: Message) -> Agent:
        command.generation = self.task.generation  # type: ignore[attr-defined]
        command.at_unix_micros = self.world.clock()  # type: ignore[attr-defined]
        outcome = await self.world.tell(self.agents, agent_rules, self.agent_id, command, self.task.generation)
        state: Agent = outcome.state
        return state

    def _host(self) -> HostAgent:
        return HostAgent(
            agent_id=self.agent_id,
            run_id=self.run.started.run_id,
            task_id=self.task.task_id,
            executor_id=self.task.executor_id,
            node=AgentNode(),
            allotment=self.task.allotment.limit(),
        )

    def _raised(self, allotment: Amounts, revision: int) -> RaiseAllotment:
        return RaiseAllotment(agent_id=self.agent_id, allotment=allotment.limit(), run_revision=revision)

    def _fits(self, agent: Agent, reservation: Reservation) -> bool:
        return over(agent.allotment, agent.spent + agent.reserved + amounts_of(reservation)) == ZERO

    def _reservation(self) -> Reservation:
        cost = self.world.chance.randrange(20_000, 200_000)
        return Reservation(usd_micros=cost, input_tokens_max=cost * 3, output_tokens_max=cost // 10)


async def work(world: World, run: Run, task: Task, revision: int) -> None:
    """As Executor.work; that somebody else has the task ends it quietly."""
    try:
        await Executor(world, run, task, revision).work()
    except Refused as refusal:
        world.paths[f"executor: {type(refusal).__name__}"] += 1
