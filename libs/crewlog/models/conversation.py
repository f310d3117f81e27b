"""What is sent to the model: the prompt and the turns so far, as messages. Pure.

Whatever has happened, and wherever it stopped, the messages obey `legality.RULES`: a call whose outcome nobody knows is
answered with just that, and what the provider would refuse to take back is put into a form that it takes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crewlog.models.legality import TOOL_ID, TOOL_NAME, check_legal
from crewlog.v1.agent_pb2 import ContentBlock, ToolUse

__all__ = ["CONTINUE", "ToolOutcome", "Transcript", "Turn", "check_legal", "messages"]

CONTINUE = "Continue."
NO_OUTPUT = "(no output)"
UNKNOWN_OUTCOME = "The outcome of this call is unknown: it was interrupted, and may have taken effect or not."
# The key that agents-and-tools/tool-use/fine-grained-tool-streaming suggests for this.
MALFORMED_KEY = "INVALID_JSON"
# The client library walks a request recursively, in Python.
INPUT_DEPTH_MAX = 64


@dataclass(frozen=True)
class ToolOutcome:
    text: str
    is_error: bool = False


@dataclass(frozen=True)
class Turn:
    """`content` as in ModelReply, with every input inline. `outcomes` by the place of the tool call among the tool
    calls; None, or none at all, means that it is not known. `said`: what the user says after them."""

    content: Sequence[ContentBlock]
    outcomes: Sequence[ToolOutcome | None] = ()
    said: str = ""


def messages(prompt: str, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The whole conversation, legal at every prefix of `turns`; it asks the model to go on where nothing else does."""
    transcript = Transcript(prompt)
    for turn in turns:
        transcript.add(turn)
    return transcript.messages()


class Transcript:
    """A conversation that grows by turns, at the cost of what each of them adds. What it gave stays as it is."""

    def __init__(self, prompt: str) -> None:
        self._messages: list[dict[str, Any]] = []
        self._ids = _ToolIds()
        _say(self._messages, "user", _text(prompt) or _text(CONTINUE))

    def copy(self) -> Transcript:
        """One that grows by itself."""
        other = Transcript("")
        other._messages, other._ids = self.messages(), self._ids.copy()
        return other

    def add(self, turn: Turn) -> None:
        calls = [self._ids.of(block.tool_use) for block in turn.content if block.WhichOneof("block") == "tool_use"]
        answer = _answer(turn, calls)
        _say(self._messages, "assistant", answer)
        _say(self._messages, "user", _results(turn, calls) + _text(turn.said))
        if self._messages[-1]["role"] == "assistant" and not _is_paused(answer):
            _say(self._messages, "user", _text(CONTINUE))

    def messages(self) -> list[dict[str, Any]]:
        return list(self._messages)


def _say(conversation: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    if blocks and conversation and conversation[-1]["role"] == role:
        conversation[-1] = {"role": role, "content": [*conversation[-1]["content"], *blocks]}
    elif blocks:
        conversation.append({"role": role, "content": blocks})


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": _sound(text)}] if text.strip() else []


def _sound(text: str) -> str:
    """Without halves of surrogate pairs, which are not UTF-8 and so cannot be sent."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _answer(turn: Turn, calls: Sequence[str]) -> list[dict[str, Any]]:
    remaining = iter(calls)
    blocks: list[dict[str, Any]] = []
    for block in turn.content:
        match block.WhichOneof("block"):
            case "text":
                blocks += _text(block.text)
            case "tool_use":
                blocks.append(_call(block.tool_use, next(remaining)))
            case "other_json":
                blocks.append(json.loads(block.other_json))
    return blocks


def _call(tool_use: ToolUse, call_id: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": _name(tool_use.tool), "input": _input(tool_use)}


def _name(tool: str) -> str:
    allowed = "".join(letter if TOOL_NAME.fullmatch(letter) else "_" for letter in tool)
    return allowed[:128] or "_"


def _input(tool_use: ToolUse) -> dict[str, Any]:
    if tool_use.input_json.WhichOneof("content") == "blob":
        raise ValueError(f"the input of {tool_use.tool_use_id} is still in a blob")
    written = tool_use.input_json.inline
    try:
        parsed = json.loads(written.decode() or "{}", parse_float=_finite, parse_constant=_no_constant)
        sent = json.loads(_sound(json.dumps(parsed, ensure_ascii=False)))
    except (ValueError, RecursionError):
        sent = None
    usable = isinstance(sent, dict) and _is_shallow(sent, INPUT_DEPTH_MAX)
    return sent if usable else {MALFORMED_KEY: written.decode("utf-8", "replace")}


def _is_shallow(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _results(turn: Turn, calls: Sequence[str]) -> list[dict[str, Any]]:
    known = [*turn.outcomes, *[None] * len(calls)]
    return [_result(call_id, outcome) for call_id, outcome in zip(calls, known, strict=False)]


def _result(call_id: str, outcome: ToolOutcome | None) -> dict[str, Any]:
    outcome = outcome or ToolOutcome(UNKNOWN_OUTCOME, is_error=True)
    text = _sound(outcome.text) if outcome.text.strip() else NO_OUTPUT
    result = {"type": "tool_result", "tool_use_id": call_id, "content": text}
    return {**result, "is_error": True} if outcome.is_error else result


class _ToolIds:
    """The provider's ids where they can be sent back, else others that only depend on the place of the call."""

    def __init__(self) -> None:
        self._used: dict[str, None] = {}

    def copy(self) -> _ToolIds:
        other = _ToolIds()
        other._used = dict(self._used)
        return other

    def of(self, call: ToolUse) -> str:
        given = call.tool_use_id
        own = given if TOOL_ID.fullmatch(given) and given not in self._used else f"call_{len(self._used)}"
        while own in self._used:
            own += "_"
        self._used[own] = None
        return own


def _is_paused(answer: Sequence[dict[str, Any]]) -> bool:
    """The provider stopped in the middle of a tool of its own (`pause_turn`), and goes on from the same message."""
    return bool(answer) and answer[-1].get("type") == "server_tool_use"
