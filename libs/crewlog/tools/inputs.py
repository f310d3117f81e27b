"""What a model gives to a tool, checked. One that is wrong about it is told what would be right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from crewlog.tools.answers import MALFORMED_INPUT, NotDone, shown
from crewlog.tools.limits import INPUT_BYTES_MAX
from pydantic import ValidationError

if TYPE_CHECKING:
    from crewlog.tools.tool import Tool, ToolInput
    from pydantic_core import ErrorDetails

I = TypeVar("I", bound="ToolInput")  # noqa: E741


def input_of(tool: Tool[I], input_json: bytes) -> I:
    """Raises NotDone, with what the tool takes."""
    if len(input_json) > INPUT_BYTES_MAX:
        raise NotDone(
            MALFORMED_INPUT, f"the input of {tool.name} has {len(input_json)} bytes; at most {INPUT_BYTES_MAX}"
        )
    try:
        return tool.input.model_validate_json(input_json or b"{}")
    except ValidationError as error:
        raise NotDone(MALFORMED_INPUT, _what_is_right(tool, error)) from error


def _what_is_right(tool: Tool[Any], error: ValidationError) -> str:
    wrong = "; ".join(_violation(detail) for detail in error.errors(include_url=False, include_context=False)[:10])
    return f"The input of {tool.name} is wrong: {wrong}. It has to be a JSON object of {_fields(tool)}."


def _violation(detail: ErrorDetails) -> str:
    where = ".".join(shown(str(part)[:80]) for part in detail["loc"])
    message = "this field does not exist" if detail["type"] == "extra_forbidden" else shown(detail["msg"][:200])
    return f"{where}: {message}" if where else message


def _fields(tool: Tool[Any]) -> str:
    required = tool.input_schema.get("required", ())
    fields = tool.input_schema["properties"].items()
    return ", ".join(_field(name, it["type"], name in required) for name, it in fields) or "nothing"


def _field(name: str, type_name: str, is_required: bool) -> str:
    return f"{json.dumps(name)} ({type_name}{'' if is_required else ', optional'})"
