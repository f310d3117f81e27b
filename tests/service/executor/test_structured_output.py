"""Agents that finish with a structured output: over real HTTP, with what a model does right and wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crewlog.domain.agent.state import Agent
from crewlog.executor.model_calls import Conversation
from crewlog.models.conversation import check_legal
from crewlog.tools.finish import INSTRUCTION, REMINDER
from crewlog.v1.agent_pb2 import AgentStatus, ToolCallFailed
from crewlog.v1.run_pb2 import AgentNode, Node, Planning, Role

from tests.service.executor.desks import Desks

SCHEMA = json.dumps({"type": "object", "properties": {"verdict": {"enum": ["good", "bad"]}}, "required": ["verdict"]})
LIST = json.dumps({"type": "array", "items": {"type": "integer"}})
ROLE = Role(name="judge", prompt="Role: judge", tools=["read", "write"])


def judge(schema: str = SCHEMA, **fields: Any) -> Node:
    return Node(node_id="judge", agent=AgentNode(role=ROLE, output_schema=schema, **fields))


def finishing(value: str, more: str = "") -> str:
    return f"{{say: Here, tools: [{more}{{tool: finish, input: {value}}}]}}"


def result_of(agent: Agent) -> Any:
    assert agent.status == AgentStatus.AGENT_STATUS_SUCCEEDED, agent.failure
    assert agent.result is not None
    return json.loads(agent.result.structured_json)


async def said_to_model(desks: Desks, agent: Agent) -> list[dict[str, Any]]:
    return await Conversation(desks.blobs).messages(agent)


async def test_an_agent_finishes_through_the_tool(desks: Desks) -> None:
    await desks.play(finishing("{verdict: good}"))
    agent = await desks.work(judge())
    assert result_of(agent) == {"verdict": "good"}
    assert await desks.types(judge()) == [
        "AgentStarted",
        "ModelCallStarted",
        "ModelCallSucceeded",
        "ToolCallStarted",
        "ToolCallSucceeded",
        "AgentSucceeded",
    ]
    assert agent.result is not None and agent.result.output.inline == b'Here\n\n{"verdict":"good"}'


async def test_what_is_no_object_is_wrapped_for_the_model_alone(desks: Desks) -> None:
    await desks.play(finishing("{value: [1, 2]}"))
    assert result_of(await desks.work(judge(LIST))) == [1, 2]


async def test_invalid_output_goes_back_to_the_model(desks: Desks) -> None:
    await desks.play(
        finishing("{verdict: perfect}"),
        '{cases: [{expect: "(?s)not accepted.*good.*again", tools: [{tool: finish, input: {verdict: bad}}]}]}',
    )
    assert result_of(await desks.work(judge())) == {"verdict": "bad"}
    assert await desks.asked_of_model() == 2


async def test_a_model_that_never_gets_it_right_fails(desks: Desks) -> None:
    await desks.play(*[finishing("{verdict: perfect}")] * 9)
    agent = await desks.work(judge())
    assert agent.failure is not None and agent.failure.reason == "output_invalid"
    assert await desks.asked_of_model() == 4
    failed = [fact for fact in await desks.facts(judge()) if isinstance(fact, ToolCallFailed)]
    assert {fact.failure.reason for fact in failed} == {"invalid_output"}


async def test_a_model_that_only_talks_is_reminded(desks: Desks) -> None:
    await desks.play("{say: It is good.}", f'{{cases: [{{said: "{REMINDER[:40]}", say: So, {_good()}}}]}}')
    agent = await desks.work(judge())
    assert result_of(agent) == {"verdict": "good"}
    messages = await said_to_model(desks, agent)
    assert INSTRUCTION in str(messages[0]) and REMINDER in str(messages[2])
    assert not check_legal(messages)


def _good() -> str:
    return "tools: [{tool: finish, input: {verdict: good}}]"


async def test_a_model_that_talks_on_and_on_fails(desks: Desks) -> None:
    await desks.play(*["{say: It is good.}"] * 9)
    agent = await desks.work(judge())
    assert agent.failure is not None and agent.failure.reason == "output_invalid"
    assert agent.result is not None and agent.result.output.inline == b"It is good."
    assert await desks.asked_of_model() == 4


async def test_other_calls_of_the_turn_are_run(desks: Desks) -> None:
    more = "{tool: write, input: {path: made.txt, content: made}}, "
    await desks.play(finishing("{verdict: good}", more))
    agent = await desks.work(judge())
    assert result_of(agent) == {"verdict": "good"}
    assert agent.tool_calls == 2 and agent.snapshot is not None


async def test_without_a_schema_there_is_no_such_tool(desks: Desks) -> None:
    await desks.play(finishing("{verdict: good}"), '{cases: [{expect: "is no tool", say: Well then}]}')
    agent = await desks.work(judge(""))
    assert agent.result is not None and agent.result.output.inline == b"Well then"
    assert agent.result.structured_json == ""


async def test_a_refusal_runs_no_tool(desks: Desks) -> None:
    await desks.play("{say: No., stop_reason: refusal, tools: [{tool: write, input: {path: made.txt, content: made}}]}")
    agent = await desks.work(judge())
    assert agent.failure is not None and agent.failure.reason == "model_refused"
    assert "ToolCallStarted" not in await desks.types(judge())


async def test_a_plan_that_is_none_goes_back_to_the_planner(desks: Desks) -> None:
    planner = Node(node_id="plan", agent=AgentNode(role=ROLE, planning=Planning(roles=[Role(name="implementer")])))
    second = "{id: b, role: implementer, prompt: B, depends_on: [a]}"
    circle = f"[{{id: a, role: implementer, prompt: A, depends_on: [b]}}, {second}]"
    plan = f"[{{id: a, role: implementer, prompt: A}}, {second}]"
    await desks.play(
        finishing(f"{{tasks: {circle}}}"),
        f"{{cases: [{{expect: circle, tools: [{{tool: finish, input: {{tasks: {plan}}}}}]}}]}}",
    )
    assert [task["id"] for task in result_of(await desks.work(planner))["tasks"]] == ["a", "b"]


@pytest.mark.parametrize("event", ["ModelCallStarted", "ToolCallStarted"])
async def test_an_agent_that_was_killed_finishes_under_the_next_claim(desks: Desks, event: str) -> None:
    """Whatever was recorded is not asked for again."""
    await desks.play("{delay_millis: 300, " + finishing("{verdict: good}")[1:])
    node = judge()
    begun = (lambda agent: bool(agent.open)) if event == "ModelCallStarted" else (lambda agent: bool(agent.turns))
    await desks.killed(node, begun)
    agent = await desks.work(node, generation=2)
    assert result_of(agent) == {"verdict": "good"}
    assert (await desks.types(node)).count("ModelCallSucceeded") == 1
