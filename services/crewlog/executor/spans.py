"""The spans of an agent, made when what they tell of has ended. Their ids come from the run and the effect's key."""

from __future__ import annotations

from contextlib import AbstractContextManager

from crewlog.domain.agent.state import MODEL, Agent, has_model
from crewlog.executor.tool_calls import Call
from crewlog.telemetry import traces
from crewlog.v1.agent_pb2 import AgentStatus, EffectKey, FinishModelCall, FinishToolCall, StartModelCall
from crewlog.v1.scheduler_pb2 import Grant


def within_agent(grant: Grant) -> AbstractContextManager[None]:
    """RPCs made inside belong below the span of the agent."""
    return traces.within_step(grant.run_id, grant.agent_id)


def within_effect(grant: Grant, key: EffectKey) -> AbstractContextManager[None]:
    """RPCs made inside belong below the span of the effect."""
    return traces.within_step(grant.run_id, _step(grant, key), key.attempt)


def agent(grant: Grant, ended: Agent) -> None:
    if not traces.is_recording():
        return
    name = grant.node.agent.role.name or grant.node.node_id
    traces.emit_span(
        f"invoke_agent {name}" if has_model(ended) else f"{grant.node.WhichOneof('kind')} {name}",
        run_id=grant.run_id,
        step=grant.agent_id,
        start_micros=ended.started.at_unix_micros,
        end_micros=ended.ended_at_unix_micros,
        attributes={
            **(_conversation(grant) if has_model(ended) else {}),
            "crewlog.generation": grant.generation,
            "crewlog.agent_status": AgentStatus.Name(ended.status),
        },
        error=ended.failure.reason if ended.failure else "",
    )


def _conversation(grant: Grant) -> dict[str, str]:
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": grant.node.agent.role.name,
        "gen_ai.agent.id": grant.agent_id,
        "gen_ai.conversation.id": grant.agent_id,
    }


def model_call(grant: Grant, started: StartModelCall, finished: FinishModelCall) -> None:
    if not traces.is_recording():
        return
    usage = finished.answer.usage
    traces.emit_span(
        f"chat {started.model}",
        run_id=grant.run_id,
        step=_step(grant, started.key),
        parent_step=grant.agent_id,
        attempt=started.key.attempt,
        start_micros=started.at_unix_micros,
        end_micros=finished.at_unix_micros,
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": started.model,
            "gen_ai.request.max_tokens": started.output_tokens_max,
            "gen_ai.response.model": finished.answer.model,
            "gen_ai.response.finish_reasons": [finished.answer.stop_reason],
            "gen_ai.usage.input_tokens": usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
        },
        error=finished.failure.failure.reason,
        kind="client",
    )


def tool_call(grant: Grant, call: Call, finished: FinishToolCall) -> None:
    use = call[1].call
    if not traces.is_recording() or use is None:
        return
    duration_micros = finished.output.duration_micros + finished.failure.duration_micros
    traces.emit_span(
        f"execute_tool {use.tool}",
        run_id=grant.run_id,
        step=_step(grant, finished.key),
        parent_step=grant.agent_id,
        attempt=finished.key.attempt,
        start_micros=finished.at_unix_micros - duration_micros,
        end_micros=finished.at_unix_micros,
        attributes={
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": use.tool,
            "gen_ai.tool.call.id": use.tool_use_id,
        },
        error=finished.failure.reason,
    )


def _step(grant: Grant, key: EffectKey) -> str:
    place = "chat" if key.index == MODEL else f"tool-{key.index}"
    return f"{grant.agent_id}/{key.turn}/{place}"
