"""What the scheduler answers about money: budgets, answers to gates, and larger allotments for running tasks."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from crewlog.domain import amounts, budget, names
from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import BudgetExceeded, InvalidCommand, NotFound, WrongState
from crewlog.domain.run import child_money as run_child_money
from crewlog.domain.run import money as run_money
from crewlog.domain.run.state import Gate, Run
from crewlog.eventlog.owner import Clock, Meta, Outcome, Owner
from crewlog.runtime.auth import current_principal
from crewlog.scheduler import periods
from crewlog.scheduler.allotments import Allotments
from crewlog.scheduler.child_money import ChildMoney
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.budget_pb2 import BudgetView, LowerBudget, OnExhausted, RaiseBudget, SetBudget
from crewlog.v1.budget_service_pb2 import BudgetList, GateList, GetBudget, ListBudgets, ListGates
from crewlog.v1.budget_service_pb2_grpc import BudgetServiceServicer, GateServiceServicer
from crewlog.v1.run_pb2 import AnswerGate, GateStatus, GrowAllotment, LowerRunBudget, RaiseRunBudget, TaskStatus
from crewlog.v1.scheduler_pb2 import GrantedAllotment, RequestAllotment

FROM_PARENTS_MAX = 8
"""Others of the run may take what its parents gave."""

Changed = Callable[[str, Outcome[Run]], None]
"""What a command has done to a run: executors and timers have to hear of it."""


class RunMoney:
    """Commands on the money of runs. `changed` is the reactor's."""

    def __init__(
        self, owner: Owner[Run], allotments: Allotments, child_money: ChildMoney, changed: Changed, clock: Clock
    ) -> None:
        self._owner = owner
        self._allotments = allotments
        self._child_money = child_money
        self._changed = changed
        self._clock = clock

    async def handle(self, run_id: str, command: Any, on_behalf_of: str = "") -> Receipt:
        command.at_unix_micros = self._clock()
        outcome = await self._owner.handle(run_id, command, self._meta(run_id, on_behalf_of))
        self._changed(run_id, outcome)
        return Receipt(revision=outcome.revision)

    async def state(self, run_id: str) -> tuple[Run, int]:
        return await self._owner.state(run_id)

    async def grow(self, request: RequestAllotment) -> GrantedAllotment:
        """More for a running task, or the budget that has no more. Raises WrongState for a claim that is over."""
        granted = await self._grow(request)
        own, least = run_money.RUN_BUDGET_PREFIX + request.run_id, _least(request)
        for _ in range(FROM_PARENTS_MAX):
            if granted.exhausted_budget_id != own or not await self._child_money.more(request.run_id, least):
                break
            granted = await self._grow(request)
        if granted.exhausted_budget_id == own:
            granted.exhausted_budget_id = run_child_money.to_raise((await self._owner.state(request.run_id))[0])
        return granted

    async def _grow(self, request: RequestAllotment) -> GrantedAllotment:
        run, revision = await self._owner.state(request.run_id)
        task = run.tasks.get(request.task_id)
        if task is None or task.status != TaskStatus.TASK_STATUS_CLAIMED or task.generation != request.generation:
            raise WrongState(f"task {request.task_id!r} is not worked on under generation {request.generation}")
        amounts.check("wanted", request.wanted)
        amounts.check("wanted_at_least", request.wanted_at_least)
        given = await self._allotments.grow(run, request.task_id, Amounts.of(request.wanted), _least(request))
        if given.exhausted:
            return _nothing(run, given.exhausted, revision)
        command = GrowAllotment(
            run_id=request.run_id,
            task_id=request.task_id,
            generation=request.generation,
            number=task.growths + 1,
            by=given.amounts.message(),
            at_unix_micros=self._clock(),
        )
        try:
            await self._owner.handle(request.run_id, command, self._meta(request.run_id, ""))
        except BudgetExceeded:
            return _nothing(run, run_money.own_budget(run), revision)
        # A later command of the same entry may have made it smaller: only what the whole entry led to is the allotment.
        run, revision = await self._owner.state(request.run_id)
        return GrantedAllotment(allotment=run.tasks[request.task_id].allotment.limit(), revision=revision)

    def _meta(self, run_id: str, on_behalf_of: str) -> Meta:
        return Meta(secrets.token_hex(8), current_principal(), correlation_id=run_id, on_behalf_of=on_behalf_of)


