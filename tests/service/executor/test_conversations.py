"""Whatever a model answers, and wherever it stops: what it is sent next is a conversation that the provider takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crewlog.domain.agent import decider as rules
from crewlog.domain.agent.state import Agent, readable
from crewlog.domain.agent.steps import CallModel, Fail, RunTools, Succeed, next_step
from crewlog.domain.decider import fold
from crewlog.eventlog.memory import MemoryBlobs
from crewlog.executor.model_calls import Conversation
from crewlog.models.conversation import check_legal
from crewlog.tools.finish import REMINDER
from crewlog.v1.agent_pb2 import FinishToolCall, ReceiveMessage, ToolFailure, ToolOutput
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import MessageMode
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.domain.test_agent import after, answer, finish_call, key, start_call
from tests.domain.test_agent_ends import asked

STOPS = ("", "end_turn", "refusal", "max_tokens", "pause_turn")
TURN = st.fixed_dictionaries(
    {
        "tools": st.lists(st.sampled_from(["read", "finish", "spawn", "nonsense"]), max_size=3),
        "text": st.sampled_from(["", "I say so", " "]),
        "stop": st.sampled_from(STOPS),
        "fits": st.booleans(),
        "said": st.sampled_from([None, MessageMode.MESSAGE_MODE_STEER, MessageMode.MESSAGE_MODE_QUEUE]),
    }
)


def do(state: Agent, command: rules.Command) -> Agent:
    return fold(rules, rules.decide(state, command), state)


def outcome(turn: int, index: int, tool: str, fits: bool) -> FinishToolCall:
    if tool == "finish":
        failure = None if fits else ToolFailure(reason="invalid_output", text=Body(inline=b"no"))
        output = ToolOutput(structured_json="{}") if fits else None
    else:
        failure, output = None, ToolOutput(text=Body(inline=b"ok"))
    return FinishToolCall(agent_id="r_t-1", generation=1, key=key(turn, index), output=output, failure=failure)


async def lived(turns: list[dict[str, Any]]) -> tuple[Agent, list[dict[str, Any]]]:
    """Through the turns, as long as the rules go on; every request on the way is looked at."""
    state, conversation, request = after(*asked()), Conversation(MemoryBlobs()), list[dict[str, Any]]()
    for number, turn in enumerate(turns, 1):
        if number > 1:
            unread = readable(state)
            step = next_step(state, 0)
            if isinstance(step, Succeed | Fail):
                return state, request
            assert isinstance(step, CallModel)
            request = await conversation.messages(state, unread)
            assert not check_legal(request), request
            assert request == await Conversation(conversation.blobs).messages(state, unread), (
                "as told to whoever resumes"
            )
            call = start_call(turn=number, reserved=1)
            call.messages.extend(message.number for message in unread)
            state = do(state, call)
        state = do(
            state, finish_call(answer(*turn["tools"], text=turn["text"], stop_reason=turn["stop"], cost=0), number)
        )
        while isinstance(step := next_step(state, 0), RunTools):
            place, effect = step.calls[0]
            assert effect.call is not None
            state = do(state, outcome(*place, effect.call.tool, turn["fits"]))
        if turn["said"] is not None:
            text, message = Body(inline=b"Listen"), state.messages + 1
            command = ReceiveMessage(message_id=f"m{message}", number=message, mode=turn["said"], text=text)
            command.agent_id, command.generation = "r_t-1", 1
            state = do(state, command)
    return state, request


@settings(max_examples=150, deadline=None)
@given(st.lists(TURN, min_size=2, max_size=8))
def test_every_request_is_legal_and_the_same_for_whoever_makes_it(turns: list[dict[str, Any]]) -> None:
    asyncio.run(lived(turns))


def turn(
    *tools: str, text: str = "Well", stop: str = "", fits: bool = False, said: int | None = None
) -> dict[str, Any]:
    return {"tools": list(tools), "text": text, "stop": stop, "fits": fits, "said": said}


@pytest.mark.parametrize(
    ("first", "is_reminded"),
    [
        (turn(), True),
        (turn("read"), False),
        (turn("finish"), False),
        (turn(stop="max_tokens"), False),
        (turn("finish", fits=True, said=MessageMode.MESSAGE_MODE_STEER), False),
    ],
)
async def test_a_reminder_follows_an_end_without_output_and_nothing_else(
    first: dict[str, Any], is_reminded: bool
) -> None:
    _, request = await lived([first, turn("finish", fits=True)])
    assert (REMINDER in str(request[-1])) is is_reminded


async def test_calls_of_a_refusal_are_said_not_to_have_been_run() -> None:
    refused = turn("read", stop="refusal", said=MessageMode.MESSAGE_MODE_STEER)
    _, request = await lived([refused, turn("finish", fits=True)])
    assert "not run" in str(request[-1]) and "Listen" in str(request[-1])
