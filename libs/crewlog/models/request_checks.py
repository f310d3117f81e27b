"""What the Messages API refuses, beside illegal conversations. Pure; the scripted model refuses the same.

The fields are those of `anthropic.types.MessageCreateParams`; the statuses those of the API's documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crewlog.models.legality import TOOL_NAME, check_legal
from crewlog.models.prompt_cache import MARKS_MAX, marks_in

REQUEST_BYTES_MAX = 32 * 1024 * 1024
_FIELDS = {
    *("model", "max_tokens", "messages", "system", "tools", "tool_choice", "stream", "stop_sequences", "thinking"),
    *("cache_control", "container", "diagnostics", "inference_geo", "metadata", "output_config", "service_tier"),
    *("speed", "user_profile_id", "workspace_id"),
}


def has_key(headers: Mapping[str, str]) -> bool:
    """Whether the request names a key, in either of the two ways."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return bool(headers.get("x-api-key", "").strip() or (scheme.lower() == "bearer" and token.strip()))


def wrong_with(headers: Mapping[str, str], body: object, *, counting: bool) -> str:
    """The first thing that is wrong with a request, "" for a good one. `counting`: it only asks for its tokens."""
    return next(_wrong(headers, body, counting), "")


def _wrong(headers: Mapping[str, str], body: object, counting: bool) -> Iterator[str]:
    if not headers.get("anthropic-version"):
        yield "anthropic-version: header is required"
    if not isinstance(body, Mapping):
        yield "the body must be a JSON object"
        return
    yield from (f"{name}: extra inputs are not permitted" for name in sorted(body.keys() - _FIELDS))
    if not isinstance(body.get("model"), str) or not body["model"]:
        yield "model: must be text and not empty"
    if not counting and (type(body.get("max_tokens")) is not int or body["max_tokens"] < 1):
        yield "max_tokens: must be a whole number from 1"
    if body.get("stream") not in (None, True, False):
        yield "stream: must be true or false"
    yield from _wrong_system(body.get("system"))
    yield from _wrong_tools(body.get("tools"))
    yield from check_legal(body.get("messages"))
    if marks_in(body) > MARKS_MAX:
        yield f"at most {MARKS_MAX} blocks may have cache_control, this request has {marks_in(body)}"


def _wrong_system(system: Any) -> Iterator[str]:
    if system is None or isinstance(system, str):
        return
    blocks = [block for block in system if isinstance(block, Mapping)] if isinstance(system, list) else []
    if not blocks or len(blocks) != len(system) or any(block.get("type") != "text" for block in blocks):
        yield "system: must be text or a list of text blocks"
    elif not all(str(block.get("text", "")).strip() for block in blocks):
        yield "system: text content blocks must contain text other than white space"


def _wrong_tools(tools: Any) -> Iterator[str]:
    if tools is None:
        return
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        yield "tools: must be a list of objects"
        return
    for place, tool in enumerate(tools):
        schema = tool.get("input_schema")
        if not isinstance(tool.get("name"), str) or not TOOL_NAME.fullmatch(tool["name"]):
            yield f"tools.{place}.name: must match {TOOL_NAME.pattern}"
        elif not isinstance(schema, Mapping) or schema.get("type") != "object":
            yield f"tools.{place}.input_schema: must be a JSON schema of type object"
        elif tool["name"] in (other.get("name") for other in tools[:place]):
            yield f"tools: tool names must be unique, {tool['name']!r} is not"
