"""What is sent to the model: the prompt and the turns so far, as messages. Pure.

Whatever has happened, and wherever it stopped, the messages obey `legality.RULES`: a call whose outcome nobody knows is
answered with just that, and what the provider would refuse to take back is put into a form that it takes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crewlog.models.legality import TOOL_ID, TOOL_NAME, check_legal
from crewlog.v1.agent_pb2 import ContentBlock, ToolUse

__all__ = ["CONTINUE", "ToolOutcome", "Turn", "check_legal", "messages"]

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
    conversation: list[dict[str, Any]] = []
    ids = _tool_ids(turns)
    _say(conversation, "user", _text(prompt) or _text(CONTINUE))
    for turn in turns:
        calls = [next(ids) for block in turn.content if block.WhichOneof("block") == "tool_use"]
        answer = _answer(turn, calls)
        _say(conversation, "assistant", answer)
        _say(conversation, "user", _results(turn, calls) + _text(turn.said))
        if conversation[-1]["role"] == "assistant" and not _is_paused(answer):
            _say(conversation, "user", _text(CONTINUE))
    return conversation


def _say(conversation: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    if blocks and conversation and conversation[-1]["role"] == role:
        conversation[-1]["content"].extend(blocks)
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


def _tool_ids(turns: Sequence[Turn]) -> Iterator[str]:
    """The provider's ids where they can be sent back, else others that only depend on the place of the call."""
    given = [block.tool_use.tool_use_id for turn in turns for block in turn.content if block.HasField("tool_use")]
    used: set[str] = set()
    for place, given_id in enumerate(given):
        own = given_id if TOOL_ID.fullmatch(given_id) and given_id not in used else f"call_{place}"
        while own in used:
            own += "_"
        used.add(own)
        yield own


def _is_paused(answer: Sequence[dict[str, Any]]) -> bool:
    """The provider stopped in the middle of a tool of its own (`pause_turn`), and goes on from the same message."""
    return bool(answer) and answer[-1].get("type") == "server_tool_use"
