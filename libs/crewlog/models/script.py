"""A script for the scripted model: its format, and what it answers to a request. Pure but for reading the file.

The step that plays is the number of answers that the request already holds, so a script has no memory: the same request
gets the same answer, before and after any restart. docs/scripted-model.md describes the format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from crewlog.domain.errors import InvalidCommand

T = TypeVar("T")

CONTEXT_TOKENS = 1_000_000
RETURNED_CHARACTERS_MAX = 2_000
STOP_REASONS = (
    *("end_turn", "tool_use", "max_tokens", "stop_sequence", "pause_turn", "refusal"),
    "model_context_window_exceeded",
)
_HELP = "docs/scripted-model.md describes the format."


@dataclass(frozen=True)
class ToolCall:
    """`malformed_input`, where it is given, is sent in place of `input`, as it stands."""

    tool: str
    input: Mapping[str, Any]
    malformed_input: str | None = None


@dataclass(frozen=True)
class Error:
    """What the first `times` requests of the step get in place of the answer."""

    status: int
    times: int = 1
    type: str = ""
    code: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """`disconnect_after` and `stall_after` count the events of the stream that are still sent."""

    say: str = ""
    tools: Sequence[ToolCall] = ()
    stop_reason: str = ""
    error: Error | None = None
    delay_millis: int = 0
    disconnect_after: int | None = None
    stall_after: int | None = None
    omit_usage: bool = False


@dataclass(frozen=True)
class Case:
    expect: re.Pattern[str] | None
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
            return Move(_answer_at(conversation, step, _results(body)), place, step)
    return None


def _answer_at(conversation: Conversation, step: int, results: str) -> Answer:
    if step >= len(conversation.steps):
        return Answer(say=f"The script ends after {len(conversation.steps)} steps, and this is step {step + 1}.")
    for case in conversation.steps[step]:
        if case.expect is None:
            return case.answer
        if found := case.expect.search(results):
            return _filled(case.answer, found.groupdict(default=""))
    expected = " or ".join(repr(case.expect.pattern) for case in conversation.steps[step] if case.expect)
    returned = results[:RETURNED_CHARACTERS_MAX] or "nothing"
    return Answer(say=f"The script expected {expected} at step {step + 1}, but the tools returned: {returned}")


def _filled(answer: Answer, groups: Mapping[str, str]) -> Answer:
    """With {{name}} replaced by what the named group of `expect` found."""

    def fill(value: Any) -> Any:
        match value:
            case str():
                return re.sub(r"\{\{(\w+)\}\}", lambda name: groups.get(name[1], name[0]), value)
            case dict():
                return {key: fill(inner) for key, inner in value.items()}
            case list():
                return [fill(inner) for inner in value]
        return value

    tools = [replace(call, input=fill(call.input), malformed_input=fill(call.malformed_input)) for call in answer.tools]
    return replace(answer, say=fill(answer.say), tools=tools)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content if block["type"] == "text")


def _results(body: Mapping[str, Any]) -> str:
    last = body["messages"][-1]["content"]
    blocks = [block for block in last if block["type"] == "tool_result"] if isinstance(last, list) else []
    return "\n".join(_text_of(block.get("content", "")) for block in blocks)


def load_script(path: Path) -> Script:
    """Raises InvalidCommand, which names the file, the place in it, and what is wrong there."""
    try:
        content = yaml.load(path.read_text("utf-8"), _StrictLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _wrong(str(path), f"cannot be read: {error}") from error
    top = _Fields(content, str(path))
    script = Script(
        name=top.take("name", _string, ""),
        conversations=top.take_list("scripts", _conversation),
        context_tokens=top.take("context_tokens", _whole, CONTEXT_TOKENS),
    )
    top.end()
    if not script.conversations:
        raise _wrong(str(path), "has no scripts")
    return script


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, where YAML's own way is to forget the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=True)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
        return mapping


class _Fields:
    """The fields of a mapping, each taken once; `end` refuses those that nobody took."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(where, f"must be a mapping, not {value!r}")
        self._left: dict[object, object] = dict(value)
        self.where = where

    def take(self, name: str, convert: Callable[[object, str], T], default: T) -> T:
        if name not in self._left:
            return default
        return convert(self._left.pop(name), f"{self.where}: {name}")

    def take_list(self, name: str, convert: Callable[[object, str], T]) -> Sequence[T]:
        values = self._left.pop(name, [])
        if not isinstance(values, list):
            raise _wrong(f"{self.where}: {name}", f"must be a list, not {values!r}")
        return [convert(value, f"{self.where}: {name}[{place}]") for place, value in enumerate(values)]

    def end(self) -> None:
        if self._left:
            raise _wrong(self.where, f"has the unknown field {next(iter(self._left))!r}")