class BudgetServer(BudgetServiceServicer):
    def __init__(self, allotments: Allotments, runs: RunMoney, clock: Clock) -> None:
        self._allotments = allotments
        self._runs = runs
        self._clock = clock

    async def Set(self, request: SetBudget, context: object) -> Receipt:
        check_budget_id(request.budget_id)
        if _run_of(request.budget_id):
            raise InvalidCommand("the budget of a run is set when it is started", what_to_do="raise or lower it")
        bounds = periods.bounds(request.period, request.time_zone, self._clock())
        if bounds is not None:
            request.bounds.CopyFrom(bounds)
        if not request.parent_id and request.budget_id != "tenant":
            request.parent_id = "tenant"
        return await self._handle(request)

    async def Raise(self, request: RaiseBudget, context: object) -> Receipt:
        check_budget_id(request.budget_id)
        run_id = _run_of(request.budget_id)
        if run_id:
            return await self._runs.handle(
                run_id, RaiseRunBudget(run_id=run_id, by=request.by, request_id=request.request_id)
            )
        return await self._handle(request)

    async def Lower(self, request: LowerBudget, context: object) -> Receipt:
        check_budget_id(request.budget_id)
        run_id = _run_of(request.budget_id)
        if run_id:
            return await self._runs.handle(
                run_id, LowerRunBudget(run_id=run_id, by=request.by, request_id=request.request_id)
            )
        receipt = await self._handle(request)
        await self._allotments.take_back(
            request.budget_id, request.request_id or secrets.token_hex(8), self._runs.handle
        )
        return receipt

    async def Get(self, request: GetBudget, context: object) -> BudgetView:
        check_budget_id(request.budget_id)
        run_id = _run_of(request.budget_id)
        if run_id:
            run, revision = await self._runs.state(run_id)
            if not revision:
                raise NotFound(f"there is no run {run_id!r}", what_to_do="see `crewlog runs`")
            return run_view(run, revision)
        view = await self._view(request.budget_id)
        if not view.budget_id:
            raise NotFound(f"budget {request.budget_id!r} is not set", what_to_do="set it with `crewlog budget set`")
        return view

    async def List(self, request: ListBudgets, context: object) -> BudgetList:
        """All of them: there are few."""
        return BudgetList(budgets=[await self._view(budget_id) for budget_id in sorted(self._allotments.funding.known)])

    async def _view(self, budget_id: str) -> BudgetView:
        state, revision = await self._allotments.funding.state(budget_id)
        state = budget.in_period(state, periods.bounds(state.period, state.time_zone, self._clock()))
        view = budget.view(state, revision=revision)
        view.waiting_run_ids.extend(self._allotments.waiting_for(budget_id))
        return view

    async def _handle(self, request: SetBudget | RaiseBudget | LowerBudget) -> Receipt:
        request.at_unix_micros = self._clock()
        meta = Meta(secrets.token_hex(8), current_principal(), correlation_id="")
        outcome = await self._allotments.funding.handle(request.budget_id, request, meta)
        return Receipt(revision=outcome.revision)


class GateServer(GateServiceServicer):
    def __init__(self, allotments: Allotments, runs: RunMoney, clock: Clock) -> None:
        self._allotments = allotments
        self._runs = runs
        self._clock = clock

    async def List(self, request: ListGates, context: object) -> GateList:
        raise WrongState("gates are listed by the gateway")

    async def Answer(self, request: AnswerGate, context: object) -> Receipt:
        """A raise of a budget above the run is made before the answer is recorded; both are keyed by the gate."""
        run, _ = await self._runs.state(request.run_id)
        gate = run.gates.get(request.gate_id)
        if gate is not None and request.choice == run_money.RAISE and _asks_above(run, gate):
            raised = RaiseBudget(
                budget_id=gate.opened.budget_id,
                by=request.by,
                request_id=f"gate:{request.run_id}:{request.gate_id}",
                at_unix_micros=self._clock(),
            )
            meta = Meta(secrets.token_hex(8), current_principal(), correlation_id=request.run_id)
            await self._allotments.funding.handle(raised.budget_id, raised, meta)
        return await self._runs.handle(request.run_id, request, request.answered_by)


def _asks_above(run: Run, gate: Gate) -> bool:
    """Whether the gate is open, and asks for money of a budget above the run."""
    return gate.status == GateStatus.GATE_STATUS_OPEN and gate.opened.budget_id != run_money.own_budget(run)


def check_budget_id(budget_id: str) -> None:
    """Refuses what cannot be the id of a budget."""
    if not names.is_aggregate_id(budget_id):
        why = "has to be `tenant`, `project_ID`, `named_NAME` or `run_ID`"
        raise InvalidCommand(f"budget_id {budget_id[:80]!r} {why}", violations={"budget_id": why})


def run_view(run: Run, revision: int) -> BudgetView:
    """The budget of a run, seen as the others are."""
    return BudgetView(
        budget_id=run_money.own_budget(run),
        limit=run.limit.limit(),
        spent=run.spent.message(),
        allotted=run.allotted.message(),
        open_allotments=len(run.open) + len(run.parked),
        warn_percents=[run_money.WARN_PERCENT],
        is_overdrawn=bool(amounts.over(run.limit, run.spent)),
        revision=revision,
    )


def _run_of(budget_id: str) -> str:
    return budget_id.removeprefix(run_money.RUN_BUDGET_PREFIX) if budget_id.startswith("run_") else ""


def _least(request: RequestAllotment) -> Amounts:
    wanted, least = Amounts.of(request.wanted), Amounts.of(request.wanted_at_least)
    return least.at_most(wanted) if least else wanted


def _nothing(run: Run, budget_id: str, revision: int) -> GrantedAllotment:
    """Nobody can raise what a node may cost: it is of no use to wait for that."""
    is_for_good = budget_id.startswith(run_money.NODE_BUDGET_PREFIX)
    on_exhausted = OnExhausted.ON_EXHAUSTED_STOP if is_for_good else run.started.on_exhausted
    return GrantedAllotment(exhausted_budget_id=budget_id, on_exhausted=on_exhausted, revision=revision)
