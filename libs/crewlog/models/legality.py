"""The rules for a conversation that the Messages API accepts. Pure; the scripted model refuses what breaks them.

Consecutive messages of one role count as one, as the API combines them. The sources are the API's documentation
(https://platform.claude.com/docs/en/, named by page), the docstrings of `anthropic.types`, and the API's own error
messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Blocks = Sequence[Mapping[str, Any]]
# Role and blocks, combined.
Exchange = Sequence[tuple[str, Blocks]]

MESSAGES_MAX = 100_000
TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@dataclass(frozen=True)
class Rule:
    """`broken` yields a sentence for each place that breaks it."""

    says: str
    source: str
    broken: Callable[[Exchange], Iterator[str]]


def check_legal(messages: object) -> list[str]:
    """What is wrong with it, empty for a legal conversation."""
    wrong = list(_misshapen(messages))
    if wrong or not isinstance(messages, Sequence):
        return wrong
    exchange = _combined(messages)
    return [sentence for rule in RULES for sentence in rule.broken(exchange)]


def _misshapen(messages: object) -> Iterator[str]:
    if not isinstance(messages, list) or not 0 < len(messages) <= MESSAGES_MAX:
        yield f"messages: must be a list of 1 to {MESSAGES_MAX} messages"
        return
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ("user", "assistant"):
            yield f"messages.{place}: must be an object with the role user or assistant"
        elif not _is_content(message.get("content")):
            yield f"messages.{place}.content: must be a string or a list of blocks, each with a type"


def _is_content(content: object) -> bool:
    if isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(block, Mapping)
        and isinstance(block.get("type"), str)
        and all(isinstance(block.get(key), str) for key in _STRINGS_OF.get(block["type"], ()))
        for block in content
    )


_STRINGS_OF = {"text": ("text",), "tool_use": ("id", "name"), "tool_result": ("tool_use_id",)}


def _combined(messages: Sequence[Mapping[str, Any]]) -> Exchange:
    combined: list[tuple[str, list[Mapping[str, Any]]]] = []
    for message in messages:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not combined or combined[-1][0] != message["role"]:
            combined.append((message["role"], []))
        combined[-1][1].extend(blocks)
    return combined


def _of_type(blocks: Blocks, kind: str) -> list[Mapping[str, Any]]:
    return [block for block in blocks if block["type"] == kind]


def _starts_with_user(exchange: Exchange) -> Iterator[str]:
    if exchange[0][0] != "user":
        yield "messages.0: the first message must be the user's"


def _ends_with_user(exchange: Exchange) -> Iterator[str]:
    role, blocks = exchange[-1]
    if role == "assistant" and not _of_type(blocks, "server_tool_use"):
        yield f"messages.{len(exchange) - 1}: the last message must be the user's, as an answer cannot be prefilled"


def _no_empty_content(exchange: Exchange) -> Iterator[str]:
    for place, (_, blocks) in enumerate(exchange):
        if not blocks:
            yield f"messages.{place}.content: must not be empty"


def _no_empty_text(exchange: Exchange) -> Iterator[str]:
    for place, (_, blocks) in enumerate(exchange):
        texts = _of_type(blocks, "text") + [
            inner for result in _of_type(blocks, "tool_result") for inner in _texts_of(result.get("content"))
        ]
        if any(not str(block.get("text", "")).strip() for block in texts):
            yield f"messages.{place}: text content blocks must contain text other than white space"


def _texts_of(content: object) -> Blocks:
    return _of_type(content, "text") if isinstance(content, list) and _is_content(content) else []


def _errors_say_something(exchange: Exchange) -> Iterator[str]:
    for place, (_, blocks) in enumerate(exchange):
        if any(block.get("is_error") and not block.get("content") for block in _of_type(blocks, "tool_result")):
            yield f"messages.{place}: tool_result: content must not be empty where is_error is true"


def _tool_blocks_in_their_role(exchange: Exchange) -> Iterator[str]:
    for place, (role, blocks) in enumerate(exchange):
        kind = "tool_result" if role == "assistant" else "tool_use"
        if _of_type(blocks, kind):
            yield f"messages.{place}: a {kind} block has no place in a message of the {role}"


def _tool_calls_well_formed(exchange: Exchange) -> Iterator[str]:
    seen: set[str] = set()
    for place, (_, blocks) in enumerate(exchange):
        for call in _of_type(blocks, "tool_use"):
            if not TOOL_ID.fullmatch(call["id"]):
                yield f"messages.{place}: tool_use.id {call['id']!r} must match {TOOL_ID.pattern}"
            if call["id"] in seen:
                yield f"messages.{place}: tool_use ids must be unique, {call['id']!r} is not"
            if not TOOL_NAME.fullmatch(call["name"]):
                yield f"messages.{place}: tool_use.name {call['name']!r} must match {TOOL_NAME.pattern}"
            if not isinstance(call.get("input"), Mapping):
                yield f"messages.{place}: tool_use.input must be an object"
            seen.add(call["id"])


def _calls_are_answered(exchange: Exchange) -> Iterator[str]:
    for place, (role, blocks) in enumerate(exchange):
        if role != "assistant":
            continue
        following = exchange[place + 1][1] if place + 1 < len(exchange) else ()
        answered = {block["tool_use_id"] for block in _of_type(following, "tool_result")}
        missing = [call["id"] for call in _of_type(blocks, "tool_use") if call["id"] not in answered]
        if missing:
            names = ", ".join(missing)
            yield f"messages.{place}: tool_use ids were found without tool_result blocks immediately after: {names}"


def _answers_have_calls(exchange: Exchange) -> Iterator[str]:
    for place, (role, blocks) in enumerate(exchange):
        if role != "user":
            continue
        open_calls = [call["id"] for call in _of_type(exchange[place - 1][1], "tool_use")] if place else []
        for result in _of_type(blocks, "tool_result"):
            if result["tool_use_id"] not in open_calls:
                yield f"messages.{place}: unexpected tool_use_id {result['tool_use_id']!r} in a tool_result block"
            else:
                open_calls.remove(result["tool_use_id"])


def _answers_come_first(exchange: Exchange) -> Iterator[str]:
    for place, (_, blocks) in enumerate(exchange):
        kinds = [block["type"] == "tool_result" for block in blocks]
        if kinds != sorted(kinds, reverse=True):
            yield f"messages.{place}: tool_result blocks must come before any other block"


_TOOLS_PAGE = "agents-and-tools/tool-use/handle-tool-calls"

RULES: tuple[Rule, ...] = (
    Rule("the first message is the user's", "API error 'first message must use the user role'", _starts_with_user),
    Rule("the last message is the user's", "api/errors, 'Prefill not supported'; but see pause_turn", _ends_with_user),
    Rule("no message is empty", "API error 'messages must have non-empty content'", _no_empty_content),
    Rule("no text block is blank", "API error 'text content blocks must be non-empty'", _no_empty_text),
    Rule("an error says something", "API error 'content cannot be empty if is_error is true'", _errors_say_something),
    Rule("calls are the model's, results the user's", _TOOLS_PAGE, _tool_blocks_in_their_role),
    Rule("a call has a unique id, a name and an object", "anthropic.types.ToolUseBlockParam", _tool_calls_well_formed),
    Rule("every call is answered in the next message", _TOOLS_PAGE, _calls_are_answered),
    Rule("every result answers a call of the message before, once", _TOOLS_PAGE, _answers_have_calls),
    Rule("results come first in their message", _TOOLS_PAGE, _answers_come_first),
)
