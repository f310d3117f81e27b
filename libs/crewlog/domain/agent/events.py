"""What the events of an agent mean. Never refuses: it has happened. The rules are in crewlog.domain.agent.decider."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain.agent.state import (
    INTERRUPTED,
    INVALID_OUTPUT,
    Agent,
    Effect,
    ToolOutcome,
    Turn,
    amounts_of,
    amounts_used,
    has_model,
    is_command,
    is_last,
    is_refusal,
    late_key,
    place_of,
    saved,
    wants_output,
)
from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.replacing import replace
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentParked,
    AgentStarted,
    AgentStatus,
    AgentSucceeded,
    AgentTakenOver,
    AllotmentRaised,
    AllotmentShared,
    EffectClass,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    LateOutcomeRecorded,
    MessageReceived,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ReservationExceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Usage
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
    | AllotmentShared
    | AgentParked
    | ReservationExceeded
    | MessageReceived
    | LateOutcomeRecorded
)


def evolve(agent: Agent, event: Event) -> Agent:
    """What an event means."""
    match event:
        case ToolCallStarted():
            return _on_tool_call_started(agent, event)
        case ToolCallSucceeded():
            return _on_tool_call_succeeded(agent, event)
        case ToolCallFailed():
            return _on_tool_call_failed(agent, event)
        case ModelCallStarted():
            return _on_model_call_started(agent, event)
        case ModelCallSucceeded():
            return _on_model_call_succeeded(agent, event)
        case ModelCallFailed():
            return _on_model_call_failed(agent, event)
        case AgentStarted():
            return _on_started(event)
        case AgentTakenOver():
            return _on_taken_over(agent, event)
        case EffectPutInDoubt():
            return _on_in_doubt(agent, event)
        case EffectReconciled():
            return _on_reconciled(agent, event)
        case AllotmentRaised() | AllotmentShared():
            return _on_allotment(agent, event)
        case AgentParked():
            return replace(agent, parked=event)
        case MessageReceived():
            return replace(agent, messages=event.number, inbox=(*agent.inbox, event))
        case LateOutcomeRecorded() | ReservationExceeded():
            return _on_evidence(agent, event)
        case AgentSucceeded():
            return _on_ended(agent, AgentStatus.AGENT_STATUS_SUCCEEDED, event, None)
        case AgentFailed():
            return _on_ended(agent, AgentStatus.AGENT_STATUS_FAILED, event, event.failure)
        case AgentCancelled():
            return _on_ended(agent, AgentStatus.AGENT_STATUS_CANCELLED, event, None)
        case _:
            assert_never(event)


def _on_evidence(agent: Agent, event: LateOutcomeRecorded | ReservationExceeded) -> Agent:
    """Nothing is decided on it, but that it is recorded once."""
    if isinstance(event, ReservationExceeded):
        return agent
    return replace(agent, late=agent.late | {late_key(event.generation, event.key)})


def _on_tool_call_started(agent: Agent, event: ToolCallStarted) -> Agent:
    effect = Effect(event.key.attempt, event.effect_class, event.call, started_at_unix_micros=event.at_unix_micros)
    return replace(agent, open=agent.open.set(place_of(event.key), effect))


def _on_allotment(agent: Agent, event: AllotmentRaised | AllotmentShared) -> Agent:
    if isinstance(event, AllotmentRaised):
        return replace(agent, allotment=Amounts.of(event.allotment), allotment_revision=event.run_revision)
    share = Amounts.of(event.share)
    return replace(agent, allotment=agent.allotment - share, shared=agent.shared.set(place_of(event.key), share))


def _on_tool_call_succeeded(agent: Agent, event: ToolCallSucceeded) -> Agent:
    output = event.output
    outcome = ToolOutcome(output.text, is_error=False, cut_from_bytes=output.text_cut_from_bytes)
    ended = _on_tool_call_ended(agent, event.key, output.snapshot, outcome)
    if not output.structured_json:
        return ended
    return replace(ended, structured_json=output.structured_json, finished_turn=event.key.turn, invalid_outputs=0)


def _on_tool_call_failed(agent: Agent, event: ToolCallFailed) -> Agent:
    failure = event.failure
    outcome = ToolOutcome(failure.text, True, failure.reason, failure.text_cut_from_bytes)
    ended = _on_tool_call_ended(agent, event.key, failure.snapshot, outcome)
    if failure.reason != INVALID_OUTPUT:
        return ended
    return replace(ended, invalid_outputs=agent.invalid_outputs + 1)


def _on_tool_call_ended(agent: Agent, key: EffectKey, snapshot: Snapshot, outcome: ToolOutcome) -> Agent:
    return replace(
        agent,
        open=agent.open.delete(place_of(key)),
        tool_calls=agent.tool_calls + 1,
        snapshot=snapshot if snapshot.tree else agent.snapshot,
        ran=outcome if is_command(agent) else None,
        turns=_with_outcome(agent.turns, key, outcome) if has_model(agent) else agent.turns,
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
        _told(agent, event),
        open=agent.open.set(place_of(event.key), effect),
        attempts=event.key.attempt,
        reserved=agent.reserved + reserved,
    )


def _told(agent: Agent, event: ModelCallStarted) -> Agent:
    if not event.messages:
        return agent
    texts = tuple(message.text for message in agent.inbox if message.number in event.messages)
    return replace(
        agent,
        told=agent.told.set(event.key.turn, (*agent.told.get(event.key.turn, ()), *texts)),
        inbox=tuple(message for message in agent.inbox if message.number not in event.messages),
        read=(*agent.read, *event.messages),
    )


def _on_taken_over(agent: Agent, event: AgentTakenOver) -> Agent:
    """The time that it was parked does not count; and what a provider refused before may be tried anew."""
    parked = agent.parked
    return replace(
        agent,
        generation=event.generation,
        executor_id=event.executor_id,
        parked=None,
        idle_micros=agent.idle_micros + (event.at_unix_micros - parked.at_unix_micros if parked is not None else 0),
        failures=0 if parked is not None else agent.failures,
        last_failure=None if parked is not None else agent.last_failure,
        resumes=agent.resumes + 1,
        last_receipt=event.receipt,
    )


def _on_model_call_succeeded(agent: Agent, event: ModelCallSucceeded) -> Agent:
    answer = event.answer
    turn = _said(agent, answer)
    return replace(
        _settled(agent, event.key, amounts_used(answer.usage, answer.cost_usd_micros)),
        turns=(*agent.turns, turn),
        invalid_outputs=agent.invalid_outputs + turn.is_reminded,
        usage=_sum(agent.usage, answer.usage),
        saved_usd_micros=agent.saved_usd_micros + saved(answer),
        attempts=0,
        failures=0,
        last_failure=None,
    )


def _said(agent: Agent, answer: ModelAnswer) -> Turn:
    """An answer that neither hands over the output nor does anything towards it is no end."""
    turn = Turn(tuple(answer.content), answer.stop_reason)
    ends = not any(block.HasField("tool_use") for block in answer.content) and is_last(turn)
    is_owing = wants_output(agent) and not agent.structured_json
    return replace(turn, is_reminded=ends and is_owing and not is_refusal(answer.stop_reason))


def _on_model_call_failed(agent: Agent, event: ModelCallFailed) -> Agent:
    """A call that the provider has refused costs nothing; one that it may have charged costs all that was reserved."""
    lost = agent.open[place_of(event.key)].reserved if event.failure.may_have_charged else ZERO
    return replace(
        _settled(agent, event.key, lost),
        last_failure=event.failure,
        failures=agent.failures + (event.failure.failure.reason != INTERRUPTED),
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
    if event.resolution == EffectReconciled.RESOLUTION_ASKED:
        return replace(agent, open=agent.open.set(place, replace(effect, is_asked=True)))
    again = replace(effect, attempt=effect.attempt + 1, is_asked=False)
    return replace(agent, open=agent.open.set(place, again))


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
