"""Reads a script from its file. Whatever is wrong in it is said with the place where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from crewlog.domain.errors import InvalidCommand
from crewlog.models.script import (
    CONTEXT_TOKENS,
    STOP_REASONS,
    Answer,
    Case,
    Conversation,
    Error,
    Fault,
    RetryAfter,
    Script,
    ToolCall,
    filled,
)

T = TypeVar("T")

REPEAT_MAX = 1_000
_HELP = "docs/scripted-model.md describes the format."


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
        said=fields.take("said", _pattern, None),
        answer=Answer(
            say=fields.take("say", _string, ""),
            tools=[call for calls in fields.take_list("tools", _tools) for call in calls],
            stop_reason=fields.take("stop_reason", _stop_reason, ""),
            faults=_faults(fields),
            delay_millis=fields.take("delay_millis", _whole, 0),
            omit_usage=fields.take("omit_usage", _yes_or_no, False),
            usage=fields.take("usage", _counts, {}),
            other_blocks=fields.take_list("other_blocks", _block),
        ),
    )
    fields.end()
    return case


def _faults(fields: _Fields) -> list[Fault]:
    """Those that are listed, then the one that stands beside the answer: an error comes once, all else every time."""
    listed = list(fields.take_list("faults", _fault))
    error = fields.take("error", _error_with_times, None)
    disconnect_after = fields.take("disconnect_after", _whole, None)
    stall_after = fields.take("stall_after", _whole, None)
    if error is not None:
        listed.append(error)
    if (disconnect_after, stall_after) != (None, None):
        listed.append(Fault(times=0, disconnect_after=disconnect_after, stall_after=stall_after))
    return listed


def _fault(value: object, where: str) -> Fault:
    fields = _Fields(value, where)
    fault = Fault(
        times=fields.take("times", _whole, 1),
        error=fields.take("error", _error, None),
        delay_millis=fields.take("delay_millis", _whole, 0),
        disconnect_after=fields.take("disconnect_after", _whole, None),
        stall_after=fields.take("stall_after", _whole, None),
    )
    fields.end()
    if fault == Fault(times=fault.times):
        raise _wrong(where, "says nothing that goes wrong")
    return fault


def _tools(value: object, where: str) -> list[ToolCall]:
    """One call, or as many as it is to be repeated; {{n}} in its input is its number."""
    fields = _Fields(value, where)
    call = ToolCall(
        tool=fields.take("tool", _string, ""),
        input=fields.take("input", _json_object, {}),
        malformed_input=fields.take("malformed_input", _string, None),
        id=fields.take("id", _string, ""),
    )
    repeat = fields.take("repeat", _whole, 0)
    fields.end()
    if not call.tool:
        raise _wrong(where, "names no tool")
    if repeat > REPEAT_MAX:
        raise _wrong(f"{where}: repeat", f"must be at most {REPEAT_MAX}, not {repeat}")
    return [replace(call, input=filled(call.input, {"n": str(n)})) for n in range(1, repeat + 1)] or [call]


def _error_with_times(value: object, where: str) -> Fault:
    fields = _Fields(value, where)
    times = fields.take("times", _whole, 1)
    return Fault(times=times, error=_error_of(fields))


def _error(value: object, where: str) -> Error:
    return _error_of(_Fields(value, where))


def _error_of(fields: _Fields) -> Error:
    error = Error(
        status=fields.take("status", _whole, 0),
        type=fields.take("type", _string, ""),
        code=fields.take("code", _string, ""),
        message=fields.take("message", _string, ""),
        headers=fields.take("headers", _headers, {}),
        retry_after=fields.take("retry_after", _retry_after, None),
        after=fields.take("after", _whole, None),
    )
    fields.end()
    if not 400 <= error.status < 600:
        raise _wrong(f"{fields.where}: status", f"must be from 400 to 599, not {error.status}")
    return error


def _retry_after(value: object, where: str) -> RetryAfter:
    fields = _Fields(value, where)
    given = {form: fields.take(form, _whole, None) for form in ("seconds", "millis", "date_seconds")}
    fields.end()
    said = {form: number for form, number in given.items() if number is not None}
    if len(said) != 1:
        raise _wrong(where, f"must have one of {', '.join(given)}")
    [(form, number)] = said.items()
    return RetryAfter(form.removesuffix("_seconds"), number if form == "millis" else number * 1000)


def _counts(value: object, where: str) -> dict[str, int]:
    return {name: _whole(count, f"{where}: {name}") for name, count in _json_object(value, where).items()}


def _block(value: object, where: str) -> Mapping[str, Any]:
    block = _json_object(value, where)
    if not isinstance(block.get("type"), str):
        raise _wrong(where, "has no type")
    return block


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
