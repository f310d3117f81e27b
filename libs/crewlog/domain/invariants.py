"""What has to hold in every history, checked from the entries alone and without the rules that wrote them.

ordinals         the entries of an aggregate are numbered without gaps
generations      an agent's entries never go back to an older generation
effects          an outcome has an open intent of the same attempt before it, and an intent has at most one outcome
conversation     the model is called only when every call before it has an outcome
money            nothing is reserved above what is left of the allotment, nothing is allotted above the run's budget
ends             nothing follows the end of a run or an agent
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentStarted,
    AgentSucceeded,
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
from crewlog.v1.run_pb2 import (
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    TaskCancelled,
    TaskClaimed,
    TaskFailed,
    TaskSucceeded,
)
from google.protobuf.message import Message

_ENDS = (AgentSucceeded, AgentFailed, AgentCancelled, RunSucceeded, RunFailed, RunCancelled)
_OUTCOMES = (ModelCallSucceeded, ModelCallFailed, ToolCallSucceeded, ToolCallFailed)


@dataclass(slots=True)
class _History:
    """What was seen of one aggregate. `open` holds intents by their place, with attempt and reservation."""

    ordinal: int = 0
    generation: int = 0
    is_over: bool = False
    open: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    limit: int = 0
    spent: int = 0
    reserved: int = 0
    allotments: dict[str, int] = field(default_factory=dict)


def violations(entries: Iterable[Entry]) -> Iterator[str]:
    """One sentence for each thing that does not hold. Entries of many aggregates, each in its order, from the first."""
    histories: dict[tuple[str, str], _History] = {}
    for entry in entries:
        key = (entry.aggregate.kind, entry.aggregate.id)
        history = histories.setdefault(key, _History())
        for what in _check(history, entry):
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
    else:
        yield from _check_money(history, fact)


def _check_intent(history: _History, fact: ModelCallStarted | ToolCallStarted) -> Iterator[str]:
    place = (fact.key.turn, fact.key.index)
    if place in history.open:
        yield f"effect {place} is begun again while it is open"
    reserved = 0
    if isinstance(fact, ModelCallStarted):
        if history.open:
            yield f"the model is called while effects {sorted(history.open)} have no outcome"
        reserved = fact.reservation.usd_micros
        if history.limit and history.spent + history.reserved + reserved > history.limit:
            yield f"{reserved} micro-dollars are reserved above the allotment of {history.limit}"
    history.open[place] = (fact.key.attempt, reserved)
    history.reserved += reserved


def _check_outcome(
    history: _History, fact: ModelCallSucceeded | ModelCallFailed | ToolCallSucceeded | ToolCallFailed
) -> Iterator[str]:
    yield from _check_open(history, fact.key, "an outcome")
    _, reserved = history.open.pop((fact.key.turn, fact.key.index), (0, 0))
    history.reserved -= reserved
    if isinstance(fact, ModelCallSucceeded):
        history.spent += fact.answer.cost_usd_micros
    if isinstance(fact, ModelCallFailed):
        history.spent += fact.failure.cost_usd_micros


def _check_doubt(history: _History, fact: EffectPutInDoubt | EffectReconciled) -> Iterator[str]:
    yield from _check_open(history, fact.key, "a doubt")
    place = (fact.key.turn, fact.key.index)
    attempt, reserved = history.open.pop(place, (0, 0))
    if isinstance(fact, EffectPutInDoubt):
        history.reserved, history.spent = history.reserved - reserved, history.spent + reserved
        history.open[place] = (attempt, 0)
    elif fact.key.index >= 0:
        again = fact.resolution != EffectReconciled.RESOLUTION_TOLD_UNKNOWN
        history.open[place] = (attempt + again, 0)


def _check_open(history: _History, key: EffectKey, what: str) -> Iterator[str]:
    attempt, _ = history.open.get((key.turn, key.index), (0, 0))
    if attempt != key.attempt:
        yield f"{what} of effect {(key.turn, key.index)}, attempt {key.attempt}, which is not open"


def _check_money(history: _History, fact: Message) -> Iterator[str]:
    if isinstance(fact, AgentStarted):
        history.limit = fact.allotment.usd_micros
    elif isinstance(fact, RunStarted):
        history.limit = fact.budget.usd_micros
    elif isinstance(fact, TaskClaimed):
        history.allotments[fact.task_id] = fact.allotment.usd_micros
        if history.limit and history.spent + sum(history.allotments.values()) > history.limit:
            yield f"the allotment of task {fact.task_id} goes above the budget of {history.limit}"
    elif isinstance(fact, (TaskSucceeded, TaskFailed, TaskCancelled)):
        history.spent += fact.result.cost_usd_micros
        history.allotments.pop(fact.task_id, None)
