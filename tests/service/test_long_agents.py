"""An agent of 500 turns: what a turn adds to the log, reads and copies does not grow with the turns before it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from crewlog.domain.agent import decider as rules
from crewlog.domain.names import TENANT
from crewlog.eventlog import bodies
from crewlog.eventlog.memory import MemoryBlobs, MemoryLog
from crewlog.eventlog.owner import Owner
from crewlog.eventlog.port import AggregateId, Stored
from crewlog.executor.model_calls import Conversation
from crewlog.executor.session import Session
from crewlog.v1.agent_pb2 import (
    ContentBlock,
    EffectClass,
    EffectKey,
    FinishModelCall,
    FinishToolCall,
    HostAgent,
    ModelAnswer,
    ReceiveMessage,
    StartModelCall,
    ToolOutput,
    ToolSpec,
    ToolUse,
)
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import AgentNode, Role
from crewlog.v1.scheduler_pb2 import Grant

AGENT = "r_n-1"
TURNS = 500
SAID = "I have looked at it, and go on. " * 30
PRINTED = b"a line of output\n" * 50


class CountingLog(MemoryLog):
    """Adds up what is appended, and what is given to readers."""

    def __init__(self) -> None:
        super().__init__()
        self.appended = 0
        self.given = 0

    async def append(self, aggregate: AggregateId, payload: bytes, expected_revision: int) -> int:
        self.appended += len(payload)
        return await super().append(aggregate, payload, expected_revision)

    async def read(self, aggregate: AggregateId, after_revision: int = 0) -> list[Stored]:
        entries = await super().read(aggregate, after_revision)
        self.given += len(entries)
        return entries


class CountingBlobs(MemoryBlobs):
    """Counts what is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = 0

    async def get(self, sha256: bytes) -> bytes:
        self.loaded += 1
        return await super().get(sha256)


@dataclass
class LongAgent:
    """An agent whose every turn is a model call and a tool call with a large output."""

    log: CountingLog = field(default_factory=CountingLog)
    blobs: CountingBlobs = field(default_factory=CountingBlobs)
    printed: Body = field(default_factory=Body)

    def __post_init__(self) -> None:
        owner = Owner(self.log, rules, tenant=TENANT, clock=lambda: 1, code_version="test")
        grant = Grant(run_id="r", task_id="n-1", agent_id=AGENT, generation=1)
        self.session = Session(owner, grant, "executor-1_x", lambda: 1)
        self.conversation = Conversation(self.blobs)

    async def begin(self) -> None:
        self.printed = await bodies.store(self.blobs, PRINTED)
        await self.session.open()
        role = Role(name="long", tools=["read"])
        tools = [ToolSpec(name="read", effect_class=EffectClass.EFFECT_CLASS_PURE)]
        prompt = Body(inline=b"Begin.")
        node = AgentNode(role=role)
        self.session.do(HostAgent(run_id="r", task_id="n-1", node=node, model="m", prompt=prompt, tools=tools))
        await self.session.flush()

    async def turn(self, number: int, reads: Sequence[int] = ()) -> None:
        """As a host takes it."""
        messages = await self.conversation.messages(self.session.agent)
        assert len(messages) == 2 * number - 1
        self.session.do(StartModelCall(key=EffectKey(turn=number, index=-1, attempt=1), model="m", messages=reads))
        await self.session.flush()
        use = ToolUse(tool_use_id=f"call_{number}", tool="read", input_json=Body(inline=b'{"path": "x"}'))
        content = [ContentBlock(text=SAID), ContentBlock(tool_use=use)]
        answer = ModelAnswer(content=content, stop_reason="tool_use")
        self.session.do(FinishModelCall(key=EffectKey(turn=number, index=-1, attempt=1), answer=answer))
        await self.session.flush()
        output = ToolOutput(text=self.printed)
        self.session.do(FinishToolCall(key=EffectKey(turn=number, index=0, attempt=1), output=output))

    async def cost_of(self, numbers: Sequence[int]) -> tuple[int, int, int]:
        """Bytes appended, entries read and blobs loaded by these turns."""
        before = self.log.appended, self.log.given, self.blobs.loaded
        for number in numbers:
            await self.turn(number)
        return self.log.appended - before[0], self.log.given - before[1], self.blobs.loaded - before[2]


@pytest.fixture
async def agent(monkeypatch: pytest.MonkeyPatch) -> LongAgent:
    """Its outputs are blobs, and small ones, so that the conversation can be long."""
    monkeypatch.setattr(bodies, "INLINE_BYTES_MAX", len(PRINTED) - 1)
    one = LongAgent()
    await one.begin()
    return one


async def test_a_late_turn_appends_reads_and_loads_what_an_early_one_does(agent: LongAgent) -> None:
    early = await agent.cost_of(range(1, 51))
    await agent.cost_of(range(51, TURNS - 49))
    late = await agent.cost_of(range(TURNS - 49, TURNS + 1))
    assert early[1] == late[1] == 0
    assert (early[2], late[2]) == (49, 50)
    assert late[0] <= early[0] * 1.02


async def test_what_is_kept_of_a_turn_is_the_turn(agent: LongAgent) -> None:
    """Objects that stay in memory, counted where the conversation is twice and where it is ten times as long."""
    early = await blocks_kept(agent, range(51, 101), after=range(1, 51))
    late = await blocks_kept(agent, range(TURNS - 49, TURNS + 1), after=range(101, TURNS - 49))
    assert late < early * 1.2


async def test_what_was_sent_before_is_sent_as_it_was(agent: LongAgent) -> None:
    """Not made again: the messages of earlier turns are the same objects."""
    await agent.cost_of(range(1, 11))
    before = await agent.conversation.messages(agent.session.agent)
    await agent.turn(11)
    after = await agent.conversation.messages(agent.session.agent)
    assert all(one is other for one, other in zip(before[:19], after, strict=False))
    assert before == after[:21]


async def test_a_message_that_was_read_stays_where_it_was_read(agent: LongAgent) -> None:
    await agent.cost_of(range(1, 3))
    message = ReceiveMessage(message_id="m", number=1, text=Body(inline=b"Listen!"))
    agent.session.do(message)
    asked = await agent.conversation.messages(agent.session.agent, agent.session.agent.inbox)
    assert asked[-1]["content"][-1] == {"type": "text", "text": "Listen!"}
    await agent.turn(3, reads=(1,))
    await agent.turn(4)
    sent = await agent.conversation.messages(agent.session.agent)
    assert sent[: len(asked)] == asked
    assert sent == await Conversation(agent.blobs).messages(agent.session.agent)


async def blocks_kept(agent: LongAgent, turns: Sequence[int], *, after: Sequence[int]) -> int:
    """Blocks of memory that these turns take and keep."""
    await agent.cost_of(after)
    before = _blocks()
    await agent.cost_of(turns)
    return _blocks() - before


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
