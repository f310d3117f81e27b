"""How an agent gets into other hands: what a later generation finds, and what it does about effects without an outcome.

    model                 called again; the lost call counts as spent
    pure, keyed           run again
    queryable, reversible run again in a fresh worktree that has the files of the last snapshot
    opaque                not run again: the model is told that nobody knows, or a person is asked

An agent that was parked has let go by itself: of its effects without an outcome none was begun, so none is in doubt.
"""

from __future__ import annotations

import json

from crewlog.domain.agent.state import COMMAND_TOOL, Agent, Effect, Place, is_over
from crewlog.domain.errors import StaleClaim
from crewlog.v1.agent_pb2 import (
    AgentStarted,
    AgentStatus,
    AgentTakenOver,
    EffectClass,
    EffectKey,
    EffectPutInDoubt,
    EffectReconciled,
    HostAgent,
    ResumeReceipt,
    ToolCallFailed,
    ToolCallStarted,
    ToolFailure,
    ToolUse,
)
from crewlog.v1.body_pb2 import Body
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import OnUnknown
from google.protobuf.message import Message

NOOP_TOOL = "noop"
IN_DOUBT_TEXT = (
    "The process that ran this was killed. Nobody knows whether it took effect: look before you do it again."
)

_RESOLUTIONS = {
    EffectClass.EFFECT_CLASS_MODEL: EffectReconciled.RESOLUTION_RUN_AGAIN,
    EffectClass.EFFECT_CLASS_PURE: EffectReconciled.RESOLUTION_RUN_AGAIN,
    EffectClass.EFFECT_CLASS_KEYED: EffectReconciled.RESOLUTION_RUN_AGAIN,
    EffectClass.EFFECT_CLASS_QUERYABLE: EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN,
    EffectClass.EFFECT_CLASS_REVERSIBLE: EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN,
}


def host(agent: Agent, command: HostAgent) -> list[Message]:
    """The first entry of a generation. Raises StaleClaim for one that is not later than the agent's."""
    if agent.status == AgentStatus.AGENT_STATUS_UNSPECIFIED:
        return _begin(command)
    if command.generation == agent.generation and command.executor_id == agent.executor_id:
        return []
    if command.generation <= agent.generation:
        raise StaleClaim(f"agent {command.agent_id!r} is at generation {agent.generation} already")
    if is_over(agent):
        return []
    at = command.at_unix_micros
    taken_over = AgentTakenOver(
        generation=command.generation, executor_id=command.executor_id, at_unix_micros=at, receipt=receipt(agent)
    )
    doubts = (_settle(agent, place, effect, at) for place, effect in sorted(_in_doubt(agent)))
    return [taken_over, *(event for doubt in doubts for event in doubt)]


def receipt(agent: Agent) -> ResumeReceipt:
    """What a later generation would find if it took the agent over now."""
    resolutions = [resolution_of(agent, effect) for _, effect in _in_doubt(agent) if effect.call is not None]
    lost = [effect for _, effect in _in_doubt(agent) if effect.call is None]
    not_begun = len(agent.open) if agent.parked is not None else 0
    return ResumeReceipt(
        model_answers_reused=len(agent.turns),
        reused_usd_micros=agent.spent.usd_micros - agent.lost_usd_micros,
        tool_outcomes_reused=agent.tool_calls,
        model_calls_lost=len(lost),
        lost_usd_micros=sum(effect.reserved.usd_micros for effect in lost),
        tool_calls_run_again=resolutions.count(EffectReconciled.RESOLUTION_RUN_AGAIN),
        tool_calls_restored=resolutions.count(EffectReconciled.RESOLUTION_RESTORED_AND_RUN_AGAIN),
        tool_calls_told_unknown=resolutions.count(EffectReconciled.RESOLUTION_TOLD_UNKNOWN),
        tool_calls_asked=resolutions.count(EffectReconciled.RESOLUTION_ASKED),
        tool_calls_not_begun=not_begun,
        tree=agent.snapshot.full_tree if agent.snapshot is not None else "",
    )


def resolution_of(agent: Agent, effect: Effect) -> EffectReconciled.Resolution.ValueType:
    """What is done about an effect in doubt, by its class and the role of the agent."""
    known = _RESOLUTIONS.get(effect.effect_class)
    if known is not None:
        return known
    if agent.started.node.role.on_unknown == OnUnknown.ON_UNKNOWN_ASK:
        return EffectReconciled.RESOLUTION_ASKED
    return EffectReconciled.RESOLUTION_TOLD_UNKNOWN


def told_unknown(key: EffectKey, at: int) -> ToolCallFailed:
    """The outcome of an effect of which nobody knows whether it happened."""
    failure = ToolFailure(reason="in_doubt", text=Body(inline=IN_DOUBT_TEXT.encode()))
    return ToolCallFailed(key=key, failure=failure, at_unix_micros=at)


def noop_step(steps: int, turn: int, at: int) -> list[Message]:
    if turn > steps:
        return []
    key = EffectKey(turn=turn, index=0, attempt=1)
    pure = EffectClass.EFFECT_CLASS_PURE
    return [ToolCallStarted(key=key, call=ToolUse(tool=NOOP_TOOL), effect_class=pure, at_unix_micros=at)]


def _command_step(command: CommandNode, at: int) -> ToolCallStarted:
    """The one effect of an agent that is a command."""
    opaque, reversible = EffectClass.EFFECT_CLASS_OPAQUE, EffectClass.EFFECT_CLASS_REVERSIBLE
    input_json = json.dumps({"argv": list(command.argv)}, ensure_ascii=False)
    return ToolCallStarted(
        key=EffectKey(turn=1, index=0, attempt=1),
        call=ToolUse(tool=COMMAND_TOOL, input_json=Body(inline=input_json.encode())),
        effect_class=opaque if command.network else reversible,
        at_unix_micros=at,
    )


def _begin(command: HostAgent) -> list[Message]:
    started = AgentStarted(
        run_id=command.run_id,
        task_id=command.task_id,
        generation=command.generation,
        executor_id=command.executor_id,
        node=command.node if command.HasField("node") else None,
        noop=command.noop if command.HasField("noop") else None,
        command=command.command if command.HasField("command") else None,
        model=command.model,
        prompt=command.prompt,
        tools=command.tools,
        limits=command.limits,
        allotment=command.allotment,
        at_unix_micros=command.at_unix_micros,
    )
    at = command.at_unix_micros
    if command.HasField("command"):
        return [started, _command_step(command.command, at)]
    return [started, *noop_step(command.noop.steps, 1, at)]


def _in_doubt(agent: Agent) -> list[tuple[Place, Effect]]:
    """Those that may have been begun, and are not with a person already."""
    if agent.parked is not None:
        return []
    return [(place, effect) for place, effect in agent.open.items() if not effect.is_asked]


def _settle(agent: Agent, place: Place, effect: Effect, at: int) -> list[Message]:
    key = EffectKey(turn=place[0], index=place[1], attempt=effect.attempt)
    resolution = resolution_of(agent, effect)
    events: list[Message] = [EffectPutInDoubt(key=key), EffectReconciled(key=key, resolution=resolution)]
    if resolution == EffectReconciled.RESOLUTION_TOLD_UNKNOWN:
        events.append(told_unknown(key, at))
    return events
