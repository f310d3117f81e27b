"""An agent: the conversation that performs a task, and every effect that it has on the world.

    host -> RUNNING --(model call | tool calls)*--> SUCCEEDED | FAILED | CANCELLED

Before an effect there is an intent, after it one outcome. The tool calls of an answer become intents in the entry that
records the answer. The first entry of a generation fences out the older ones and settles what they left open, by the
class of each effect:

    model                 called again; the lost call counts as spent
    pure, keyed           run again
    queryable, reversible run again in a fresh worktree that has the files of the last snapshot
    opaque                not run again: the model is told that nobody knows
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

from crewlog.domain import amounts
from crewlog.domain.agent_state import (
    INITIAL,
    MODEL,
    Agent,
    Effect,
    Event,
    Place,
    amounts_of,
    amounts_used,
    evolve,
    fits,
    is_noop,
    is_over,
    place_of,
)
from crewlog.domain.errors import BudgetExceeded, NotFound, StaleClaim, WrongState
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
    FinishAgent,
    FinishModelCall,
    FinishToolCall,
    HostAgent,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    ParkAgent,
    RaiseAllotment,
    ReservationExceeded,
    StartModelCall,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolFailure,
    ToolUse,
)
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import TaskResult
from google.protobuf.message import Message

__all__ = ["INITIAL", "KIND", "NOOP_TOOL", "VERSION", "Command", "Event", "decide", "evolve"]

KIND = "agent"
VERSION = 1
NOOP_TOOL = "noop"
IN_DOUBT_TEXT = (
    "The process that ran this was killed. Nobody knows whether it took effect: look before you do it again."
)

Command: TypeAlias = (
    HostAgent | StartModelCall | FinishModelCall | FinishToolCall | RaiseAllotment | ParkAgent | FinishAgent
)
ClaimedCommand: TypeAlias = StartModelCall | FinishModelCall | FinishToolCall | RaiseAllotment | ParkAgent | FinishAgent

_RESOLUTIONS = {
    EffectClass.EFFECT_CLASS_MODEL: EffectReconciled.RESOLUTION_RUN_AGAIN,
    EffectClass.EFFECT_CLASS_PURE: EffectReconciled.RESOLUTION_RUN_AGAIN,
    EffectClass.EFFECT_CLASS_KEYED: EffectReconciled.RESOLUTION_RUN_AGAIN,
    EffectClass.EFFECT_CLASS_QUERYABLE: EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN,
    EffectClass.EFFECT_CLASS_REVERSIBLE: EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN,
}


def decide(agent: Agent, command: Command) -> list[Message]:
    """What a command causes. Raises InvalidCommand, NotFound, StaleClaim, WrongState or BudgetExceeded."""
    if isinstance(command, HostAgent):
        return _host(agent, command)
    _check_claim(agent, command)
    match command:
        case FinishToolCall():
            return _finish_tool_call(agent, command)
        case StartModelCall():
            return _start_model_call(agent, command)
        case FinishModelCall():
            return _finish_model_call(agent, command)
        case RaiseAllotment():
            return _raise_allotment(agent, command)
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
    if command.generation > agent.generation:
        raise WrongState(f"generation {command.generation} of agent {command.agent_id!r} has not taken over yet")


def _host(agent: Agent, command: HostAgent) -> list[Message]:
    if agent.status == AgentStatus.AGENT_STATUS_UNSPECIFIED:
        return _begin(command)
    if command.generation == agent.generation and command.executor_id == agent.executor_id:
        return []
    if command.generation <= agent.generation:
        raise StaleClaim(f"agent {command.agent_id!r} is at generation {agent.generation} already")
    if is_over(agent):
        return []
    taken_over = AgentTakenOver(
        generation=command.generation, executor_id=command.executor_id, at_unix_micros=command.at_unix_micros
    )
    doubts = (_settle(place, effect, command.at_unix_micros) for place, effect in sorted(agent.open.items()))
    return [taken_over, *(event for doubt in doubts for event in doubt)]


def _begin(command: HostAgent) -> list[Message]:
    started = AgentStarted(
        run_id=command.run_id,
        task_id=command.task_id,
        generation=command.generation,
        executor_id=command.executor_id,
        node=command.node if command.HasField("node") else None,
        noop=command.noop if command.HasField("noop") else None,
        model=command.model,
        prompt=command.prompt,
        tools=command.tools,
        limits=command.limits,
        allotment=command.allotment,
        at_unix_micros=command.at_unix_micros,
    )
    return [started, *_noop_step(command.noop.steps, 1, command.at_unix_micros)]


def _noop_step(steps: int, turn: int, at: int) -> list[Message]:
    if turn > steps:
        return []
    key = EffectKey(turn=turn, index=0, attempt=1)
    pure = EffectClass.EFFECT_CLASS_PURE
    return [ToolCallStarted(key=key, call=ToolUse(tool=NOOP_TOOL), effect_class=pure, at_unix_micros=at)]


def _settle(place: Place, effect: Effect, at: int) -> list[Message]:
    key = EffectKey(turn=place[0], index=place[1], attempt=effect.attempt)
    resolution = _RESOLUTIONS.get(effect.effect_class, EffectReconciled.RESOLUTION_TOLD_UNKNOWN)
    events: list[Message] = [EffectPutInDoubt(key=key), EffectReconciled(key=key, resolution=resolution)]
    if resolution == EffectReconciled.RESOLUTION_TOLD_UNKNOWN:
        unknown = ToolFailure(reason="in_doubt", text=Body(inline=IN_DOUBT_TEXT.encode()))
        events.append(ToolCallFailed(key=key, failure=unknown, at_unix_micros=at))
    return events


def _start_model_call(agent: Agent, command: StartModelCall) -> list[Message]:
    open_call = agent.open.get(place_of(command.key))
    if open_call is not None and open_call.attempt == command.key.attempt:
        return []
    if is_over(agent) or agent.open or agent.is_parked:
        raise WrongState(f"agent {command.agent_id!r} cannot call the model now")
    if place_of(command.key) != (len(agent.turns) + 1, MODEL):
        raise WrongState(f"the next turn of agent {command.agent_id!r} is {len(agent.turns) + 1}")
    if command.key.attempt <= agent.attempts:
        raise WrongState(f"attempt {command.key.attempt} of agent {command.agent_id!r} has been made: it is over")
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
        *_intents(agent, command.key.turn, list(command.answer.content), at),
    ]


def _exceeded(agent: Agent, command: FinishModelCall) -> list[Message]:
    """A provider that reports more than could be is believed, and the alarm is in the log."""
    used = amounts_used(command.answer.usage, command.answer.cost_usd_micros)
    over = (used - agent.open[place_of(command.key)].reserved).at_least_zero()
    if not over:
        return []
    return [ReservationExceeded(key=command.key, over=over.message(), at_unix_micros=command.at_unix_micros)]


def _raise_allotment(agent: Agent, command: RaiseAllotment) -> list[Message]:
    if is_over(agent) or command.run_revision <= agent.allotment_revision:
        return []
    at = command.at_unix_micros
    return [AllotmentRaised(allotment=command.allotment, run_revision=command.run_revision, at_unix_micros=at)]


def _park(agent: Agent, command: ParkAgent) -> list[Message]:
    if is_over(agent) or agent.is_parked:
        return []
    if agent.open:
        raise WrongState(f"agent {command.agent_id!r} has effects without an outcome")
    at = command.at_unix_micros
    so_far = _with_totals(agent, TaskResult(), at)
    return [AgentParked(budget_id=command.budget_id, wanted=command.wanted, so_far=so_far, at_unix_micros=at)]


def result_so_far(agent: Agent, at_unix_micros: int) -> TaskResult:
    """What the agent has come to, whatever becomes of it; what is still reserved counts as spent."""
    return _with_totals(agent, TaskResult(), at_unix_micros)


def _intents(agent: Agent, turn: int, content: list[ContentBlock], at: int) -> list[Message]:
    calls = [block.tool_use for block in content if block.HasField("tool_use")]
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
        return [ended, *_noop_step(agent.started.noop.steps, command.key.turn + 1, at)]
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
            duration_micros=max(0, at - agent.started.at_unix_micros),
            turns=len(agent.turns),
            tool_calls=agent.tool_calls,
            snapshot=agent.snapshot,
        )
    )
    return total
