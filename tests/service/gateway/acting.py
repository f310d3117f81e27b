"""A run with two agents that call a model, by the real rules; and the commands of an agent."""

from __future__ import annotations

from typing import Any

from crewlog.v1.agent_pb2 import (
    EffectKey,
    FinishAgent,
    FinishModelCall,
    HostAgent,
    ModelAnswer,
    ModelFailure,
    StartModelCall,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Price, Reservation, Usage
from crewlog.v1.run_pb2 import AgentNode, EndTask, GetRun, Node, Role, TaskResult, Workflow

PRICE = Price(
    model="m",
    input_usd_micros_per_mtok=3_000_000,
    output_usd_micros_per_mtok=15_000_000,
    cache_read_usd_micros_per_mtok=300_000,
    cache_write_usd_micros_per_mtok=3_750_000,
)
DAY = 86_400 * 1_000_000
NOON = 20_000 * DAY + DAY // 2


def plan(*names: str) -> Workflow:
    roles = [Role(name=f"{name}-role", version="1", prompt="p") for name in names]
    nodes = [Node(node_id=name, agent=AgentNode(role=role)) for name, role in zip(names, roles, strict=True)]
    return Workflow(name="w", version="1", nodes=nodes)


def key(turn: int, attempt: int = 1) -> EffectKey:
    return EffectKey(turn=turn, index=-1, attempt=attempt)


def start(turn: int, attempt: int = 1, *, at: int = NOON, **changes: Any) -> StartModelCall:
    reservation = Reservation(usd_micros=1_000, input_tokens_max=100, output_tokens_max=10, price=PRICE)
    command = StartModelCall(key=key(turn, attempt), model="m", reservation=reservation, at_unix_micros=at)
    command.MergeFrom(StartModelCall(**{"credential": "main", **changes}))
    return command


def answer(turn: int, cost: int, attempt: int = 1, *, at: int = NOON, **usage: int) -> FinishModelCall:
    outcome = ModelAnswer(usage=Usage(**usage), cost_usd_micros=cost, stop_reason="end_turn")
    return FinishModelCall(key=key(turn, attempt), answer=outcome, at_unix_micros=at)


def failure(turn: int, *, charged: bool) -> FinishModelCall:
    lost = ModelFailure(failure=Failure(reason="x"), may_have_charged=charged, cost_usd_micros=1_000 * charged)
    return FinishModelCall(key=key(turn), failure=lost, at_unix_micros=NOON)


class Spending:
    """A run with the tasks a and b, which spend."""

    def __init__(self, world: Any, run_id: str, project_id: str) -> None:
        self.world, self.run_id, self.project_id = world, run_id, project_id

    async def begin(self) -> Spending:
        await self.world.start_run(self.run_id, self.project_id, workflow=plan("a", "b"))
        for name in ("a", "b"):
            await self.world.claim(self.run_id, f"{name}-1")
            await self.act(name, self.host(name, 1))
        return self

    def host(self, name: str, generation: int) -> HostAgent:
        return HostAgent(
            run_id=self.run_id,
            task_id=f"{name}-1",
            generation=generation,
            executor_id=f"e-{generation}",
            node=AgentNode(role=Role(name=f"{name}-role")),
            model="m",
        )

    async def act(self, name: str, *commands: Any) -> int:
        revision: int = await self.world.act(self.run_id, f"{name}-1", *commands)
        return revision

    async def end(self, name: str, *, cancelled: bool = False) -> int:
        """The agent ends, and then its task, with the totals of the agent."""
        state, _ = await self.world.agents.state(f"{self.run_id}_{name}-1")
        await self.act(name, FinishAgent(cancelled=TaskResult(), generation=state.generation))
        state, _ = await self.world.agents.state(f"{self.run_id}_{name}-1")
        ended = EndTask(run_id=self.run_id, task_id=f"{name}-1", cancelled=state.result)
        revision: int = await self.world.run_command(ended)
        return revision

    async def spent(self, revision: int) -> int:
        view = await self.world.run_service.Get(GetRun(run_id=self.run_id, at_least_revision=revision))
        return int(view.spent_usd_micros)
