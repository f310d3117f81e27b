"""What has to hold in every history, checked from the entries alone and without the rules that wrote them.

ordinals         the entries of an aggregate are numbered without gaps
generations      an agent's entries never go back to an older generation, but for evidence of what came too late
agents           what an agent may do, and when: crewlog.domain.conduct.agent
runs             what becomes of tasks, gates, messages and pauses: crewlog.domain.conduct.run
graphs           what begins and when, and how often: crewlog.domain.conduct.flow
money            no entry adds a reservation or an allotment above the limit in force (crewlog.domain.conduct.ledgers)
shares           a child run has what its parent has given, and no more: crewlog.domain.conduct.shares
ends             nothing follows the end of a run or an agent, until the run is taken up again
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from crewlog.domain import names
from crewlog.domain.conduct.agent import AgentConduct
from crewlog.domain.conduct.flow import FlowConduct
from crewlog.domain.conduct.ledgers import AgentLedger, BudgetLedger, Ledger, RunLedger
from crewlog.domain.conduct.run import RunConduct
from crewlog.v1.agent_pb2 import AgentStarted, AgentTakenOver, LateOutcomeRecorded
from crewlog.v1.entry_pb2 import Decision, Entry
from google.protobuf.message import Message

_LEDGERS: dict[str, type[Ledger]] = {"agent": AgentLedger, "run": RunLedger, "budget": BudgetLedger}


class Conduct(Protocol):
    """Each yields one sentence for everything that does not hold."""

    def enter(self, fact: Message, together_with: tuple[Message, ...]) -> Iterator[str]:
        """The next fact, and all of its decision."""

    def end_of_entry(self) -> Iterator[str]:
        """Everything that was decided together is there."""


@dataclass(slots=True)
class _History:
    """What was seen of one aggregate."""

    ledger: Ledger | None
    conduct: Conduct | None
    ordinal: int = 0
    generation: int = 0


class _Histories:
    """All aggregates. What belongs together knows each other: a run, and the agents of its tasks."""

    def __init__(self) -> None:
        self._histories: dict[tuple[str, str], _History] = {}
        self._runs: dict[str, RunConduct] = {}

    def of(self, kind: str, id: str) -> _History:
        found = self._histories.get((kind, id))
        if found is None:
            ledger = _LEDGERS[kind]() if kind in _LEDGERS else None
            found = self._histories[kind, id] = _History(ledger, self._conduct(kind, id))
        return found

    def _conduct(self, kind: str, id: str) -> Conduct | None:
        if kind == "run":
            self._runs[id] = RunConduct(flow=FlowConduct(runs=self._runs))
            return self._runs[id]
        if kind != "agent":
            return None
        run_id = names.run_of(id)
        agent = AgentConduct(task_id=id.removeprefix(f"{run_id}_"), run=self._runs.get(run_id))
        if agent.run is not None:
            agent.run.agents[agent.task_id] = agent
        return agent


def violations(entries: Iterable[Entry]) -> Iterator[str]:
    """One sentence for each thing that does not hold. Entries of many aggregates, in the order of the log, from the
    first. What an agent does is compared with its run where the run is among them."""
    histories = _Histories()
    for entry in entries:
        kind, id = entry.aggregate.kind, entry.aggregate.id
        for what in _check(histories.of(kind, id), entry):
            yield f"{kind} {id}, entry {entry.ordinal}: {what}"


def _check(history: _History, entry: Entry) -> Iterator[str]:
    if entry.ordinal != history.ordinal + 1:
        yield f"follows entry {history.ordinal}"
    history.ordinal = entry.ordinal
    decisions = [_facts(decision) for decision in entry.decisions]
    if entry.aggregate.kind == "agent":
        yield from _check_generation(history, entry.generation, [fact for facts in decisions for fact in facts])
    for facts in decisions:
        for fact in facts:
            if history.conduct is not None:
                yield from history.conduct.enter(fact, facts)
            if history.ledger is not None:
                yield from history.ledger.enter(fact)
    if history.conduct is not None:
        yield from history.conduct.end_of_entry()


def _facts(decision: Decision) -> tuple[Message, ...]:
    named = ((event, event.WhichOneof("fact")) for event in decision.events)
    return tuple(getattr(event, name) for event, name in named if name is not None)


def _check_generation(history: _History, generation: int, facts: list[Message]) -> Iterator[str]:
    if all(isinstance(fact, LateOutcomeRecorded) for fact in facts) and facts:
        return
    if generation < history.generation:
        yield f"is of generation {generation}, after one of generation {history.generation}"
    elif generation > history.generation and not (facts and isinstance(facts[0], (AgentStarted, AgentTakenOver))):
        yield f"is of generation {generation}, which has not taken over from {history.generation}"
    history.generation = max(history.generation, generation)
