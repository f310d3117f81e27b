"""What has to be right after a simulation, from the log and from the provider's ledger alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crewlog.domain import amounts, names
from crewlog.domain import budget as budget_rules
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.agent.state import Agent
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.budget import Budget
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.decider import fold
from crewlog.domain.run import decider as run_rules
from crewlog.domain.run.state import ENDED, Run, Task, is_over
from crewlog.eventlog import codec
from crewlog.eventlog.port import Stored
from crewlog.v1.agent_pb2 import AgentStarted, AgentStatus, AllotmentRaised
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import TaskStatus
from google.protobuf.message import Message

from tests.simulation.provider import bill
from tests.simulation.world import World, limits

_RULES: dict[str, Any] = {"agent": agent_rules, "run": run_rules, "budget": budget_rules}


def mistakes(world: World) -> list[str]:
    """One sentence for everything that is not right."""
    entries = world.log.entries()
    found = [*violations(entries), *world.provider.unpaid]
    return found or [*_levels(world), *_bills(world)]


@dataclass(slots=True)
class _Levels:
    """The states of all aggregates at a prefix of the log."""

    states: dict[tuple[str, str], Any] = field(default_factory=dict)
    allotments: defaultdict[str, dict[int, Amounts]] = field(default_factory=lambda: defaultdict(dict))
    late: set[str] = field(default_factory=set)


def _levels(world: World) -> Iterator[str]:
    """At every prefix: what a task holds was taken from every budget above it, and its agent has no more than that."""
    levels = _Levels()
    for stored in world.log.stored:
        kind, id = stored.aggregate.kind, stored.aggregate.id
        facts = list(codec.facts(Entry.FromString(stored.payload)))
        before = levels.states.get((kind, id))
        after = levels.states[kind, id] = fold(_RULES[kind], facts, before)
        if kind == "run":
            yield from _covered(world, levels, stored, before or run_rules.INITIAL, after)
        elif kind == "agent":
            yield from _as_told(levels, id, facts)
            levels.late |= {id} if _is_not_his(levels, id) and _money(after) != _money(before) else set()
    yield from _ends(world, levels)


def _covered(world: World, levels: _Levels, stored: Stored, before: Run, run: Run) -> Iterator[str]:
    for task in run.tasks.values():
        agent_id = names.agent_id(stored.aggregate.id, task.task_id)
        levels.allotments[agent_id][stored.revision] = task.allotment
        known = before.tasks.get(task.task_id)
        added = (task.allotment - (known.allotment if known else ZERO)).at_least_zero()
        if not added or task.status in ENDED:
            continue
        for budget_id in limits(world.plan):
            budget: Budget = levels.states["budget", budget_id]
            held = budget.open[agent_id].amounts if agent_id in budget.open else ZERO
            over = amounts.only_limited(budget.limit, (task.allotment - held).at_least_zero())
            if over:
                yield f"{agent_id} holds {task.allotment} in its run, and {budget_id} has given {held}"


def _as_told(levels: _Levels, agent_id: str, facts: list[Message]) -> Iterator[str]:
    for fact in facts:
        if isinstance(fact, (AgentStarted, AllotmentRaised)):
            told = [Amounts.of(fact.allotment)]
        else:
            continue
        if not set(told) <= set(levels.allotments[agent_id].values()):
            yield f"{agent_id} works with an allotment of {told[0]}, which its run has never given"


def _is_not_his(levels: _Levels, agent_id: str) -> bool:
    run_id, _, task_id = agent_id.partition("_")
    run: Run = levels.states["run", run_id]
    return run.tasks[task_id].status != TaskStatus.TASK_STATUS_CLAIMED


def _money(agent: Agent | None) -> Amounts:
    return agent.spent + agent.reserved if agent is not None else ZERO


def _ends(world: World, levels: _Levels) -> Iterator[str]:
    """Everything is closed, and the sums agree from the agents up."""
    runs = {id: state for (kind, id), state in levels.states.items() if kind == "run"}
    for run_id, run in runs.items():
        if not is_over(run) or run.allotted:
            yield f"run {run_id} is left with {run.allotted} allotted"
        results = amounts.total(Amounts.of(task.result.spent) for task in run.tasks.values() if task.result)
        if results != run.spent:
            yield f"run {run_id} has spent {run.spent}, its tasks {results}"
        yield from _tasks(levels, run_id, run, world)
    spent = amounts.total(run.spent for run in runs.values())
    for budget_id in limits(world.plan):
        budget: Budget = levels.states["budget", budget_id]
        if budget.open or budget.allotted:
            yield f"budget {budget_id} is left with {dict(budget.open)}"
        if budget.spent != spent and not world.plan.period:
            yield f"budget {budget_id} counts {budget.spent}, its runs {spent}"


def _tasks(levels: _Levels, run_id: str, run: Run, world: World) -> Iterator[str]:
    for task in run.tasks.values():
        agent_id = names.agent_id(run_id, task.task_id)
        if agent_id in levels.late:
            world.paths["spent without the claim"] += 1
            continue
        counted = Amounts.of(task.result.spent) if task.result is not None else ZERO
        agent: Agent | None = levels.states.get(("agent", agent_id))
        if agent is not None and not _has_told_all(world, task, agent):
            world.paths["asked while it spent"] += counted != _money(agent)
        elif counted != _money(agent):
            yield f"task {task.task_id} of {run_id} counts {counted}, its agent {_money(agent)}"


def _has_told_all(world: World, task: Task, agent: Agent) -> bool:
    """Whether the task has the end of its agent. An executor that was only thought to be dead may spend after it was
    asked what it has spent."""
    ends_agree = task.status - TaskStatus.TASK_STATUS_SUCCEEDED == agent.status - AgentStatus.AGENT_STATUS_SUCCEEDED
    return ends_agree or not (world.faults.zombies or world.faults.strays)


def _bills(world: World) -> Iterator[str]:
    """What an agent has spent is what the provider charged it, where lost calls count by their reservation."""
    agents = {stored.aggregate.id for stored in world.log.stored if stored.aggregate.kind == "agent"}
    for agent_id in sorted(agents):
        history = world.log.history("agent", agent_id)
        agent: Agent = fold(agent_rules, (fact for entry in history for fact in codec.facts(entry)))
        owed = bill(world.provider, agent_id, history)
        if _money(agent) != owed:
            yield f"{agent_id} has spent {_money(agent)}, and the provider's bill is {owed}"


def count(world: World) -> None:
    """Which paths the log says were taken."""
    for entry in world.log.entries():
        for fact in codec.facts(entry):
            world.paths[fact.DESCRIPTOR.name] += 1
    world.paths["conflict"] += world.log.conflicts
    world.paths["append in doubt"] += world.log.in_doubt
