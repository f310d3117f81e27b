"""A script for the scripted model, and what it answers to a request. Pure.

The step that plays is the number of answers that the request already holds, so a script has no memory: the same request
gets the same answer, before and after any restart. docs/scripted-model.md describes the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

CONTEXT_TOKENS = 1_000_000
RETURNED_CHARACTERS_MAX = 2_000
STOP_REASONS = (
    *("end_turn", "tool_use", "max_tokens", "stop_sequence", "pause_turn", "refusal"),
    "model_context_window_exceeded",
)


@dataclass(frozen=True)
class ToolCall:
    """`malformed_input`, where it is given, is sent in place of `input`, as it stands. `id`: in place of an own one."""

    tool: str
    input: Mapping[str, Any]
    malformed_input: str | None = None
    id: str = ""


@dataclass(frozen=True)
class RetryAfter:
    """In one of the three forms that providers use: `seconds`, `millis` or `date`."""

    form: str
    millis: int


@dataclass(frozen=True)
class Error:
    """An error response; with `after` an error inside the stream, after so many events of it."""

    status: int
    type: str = ""
    code: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: RetryAfter | None = None
    after: int | None = None


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the first `times` requests of a step; 0: with every one. `disconnect_after` and
    `stall_after` count the events of the stream that are still sent."""

    times: int = 1
    error: Error | None = None
    delay_millis: int = 0
    disconnect_after: int | None = None
    stall_after: int | None = None


@dataclass(frozen=True)
class Answer:
    """`usage` replaces counts of the answer; `other_blocks` are content blocks as they stand, after the text."""

    say: str = ""
    tools: Sequence[ToolCall] = ()
    stop_reason: str = ""
    faults: Sequence[Fault] = ()
    delay_millis: int = 0
    omit_usage: bool = False
    usage: Mapping[str, int] = field(default_factory=dict)
    other_blocks: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Case:
    """Plays where `expect` is found in what the tools returned last, and `said` in what the user said after them."""

    expect: re.Pattern[str] | None
    said: re.Pattern[str] | None
    answer: Answer


@dataclass(frozen=True)
class Conversation:
    system: re.Pattern[str]
    prompt: re.Pattern[str]
    steps: Sequence[Sequence[Case]]


@dataclass(frozen=True)
class Script:
    name: str
    conversations: Sequence[Conversation]
    context_tokens: int = CONTEXT_TOKENS


@dataclass(frozen=True)
class Move:
    """The answer to a request, and which part of the script it is: -1 where no part of it fits."""

    answer: Answer
    conversation: int
    step: int


def next_move(script: Script, body: Mapping[str, Any]) -> Move | None:
    """What the script answers to a legal request; None where no conversation of it fits."""
    system, prompt = _text_of(body.get("system", "")), _text_of(body["messages"][0]["content"])
    step = sum(message["role"] == "assistant" for message in body["messages"])
    for place, conversation in enumerate(script.conversations):
        if conversation.system.search(system) and conversation.prompt.search(prompt):
            return Move(_answer_at(conversation, step, body), place, step)
    return None


def fault_of(answer: Answer, requests_before: int) -> Fault | None:
    """What goes wrong with a request that was sent so often before."""
    until = 0
    for fault in answer.faults:
        until += fault.times
        if not fault.times or requests_before < until:
            return fault
    return None


def _answer_at(conversation: Conversation, step: int, body: Mapping[str, Any]) -> Answer:
    if step >= len(conversation.steps):
        return Answer(say=f"The script ends after {len(conversation.steps)} steps, and this is step {step + 1}.")
    results, said = _results(body), _said(body)
    for case in conversation.steps[step]:
        groups = _groups(((case.expect, results), (case.said, said)))
        if groups is not None:
            return _filled(case.answer, groups)
    return Answer(say=_unexpected(conversation.steps[step], step, results, said))


def _groups(wanted: Iterable[tuple[re.Pattern[str] | None, str]]) -> dict[str, str] | None:
    """What the named groups have found; None where a pattern was not found."""
    groups: dict[str, str] = {}
    for pattern, text in wanted:
        if pattern is not None:
            found = pattern.search(text)
            if found is None:
                return None
            groups |= found.groupdict(default="")
    return groups


def _unexpected(cases: Iterable[Case], step: int, results: str, said: str) -> str:
    patterns = [pattern.pattern for case in cases for pattern in (case.expect, case.said) if pattern is not None]
    expected = " or ".join(map(repr, patterns))
    returned = results[:RETURNED_CHARACTERS_MAX] or "nothing"
    heard = f"; the user said: {said[:RETURNED_CHARACTERS_MAX]}" if said else ""
    return f"The script expected {expected} at step {step + 1}, but the tools returned: {returned}{heard}"


def _filled(answer: Answer, groups: Mapping[str, str]) -> Answer:
    tools = [
        replace(call, input=filled(call.input, groups), malformed_input=filled(call.malformed_input, groups))
        for call in answer.tools
    ]
    return replace(answer, say=filled(answer.say, groups), tools=tools)


def filled(value: Any, groups: Mapping[str, str]) -> Any:
    """With every {{name}} in it, however deep, replaced by what the group of this name has found."""
    match value:
        case str():
            return re.sub(r"\{\{(\w+)\}\}", lambda name: groups.get(name[1], name[0]), value)
        case dict():
            return {key: filled(inner, groups) for key, inner in value.items()}
        case list():
            return [filled(inner, groups) for inner in value]
    return value


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content if block["type"] == "text")


def _results(body: Mapping[str, Any]) -> str:
    last = body["messages"][-1]["content"]
    blocks = [block for block in last if block["type"] == "tool_result"] if isinstance(last, list) else []
    return "\n".join(_text_of(block.get("content", "")) for block in blocks)


def _said(body: Mapping[str, Any]) -> str:
    last = body["messages"][-1]
    return _text_of(last["content"]) if last["role"] == "user" else ""
