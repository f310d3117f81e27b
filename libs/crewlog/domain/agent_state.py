"""The state of an agent: its conversation, its open effects and its money. The rules are in crewlog.domain.agent.

An effect is open from its intent to its outcome. `turns` is the conversation: what the model said, and what came of
each tool call; bodies stay references, so the state is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from crewlog.domain import amounts
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentParked,
    AgentStarted,
    AgentStatus,
    AgentSucceeded,
    AgentTakenOver,
    AllotmentRaised,
    ContentBlock,
    EffectClass,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelFailure,
    ReservationExceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Reservation, Usage
from crewlog.v1.run_pb2 import TaskResult
from crewlog.v1.workspace_pb2 import Snapshot
from immutables import Map

Event: TypeAlias = (
    AgentStarted
    | AgentTakenOver
    | ModelCallStarted
    | ModelCallSucceeded
    | ModelCallFailed
    | ToolCallStarted
    | ToolCallSucceeded
    | ToolCallFailed
    | EffectPutInDoubt
    | EffectReconciled
    | AgentSucceeded
    | AgentFailed
    | AgentCancelled
    | AllotmentRaised
    | AgentParked
    | ReservationExceeded
)

MODEL = -1
Place: TypeAlias = tuple[int, int]
"""Turn and index of an effect."""


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect whose outcome is not recorded; `call` is None for a model call."""

    attempt: int
    effect_class: EffectClass.ValueType
    call: ToolUse | None = None
    reserved: Amounts = ZERO
    started_at_unix_micros: int = 0


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    text: Body
    is_error: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the model, with the outcomes of its tool calls by their index."""

    content: tuple[ContentBlock, ...]
    stop_reason: str
    outcomes: Map[int, ToolOutcome] = field(default_factory=Map)


@dataclass(frozen=True, slots=True)
class Agent:
    status: AgentStatus.ValueType = AgentStatus.AGENT_STATUS_UNSPECIFIED
    started: AgentStarted = field(default_factory=AgentStarted)
    generation: int = 0
    executor_id: str = ""
    turns: tuple[Turn, ...] = ()
    open: Map[Place, Effect] = field(default_factory=Map)
    attempts: int = 0
    last_failure: ModelFailure | None = None
    usage: Usage = field(default_factory=Usage)
    allotment: Amounts = ZERO
    allotment_revision: int = 0
    spent: Amounts = ZERO
    reserved: Amounts = ZERO
    lost_usd_micros: int = 0
    saved_usd_micros: int = 0
    is_parked: bool = False
    tool_calls: int = 0
    snapshot: Snapshot | None = None
    in_doubt: int = 0
    result: TaskResult | None = None
    failure: Failure | None = None
    ended_at_unix_micros: int = 0


INITIAL = Agent()


def evolve(agent: Agent, event: Event) -> Agent:
    """What an event means."""
    match event:
        case ToolCallStarted():
            return _on_tool_call_started(agent, event)
        case ToolCallSucceeded():
            return _on_tool_call_ended(agent, event.key, event.output.text, event.output.snapshot, is_error=False)
        case ToolCallFailed():
            return _on_tool_call_ended(agent, event.key, event.failure.text, event.failure.snapshot, is_error=True)
        case ModelCallStarted():
            return _on_model_call_started(agent, event)
        case ModelCallSucceeded():
            return _on_model_call_succeeded(agent, event)
        case ModelCallFailed():
            return _on_model_call_failed(agent, event)
        case AgentStarted():
            return _on_started(event)
        case AgentTakenOver():
            return replace(agent, generation=event.generation, executor_id=event.executor_id, is_parked=False)
        case EffectPutInDoubt():
            return _on_in_doubt(agent, event)
        case EffectReconciled():
            return _on_reconciled(agent, event)
        case AllotmentRaised():
            allotment = Amounts.of(event.allotment)
            return replace(agent, allotment=allotment, allotment_revision=event.run_revision)
        case AgentParked():
            return replace(agent, is_parked=True)
        case ReservationExceeded():
            return agent
        case AgentSucceeded():
            return _on_ended(agent, AgentStatus.AGENT_STATUS_SUCCEEDED, event, None)
        case AgentFailed():
            return _on_ended(agent, AgentStatus.AGENT_STATUS_FAILED, event, event.failure)
        case AgentCancelled():
            return _on_ended(agent, AgentStatus.AGENT_STATUS_CANCELLED, event, None)
        case _:
            assert_never(event)


def is_over(agent: Agent) -> bool:
    return agent.status > AgentStatus.AGENT_STATUS_RUNNING


def is_noop(agent: Agent) -> bool:
    return agent.started.HasField("noop")


def tool_uses(turn: Turn) -> Iterator[tuple[int, ToolUse]]:
    """The tool calls of an answer with their indices, from 0."""
    return enumerate(block.tool_use for block in turn.content if block.HasField("tool_use"))


def fits(agent: Agent, wanted: Amounts) -> bool:
    """Whether a further call may cost so much at most."""
    return amounts.fits(agent.allotment, agent.spent + agent.reserved + wanted)


def amounts_of(reservation: Reservation) -> Amounts:
    """What a model call takes from the allotment until it is settled."""
    return Amounts(reservation.usd_micros, reservation.input_tokens_max, reservation.output_tokens_max, 1)


def amounts_used(usage: Usage, cost_usd_micros: int) -> Amounts:
    """What an answer has come to; input counts whether it was cached or not."""
    read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return Amounts(cost_usd_micros, read, usage.output_tokens, 1)


def tokens(agent: Agent) -> int:
    """Every token that was read or written, cached ones included."""
    used = agent.usage
    return used.input_tokens + used.output_tokens + used.cache_read_tokens + used.cache_write_tokens


def place_of(key: EffectKey) -> Place:
    return key.turn, key.index


def saved(answer: ModelAnswer) -> int:
    """What reading from the provider's cache has saved, against the price of other input; rounded down."""
    per_mtok = answer.price.input_usd_micros_per_mtok - answer.price.cache_read_usd_micros_per_mtok
    return max(0, answer.usage.cache_read_tokens * per_mtok) // 1_000_000


