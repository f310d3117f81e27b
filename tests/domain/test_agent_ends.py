"""How agents end: commands by their exit code, conversations by the output that they hand over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from crewlog.domain.agent import decider as agent
from crewlog.domain.agent.ends import INVALID_OUTPUTS_MAX, OUTPUT_BYTES_MAX, output_of
from crewlog.domain.agent.state import Agent, readable
from crewlog.domain.agent.steps import CallModel, Fail, RunTools, Step, Succeed, next_step
from crewlog.domain.decider import fold
from crewlog.domain.errors import WrongState
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentStarted,
    AgentSucceeded,
    AgentTakenOver,
    EffectClass,
    EffectPutInDoubt,
    EffectReconciled,
    FinishAgent,
    FinishToolCall,
    HostAgent,
    ReceiveMessage,
    ToolCallFailed,
    ToolCallStarted,
    ToolFailure,
    ToolOutput,
)
from crewlog.v1.body_pb2 import Body
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import AgentNode, MessageMode, Planning, Role, TaskFailure, TaskResult

from tests.domain.test_agent import TOOLS, after, answer, finish_call, finish_tool, host, key, start_call

SCHEMA = '{"type": "object"}'
IDS: dict[str, Any] = {"agent_id": "r_t-1", "generation": 1}
SUCCEEDED = FinishAgent(**IDS, succeeded=TaskResult())


def command(generation: int = 1, **fields: object) -> HostAgent:
    return HostAgent(
        agent_id="r_t-1",
        run_id="r",
        task_id="t-1",
        generation=generation,
        executor_id=f"e{generation}",
        command=CommandNode(argv=["pytest", "-q"], **fields),  # type: ignore[arg-type]
    )


def ran(exit_code: int, text: str = "said") -> FinishToolCall:
    result = json.dumps({"exit_code": exit_code, "output": text, "report": None})
    output = ToolOutput(text=Body(inline=text.encode()), structured_json=result)
    return FinishToolCall(agent_id="r_t-1", generation=1, key=key(1, 0), output=output)


def failed_tool(turn: int, index: int, reason: str) -> FinishToolCall:
    failure = ToolFailure(reason=reason, text=Body(inline=b"no"))
    return FinishToolCall(agent_id="r_t-1", generation=1, key=key(turn, index), failure=failure)


def test_a_command_has_one_intent_in_the_entry_of_its_start() -> None:
    events = agent.decide(agent.INITIAL, command())
    assert [type(event) for event in events] == [AgentStarted, ToolCallStarted]
    [intent] = [event for event in events if isinstance(event, ToolCallStarted)]
    assert (intent.key, intent.call.tool) == (key(1, 0), "command")
    assert json.loads(intent.call.input_json.inline) == {"argv": ["pytest", "-q"]}
    step = next_step(fold(agent, events), 0)
    assert isinstance(step, RunTools) and [place for place, _ in step.calls] == [(1, 0)]


@pytest.mark.parametrize(
    ("network", "effect_class", "then"),
    [
        (False, EffectClass.EFFECT_CLASS_REVERSIBLE, [AgentTakenOver, EffectPutInDoubt, EffectReconciled]),
        (True, EffectClass.EFFECT_CLASS_OPAQUE, [AgentTakenOver, EffectPutInDoubt, EffectReconciled, ToolCallFailed]),
    ],
)
def test_a_command_is_recovered_by_its_class(
    network: bool, effect_class: EffectClass.ValueType, then: Sequence[type]
) -> None:
    state = after(command(network=network))
    assert [effect.effect_class for effect in state.open.values()] == [effect_class]
    assert [type(event) for event in agent.decide(state, command(generation=2, network=network))] == then


@pytest.mark.parametrize(
    ("ended", "ok", "reason"),
    [
        (ran(0), [], ""),
        (ran(1), [], "command_failed"),
        (ran(5), [1, 5], ""),
        (ran(0), [5], ""),
        (failed_tool(1, 0, "timed_out"), [], "command_timed_out"),
        (failed_tool(1, 0, "killed"), [], "command_killed"),
        (failed_tool(1, 0, "in_doubt"), [], "command_in_doubt"),
        (failed_tool(1, 0, "failed"), [], "command_failed"),
    ],
)
def test_a_command_ends_by_what_came_of_it(ended: FinishToolCall, ok: Sequence[int], reason: str) -> None:
    step = next_step(after(command(ok_exit_codes=ok), ended), 0)
    if reason:
        assert isinstance(step, Fail) and step.failure.reason == reason
        assert "pytest -q" in step.failure.message and step.failure.what_to_do
    else:
        assert step == Succeed("said")


def test_a_failed_command_has_its_result_all_the_same() -> None:
    state = after(command(), ran(1))
    end = FinishAgent(agent_id="r_t-1", generation=1, failed=TaskFailure(result=TaskResult()))
    [failed] = agent.decide(state, end)
    assert json.loads(failed.result.structured_json)["exit_code"] == 1  # type: ignore[attr-defined]


def asked(planning: bool = False) -> tuple[agent.Command, ...]:
    node = AgentNode(role=Role(name="planner"), output_schema="" if planning else SCHEMA)
    if planning:
        node.planning.CopyFrom(Planning(roles=[Role(name="implementer")]))
    return host(node=node, tools=TOOLS), start_call()


def handed_over(turn: int = 1, index: int = 0, value: str = '{"a":1}') -> FinishToolCall:
    return FinishToolCall(
        agent_id="r_t-1", generation=1, key=key(turn, index), output=ToolOutput(structured_json=value)
    )


def turns(*calls: str, start: int = 1, given: Sequence[agent.Command] = ()) -> tuple[agent.Command, ...]:
    """A turn with one call of `finish` for each reason: empty for a valid one, `-` for a turn without a call."""
    commands = list(given or asked())
    for turn, reason in enumerate(calls, start):
        if turn > 1:
            commands.append(start_call(turn=turn))
        commands.append(finish_call(answer() if reason == "-" else answer("finish"), turn=turn))
        if reason != "-":
            commands.append(failed_tool(turn, 0, reason) if reason else handed_over(turn))
    return tuple(commands)


@pytest.mark.parametrize("planning", [False, True])
def test_what_is_handed_over_ends_the_agent(planning: bool) -> None:
    state = after(*turns("", given=asked(planning)))
    assert next_step(state, 0) == Succeed('{"a":1}')
    [ended] = agent.decide(state, SUCCEEDED)
    assert isinstance(ended, AgentSucceeded) and ended.result.structured_json == '{"a":1}'


def test_other_calls_of_the_turn_get_their_outcomes_first() -> None:
    state = after(*asked(), finish_call(answer("read", "finish", "bash", text="Here it is")), handed_over(index=1))
    step = next_step(state, 0)
    assert isinstance(step, RunTools) and [place[1] for place, _ in step.calls] == [0, 2]
    done = fold(agent, [*agent.decide(state, finish_tool(1, 0))], state)
    done = fold(agent, [*agent.decide(done, finish_tool(1, 2))], done)
    assert next_step(done, 0) == Succeed('Here it is\n\n{"a":1}')


INVALID = "invalid_output"


@pytest.mark.parametrize(
    ("history", "ends"),
    [
        ((INVALID,), False),
        ((INVALID,) * 3, False),
        ((INVALID,) * 4, True),
        (("-",) * 3, False),
        (("-",) * 4, True),
        ((INVALID, "-", INVALID, "-"), True),
        ((INVALID, "failed", INVALID, INVALID), False),
        ((INVALID, INVALID, INVALID, "failed", "-"), True),
    ],
)
def test_invalid_output_is_answered_so_often_and_no_more(history: Sequence[str], ends: bool) -> None:
    step = next_step(after(*turns(*history)), 0)
    if ends:
        assert isinstance(step, Fail) and step.failure.reason == "output_invalid"
        assert str(INVALID_OUTPUTS_MAX) in step.failure.message
    else:
        assert isinstance(step, CallModel) and step.turn == len(history) + 1


def test_an_agent_does_not_succeed_without_its_output() -> None:
    state = after(*turns("-"))
    assert state.turns[-1].is_reminded
    with pytest.raises(WrongState, match="output"):
        agent.decide(state, SUCCEEDED)


@pytest.mark.parametrize("stop_reason", ["pause_turn", "max_tokens", "refusal"])
def test_only_an_end_of_the_turn_is_reminded(stop_reason: str) -> None:
    state = after(*asked(), finish_call(answer(text="so far", stop_reason=stop_reason)))
    assert not state.turns[-1].is_reminded and not state.invalid_outputs


def said(mode: MessageMode.ValueType) -> ReceiveMessage:
    return ReceiveMessage(agent_id="r_t-1", generation=1, message_id="m", number=1, mode=mode, text=Body(inline=b"!"))


@pytest.mark.parametrize("mode", [MessageMode.MESSAGE_MODE_STEER, MessageMode.MESSAGE_MODE_QUEUE])
def test_a_message_keeps_an_agent_going_that_has_handed_over(mode: MessageMode.ValueType) -> None:
    state = after(*turns(""), said(mode))
    assert isinstance(next_step(state, 0), CallModel)
    assert [message.number for message in readable(state)] == [1]
    call = start_call(turn=2)
    call.messages.append(1)
    again = after(*turns(""), said(mode), call, finish_call(answer(text="Heard"), turn=2))
    assert next_step(again, 0) == Succeed('{"a":1}'), "what was handed over stands until something else is"


def test_what_is_queued_is_not_read_before_the_output_is_there() -> None:
    state = after(*turns("-"), said(MessageMode.MESSAGE_MODE_QUEUE))
    assert isinstance(next_step(state, 0), CallModel) and not readable(state)


@pytest.mark.parametrize("calls", [(), ("bash", "finish")])
def test_a_refusal_runs_nothing_and_ends_the_agent(calls: Sequence[str]) -> None:
    state = after(*asked(), finish_call(answer(*calls, text="No.", stop_reason="refusal")))
    assert not state.open
    step: Step = next_step(state, 0)
    assert isinstance(step, Fail) and step.failure.reason == "model_refused"


@pytest.mark.parametrize("text", ["x" * 100_000, "€" * 100_000, "a" + "€" * 100_000])
def test_an_output_is_cut_by_bytes_at_its_beginning(text: str) -> None:
    state: Agent = after(host(), start_call(), finish_call(answer(text=f"{text} end")))
    assert OUTPUT_BYTES_MAX - 70 <= len(output_of(state).encode()) <= OUTPUT_BYTES_MAX
    assert output_of(state).endswith(" end")
    [succeeded] = agent.decide(state, _with_output(output_of(state)))
    assert isinstance(succeeded, AgentSucceeded)
    size = len(f"{text} end".encode())
    assert succeeded.result.output_cut_from_bytes == size
    first, rest = output_of(state).split("\n", 1)
    left_out = int(first.removeprefix("[... ").removesuffix(" bytes are left out here ...]"))
    assert 0 <= size - left_out - len(rest.encode()) < 4, "less than a character is lost at the cut"


@pytest.mark.parametrize("size", [0, 48_894])
def test_an_end_says_how_large_an_output_was_of_which_some_is_left_out(size: int) -> None:
    """A command has been cut before it got here; of nothing there is nothing left out."""
    done = ran(0)
    done.output.text_cut_from_bytes = size
    [succeeded] = agent.decide(after(command(), done), _with_output("said"))
    [cancelled] = agent.decide(after(command(), done), FinishAgent(**IDS, cancelled=TaskResult()))
    assert isinstance(succeeded, AgentSucceeded) and isinstance(cancelled, AgentCancelled)
    assert (succeeded.result.output_cut_from_bytes, cancelled.result.output_cut_from_bytes) == (size, 0)


def _with_output(text: str) -> FinishAgent:
    return FinishAgent(**IDS, succeeded=TaskResult(output=Body(inline=text.encode())))
