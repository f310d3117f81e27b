"""Agents on the scripted model: what Crewlog adds to a plain loop, and what a turn with a sandboxed command takes.

The plain loop is one process with the same client library, the same model server, the same conversation and the same
file: it records nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from crewlog.cli.launcher.platform import Platform
from crewlog.models import conversation
from crewlog.models.prices import DEFAULT_MODEL
from crewlog.models.provider import AnthropicModel, ModelRequest
from crewlog.tools.registry import tool_definitions
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import AgentNode, Node, Role, Workflow

from bench.runs import Client, types_of

TURNS = 20
DELAY_MILLIS = 5
FILE = "data.txt"
FILE_BYTES = 1_200
SAID = "I read it once more. " * 60
ROUNDS = 3
AT_ONCE = 50
Figures = dict[str, float]


def script() -> str:
    """Two roles: one reads a file in each turn, until the conversation has 50 KB; the other runs a command in each."""
    reading = [_step(SAID, "read", {"path": FILE}) for _ in range(TURNS)]
    running = [_step("", "bash", {"command": f"echo {number} >> log.txt"}) for number in range(TURNS)]
    done = {"say": "Done.", "delay_millis": DELAY_MILLIS}
    scripts = [
        {"system": "Role: reader", "steps": [*reading, done]},
        {"system": "Role: runner", "steps": [*running, done]},
    ]
    return json.dumps({"name": "bench", "scripts": scripts})


def _step(say: str, tool: str, input: dict[str, str]) -> dict[str, object]:
    step: dict[str, object] = {"tools": [{"tool": tool, "input": input}], "delay_millis": DELAY_MILLIS}
    return {"say": say, **step} if say else step


def workflow(role: str, tool: str) -> Workflow:
    prompt = f"Role: {role}"
    node = Node(node_id=role, agent=AgentNode(role=Role(name=role, version="1", prompt=prompt, tools=[tool])))
    return Workflow(name=role, nodes=[node])


async def w4(client: Client, platform: Platform, model_url: str, file: Path) -> Figures:
    """Milliseconds over the plain loop for each of the 40 effects, and 50 agents as a multiple of the plain loop."""
    model = AnthropicModel("none", model_url)
    try:
        await _plain(model, file)
        pairs = [(await _timed(_plain(model, file)), await _agent_seconds(client)) for _ in range(ROUNDS)]
        many_plain = await _timed(_gather(*(_plain(model, file) for _ in range(AT_ONCE))))
        many_ours = await _timed(_gather(*(client.succeeded(workflow("reader", "read")) for _ in range(AT_ONCE))))
    finally:
        await model.close()
    over = median(ours - plain for plain, ours in pairs)
    return {"W4.overhead_ms_per_step": over * 1e3 / (2 * TURNS), "W4.times_plain_50": many_ours / many_plain}


async def sandboxed_turn(client: Client, platform: Platform) -> Figures:
    """From the answer that asks for a command to the entry with its outcome and snapshot, p50."""
    entries = await client.finished(workflow("runner", "bash"))
    asked = [_millis(entry) for entry in entries if "tool_call_started" in types_of(entry)]
    done = [_millis(entry) for entry in entries if "tool_call_succeeded" in types_of(entry)]
    return {"turn.sandboxed_ms": median(end - begin for begin, end in zip(asked, done, strict=True))}


async def _agent_seconds(client: Client) -> float:
    """From the first to the last entry of the agent's work: setting up and committing the workspace stand apart."""
    entries = await client.finished(workflow("reader", "read"))
    agents = [entry for entry in entries if entry.entry.aggregate.kind == "agent"]
    first = next(entry for entry in agents if "model_call_started" in types_of(entry))
    last = [entry for entry in agents if "model_call_succeeded" in types_of(entry)][-1]
    return (_millis(last) - _millis(first)) / 1e3


async def _plain(model: AnthropicModel, file: Path) -> None:
    turns: list[conversation.Turn] = []
    for _ in range(TURNS + 1):
        reply = await model.call(_request(turns), lambda text: None)
        text = await asyncio.to_thread(file.read_text)
        calls = [block for block in reply.content if block.HasField("tool_use")]
        turns.append(conversation.Turn(reply.content, [conversation.ToolOutcome(text) for _ in calls]))


def _request(turns: list[conversation.Turn]) -> ModelRequest:
    messages = conversation.messages("bench", turns)
    return ModelRequest(DEFAULT_MODEL, "Role: reader", messages, tool_definitions(["read"]), 8_192)


async def _gather(*work: Any) -> None:
    await asyncio.gather(*work)


async def _timed(work: Any) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def _millis(recorded: RecordedEntry) -> float:
    return recorded.entry.recorded_at_unix_micros / 1e3
