"""BudgetService and GateService for clients: checked here, decided by the scheduler.

A parent is looked at before a budget is set below it. Sets are checked one after the other, so that two of them cannot
close a circle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from crewlog.domain.errors import NotFound
from crewlog.gateway import checks, money_checks, pages
from crewlog.gateway.money_queries import GateFilter, Place, gates
from crewlog.gateway.projection import Projection
from crewlog.gateway.projects import Projects
from crewlog.runtime.auth import current_principal
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.budget_pb2 import BudgetView, LowerBudget, RaiseBudget, SetBudget
from crewlog.v1.budget_service_pb2 import BudgetList, GateList, GetBudget, ListBudgets, ListGates
from crewlog.v1.budget_service_pb2_grpc import BudgetServiceServicer, GateServiceServicer
from crewlog.v1.run_pb2 import AnswerGate, GateView

LEVELS_MAX = 16


class BudgetTree:
    """What the scheduler knows of budgets, asked while something is checked."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    async def find(self, budget_id: str) -> BudgetView | None:
        """None when it is not set."""
        try:
            view: BudgetView = await self._scheduler.Get(GetBudget(budget_id=budget_id))
        except NotFound:
            return None
        return view if view.budget_id == budget_id else None

    async def charged(self, project_id: str, budget_names: Iterable[str]) -> list[str]:
        """The named budgets that a run is charged to, with those above them, from the root down. Raises InvalidCommand
        for one that is not set, or that stands below another project."""
        project = money_checks.PROJECT + project_id
        found = dict.fromkeys(await self._named_above(project, project))
        for name in budget_names:
            budget_id = money_checks.NAMED + name
            if await self.find(budget_id) is None:
                checks.refuse("budgets", name, f"is not set: set it with `crewlog budget set {budget_id}`")
            found |= dict.fromkeys(await self._named_above(budget_id, project))
        return [budget_id.removeprefix(money_checks.NAMED) for budget_id in found]

    async def _named_above(self, budget_id: str, project: str) -> list[str]:
        """The budget itself and those above it, where they are named."""
        path, above = list[str](), budget_id
        while above not in ("", money_checks.TENANT, *path):
            if above.startswith(money_checks.PROJECT) and above != project:
                checks.refuse("budgets", budget_id, f"stands below {above}: it is not for this project")
            path.append(above)
            view = await self.find(above)
            above = view.parent_id if view else ""
        return [each for each in reversed(path) if each.startswith(money_checks.NAMED)]

    async def check_parent(self, budget_id: str, parent_id: str) -> None:
        """Raises InvalidCommand for a parent that is not set, or that stands below the budget."""
        above, levels = parent_id, 0
        while above not in ("", money_checks.TENANT):
            if above == budget_id or levels == LEVELS_MAX:
                why = "makes a circle" if above == budget_id else f"makes more than {LEVELS_MAX} levels"
                checks.refuse("parent_id", parent_id, why)
            view = await self.find(above)
            if view is None:
                checks.refuse("parent_id", parent_id, f"is no budget to stand below: {above} is not set")
            above, levels = view.parent_id if view else "", levels + 1


class BudgetServer(BudgetServiceServicer):
    def __init__(self, scheduler: Any, tree: BudgetTree, projects: Projects) -> None:
        self._scheduler = scheduler
        self._tree = tree
        self._projects = projects
        self._setting = asyncio.Lock()

    async def Set(self, request: SetBudget, context: Any) -> Receipt:
        money_checks.check_set(request)
        if request.budget_id.startswith(money_checks.PROJECT):
            await self._projects.path_of(request.budget_id.removeprefix(money_checks.PROJECT))
        command = SetBudget()
        command.CopyFrom(request)
        command.ClearField("bounds")
        command.ClearField("at_unix_micros")
        async with self._setting:
            await self._tree.check_parent(command.budget_id, command.parent_id)
            receipt: Receipt = await self._scheduler.Set(command)
        return receipt

    async def Raise(self, request: RaiseBudget, context: Any) -> Receipt:
        money_checks.check_change(request)
        command = RaiseBudget(budget_id=request.budget_id, by=request.by, request_id=request.request_id)
        receipt: Receipt = await self._scheduler.Raise(command)
        return receipt

    async def Lower(self, request: LowerBudget, context: Any) -> Receipt:
        money_checks.check_change(request)
        command = LowerBudget(budget_id=request.budget_id, by=request.by, request_id=request.request_id)
        receipt: Receipt = await self._scheduler.Lower(command)
        return receipt

    async def Get(self, request: GetBudget, context: Any) -> BudgetView:
        money_checks.budget_id("budget_id", request.budget_id)
        view = await self._tree.find(request.budget_id)
        if view is None:
            raise NotFound(f"budget {request.budget_id!r} is not set", what_to_do="see `crewlog budget list`")
        return view

    async def List(self, request: ListBudgets, context: Any) -> BudgetList:
        pages.size(request.page_size)
        found: BudgetList = await self._scheduler.List(request)
        return found


class GateServer(GateServiceServicer):
    """Lists come from the projection; an answer is the scheduler's to accept."""

    def __init__(self, scheduler: Any, projection: Projection) -> None:
        self._scheduler = scheduler
        self._projection = projection

    async def List(self, request: ListGates, context: Any) -> GateList:
        checks.check_all(checks.where_given(checks.run_id, "run_id", request.run_id))
        wanted = GateFilter(request.run_id, request.with_closed)
        after = pages.position(request.page_token, "gates", wanted)
        size = pages.size(request.page_size)
        await self._projection.reached(request.at_least_revision)
        found = await self._projection.read(gates, wanted, _place(after), size + 1)
        count = pages.fitting(found[:size])
        token = pages.token(_position(found[count - 1]), "gates", wanted) if len(found) > count else ""
        return GateList(gates=found[:count], next_page_token=token)

    async def Answer(self, request: AnswerGate, context: Any) -> Receipt:
        money_checks.check_answer(request)
        command = AnswerGate()
        command.CopyFrom(request)
        command.ClearField("at_unix_micros")
        command.answered_by = current_principal()
        receipt: Receipt = await self._scheduler.Answer(command)
        return receipt


def _place(position: str | int | None) -> Place:
    """After which gate a page begins; raises InvalidCommand for what no token of a list of gates names."""
    if position is None:
        return 0, "", ""
    try:
        at, run_id, gate_id = str(position).split()
        place = int(at), run_id, gate_id
    except ValueError:
        raise pages.refusal() from None
    if abs(place[0]) > pages.NUMBER_MAX:
        raise pages.refusal()
    return place


def _position(gate: GateView) -> str:
    return f"{gate.opened_at_unix_micros} {gate.run_id} {gate.gate_id}"
