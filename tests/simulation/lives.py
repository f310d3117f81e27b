"""What happens in a simulation: tasks live, people raise and lower limits, processes die and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from crewlog.domain import budget as budget_rules
from crewlog.domain import names
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.agent.state import Agent
from crewlog.domain.decider import fold
from crewlog.domain.errors import Refused
from crewlog.domain.run import decider as run_rules
from crewlog.domain.run import money as run_money
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import ENDED, Run, Task
from crewlog.eventlog import codec
from crewlog.scheduler import closing
from crewlog.scheduler.ends import end_under
from crewlog.v1.agent_pb2 import AgentStatus
from crewlog.v1.budget_pb2 import Amounts, LowerBudget, RaiseBudget
from crewlog.v1.run_pb2 import (
    AnswerGate,
    CancelRun,
    EndTask,
    ExpireGate,
    FinishRun,
    GateStatus,
    LapseClaim,
    LowerRunBudget,
    RaiseRunBudget,
    TaskStatus,
)
from google.protobuf.message import Message

from tests.simulation import executor
from tests.simulation.faults import Killed, mortal
from tests.simulation.world import Scheduler, World, limits, set_budget, start_run


async def simulate(world: World) -> None:
    """Runs everything to its end: every run is over, and every allotment closed."""
    outside = asyncio.all_tasks()
    for budget_id, limit in limits(world.plan).items():
        await world.tell(world.owner(budget_rules), budget_rules, budget_id, set_budget(world, budget_id, limit))
    await _boot(world)
    run_ids = [await _started(world, number) for number in range(world.plan.runs)]
    done = asyncio.Event()
    people = asyncio.get_running_loop().create_task(_people(world, run_ids, done))
    await asyncio.gather(*(_run(world, run_id) for run_id in run_ids))
    done.set()
    await people
    await _quiet(outside)
    await _boot(world)
    await _quiet(outside)


async def _started(world: World, number: int) -> str:
    command = start_run(world, number)
    await world.tell(world.owner(run_rules), run_rules, command.run_id, command)
    return command.run_id


async def _boot(world: World) -> None:
    """A new scheduler; the old one may still be at something."""
    scheduler = Scheduler(world)
    await world.answered(lambda: scheduler.boot(limits(world.plan)))
    world.scheduler = scheduler


async def _safely(world: World, work: Coroutine[Any, Any, Any]) -> bool:
    """Whether its process has lived through the work, done or refused."""
    try:
        await mortal(work, world.dies)
    except Killed:
        world.paths["killed"] += 1
        return False
    except Refused as refusal:
        world.paths[f"refused: {type(refusal).__name__}"] += 1
    return True


async def _by_scheduler(world: World, work: Coroutine[Any, Any, Any]) -> None:
    if not await _safely(world, work):
        await _boot(world)


async def _run(world: World, run_id: str) -> None:
    run = await _seen(world, run_id)
    await asyncio.gather(*(_live(world, run_id, names.task_id(node_id, 1)) for node_id in run.graph.nodes))
    while not run_state.is_over(run := await _seen(world, run_id)):
        if run_state.is_finishing(run):
            await _ended_since(world, run)
            await _by_scheduler(
                world, world.scheduler.tell(run_id, FinishRun(run_id=run_id, at_unix_micros=world.clock()))
            )
        elif not run_state.is_stopping(run):
            await _by_scheduler(world, world.scheduler.tell(run_id, CancelRun(run_id=run_id)))
        else:
            closable = [task.task_id for task in run_state.closable(run)]
            await asyncio.gather(*(_live(world, run_id, task_id) for task_id in (*run.open, *closable)))


async def _ended_since(world: World, run: Run) -> None:
    """Executors that were thought to be dead may have come to an end, as their agents' logs say."""
    for task in run.tasks.values():
        history = world.log.history("agent", names.agent_id(run.started.run_id, task.task_id))
        end = end_under(history[-1], task.generation, world.clock()) if history else None
        if isinstance(end, EndTask) and task.status not in ENDED:
            await _by_scheduler(world, world.scheduler.tell(run.started.run_id, end))


async def _seen(world: World, run_id: str) -> Run:
    run: Run = fold(run_rules, (fact for entry in world.log.history("run", run_id) for fact in codec.facts(entry)))
    return run


async def _live(world: World, run_id: str, task_id: str) -> None:
    """One task, until it has ended or the run is stopping. Without patience, the run is cancelled."""
    zombies: list[asyncio.Task[bool]] = []
    for turn in range(world.plan.patience):
        run = await _seen(world, run_id)
        if _is_done(run, task_id):
            break
        if turn == world.plan.patience - 1:
            world.paths["cancelled"] += 1
            await _by_scheduler(world, world.scheduler.tell(run_id, CancelRun(run_id=run_id)))
        await _turn(world, run, task_id, zombies)
        await _by_scheduler(world, world.scheduler.carry_on())
        await asyncio.sleep(0)
    await asyncio.gather(*zombies)


