"""What a budget costs: the intent of a model call with a reservation within an allotment, against the same without a
limit; and many agents that take their allotments from one budget of the tenant. Real log, real rules, no model.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Any

from crewlog.domain import budget as budget_rules
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.agent.state import MODEL, Agent
from crewlog.eventlog.jetstream import JetStreamLog
from crewlog.eventlog.owner import Meta, Owner
from crewlog.runtime.clock import now_micros
from crewlog.v1.agent_pb2 import EffectKey, FinishModelCall, HostAgent, ModelAnswer, StartModelCall
from crewlog.v1.budget_pb2 import Amounts, Limit, Reservation, SetBudget, SettleAllotment, TakeAllotment
from crewlog.v1.run_pb2 import AgentNode, Role

AGENTS = (1, 100, 1_000)
CALLS = {1: 200, 100: 10, 1_000: 3}
TENANT = "bench"
RESERVED = Reservation(usd_micros=1_000, input_tokens_max=1_000, output_tokens_max=1_000)
FREE, LIMITED = Limit(), Limit(usd_micros=100_000_000)
ROUNDS = 3
ALLOTMENT = Amounts(usd_micros=100_000)
Figures = dict[str, float]


async def measure(log: JetStreamLog) -> Figures:
    """Milliseconds, p50: an intent with and without a limit, side by side; taking an allotment, so many at once."""
    budgets = _owner(log, budget_rules)
    figures: Figures = {}
    for count in AGENTS:
        pairs = [(await _round(log, count, FREE), await _round(log, count, LIMITED)) for _ in range(ROUNDS)]
        budget_id = f"tenant{count}-{now_micros():x}"
        await _set(budgets, budget_id, count)
        figures[f"budget.free_ms_{count}"] = median(free for free, _ in pairs)
        figures[f"budget.reserved_ms_{count}"] = median(limited for _, limited in pairs)
        figures[f"budget.allot_ms_{count}"] = await _take_and_settle(budgets, budget_id, count)
    return figures


async def _round(log: JetStreamLog, count: int, allotment: Limit) -> float:
    """All agents at once, each call after the other: p50 of the time until an intent is on disk."""
    agents: Owner[Agent] = _owner(log, agent_rules)
    prefix = f"b{count}-{now_micros():x}"
    times: list[float] = []
    await asyncio.gather(*(_agent(agents, f"{prefix}-{n}", allotment, CALLS[count], times) for n in range(count)))
    return median(times) * 1e3


async def _agent(agents: Owner[Agent], agent_id: str, allotment: Limit, calls: int, times: list[float]) -> None:
    agents.assume_new(agent_id)
    node = AgentNode(role=Role(name="bench"))
    hosted = HostAgent(agent_id=agent_id, generation=1, executor_id="bench", node=node, allotment=allotment)
    await agents.handle(agent_id, hosted, _meta(agent_id))
    for turn in range(1, calls + 1):
        key = EffectKey(turn=turn, index=MODEL, attempt=1)
        intent = StartModelCall(agent_id=agent_id, generation=1, key=key, model="bench", reservation=RESERVED)
        began = time.perf_counter()
        await agents.handle(agent_id, intent, _meta(agent_id))
        times.append(time.perf_counter() - began)
        answer = ModelAnswer(stop_reason="pause_turn", cost_usd_micros=10)
        await agents.handle(
            agent_id, FinishModelCall(agent_id=agent_id, generation=1, key=key, answer=answer), _meta(agent_id)
        )


async def _set(budgets: Owner[budget_rules.Budget], budget_id: str, count: int) -> None:
    limit = Limit(usd_micros=ALLOTMENT.usd_micros * count)
    await budgets.handle(budget_id, SetBudget(budget_id=budget_id, limit=limit), _meta(budget_id))


async def _take_and_settle(budgets: Owner[budget_rules.Budget], budget_id: str, count: int) -> float:
    """Every agent takes its allotment at the same moment: p50 of the time until it is on disk."""
    times: list[float] = []

    async def one(number: int) -> None:
        began = time.perf_counter()
        take = TakeAllotment(budget_id=budget_id, allotment_id=f"r_t-{number}", number=1, amounts=ALLOTMENT)
        await budgets.handle(budget_id, take, _meta(budget_id))
        times.append(time.perf_counter() - began)
        settle = SettleAllotment(budget_id=budget_id, allotment_id=f"r_t-{number}", spent=Amounts(usd_micros=1))
        await budgets.handle(budget_id, settle, _meta(budget_id))

    await asyncio.gather(*(one(number) for number in range(count)))
    return median(times) * 1e3


def _owner(log: JetStreamLog, rules: Any) -> Owner[Any]:
    return Owner(log, rules, tenant=TENANT, clock=now_micros, code_version="bench")


def _meta(correlation_id: str) -> Meta:
    return Meta("bench", "service:bench", correlation_id=correlation_id)
