"""What has to hold in every history, checked from the entries alone and without the rules that wrote them.

ordinals         the entries of an aggregate are numbered without gaps
generations      an agent's entries never go back to an older generation
effects          an outcome has an open intent of the same attempt before it, and an intent has at most one outcome
conversation     the model is called only when every call before it has an outcome, and not while the agent waits
money            no entry adds a reservation or an allotment above the limit then in force (crewlog.domain.ledgers)
ends             nothing follows the end of a run or an agent
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from crewlog.domain.ledgers import AgentLedger, BudgetLedger, Ledger, RunLedger
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentParked,
    AgentSucceeded,
    AgentTakenOver,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
)
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import RunCancelled, RunFailed, RunSucceeded
from google.protobuf.message import Message

_ENDS = (AgentSucceeded, AgentFailed, AgentCancelled, RunSucceeded, RunFailed, RunCancelled)
_OUTCOMES = (ModelCallSucceeded, ModelCallFailed, ToolCallSucceeded, ToolCallFailed)
_LEDGERS: dict[str, type[Ledger]] = {"agent": AgentLedger, "run": RunLedger, "budget": BudgetLedger}


@dataclass(slots=True)
class _History:
    """What was seen of one aggregate. `open` holds the attempts of intents by their place."""

    ledger: Ledger | None = None
    ordinal: int = 0
    generation: int = 0
    is_over: bool = False
    is_parked: bool = False
    open: dict[tuple[int, int], int] = field(default_factory=dict)
    attempts: dict[tuple[int, int], int] = field(default_factory=dict)


def violations(entries: Iterable[Entry]) -> Iterator[str]:
    """One sentence for each thing that does not hold. Entries of many aggregates, each in its order, from the first."""
    histories: dict[tuple[str, str], _History] = {}
    for entry in entries:
        key = (entry.aggregate.kind, entry.aggregate.id)
        if key not in histories:
            histories[key] = _History(_LEDGERS[key[0]]() if key[0] in _LEDGERS else None)
        for what in _check(histories[key], entry):
            yield f"{key[0]} {key[1]}, entry {entry.ordinal}: {what}"


def _check(history: _History, entry: Entry) -> Iterator[str]:
    if entry.ordinal != history.ordinal + 1:
        yield f"follows entry {history.ordinal}"
    if entry.aggregate.kind == "agent" and entry.generation < history.generation:
        yield f"is of generation {entry.generation}, after one of generation {history.generation}"
    history.ordinal, history.generation = entry.ordinal, entry.generation
    for decision in entry.decisions:
        for event in decision.events:
            name = event.WhichOneof("fact")
            if name is not None:
                yield from _check_fact(history, getattr(event, name))


def _check_fact(history: _History, fact: Message) -> Iterator[str]:
    name = fact.DESCRIPTOR.name
    if history.is_over:
        yield f"{name} follows the end"
    if isinstance(fact, _ENDS):
        history.is_over = True
        if isinstance(fact, AgentSucceeded) and history.open:
            yield f"{name}, and {len(history.open)} effects have no outcome"
    elif isinstance(fact, (ModelCallStarted, ToolCallStarted)):
        yield from _check_intent(history, fact)
    elif isinstance(fact, _OUTCOMES):
        yield from _check_outcome(history, fact)
    elif isinstance(fact, (EffectPutInDoubt, EffectReconciled)):
        yield from _check_doubt(history, fact)
    elif isinstance(fact, (AgentParked, AgentTakenOver)):
        yield from _check_waiting(history, fact)
    if history.ledger is not None:
        yield from history.ledger.enter(fact)


def _check_intent(history: _History, fact: ModelCallStarted | ToolCallStarted) -> Iterator[str]:
    place = (fact.key.turn, fact.key.index)
    if place in history.open:
        yield f"effect {place} is begun again while it is open"
    if fact.key.attempt <= history.attempts.get(place, 0):
        yield f"attempt {fact.key.attempt} of effect {place} is begun twice"
    history.attempts[place] = fact.key.attempt
    if isinstance(fact, ModelCallStarted):
        if history.open:
            yield f"the model is called while effects {sorted(history.open)} have no outcome"
        if history.is_parked:
            yield "the model is called while the agent waits for money"
    history.open[place] = fact.key.attempt


def _check_outcome(
    history: _History, fact: ModelCallSucceeded | ModelCallFailed | ToolCallSucceeded | ToolCallFailed
) -> Iterator[str]:
    yield from _check_open(history, fact.key, "an outcome")
    history.open.pop((fact.key.turn, fact.key.index), None)


def _check_doubt(history: _History, fact: EffectPutInDoubt | EffectReconciled) -> Iterator[str]:
    yield from _check_open(history, fact.key, "a doubt")
    place = (fact.key.turn, fact.key.index)
    if not isinstance(fact, EffectReconciled):
        return
    attempt = history.open.pop(place, 0)
    if fact.key.index >= 0:
        history.open[place] = attempt + (fact.resolution != EffectReconciled.RESOLUTION_TOLD_UNKNOWN)


def _check_waiting(history: _History, fact: AgentParked | AgentTakenOver) -> Iterator[str]:
    history.is_parked = isinstance(fact, AgentParked)
    if history.is_parked and history.open:
        yield f"AgentParked, and {len(history.open)} effects have no outcome"


def _check_open(history: _History, key: EffectKey, what: str) -> Iterator[str]:
    if history.open.get((key.turn, key.index), 0) != key.attempt:
        yield f"{what} of effect {(key.turn, key.index)}, attempt {key.attempt}, which is not open"