def _is_done(run: Run, task_id: str) -> bool:
    task = run.tasks.get(task_id)
    if task is not None and task.status in ENDED:
        return True
    held = task is not None and (task.status == TaskStatus.TASK_STATUS_CLAIMED or task in run_state.closable(run))
    return run_state.is_over(run) or (run_state.is_stopping(run) and not held)


async def _turn(world: World, run: Run, task_id: str, zombies: list[asyncio.Task[bool]]) -> None:
    run_id, task = run.started.run_id, run.tasks.get(task_id)
    if task is not None and (task in run_state.closable(run) or task.executor_id == closing.EXECUTOR_ID):
        world.paths["closed"] += 1
        await _by_scheduler(world, world.scheduler.close(run_id, task_id))
    elif task is None or task.status == TaskStatus.TASK_STATUS_READY:
        await _by_scheduler(world, world.scheduler.claim(run_id, task_id))
    elif task.status == TaskStatus.TASK_STATUS_PARKED:
        await _while_parked(world, run, task)
    else:
        await _worked_on(world, run, task, zombies)


async def _worked_on(world: World, run: Run, task: Task, zombies: list[asyncio.Task[bool]]) -> None:
    """The executor works, dies, or is only thought to be dead; what its log says then is told to the run."""
    revision = world.log.revision("run", run.started.run_id)
    working = asyncio.get_running_loop().create_task(_safely(world, executor.work(world, run, task, revision)))
    if world.happens(world.faults.zombies):
        world.paths["zombie"] += 1
        zombies.append(working)
        for _ in range(world.chance.randrange(40)):
            await asyncio.sleep(0)
    else:
        await working
    await _by_scheduler(world, world.scheduler.tell(run.started.run_id, _reaction(world, run, task)))


def _reaction(world: World, run: Run, task: Task) -> Message:
    """What the scheduler makes of the agent's log: its end, its parking, or a claim that lapses."""
    agent_id = names.agent_id(run.started.run_id, task.task_id)
    history = world.log.history("agent", agent_id)
    end = end_under(history[-1], task.generation, world.clock()) if history else None
    if end is not None:
        return end
    world.paths["lapsed"] += 1
    agent: Agent = fold(agent_rules, (fact for entry in history for fact in codec.facts(entry)))
    known = agent.status != AgentStatus.AGENT_STATUS_UNSPECIFIED
    return LapseClaim(
        run_id=run.started.run_id,
        task_id=task.task_id,
        generation=task.generation,
        reason="its executor is gone",
        so_far=agent_rules.result_so_far(agent, world.clock()) if known else None,
    )


async def _while_parked(world: World, run: Run, task: Task) -> None:
    """Somebody may answer the gate, or let it expire, or raise the limit; or something returns."""
    if not world.happens(0.3):
        return
    gates = [id for id, gate in run.gates.items() if gate.opened.task_id == task.task_id]
    open_gates = [id for id in sorted(gates) if run.gates[id].status == GateStatus.GATE_STATUS_OPEN]
    run_id, by = run.started.run_id, Amounts(usd_micros=200_000)
    if open_gates and world.happens(0.2):
        await _by_scheduler(world, world.scheduler.tell(run_id, ExpireGate(run_id=run_id, gate_id=open_gates[0])))
    elif open_gates:
        choice = world.chance.choice((run_money.RAISE, run_money.STOP))
        answer = AnswerGate(run_id=run_id, gate_id=open_gates[0], choice=choice, by=by)
        await _by_scheduler(world, world.scheduler.tell(run_id, answer))
    elif task.parked_on == run_money.own_budget(run):
        await _by_scheduler(world, world.scheduler.tell(run_id, RaiseRunBudget(run_id=run_id, by=by)))


async def _people(world: World, run_ids: list[str], done: asyncio.Event) -> None:
    """Raise and lower limits at random; and old commands come again."""
    while not done.is_set():
        for _ in range(world.chance.randrange(1, 60)):
            await asyncio.sleep(0)
        await world.stray()
        if world.plan.period and world.happens(0.1):
            world.days_pass()
        if world.happens(0.3):
            await _by_scheduler(world, _changed(world, run_ids))


async def _changed(world: World, run_ids: list[str]) -> None:
    by, raises = (
        Amounts(usd_micros=world.chance.randrange(1, world.chance.choice((300_000, 2_500_000)))),
        world.happens(0.6),
    )
    request_id = f"q{world.chance.randrange(10**6)}"
    world.paths["raised" if raises else "lowered"] += 1
    if world.happens(0.5):
        run_id = world.chance.choice(run_ids)
        change = RaiseRunBudget if raises else LowerRunBudget
        await world.scheduler.tell(run_id, change(run_id=run_id, by=by, request_id=request_id))
        return
    command = RaiseBudget if raises else LowerBudget
    changed = command(budget_id="tenant", by=by, request_id=request_id)
    funding = world.scheduler.allotments.funding
    await world.answered(lambda: funding.handle("tenant", changed, world.meta()))


async def _quiet(outside: set[asyncio.Task[Any]]) -> None:
    """Waits until nothing is under way but what was before."""
    while others := asyncio.all_tasks() - outside:
        await asyncio.wait(others)
