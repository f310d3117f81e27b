"""What runs get from the budgets above them, and who waits for more.

A claim is paid before it is made. A task that a budget has nothing for waits for what returns to it next; when nothing
can return, it is parked or fails, as the run wishes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from crewlog.domain import amounts, budget, names
from crewlog.domain.amounts import Amounts
from crewlog.domain.run import money as run_money
from crewlog.domain.run.state import Run, Task, spends
from crewlog.eventlog.owner import Clock
from crewlog.scheduler.funding import CHUNK, Funding, Given
from crewlog.v1.run_pb2 import ClaimTask, ParkTask, ShrinkAllotment, UnparkTask
from google.protobuf.message import Message

Wake = Callable[..., None]
HandleRun = Callable[[str, ShrinkAllotment], Awaitable[object]]


class Allotments:
    """`wake(run id, *commands)` is the reactor's; it is set when both are there."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, dict[str, None]] = {}
        self._parked: dict[str, dict[tuple[str, str], Amounts]] = {}
        self.funding: Funding
        self.wake: Wake

    async def fund(self, run: Run, claim: ClaimTask, refused: list[Message]) -> bool:
        """Whether the claim may be made; then it holds what was given. What a refusal leads to goes to `refused`."""
        task = run.tasks.get(claim.task_id)
        if not self.funding.above(run) or (task is not None and task.generation):
            return True
        node_id = names.node_of(claim.task_id)
        if not spends(run.graph.node(node_id)) or node_id in run.spawned:
            return True  # a child lives on what its parent has got
        share = run_money.share(run, node_id)
        given = await self.funding.take(run, claim.task_id, 1, share, amounts.ZERO)
        if not given.exhausted:
            claim.given.CopyFrom(given.amounts.limit())
            return True
        await self._refuse(run, claim, given, refused)
        return False

    async def grow(self, run: Run, task_id: str, wanted: Amounts, least: Amounts) -> Given:
        """More for a task that is worked on: a good part where there is one, and no less than is of use to it."""
        task = run.tasks[task_id]
        wished = _wished(run, task, wanted)
        if (least - wished).at_least_zero():
            return Given(exhausted=_in_the_way(run, task, least))
        if not self.funding.above(run):
            return Given(wished)
        given = await self.funding.take(run, task_id, task.growths + 2, wished, least)
        return given if given.exhausted else Given(_merged(wished, given.amounts))

    def settle(self, run: Run, task_id: str) -> None:
        """Says what a task has come to above the run; where it has children, when the last of them has ended, too."""
        task = run.tasks[task_id]
        spawned = run.spawned.get(task.node_id)
        self.funding.settle(run, task, run_money.charged(run, task))
        if spawned is not None:
            self.settle(run, spawned.parent)

    def watch(self, run: Run) -> None:
        """Remembers the tasks of the run that wait for a budget above it; what is raised in the run itself, it sees."""
        for task_id in run.parked:
            task = run.tasks[task_id]
            if task.parked_on and not task.parked_on.startswith(run_money.RUN_BUDGET_PREFIX):
                self._parked.setdefault(task.parked_on, {})[run.started.run_id, task_id] = task.wanted

    def waiting_for(self, budget_id: str) -> list[str]:
        """The runs that wait for the budget, in the order in which they will go on."""
        parked = (run_id for run_id, _ in self._parked.get(budget_id, {}))
        return list(dict.fromkeys([*self._waiting.get(budget_id, {}), *parked]))

    def awaited_by(self, run_id: str) -> str:
        """The budget that had no room for the next claim of the run; empty where there is none."""
        return next((budget_id for budget_id, runs in self._waiting.items() if run_id in runs), "")

    async def on_room(self, budget_id: str) -> None:
        """A budget may have more to give: whoever waits for it tries again, in order."""
        for run_id in self._waiting.pop(budget_id, {}):
            self.wake(run_id)
        parked = self._parked.get(budget_id)
        if not parked:
            return
        state = await self.funding.current(budget_id)
        room = budget.room(state)
        for (run_id, task_id), wanted in list(parked.items()):
            if all(getattr(room, u) >= max(1, getattr(wanted, u)) for u in amounts.limited_units(state.limit)):
                del parked[run_id, task_id]
                self.wake(run_id, UnparkTask(run_id=run_id, task_id=task_id, at_unix_micros=self._clock()))

    async def take_back(self, budget_id: str, request_id: str, handle: HandleRun) -> None:
        """The budget has less than is allotted: each open allotment becomes smaller in proportion to what it holds."""
        state, _ = await self.funding.state(budget_id)
        excess = amounts.over(state.limit, state.spent + state.allotted)
        for agent_id, held in state.open.items() if excess else ():
            part = amounts.proportion(excess, held.amounts, state.allotted)
            run_id, _, task_id = agent_id.partition("_")
            command = ShrinkAllotment(
                run_id=run_id, task_id=task_id, by=part.message(), request_id=f"{budget_id}:{request_id}:{task_id}"
            )
            await handle(run_id, command)

    async def _refuse(self, run: Run, claim: ClaimTask, given: Given, refused: list[Message]) -> None:
        """As long as others hold something of the budget, something may return: until then the run waits."""
        state, _ = await self.funding.state(given.exhausted)
        if state.open and not state.is_overdrawn:
            self._waiting.setdefault(given.exhausted, {})[claim.run_id] = None
            return
        park = ParkTask(
            run_id=claim.run_id, task_id=claim.task_id, budget_id=given.exhausted, at_unix_micros=self._clock()
        )
        refused.append(park)


def _in_the_way(run: Run, task: Task, least: Amounts) -> str:
    is_capped = (least - run_money.below_cap(run, task)).at_least_zero()
    return run_money.node_budget(task.node_id) if is_capped else run_money.own_budget(run)


def _wished(run: Run, task: Task, wanted: Amounts) -> Amounts:
    """What is needed or a chunk of it, in the units that limit the task, and no more than the run has left or its node
    may cost."""
    larger = Amounts(*(max(getattr(wanted, unit), getattr(CHUNK, unit)) for unit in amounts.UNITS))
    wished = amounts.only_limited(task.allotment, larger).at_most(run_money.below_cap(run, task))
    left, own = run_money.left(run), amounts.limited_units(run.limit)
    return Amounts(*(getattr(wished.at_most(left) if unit in own else wished, unit) for unit in amounts.UNITS))


def _merged(wished: Amounts, given: Amounts) -> Amounts:
    """In units that a budget above limits, what it has given."""
    return Amounts(*(getattr(given, unit) or getattr(wished, unit) for unit in amounts.UNITS))