def _conversation(value: object, where: str) -> Conversation:
    fields = _Fields(value, where)
    anything = re.compile("")
    conversation = Conversation(
        system=fields.take("system", _pattern, anything),
        prompt=fields.take("prompt", _pattern, anything),
        steps=fields.take_list("steps", _step),
    )
    fields.end()
    return conversation


def _step(value: object, where: str) -> Sequence[Case]:
    fields = _Fields(value, where)
    cases = fields.take_list("cases", _case)
    if cases:
        fields.end()
        return cases
    return [_case_of(fields)]


def _case(value: object, where: str) -> Case:
    return _case_of(_Fields(value, where))


def _case_of(fields: _Fields) -> Case:
    case = Case(
        expect=fields.take("expect", _pattern, None),
        answer=Answer(
            say=fields.take("say", _string, ""),
            tools=fields.take_list("tools", _tool),
            stop_reason=fields.take("stop_reason", _stop_reason, ""),
            error=fields.take("error", _error, None),
            delay_millis=fields.take("delay_millis", _whole, 0),
            disconnect_after=fields.take("disconnect_after", _whole, None),
            stall_after=fields.take("stall_after", _whole, None),
            omit_usage=fields.take("omit_usage", _yes_or_no, False),
        ),
    )
    fields.end()
    return case


def _tool(value: object, where: str) -> ToolCall:
    fields = _Fields(value, where)
    call = ToolCall(
        tool=fields.take("tool", _string, ""),
        input=fields.take("input", _json_object, {}),
        malformed_input=fields.take("malformed_input", _string, None),
    )
    fields.end()
    if not call.tool:
        raise _wrong(where, "names no tool")
    return call


def _error(value: object, where: str) -> Error:
    fields = _Fields(value, where)
    error = Error(
        status=fields.take("status", _whole, 0),
        times=fields.take("times", _whole, 1),
        type=fields.take("type", _string, ""),
        code=fields.take("code", _string, ""),
        message=fields.take("message", _string, ""),
        headers=fields.take("headers", _headers, {}),
    )
    fields.end()
    if not 400 <= error.status < 600:
        raise _wrong(f"{where}: status", f"must be from 400 to 599, not {error.status}")
    return error


def _headers(value: object, where: str) -> dict[str, str]:
    return {name: _string(text, f"{where}: {name}") for name, text in _json_object(value, where).items()}


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, f"must be text, not {value!r}: put it in quotes")
    return value


def _whole(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(where, f"must be a whole number from 0, not {value!r}")
    return value


def _yes_or_no(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, f"must be true or false, not {value!r}")
    return value


def _pattern(value: object, where: str) -> re.Pattern[str]:
    try:
        return re.compile(_string(value, where))
    except re.error as error:
        raise _wrong(where, f"is no regular expression: {error}") from error


def _stop_reason(value: object, where: str) -> str:
    if value not in STOP_REASONS:
        raise _wrong(where, f"must be one of {', '.join(STOP_REASONS)}, not {value!r}")
    return str(value)


def _json_object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not _is_json(value):
        raise _wrong(where, f"must be a mapping of JSON values, not {value!r}: put dates in quotes")
    return value


def _is_json(value: object) -> bool:
    match value:
        case None | bool() | int() | str():
            return True
        case float():
            return value == value and abs(value) != float("inf")
        case list():
            return all(_is_json(inner) for inner in value)
        case dict():
            return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    return False


def _wrong(where: str, what: str) -> InvalidCommand:
    return InvalidCommand(f"{where} {what}", what_to_do=_HELP, violations={"script": where})
