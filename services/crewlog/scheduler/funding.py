"""Money from the budgets above a run: taken before a task is claimed or grows, settled when it has ended.

The order of the moves is what makes a crash harmless: taken from the root down, then given to the run; settled after
the run has recorded the end. Each move has a key, so doing it twice is doing it once, and what a crash leaves open is
an allotment too much, which `reconcile` closes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from crewlog.domain import amounts, budget, names
from crewlog.domain.amounts import Amounts
from crewlog.domain.budget import Budget
from crewlog.domain.errors import BudgetExceeded, Contention, Unavailable
from crewlog.domain.run import money as run_money
from crewlog.domain.run.state import ENDED, Run, Task, node_of, spends
from crewlog.eventlog.owner import Clock, Meta, Outcome, Owner
from crewlog.scheduler import periods
from crewlog.scheduler.entries import PRINCIPAL
from crewlog.v1.budget_pb2 import SettleAllotment, TakeAllotment

CHUNK = Amounts(usd_micros=500_000, input_tokens=1_000_000, output_tokens=100_000, model_calls=50)
"""What a task gets of a unit at first that its run does not limit; it may grow."""
ATTEMPTS_MAX = 4
DEPTH_MAX = 16
RETRY_SECONDS = 0.2

FindRun = Callable[[str], Awaitable[Run]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Given:
    """What all budgets above have given; or the one that has no more."""

    amounts: Amounts = amounts.ZERO
    exhausted: str = ""


class Funding:
    """`on_room(budget id)` is called when a budget may have more to give than before."""

    def __init__(self, budgets: Owner[Budget], clock: Clock, on_room: Callable[[str], Awaitable[None]]) -> None:
        self._budgets = budgets
        self._clock = clock
        self._on_room = on_room
        self._parents: dict[str, str] = {}
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def known(self) -> Iterable[str]:
        """The budgets that are set."""
        return tuple(self._parents)

    async def learn(self, budget_id: str) -> None:
        """A budget was set or changed."""
        state, _ = await self._budgets.state(budget_id)
        if budget.is_set(state):
            self._parents[budget_id] = state.parent_id
            await self._on_room(budget_id)

    def above(self, run: Run) -> list[str]:
        """The budgets that limit the run, from the root down."""
        if not self._parents:
            return []
        chain: dict[str, None] = {}
        for budget_id in run.started.budget_ids:
            chain |= dict.fromkeys(reversed(self._way_up(budget_id)))
        return [budget_id for budget_id in chain if budget_id in self._parents]

    async def take(self, run: Run, task_id: str, number: int, wanted: Amounts, least: Amounts) -> Given:
        """Takes the same from every budget above: `wanted`, or what there is of it, but not less than `least`."""
        ids = self.above(run)
        for _ in range(ATTEMPTS_MAX):
            rooms = [(budget_id, await self.current(budget_id)) for budget_id in ids]
            given, exhausted = smallest(wanted, least, rooms)
            if exhausted:
                return Given(exhausted=exhausted)
            refused = await self._take_all(run, task_id, number, given, ids)
            if not refused:
                return await self._given(run, task_id, number, ids)
        return Given(exhausted=refused)

    async def _given(self, run: Run, task_id: str, number: int, ids: list[str]) -> Given:
        """What every budget has given under the number, which an earlier scheduler may have taken in part."""
        found: dict[str, int] = {}
        for budget_id in ids:
            state, _ = await self._budgets.state(budget_id)
            held = state.open.get(names.agent_id(run.started.run_id, task_id))
            if held is None or held.number != number:
                return Given(exhausted=budget_id)
            for unit in amounts.limited_units(held.last):
                found[unit] = min(found.get(unit, amounts.AMOUNT_MAX), getattr(held.last, unit))
        return Given(Amounts(**found))

    def settle(self, run: Run, task: Task, spent: Amounts | None) -> None:
        """Closes the allotments of a task that has ended, in the background; `reconcile` does what this cannot."""
        ids = self.above(run)
        if ids and spent is not None and spends(node_of(run, task)):
            agent_id = names.agent_id(run.started.run_id, task.task_id)
            settling = asyncio.get_running_loop().create_task(self._settle_all(ids, agent_id, spent))
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)

    async def reconcile(self, find_run: FindRun) -> None:
        """Closes what a crash has left open: allotments of tasks that have ended, or were never claimed."""
        for budget_id in self.known:
            state, _ = await self._budgets.state(budget_id)
            for agent_id in sorted(state.open):
                run_id, _, task_id = agent_id.partition("_")
                spent = orphaned(await find_run(run_id), task_id)
                if spent is not None:
                    await self._settle_all([budget_id], agent_id, spent)

    async def handle(self, budget_id: str, command: budget.Command, meta: Meta) -> Outcome[Budget]:
        """A command of a client. Raises Refused."""
        outcome = await self._budgets.handle(budget_id, command, meta)
        await self.learn(budget_id)
        return outcome

    async def state(self, budget_id: str) -> tuple[Budget, int]:
        return await self._budgets.state(budget_id)

    def stop(self) -> None:
        for settling in self._settling:
            settling.cancel()

    def _way_up(self, budget_id: str) -> list[str]:
        way: list[str] = []
        while budget_id and budget_id not in way and len(way) < DEPTH_MAX:
            way.append(budget_id)
            budget_id = self._parents.get(budget_id, "")
        return way

    async def current(self, budget_id: str) -> Budget:
        """The budget as it is for a command of now: a period that is over counts no more."""
        state, _ = await self._budgets.state(budget_id)
        return budget.in_period(state, periods.bounds(state.period, state.time_zone, self._clock()))

    async def _take_all(self, run: Run, task_id: str, number: int, given: Amounts, ids: list[str]) -> str:
        """The id of the budget that has refused, because others were faster; empty when all have given."""
        agent_id = names.agent_id(run.started.run_id, task_id)
        for place, budget_id in enumerate(ids):
            command = TakeAllotment(budget_id=budget_id, allotment_id=agent_id, number=number, amounts=given.message())
            try:
                await self._stamped(budget_id, command, run.started.run_id)
            except BudgetExceeded:
                if number == 1:
                    await self._settle_all(ids[:place], agent_id, amounts.ZERO)
                return budget_id
        return ""

    async def _settle_all(self, ids: list[str], agent_id: str, spent: Amounts) -> None:
        for budget_id in reversed(ids):
            command = SettleAllotment(budget_id=budget_id, allotment_id=agent_id, spent=spent.message())
            while True:
                try:
                    await self._stamped(budget_id, command, names.run_of(agent_id))
                    break
                except (Unavailable, Contention) as reason:
                    logger.warning("budget %s waits: %s", budget_id, reason)
                    await asyncio.sleep(RETRY_SECONDS)
            await self._on_room(budget_id)

    async def _stamped(self, budget_id: str, command: TakeAllotment | SettleAllotment, run_id: str) -> None:
        state, _ = await self._budgets.state(budget_id)
        now = self._clock()
        bounds = periods.bounds(state.period, state.time_zone, now)
        if bounds is not None:
            command.bounds.CopyFrom(bounds)
        command.at_unix_micros = now
        meta = Meta(secrets.token_hex(8), PRINCIPAL, correlation_id=run_id)
        await self._budgets.handle(budget_id, command, meta)


def smallest(wanted: Amounts, least: Amounts, rooms: Iterable[tuple[str, Budget]]) -> tuple[Amounts, str]:
    """What all of them can give, and the first that cannot give the least. A unit that nobody limits stays 0."""
    found = dict.fromkeys(amounts.UNITS, 0)
    for budget_id, state in rooms:
        room = budget.room(state)
        for unit in amounts.limited_units(state.limit):
            offered = min(getattr(room, unit), getattr(wanted, unit) or getattr(CHUNK, unit))
            if offered < max(1, getattr(least, unit)):
                return amounts.ZERO, budget_id
            found[unit] = min(found[unit], offered) if found[unit] else offered
    return Amounts(**found), ""


def orphaned(run: Run, task_id: str) -> Amounts | None:
    """What is to be settled for an allotment that nobody will settle; None for one that is in use."""
    task = run.tasks.get(task_id)
    if task is None:
        return amounts.ZERO if run.ended_at_unix_micros else None
    return run_money.charged(run, task) if task.status in ENDED else None