def _on_tool_call_started(agent: Agent, event: ToolCallStarted) -> Agent:
    effect = Effect(event.key.attempt, event.effect_class, event.call, started_at_unix_micros=event.at_unix_micros)
    return replace(agent, open=agent.open.set(place_of(event.key), effect))


def _on_tool_call_ended(agent: Agent, key: EffectKey, text: Body, snapshot: Snapshot, *, is_error: bool) -> Agent:
    return replace(
        agent,
        open=agent.open.delete(place_of(key)),
        tool_calls=agent.tool_calls + 1,
        snapshot=snapshot if snapshot.tree else agent.snapshot,
        turns=agent.turns if is_noop(agent) else _with_outcome(agent.turns, key, ToolOutcome(text, is_error)),
    )


def _with_outcome(turns: tuple[Turn, ...], key: EffectKey, outcome: ToolOutcome) -> tuple[Turn, ...]:
    turn = turns[key.turn - 1]
    ended = replace(turn, outcomes=turn.outcomes.set(key.index, outcome))
    return (*turns[: key.turn - 1], ended, *turns[key.turn :])


def _on_started(event: AgentStarted) -> Agent:
    return Agent(
        AgentStatus.AGENT_STATUS_RUNNING,
        event,
        event.generation,
        event.executor_id,
        allotment=Amounts.of(event.allotment),
    )


def _on_model_call_started(agent: Agent, event: ModelCallStarted) -> Agent:
    reserved = amounts_of(event.reservation)
    effect = Effect(
        event.key.attempt,
        EffectClass.EFFECT_CLASS_MODEL,
        reserved=reserved,
        started_at_unix_micros=event.at_unix_micros,
    )
    return replace(
        agent,
        open=agent.open.set(place_of(event.key), effect),
        attempts=event.key.attempt,
        reserved=agent.reserved + reserved,
    )


def _on_model_call_succeeded(agent: Agent, event: ModelCallSucceeded) -> Agent:
    answer = event.answer
    return replace(
        _settled(agent, event.key, amounts_used(answer.usage, answer.cost_usd_micros)),
        turns=(*agent.turns, Turn(tuple(answer.content), answer.stop_reason)),
        usage=_sum(agent.usage, answer.usage),
        saved_usd_micros=agent.saved_usd_micros + saved(answer),
        attempts=0,
        last_failure=None,
    )


def _on_model_call_failed(agent: Agent, event: ModelCallFailed) -> Agent:
    """A call that the provider has refused costs nothing; one that it may have charged costs all that was reserved."""
    lost = agent.open[place_of(event.key)].reserved if event.failure.may_have_charged else ZERO
    return replace(
        _settled(agent, event.key, lost),
        last_failure=event.failure,
        lost_usd_micros=agent.lost_usd_micros + lost.usd_micros,
    )


def _settled(agent: Agent, key: EffectKey, spent: Amounts) -> Agent:
    place = place_of(key)
    return replace(
        agent,
        open=agent.open.delete(place),
        reserved=agent.reserved - agent.open[place].reserved,
        spent=agent.spent + spent,
    )


def _on_in_doubt(agent: Agent, event: EffectPutInDoubt) -> Agent:
    """What a call whose answer is lost had reserved counts as spent."""
    effect = agent.open[place_of(event.key)]
    return replace(
        agent,
        in_doubt=agent.in_doubt + 1,
        reserved=agent.reserved - effect.reserved,
        spent=agent.spent + effect.reserved,
        lost_usd_micros=agent.lost_usd_micros + effect.reserved.usd_micros,
        open=agent.open.set(place_of(event.key), replace(effect, reserved=ZERO)),
    )


def _on_reconciled(agent: Agent, event: EffectReconciled) -> Agent:
    """A model call is called anew, under a new intent; a tool call goes on under a new attempt."""
    place = place_of(event.key)
    effect = agent.open[place]
    if effect.call is None:
        return replace(agent, open=agent.open.delete(place))
    if event.resolution == EffectReconciled.RESOLUTION_TOLD_UNKNOWN:
        return agent
    return replace(agent, open=agent.open.set(place, replace(effect, attempt=effect.attempt + 1)))


def _on_ended(
    agent: Agent,
    status: AgentStatus.ValueType,
    event: AgentSucceeded | AgentFailed | AgentCancelled,
    failure: Failure | None,
) -> Agent:
    return replace(
        agent,
        status=status,
        result=event.result,
        failure=failure,
        open=Map(),
        ended_at_unix_micros=event.at_unix_micros,
    )


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(
        input_tokens=a.input_tokens + b.input_tokens,
        output_tokens=a.output_tokens + b.output_tokens,
        cache_read_tokens=a.cache_read_tokens + b.cache_read_tokens,
        cache_write_tokens=a.cache_write_tokens + b.cache_write_tokens,
    )
