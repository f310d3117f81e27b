"""An agent: the conversation that performs a task, and every effect that it has on the world.

    host -> RUNNING --(model call | tool calls)*--> SUCCEEDED | FAILED | CANCELLED

Before an effect there is an intent, after it one outcome. The tool calls of an answer become intents in the entry that
records the answer. The first entry of a generation fences out the older ones and settles what they left open:
crewlog.domain.agent.recovery. From then on an older generation may append one thing only, what came of an effect that
it had performed; it is evidence and decides nothing.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain import amounts
from crewlog.domain.agent.ends import output_cut_from_bytes
from crewlog.domain.agent.events import Event, evolve
from crewlog.domain.agent.recovery import NOOP_TOOL, host, noop_step, told_unknown
from crewlog.domain.agent.sharing import raised, share
from crewlog.domain.agent.state import (
    INITIAL,
    MODEL,
    Agent,
    amounts_of,
    amounts_used,
    fits,
    is_noop,
    is_over,
    is_refusal,
    late_key,
    place_of,
    wants_output,
)
from crewlog.domain.errors import BudgetExceeded, NotFound, StaleClaim, WrongState
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentParked,
    AgentStatus,
    AgentSucceeded,
    EffectClass,
    EffectKey,
    EffectReconciled,
    FinishAgent,
    FinishModelCall,
    FinishToolCall,
    HostAgent,
    LateOutcomeRecorded,
    MessageReceived,
    ModelAnswer,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ParkAgent,
    RaiseAllotment,
    ReceiveMessage,
    ReconcileEffect,
    RecordLateOutcome,
    ReservationExceeded,
    ShareAllotment,
    StartModelCall,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
)
from crewlog.v1.run_pb2 import TaskResult
from google.protobuf.message import Message

__all__ = ["INITIAL", "KIND", "NOOP_TOOL", "VERSION", "Command", "Event", "decide", "evolve"]

KIND = "agent"
VERSION = 1

ClaimedCommand: TypeAlias = (
    StartModelCall
    | FinishModelCall
    | FinishToolCall
    | ReconcileEffect
    | RaiseAllotment
    | ShareAllotment
    | ReceiveMessage
    | ParkAgent
    | FinishAgent
)
Command: TypeAlias = HostAgent | RecordLateOutcome | ClaimedCommand


def decide(agent: Agent, command: Command) -> list[Message]:
    """What a command causes. Raises InvalidCommand, NotFound, StaleClaim, WrongState or BudgetExceeded."""
    if isinstance(command, HostAgent):
        return host(agent, command)
    if isinstance(command, RecordLateOutcome):
        return _record_late_outcome(agent, command)
    _check_claim(agent, command)
    events = _decide_claimed(agent, command)
    if events and agent.parked is not None:
        raise WrongState(f"agent {command.agent_id!r} is parked under generation {command.generation}")
    return events


def _decide_claimed(agent: Agent, command: ClaimedCommand) -> list[Message]:
    match command:
        case FinishToolCall():
            return _finish_tool_call(agent, command)
        case StartModelCall():
            return _start_model_call(agent, command)
        case FinishModelCall():
            return _finish_model_call(agent, command)
        case ReconcileEffect():
            return _reconcile(agent, command)
        case RaiseAllotment():
            return raised(agent, command)
        case ShareAllotment():
            return share(agent, command)
        case ReceiveMessage():
            return _receive(agent, command)
        case ParkAgent():
            return _park(agent, command)
        case FinishAgent():
            return _finish(agent, command)
        case _:
            assert_never(command)


def _check_claim(agent: Agent, command: ClaimedCommand) -> None:
    if agent.status == AgentStatus.AGENT_STATUS_UNSPECIFIED:
        raise NotFound(f"there is no agent {command.agent_id!r}")
    if command.generation < agent.generation:
        raise StaleClaim(
            f"agent {command.agent_id!r} is at generation {agent.generation}, this is {command.generation}",
            what_to_do="stop: another executor has the task",
        )
    if command.generation > agent.generation and not is_over(agent):
        raise WrongState(f"generation {command.generation} of agent {command.agent_id!r} has not taken over yet")


def _start_model_call(agent: Agent, command: StartModelCall) -> list[Message]:
    open_call = agent.open.get(place_of(command.key))
    if open_call is not None and open_call.attempt == command.key.attempt:
        return []
    if is_over(agent) or agent.open:
        raise WrongState(f"agent {command.agent_id!r} cannot call the model now")
    if place_of(command.key) != (len(agent.turns) + 1, MODEL):
        raise WrongState(f"the next turn of agent {command.agent_id!r} is {len(agent.turns) + 1}")
    if command.key.attempt <= agent.attempts:
        raise WrongState(f"attempt {command.key.attempt} of agent {command.agent_id!r} has been made: it is over")
    if not {message.number for message in agent.inbox}.issuperset(command.messages):
        raise WrongState(f"agent {command.agent_id!r} has not received every message that the call holds")
    wanted = amounts_of(command.reservation)
    amounts.check("reservation", wanted.message())
    if not fits(agent, wanted):
        raise BudgetExceeded(
            f"the call of agent {command.agent_id!r} does not fit into what is left of its allotment",
            what_to_do="raise the budget of the run, or let the agent stop with what is done",
        )
    return [
        ModelCallStarted(
            key=command.key,
            model=command.model,
            output_tokens_max=command.output_tokens_max,
            reservation=command.reservation,
            at_unix_micros=command.at_unix_micros,
            credential=command.credential,
            messages=command.messages,
        )
    ]


def _finish_model_call(agent: Agent, command: FinishModelCall) -> list[Message]:
    if not _is_open(agent, command.key):
        return []
    at = command.at_unix_micros
    if command.HasField("failure"):
        return [ModelCallFailed(key=command.key, failure=command.failure, at_unix_micros=at)]
    return [
        ModelCallSucceeded(key=command.key, answer=command.answer, at_unix_micros=at),
        *_exceeded(agent, command),
        *_intents(agent, command.key.turn, command.answer, at),
    ]


def _exceeded(agent: Agent, command: FinishModelCall) -> list[Message]:
    """A provider that reports more than could be is believed, and the alarm is in the log."""
    used = amounts_used(command.answer.usage, command.answer.cost_usd_micros)
    over = (used - agent.open[place_of(command.key)].reserved).at_least_zero()
    if not over:
        return []
    return [ReservationExceeded(key=command.key, over=over.message(), at_unix_micros=command.at_unix_micros)]


def _park(agent: Agent, command: ParkAgent) -> list[Message]:
    if is_over(agent) or agent.parked is not None:
        return []
    if any(effect.call is None for effect in agent.open.values()):
        raise WrongState(f"agent {command.agent_id!r} is in the middle of a model call")
    return [
        AgentParked(
            cause=command.cause,
            budget_id=command.budget_id,
            wanted=command.wanted if command.HasField("wanted") else None,
            question=command.question if command.HasField("question") else None,
            failure=command.failure if command.HasField("failure") else None,
            not_before_unix_micros=command.not_before_unix_micros,
            so_far=_with_totals(agent, TaskResult(), command.at_unix_micros),
            at_unix_micros=command.at_unix_micros,
        )
    ]


def _receive(agent: Agent, command: ReceiveMessage) -> list[Message]:
    if is_over(agent) or agent.parked is not None or command.number <= agent.messages:
        return []
    if command.number != agent.messages + 1:
        raise WrongState(f"agent {command.agent_id!r} has not heard message {agent.messages + 1} yet")
    return [
        MessageReceived(
            message_id=command.message_id,
            number=command.number,
            mode=command.mode,
            text=command.text,
            at_unix_micros=command.at_unix_micros,
        )
    ]


def _reconcile(agent: Agent, command: ReconcileEffect) -> list[Message]:
    effect = agent.open.get(place_of(command.key))
    if effect is None or effect.attempt != command.key.attempt or not effect.is_asked:
        return []
    reconciled = EffectReconciled(key=command.key, resolution=command.resolution)
    if command.resolution == EffectReconciled.RESOLUTION_TOLD_UNKNOWN:
        return [reconciled, told_unknown(command.key, command.at_unix_micros)]
    return [reconciled]


def _record_late_outcome(agent: Agent, command: RecordLateOutcome) -> list[Message]:
    if agent.status == AgentStatus.AGENT_STATUS_UNSPECIFIED:
        raise NotFound(f"there is no agent {command.agent_id!r}")
    if command.generation >= agent.generation:
        raise WrongState(f"generation {command.generation} of agent {command.agent_id!r} is not an older one")
    came_of = command.model_call if command.HasField("model_call") else command.tool_call
    if late_key(command.generation, came_of.key) in agent.late:
        return []
    model, tool = command.model_call, command.tool_call
    return [
        LateOutcomeRecorded(
            generation=command.generation,
            executor_id=command.executor_id,
            key=came_of.key,
            model_answer=model.answer if model.HasField("answer") else None,
            model_failure=model.failure if model.HasField("failure") else None,
            tool_output=tool.output if tool.HasField("output") else None,
            tool_failure=tool.failure if tool.HasField("failure") else None,
            at_unix_micros=command.at_unix_micros,
        )
    ]


def result_so_far(agent: Agent, at_unix_micros: int) -> TaskResult:
    """What the agent has come to, whatever becomes of it; what is still reserved counts as spent."""
    return _with_totals(agent, TaskResult(), at_unix_micros)


def _intents(agent: Agent, turn: int, answer: ModelAnswer, at: int) -> list[Message]:
    if is_refusal(answer.stop_reason):
        return []
    calls = [block.tool_use for block in answer.content if block.HasField("tool_use")]
    classes = {tool.name: tool.effect_class for tool in agent.started.tools}
    return [
        ToolCallStarted(
            key=EffectKey(turn=turn, index=index, attempt=1),
            call=call,
            # A tool that does not exist has no effect: the model is told so.
            effect_class=classes.get(call.tool, EffectClass.EFFECT_CLASS_PURE),
            at_unix_micros=at,
        )
        for index, call in enumerate(calls)
    ]


def _finish_tool_call(agent: Agent, command: FinishToolCall) -> list[Message]:
    if not _is_open(agent, command.key):
        return []
    at = command.at_unix_micros
    if command.HasField("failure"):
        return [ToolCallFailed(key=command.key, failure=command.failure, at_unix_micros=at)]
    ended = ToolCallSucceeded(key=command.key, output=command.output, at_unix_micros=at)
    if is_noop(agent):
        return [ended, *noop_step(agent.started.noop.steps, command.key.turn + 1, at)]
    return [ended]


def _is_open(agent: Agent, key: EffectKey) -> bool:
    """Whether the outcome is wanted: one that is there already, or of an attempt that was given up, changes nothing."""
    effect = agent.open.get(place_of(key))
    return effect is not None and effect.attempt == key.attempt


def _finish(agent: Agent, command: FinishAgent) -> list[Message]:
    if is_over(agent):
        return []
    at = command.at_unix_micros
    match command.WhichOneof("end"):
        case "succeeded":
            if agent.open:
                raise WrongState(f"agent {command.agent_id!r} has effects without an outcome")
            if agent.inbox:
                raise WrongState(f"agent {command.agent_id!r} has messages to read")
            if wants_output(agent) and not agent.structured_json:
                raise WrongState(f"agent {command.agent_id!r} has not handed over its output")
            return [AgentSucceeded(result=_with_totals(agent, command.succeeded, at), at_unix_micros=at)]
        case "failed":
            result = _with_totals(agent, command.failed.result, at)
            return [AgentFailed(failure=command.failed.failure, result=result, at_unix_micros=at)]
        case _:
            return [AgentCancelled(result=_with_totals(agent, command.cancelled, at), at_unix_micros=at)]


def _with_totals(agent: Agent, result: TaskResult, at: int) -> TaskResult:
    """What was used comes from the log, not from whoever reports; what is still reserved counts as spent."""
    total = TaskResult()
    total.CopyFrom(result)
    total.MergeFrom(
        TaskResult(
            usage=agent.usage,
            cost_usd_micros=agent.spent.usd_micros + agent.reserved.usd_micros,
            spent=(agent.spent + agent.reserved).message(),
            lost_usd_micros=agent.lost_usd_micros + agent.reserved.usd_micros,
            saved_usd_micros=agent.saved_usd_micros,
            duration_micros=max(0, at - agent.started.at_unix_micros - agent.idle_micros),
            messages_read=agent.read,
            turns=len(agent.turns),
            tool_calls=agent.tool_calls,
            snapshot=agent.snapshot,
            structured_json=agent.structured_json,
            output_cut_from_bytes=output_cut_from_bytes(agent) if result.HasField("output") else 0,
        )
    )
    return total
