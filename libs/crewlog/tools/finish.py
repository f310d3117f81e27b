"""finish: how an agent hands over its structured output. Offered only where the node asks for one.

What does not fit is answered with all that is wrong with it. The tool has no effect on the world: the outcome itself is
what the agent has come to.
"""

from __future__ import annotations

import json
from typing import Any

from crewlog.domain.agent.state import FINISH_TOOL
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow import planning, schemas
from crewlog.tools.answers import INVALID_OUTPUT, NotDone, ToolAnswer, shown
from crewlog.tools.limits import STRUCTURED_BYTES_MAX
from crewlog.v1.run_pb2 import AgentNode

INSTRUCTION = (
    f"When you are done, finish by calling the tool `{FINISH_TOOL}` with your result. Nothing else ends your task: "
    "what you only say is not handed over."
)
REMINDER = f"You have ended your turn without your result. Finish by calling the tool `{FINISH_TOOL}` with it."
ACCEPTED = "Accepted."

_WRAPPED = "value"
_DEFINITIONS = ("$defs", "definitions")
_CHOICES = ("oneOf", "anyOf", "allOf")
_VIOLATION_CHARACTERS_MAX = 500


def is_offered(node: AgentNode) -> bool:
    return bool(node.output_schema) or node.HasField("planning")


def definition(node: AgentNode) -> dict[str, Any]:
    """What the Messages API has to know of it; there an input is always an object."""
    schema = json.loads(_schema_of(node))
    what = "your plan" if node.HasField("planning") else "your result"
    return {
        "name": FINISH_TOOL,
        "description": f"Hands over {what} and ends your task. Call it once, when everything else is done.",
        "input_schema": _wrapped(schema) if _needs_wrapping(schema) else schema,
    }


def finish(node: AgentNode, node_id: str, input_json: bytes) -> ToolAnswer:
    """Raises NotDone, with what is wrong and what to do."""
    value = _value(node, input_json)
    violations = schemas.violations_of(_schema_of(node), value) or _of_plan(node, node_id, value)
    if violations:
        raise _invalid("\n".join(f"- {shown(violation)[:_VIOLATION_CHARACTERS_MAX]}" for violation in violations))
    return ToolAnswer(ACCEPTED, structured_json=value)


def _schema_of(node: AgentNode) -> str:
    return planning.schema(node.planning) if node.HasField("planning") else node.output_schema


def _needs_wrapping(schema: Any) -> bool:
    """The Messages API wants an object that is not a choice between several."""
    return not isinstance(schema, dict) or schema.get("type") != "object" or any(word in schema for word in _CHOICES)


def _wrapped(schema: Any) -> dict[str, Any]:
    """Definitions stay at the root, because references begin there."""
    fields: dict[str, Any] = schema if isinstance(schema, dict) else {}
    inner = {key: value for key, value in fields.items() if key not in _DEFINITIONS} if fields else schema
    return {
        "type": "object",
        "properties": {_WRAPPED: inner},
        "required": [_WRAPPED],
        "additionalProperties": False,
        **{key: fields[key] for key in _DEFINITIONS if key in fields},
    }


def _value(node: AgentNode, input_json: bytes) -> str:
    """What was handed over, as compact JSON."""
    try:
        given = json.loads(input_json or b"{}", parse_constant=_no_constant)
        if _needs_wrapping(json.loads(_schema_of(node))):
            given = _unwrapped(given)
        value = json.dumps(given, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(value.encode())
    except (ValueError, RecursionError) as error:
        raise _invalid(f"- it is no JSON that can be read: {shown(str(error))[:200]}") from error
    if size > STRUCTURED_BYTES_MAX:
        raise _invalid(f"- it has {size} bytes; at most {STRUCTURED_BYTES_MAX} can be handed over")
    return value


def _unwrapped(given: Any) -> Any:
    if not isinstance(given, dict) or set(given) != {_WRAPPED}:
        raise _invalid(f"- it has to be an object with nothing but the field `{_WRAPPED}`")
    return given[_WRAPPED]


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _of_plan(node: AgentNode, node_id: str, value: str) -> list[str]:
    if not node.HasField("planning"):
        return []
    try:
        planning.nodes_of(node_id, node.planning, value)
    except InvalidCommand as refusal:
        return [f"{field} {why}" for field, why in list(refusal.violations.items())[:10]] or [refusal.message]
    return []


def _invalid(violations: str) -> NotDone:
    return NotDone(
        INVALID_OUTPUT,
        f"Your result is not accepted:\n{violations}\nCall `{FINISH_TOOL}` again with the whole result, corrected.",
    )
