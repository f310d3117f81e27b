"""The states of runs and agents that are at work, folded one entry after the other.

An aggregate that has come to rest is dropped; what is asked of one that is not here is folded from its stored entries.
One thread changes it, others read: states are immutable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from crewlog.domain import names
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.agent import events as agent_events
from crewlog.domain.agent import view as agent_view
from crewlog.domain.agent.state import Agent
from crewlog.domain.run import decider as run_rules
from crewlog.domain.run import state as run_state
from crewlog.domain.run import view as run_view
from crewlog.domain.run.state import Run
from crewlog.eventlog import codec
from crewlog.gateway import costs
from crewlog.gateway.costs import Calls, Cost
from crewlog.telemetry import traces
from crewlog.v1.agent_pb2 import AgentStatus, AgentView
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import RunView
from immutables import Map

STATES_MAX = 4096

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Folded:
    """A state, the revision that it was folded up to, and that of its first entry; for agents also the open model
    calls, and what the last entry has cost."""

    state: Any
    revision: int
    started: int
    calls: Calls = field(default_factory=Map)
    costs: tuple[Cost, ...] = ()


FOLDS = {"run": run_rules, "agent": agent_rules}


class Hot:
    """What is at work, the longest untouched first."""

    def __init__(self) -> None:
        self._states: OrderedDict[Key, Folded] = OrderedDict()

    def get(self, key: Key) -> Folded | None:
        return self._states.get(key)

    def put(self, key: Key, folded: Folded) -> None:
        self._states[key] = folded
        self._states.move_to_end(key)

    def drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._states.pop(key, None)

    def trim(self) -> None:
        while len(self._states) > STATES_MAX:
            self._states.popitem(last=False)

    def clear(self) -> None:
        self._states.clear()


def fold(kind: str, folded: Folded | None, revision: int, entry: Entry) -> Folded:
    """The state after the entry. Facts that this release does not know are passed over."""
    rules: Any = FOLDS[kind]
    before = folded or Folded(rules.INITIAL, revision, revision)
    if kind == "agent":
        return _fold_agent(before, revision, entry)
    state = before.state
    for fact in codec.known_facts((entry,)):
        state = rules.evolve(state, fact)
    return Folded(state, revision, before.started)


def _fold_agent(before: Folded, revision: int, entry: Entry) -> Folded:
    state, calls, rows = before.state, before.calls, list[Cost]()
    agent_id, at = entry.aggregate.id, entry.recorded_at_unix_micros
    for fact in codec.known_facts((entry,)):
        after = agent_events.evolve(state, cast(agent_events.Event, fact))
        rows += costs.costs_of(agent_id, fact, state, after, calls, at)
        state, calls = after, costs.remember(calls, fact)
    return Folded(state, revision, before.started, calls, tuple(rows))


def is_at_rest(kind: str, state: Any) -> bool:
    """Whether nothing more is expected of it."""
    return run_state.is_over(state) if kind == "run" else _agent_is_over(state)


def _agent_is_over(agent: Agent) -> bool:
    return agent.status not in (AgentStatus.AGENT_STATUS_UNSPECIFIED, AgentStatus.AGENT_STATUS_RUNNING)


def run_view_of(run: Run, revision: int, *, with_tasks: bool = True) -> RunView:
    trace_id = f"{traces.trace_id_of_run(run.started.run_id):032x}"
    return run_view.view(run, revision=revision, trace_id=trace_id, with_tasks=with_tasks)


def agent_view_of(agent: Agent, agent_id: str, revision: int) -> AgentView:
    return agent_view.view(agent, agent_id, revision=revision)


def run_id_of(entry: Entry) -> str:
    """The run that an entry belongs to, or an empty string: budgets are above the runs, whoever has caused an entry."""
    correlation_id = next((d.correlation_id for d in entry.decisions if d.correlation_id), "")
    if entry.aggregate.kind == "budget":
        return ""
    if correlation_id or entry.aggregate.kind == "project":
        return correlation_id
    return names.run_of(entry.aggregate.id)
