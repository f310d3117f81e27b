"""How the next model call is paid for: as it is wanted, or shorter, or with more from the budgets, or by the cheaper
model of the role. What is left then is a question for the run: stop, ask, or wait.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crewlog.domain.agent.state import Agent
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.run import money as run_money
from crewlog.executor import model_calls
from crewlog.executor.desk import Desk
from crewlog.executor.model_calls import Quote
from crewlog.executor.patience import patiently
from crewlog.executor.session import Session
from crewlog.models.prices import PriceList
from crewlog.models.provider import ModelRequest
from crewlog.v1.agent_pb2 import RaiseAllotment
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import OnExhausted
from crewlog.v1.scheduler_pb2 import Grant, RequestAllotment

if TYPE_CHECKING:
    from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

GROWTHS_PER_CALL_MAX = 4


@dataclass(frozen=True, slots=True)
class Paid:
    """The request as it may be made, no longer than what is reserved for it."""

    request: ModelRequest
    quoted: Quote


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Not even the shortest useful answer fits. `wanted` is what it needs beyond what is left."""

    budget_id: str
    wanted: Amounts
    on_exhausted: OnExhausted.ValueType


@dataclass(frozen=True, slots=True)
class Payer:
    """Pays for the calls of one agent."""

    grant: Grant
    session: Session
    desk: Desk
    scheduler: SchedulerServiceAsyncStub
    price_list: PriceList
    own_budget: str

    async def pay(self, request: ModelRequest) -> Paid | Exhausted:
        """Raises InvalidCommand for a model without a known price, and what the scheduler refuses."""
        exhausted = Exhausted(self.own_budget, ZERO, OnExhausted.ON_EXHAUSTED_STOP)
        quoted = await self._quote(request)
        for _ in range(GROWTHS_PER_CALL_MAX):
            if not quoted.wanted:
                break
            refused = await self._grow(quoted)
            if refused is not None:
                exhausted = refused
                break
            quoted = await self._quote(request)
        if quoted.reservation is not None:
            return Paid(model_calls.within(request, quoted), quoted)
        return await self._cheaper(request) or exhausted

    async def _cheaper(self, request: ModelRequest) -> Paid | None:
        model = self.grant.node.agent.role.cheaper_model
        if not model or model == request.model:
            return None
        cheaper = replace(request, model=model)
        quoted = await self._quote(cheaper)
        return Paid(model_calls.within(cheaper, quoted), quoted) if quoted.reservation is not None else None

    async def _quote(self, request: ModelRequest) -> Quote:
        agent = self.session.agent

        async def count(counted: ModelRequest) -> int:
            model, _ = await self.desk.model(counted.model)
            return await model.count_tokens(counted)

        used = agent.spent + agent.reserved
        return await model_calls.best_quote(request, self.price_list, agent.allotment, used, count)

    async def _grow(self, quoted: Quote) -> Exhausted | None:
        """Asks for what the whole answer needs, or at least for a useful one; where that fits already, for the whole or
        nothing. None when there is more now."""
        grant = self.grant
        request = RequestAllotment(
            run_id=grant.run_id,
            task_id=grant.task_id,
            generation=grant.generation,
            wanted=quoted.wanted.message(),
            wanted_at_least=quoted.wanted_at_least.message(),
        )
        granted = await patiently(lambda: self.scheduler.Grow(request), "scheduler")
        if granted.exhausted_budget_id:
            return Exhausted(granted.exhausted_budget_id, quoted.wanted_at_least, granted.on_exhausted)
        self.session.do(RaiseAllotment(allotment=granted.allotment, run_revision=granted.revision))
        return None


def payer(grant: Grant, session: Session, desk: Desk, scheduler: SchedulerServiceAsyncStub, prices: PriceList) -> Payer:
    return Payer(grant, session, desk, scheduler, prices, run_money.RUN_BUDGET_PREFIX + grant.run_id)


def waits(exhausted: Exhausted) -> bool:
    """Whether the task is to wait for money, with or without a gate."""
    return exhausted.on_exhausted in (OnExhausted.ON_EXHAUSTED_ASK, OnExhausted.ON_EXHAUSTED_WAIT)


def failure(agent: Agent, budget_id: str) -> Failure:
    """Why an agent ends with what is done."""
    spent, allotted = agent.spent.usd_micros / 1e6, agent.allotment.usd_micros / 1e6
    of = f" of ${allotted:.4f}" if allotted else ""
    is_of_node = budget_id.startswith(run_money.NODE_BUDGET_PREFIX)
    where = "the `budget` of its node" if is_of_node else f"what {budget_id} has left"
    more = "give the node a larger one" if is_of_node else f"raise it (`crewlog budget raise {budget_id} AMOUNT`)"
    return Failure(
        reason="budget_exhausted",
        message=f"${spent:.4f}{of} are spent, and the next model call does not fit into {where}",
        what_to_do=f"{more} and start again; the work is on its branch",
    )
