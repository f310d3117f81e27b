"""What each model call came to: one row for a call whose outcome, or whose loss, is recorded.

The amount of a row is by how much the fact made what the agent has spent grow, as the domain counts it: rows and views
cannot disagree. An outcome that is recorded after its call was given up replaces the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from crewlog.domain.agent.state import Agent, Place, place_of
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentSucceeded,
    EffectPutInDoubt,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
)
from crewlog.v1.budget_pb2 import Price, Usage
from google.protobuf.message import Message
from immutables import Map

_MTOK = 1_000_000

Calls = Map[Place, ModelCallStarted]
"""The model calls of an agent that have no outcome."""


@dataclass(frozen=True, slots=True)
class Cost:
    """`lost` is the part of `usd_micros` for which there is no answer; `saved` is what the cache has spared."""

    agent_id: str
    turn: int
    attempt: int
    run_id: str
    task_id: str
    role: str
    model: str
    credential: str
    at_unix_micros: int
    usd_micros: int
    lost_usd_micros: int
    saved_usd_micros: int
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


def remember(calls: Calls, fact: Message) -> Calls:
    """The open calls after a fact."""
    if isinstance(fact, ModelCallStarted):
        return calls.set(place_of(fact.key), fact)
    if isinstance(fact, ModelCallSucceeded | ModelCallFailed | EffectPutInDoubt):
        place = place_of(fact.key)
        return calls.delete(place) if place in calls else calls
    return Map() if isinstance(fact, _ENDS) else calls


def costs_of(agent_id: str, fact: Message, before: Agent, after: Agent, calls: Calls, at: int) -> Iterator[Cost]:
    """The rows that a fact adds; `calls` are those that were open before it, `at` is when its entry was recorded."""
    match fact:
        case ModelCallSucceeded() if place_of(fact.key) in calls:
            call = calls[place_of(fact.key)]
            usd = _grown(before, after)
            yield _answered(_row(agent_id, before, call, usd, 0, fact.at_unix_micros or at), call, fact.answer.usage)
        case ModelCallFailed() | EffectPutInDoubt() if place_of(fact.key) in calls:
            usd = _grown(before, after)
            if usd:
                when = fact.at_unix_micros if isinstance(fact, ModelCallFailed) else at
                yield _row(agent_id, before, calls[place_of(fact.key)], usd, usd, when or at)
        case AgentSucceeded() | AgentFailed() | AgentCancelled():
            yield from given_up(agent_id, before, calls, fact.at_unix_micros or at)


def given_up(agent_id: str, agent: Agent, calls: Calls, at: int) -> Iterator[Cost]:
    """The calls that nobody waits for any more: what they reserved counts as spent."""
    for place, call in sorted(calls.items()):
        usd = agent.open[place].reserved.usd_micros
        if usd:
            yield _row(agent_id, agent, call, usd, usd, at)


def _grown(before: Agent, after: Agent) -> int:
    return after.spent.usd_micros - before.spent.usd_micros


def _row(agent_id: str, agent: Agent, call: ModelCallStarted, usd: int, lost: int, at: int) -> Cost:
    return Cost(
        agent_id=agent_id,
        turn=call.key.turn,
        attempt=call.key.attempt,
        run_id=agent.started.run_id,
        task_id=agent.started.task_id,
        role=agent.started.node.role.name,
        model=call.model,
        credential=call.credential,
        at_unix_micros=at,
        usd_micros=usd,
        lost_usd_micros=lost,
        saved_usd_micros=0,
    )


def _answered(cost: Cost, call: ModelCallStarted, usage: Usage) -> Cost:
    return replace(
        cost,
        saved_usd_micros=_saved(call.reservation.price, usage),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )


def _saved(price: Price, usage: Usage) -> int:
    """Rounded down: what is not sure is not claimed."""
    cheaper = price.input_usd_micros_per_mtok - price.cache_read_usd_micros_per_mtok
    return max(0, cheaper) * usage.cache_read_tokens // _MTOK


_ENDS = (AgentSucceeded, AgentFailed, AgentCancelled)
