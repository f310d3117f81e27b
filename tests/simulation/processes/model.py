"""The model of a simulation: what it says follows from the conversation alone, and it keeps a ledger of its requests.

It refuses, is overloaded and breaks off as the weather says.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from crewlog.domain.agent.state import FINISH_TOOL, SPAWN_TOOL, WAIT_TOOL
from crewlog.eventlog import codec
from crewlog.models import failures
from crewlog.models.failures import ModelError
from crewlog.models.legality import check_legal
from crewlog.models.provider import ModelReply, ModelRequest
from crewlog.tools.children import MESSAGE_TOOL
from crewlog.v1.agent_pb2 import ContentBlock, ModelCallFailed, ModelCallStarted, ModelCallSucceeded, ToolUse
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Usage
from crewlog.v1.scheduler_pb2 import Grant

from tests.simulation.processes.effects import ASK, LOOK, MAIL, PUT, SHELL
from tests.simulation.processes.log import Disk
from tests.simulation.processes.network import pass_time

MODEL = "claude-haiku-4-5"
SENT_BACK = "NEEDS WORK"
SHARE_OUT = "share it out"
"""The task of an agent that gives work to another one, and waits for it."""
TURNS_MAX = 4
QUESTIONS: tuple[dict[str, Any], ...] = (
    {"question": "Which one?", "choices": ["a", "b"], "expires_seconds": 60, "default": "a"},
    {"question": "What next?"},
    {"question": " "},
)
CALLS_MAX = 4
RESULTS: tuple[Any, ...] = ({"is_good": True}, {"is_good": True}, {}, None)
PLAN = {"tasks": [{"id": "a", "role": "worker", "prompt": "go on"}]}
PLANS: tuple[Any, ...] = (PLAN, PLAN, {"tasks": [{**PLAN["tasks"][0], "depends_on": ["b"]}]}, None)
"""What is handed over: not all of it does, and None is said instead of being handed over."""


@dataclass(slots=True)
class Moods:
    """How often it fails now, from 0 to 1."""

    refuses: float = 0.0
    breaks: float = 0.0
    hangs: float = 0.0
    forbids: float = 0.0


@dataclass(slots=True)
class Provider:
    """`mistakes` are requests that must not have been made."""

    disk: Disk
    chance: Random
    seed: int
    paths: Counter[str]
    moods: Moods = field(default_factory=Moods)
    requests: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)

    async def find(self, grant: Grant, model: str) -> tuple[Any, str]:
        """As Models.find."""
        await pass_time(0.001)
        return Client(self, grant), "simulated"

    async def close(self) -> None:
        return

    def enter(self, grant: Grant, request: ModelRequest) -> None:
        """Every request has an intent of its own in the log, and no answer of its turn is there."""
        self.mistakes += [f"{grant.agent_id}: {wrong}" for wrong in check_legal(list(request.messages))]
        turn = sum(message["role"] == "assistant" for message in request.messages) + 1
        attempts = self._intents(grant)
        if not attempts:
            self.mistakes.append(
                f"{grant.agent_id} asks for turn {turn} and generation {grant.generation} has no intent"
            )
            return
        place = (grant.agent_id, *attempts[-1])
        self.requests[place] += 1
        if self.requests[place] > 1:
            self.mistakes.append(f"{place} is asked again")

    def _intents(self, grant: Grant) -> list[tuple[int, int]]:
        """Turn and attempt of the intents of this claim whose own outcome is not known, in their order."""
        found: list[tuple[int, int]] = []
        for entry in self.disk.history("agent", grant.agent_id):
            for fact in codec.facts(entry) if entry.generation == grant.generation else ():
                if isinstance(fact, ModelCallStarted):
                    found.append((fact.key.turn, fact.key.attempt))
                elif isinstance(fact, (ModelCallSucceeded, ModelCallFailed)):
                    found = [place for place in found if place != (fact.key.turn, fact.key.attempt)]
        return found


@dataclass(frozen=True, slots=True)
class Client:
    """In place of an AnthropicModel."""

    provider: Provider
    grant: Grant

    async def count_tokens(self, request: ModelRequest) -> int:
        await pass_time(0.05)
        return len(json.dumps(list(request.messages))) // 4

    async def call(self, request: ModelRequest, on_text: Callable[[str], None], *_: Any) -> ModelReply:
        provider = self.provider
        await pass_time(0.02)
        provider.enter(self.grant, request)
        provider.paths["model asked"] += 1
        await self._fail_early()
        on_text("thinking")
        await pass_time(provider.chance.choice((0.2, 1.0, 4.0, 12.0)) * provider.chance.random())
        self._fail_late()
        return answer(provider.seed, self.grant, request)

    async def close(self) -> None:
        return

    async def _fail_early(self) -> None:
        provider, moods = self.provider, self.provider.moods
        if _happens(provider, moods.refuses, "model refuses"):
            status = provider.chance.choice((429, 429, 529, 503))
            wish = {"retry-after-ms": str(provider.chance.randrange(8_000))} if status == 429 else {}
            raise failures.answered_error(status, None, wish, 0.0)
        if _happens(provider, moods.forbids, "model forbids"):
            raise failures.answered_error(provider.chance.choice((400, 401, 404)), None, {}, 0.0)
        if _happens(provider, moods.hangs, "model hangs"):
            await pass_time(60 + provider.chance.random() * 120)
            raise failures.error_of(failures.TIMED_OUT, "no sign of life")

    def _fail_late(self) -> None:
        if _happens(self.provider, self.provider.moods.breaks, "model breaks off"):
            raise failures.error_of(failures.DISCONNECTED, "the stream ended early")


def answer(seed: int, grant: Grant, request: ModelRequest) -> ModelReply:
    """What the conversation leads to."""
    said = json.dumps(list(request.messages), sort_keys=True)
    chance = Random(hashlib.sha256(f"{seed} {grant.agent_id} {said}".encode()).digest())
    turn = sum(message["role"] == "assistant" for message in request.messages) + 1
    uses = _sharing(chance, grant, turn) if grant.node.agent.prompt == SHARE_OUT else _uses(seed, chance, grant, turn)
    text = SENT_BACK if not uses and chance.random() < 0.3 else f"turn {turn} of {grant.agent_id}"
    content = [ContentBlock(text=text), *(ContentBlock(tool_use=use) for use in uses)]
    return ModelReply(
        content=content,
        stop_reason="tool_use" if uses else "end_turn",
        usage=Usage(input_tokens=len(said) // 4, output_tokens=20 + chance.randrange(200)),
        provider_request_id=f"req_{chance.randrange(10**9)}",
        model=request.model,
    )


def _uses(seed: int, chance: Random, grant: Grant, turn: int) -> list[ToolUse]:
    last = Random(f"{seed} {grant.agent_id}").randrange(1, TURNS_MAX + 1)
    return _ending(chance, grant, turn) if turn >= last else _working(chance, grant, turn)


def _sharing(chance: Random, grant: Grant, turn: int) -> list[ToolUse]:
    steps: tuple[tuple[str, dict[str, Any]], ...] = ((SPAWN_TOOL, {"role": "worker", "task": "help"}), (WAIT_TOOL, {}))
    return [_called(chance, turn, 0, *steps[turn - 1])] if turn <= len(steps) else []


def _working(chance: Random, grant: Grant, turn: int) -> list[ToolUse]:
    uses = [_use(chance, grant, turn, index) for index in range(chance.randrange(1, CALLS_MAX))]
    is_child = "_c" in grant.node.node_id
    if grant.node.agent.children and not is_child and chance.random() < 0.8:
        uses.append(_called(chance, turn, len(uses), *_about_children(chance, grant)))
    return uses


def _about_children(chance: Random, grant: Grant) -> tuple[str, dict[str, Any]]:
    given: dict[str, dict[str, Any]] = {
        SPAWN_TOOL: {"role": "worker", "task": "help"},
        MESSAGE_TOOL: {"child": f"{grant.node.node_id}_c1", "text": "hurry"},
        WAIT_TOOL: {},
    }
    tool = chance.choice((SPAWN_TOOL, SPAWN_TOOL, MESSAGE_TOOL, WAIT_TOOL, WAIT_TOOL))
    return tool, given[tool]


def _ending(chance: Random, grant: Grant, turn: int) -> list[ToolUse]:
    """Whoever owes something hands it over, or means to have done so."""
    agent = grant.node.agent
    if not agent.output_schema and not agent.HasField("planning"):
        return []
    stubborn = Random(grant.agent_id).random() < 0.05
    result = {} if stubborn else chance.choice(PLANS if agent.HasField("planning") else RESULTS)
    return [] if result is None else [_called(chance, turn, 0, FINISH_TOOL, result)]


def _use(chance: Random, grant: Grant, turn: int, index: int) -> ToolUse:
    tool = chance.choice((LOOK, LOOK, PUT, SHELL, SHELL, MAIL, MAIL, ASK))
    given: dict[str, Any] = {
        "place": f"{grant.agent_id} {turn} {index}",
        "millis": chance.choice((10, 300, 3_000, 9_000, 9_000)),
        "fails": chance.random() < 0.1,
        "hangs": tool == LOOK and chance.random() < 0.05,
    }
    if tool == ASK:
        given = chance.choice(QUESTIONS)
    return _called(chance, turn, index, tool, given)


def _called(chance: Random, turn: int, index: int, tool: str, given: dict[str, Any]) -> ToolUse:
    use_id = f"toolu_{turn}_{index}_{chance.randrange(10**6)}"
    return ToolUse(tool_use_id=use_id, tool=tool, input_json=Body(inline=json.dumps(given).encode()))


def _happens(provider: Provider, share: float, path: str) -> bool:
    happened = share > 0 and provider.chance.random() < share
    provider.paths[path] += happened
    return happened


__all__ = ["MODEL", "SENT_BACK", "SHARE_OUT", "ModelError", "Moods", "Provider"]
