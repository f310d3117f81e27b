"""Agents with children: the share, the child and the message exist once, wherever a process dies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crewlog.domain.agent.state import Agent
from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import WrongState
from crewlog.models.conversation import check_legal
from crewlog.v1.agent_pb2 import AgentParked, AgentStatus, AllotmentShared, ToolCallFailed, ToolCallSucceeded
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.run_pb2 import AgentNode, MessageMode, Node, ParkCause, Role

from tests.service.executor.desks import Desks
from tests.service.executor.test_structured_output import said_to_model

ROLE = Role(name="lead", prompt="Role: lead", tools=["write"])
SPAWN = "{tool: spawn, input: {role: helper, task: Count the hay, share_percent: 40}}"


def lead(children_max: int = 3, **fields: Any) -> Node:
    children = [Role(name="helper"), Role(name="tester")]
    return Node(node_id="lead", agent=AgentNode(role=ROLE, children=children, children_max=children_max, **fields))


def calls(*tools: str) -> str:
    return f"{{tools: [{', '.join(tools)}]}}"


def reasons(facts: Any) -> list[str]:
    return [fact.failure.reason for fact in facts if isinstance(fact, ToolCallFailed)]


def shares(facts: Any) -> list[Amounts]:
    return [Amounts.of(fact.share) for fact in facts if isinstance(fact, AllotmentShared)]


async def test_a_child_gets_its_share_and_the_files_as_they_are(desks: Desks) -> None:
    write = "{tool: write, input: {path: made.txt, content: made}}"
    await desks.play(calls(write, SPAWN), "{say: Done}")
    agent = await desks.work(lead())
    assert agent.status == AgentStatus.AGENT_STATUS_SUCCEEDED, agent.failure
    [child] = desks.scheduler.spawned
    assert (child.role, child.prompt, child.turn, child.index) == ("helper", "Count the hay", 1, 1)
    assert child.snapshot.full_tree == agent.snapshot.full_tree if agent.snapshot else False
    [share] = shares(await desks.facts(lead()))
    assert Amounts.of(child.share) == share
    assert agent.allotment == Amounts(usd_micros=5_000_000) - share
    assert 1_900_000 < share.usd_micros < 2_000_000
    types = await desks.types(lead())
    assert types.index("AllotmentShared") < len(types) - 1 - types[::-1].index("ToolCallSucceeded")
    assert "lead_c1 is at work" in str(await said_to_model(desks, agent))


async def test_without_a_limit_nothing_is_shared(desks: Desks) -> None:
    await desks.play(calls(SPAWN), "{say: Done}")
    await desks.work(lead(), allotment=Limit())
    assert not shares(await desks.facts(lead()))
    assert not desks.scheduler.spawned[0].HasField("share")


async def test_several_children_share_one_after_the_other(desks: Desks) -> None:
    equal = "{tool: spawn, input: {role: tester, task: Test it}}"
    await desks.play(calls(equal, equal, equal, equal), "{say: Done}")
    agent = await desks.work(lead(children_max=3))
    given = shares(await desks.facts(lead()))
    assert len(given) == len(desks.scheduler.spawned) == 3
    assert max(each.usd_micros for each in given) - min(each.usd_micros for each in given) < 50_000, "equal parts"
    assert reasons(await desks.facts(lead())) == ["denied"]
    assert agent.status == AgentStatus.AGENT_STATUS_SUCCEEDED


@pytest.mark.parametrize(
    ("call", "reason", "said"),
    [
        ("{tool: spawn, input: {role: chef, task: Cook}}", "denied", "helper, tester"),
        ("{tool: spawn, input: {role: helper}}", "malformed_input", "task"),
        ("{tool: spawn, input: {role: helper, task: x, share_percent: 91}}", "malformed_input", "share_percent"),
        ("{tool: message_child, input: {child: other_c1, text: Hi}}", "denied", "none of your children"),
        ("{tool: message_child, input: {child: lead_c1_c1, text: Hi}}", "denied", "none of your children"),
        ("{tool: wait_for_children, input: {}}", "denied", "no children"),
    ],
)
async def test_what_may_not_be_is_answered_and_costs_nothing(desks: Desks, call: str, reason: str, said: str) -> None:
    await desks.play(calls(call), f'{{cases: [{{expect: "{said}", say: I see}}]}}')
    agent = await desks.work(lead())
    assert reasons(await desks.facts(lead())) == [reason]
    assert agent.result is not None and agent.result.output.inline == b"I see"
    assert not desks.scheduler.asked and not shares(await desks.facts(lead()))


@pytest.mark.parametrize("tool", ["spawn", "message_child", "wait_for_children"])
async def test_who_may_have_no_children_has_no_such_tools(desks: Desks, tool: str) -> None:
    await desks.play(calls(f"{{tool: {tool}, input: {{}}}}"), "{say: I see}")
    alone = Node(node_id="lead", agent=AgentNode(role=ROLE))
    agent = await desks.work(alone)
    assert reasons(await desks.facts(alone)) == ["unknown_tool"]
    assert agent.status == AgentStatus.AGENT_STATUS_SUCCEEDED


async def test_what_the_scheduler_refuses_is_answered(desks: Desks) -> None:
    desks.scheduler.refusal = WrongState("task 'lead-1' is 3 deep: its children may have none")
    await desks.play(calls(SPAWN), '{cases: [{expect: "3 deep", say: I see}]}')
    agent = await desks.work(lead())
    assert agent.result is not None and agent.result.output.inline == b"I see"


async def test_too_little_money_is_answered(desks: Desks) -> None:
    await desks.play(calls(SPAWN), '{cases: [{expect: "too little", say: I see}]}')
    agent = await desks.work(lead(), allotment=Limit(usd_micros=5_000_000, model_calls=3))
    assert agent.result is not None and agent.result.output.inline == b"I see"
    assert not desks.scheduler.asked


async def test_a_child_is_told_something_once(desks: Desks) -> None:
    await desks.play(calls(SPAWN), calls("{tool: message_child, input: {child: lead_c1, text: Hurry}}"), "{say: Done}")
    await desks.work(lead())
    [message] = desks.scheduler.sent
    assert (message.task_id, message.text, message.sent_by) == ("lead_c1-1", "Hurry", "demo_lead-1")
    assert message.mode == MessageMode.MESSAGE_MODE_STEER and len(message.message_id) <= 64


async def test_a_parent_that_waits_holds_no_executor(desks: Desks) -> None:
    await desks.play(calls(SPAWN, "{tool: wait_for_children, input: {}}"), "{say: All done}")
    parked = await desks.work(lead())
    facts = await desks.facts(lead())
    assert isinstance(facts[-1], AgentParked) and isinstance(facts[-2], ToolCallSucceeded)
    assert facts[-1].cause == ParkCause.PARK_CAUSE_CHILDREN and not parked.open
    entries = await desks.service.log.read(desks.subject(lead()))
    assert desks.types_of(entries[-1])[-2:] == ["ToolCallSucceeded", "AgentParked"]
    agent = await desks.work(lead(), generation=2)
    assert agent.status == AgentStatus.AGENT_STATUS_SUCCEEDED
    assert not check_legal(await said_to_model(desks, agent))


def shared(agent: Agent) -> bool:
    return bool(agent.shared)


async def test_killed_between_the_share_and_the_child_it_spawns_once_and_shares_once(desks: Desks) -> None:
    """The scheduler has made the child, and nobody has heard of it."""
    desks.scheduler.hold = asyncio.Event()
    await desks.play(calls(SPAWN), "{say: Done}")
    await desks.killed(lead(), lambda agent: shared(agent) and bool(desks.scheduler.spawned))
    desks.scheduler.hold.set()
    agent = await desks.work(lead(), generation=2)
    assert agent.status == AgentStatus.AGENT_STATUS_SUCCEEDED
    assert len(desks.scheduler.spawned) == 1 and len(desks.scheduler.asked) == 2
    [share] = shares(await desks.facts(lead()))
    assert {Amounts.of(request.share) for request in desks.scheduler.asked} == {share}
    assert agent.allotment == Amounts(usd_micros=5_000_000) - share


async def test_killed_before_the_share_is_on_record_it_begins_anew(desks: Desks) -> None:
    await desks.play(calls(SPAWN), "{say: Done}")
    desks.scheduler.hold = asyncio.Event()
    await desks.killed(lead(), lambda agent: bool(agent.turns))
    desks.scheduler.hold.set()
    agent = await desks.work(lead(), generation=2)
    assert agent.status == AgentStatus.AGENT_STATUS_SUCCEEDED
    assert len(desks.scheduler.spawned) == 1 and len(shares(await desks.facts(lead()))) == 1


async def test_a_child_starts_from_the_files_of_its_parent(desks: Desks) -> None:
    write = "{tool: write, input: {path: made.txt, content: for children}}"
    await desks.play(calls(write, SPAWN), "{say: Done}")
    await desks.work(lead())
    child = Node(node_id="lead_c1", agent=AgentNode(role=Role(name="helper", prompt="Role: helper", tools=["read"])))
    await desks.play(
        calls("{tool: read, input: {path: made.txt}}"), "{cases: [{expect: for children, say: It is there}]}"
    )
    agent = await desks.work(child, base_snapshot=desks.scheduler.spawned[0].snapshot)
    assert agent.result is not None and agent.result.output.inline == b"It is there"
