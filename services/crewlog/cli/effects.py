"""What a tool call was about, in a few words: `read src/slug.py`, `bash pytest -q`."""

from __future__ import annotations

import json

from crewlog.cli import wording
from crewlog.v1.agent_pb2 import ContentBlock, ModelAnswer, ToolUse
from crewlog.v1.body_pb2 import Body

_SALIENT = ("path", "command", "pattern")
CHARACTERS_MAX = 80


def text_of(body: Body) -> str:
    """The text of a body; of one that is kept as a blob, its size."""
    if body.WhichOneof("content") == "blob":
        return f"[{wording.count(body.blob.size_bytes)} bytes, kept as a blob]"
    return body.inline.decode(errors="replace")


def call_in_words(call: ToolUse) -> str:
    salient = _salient(text_of(call.input_json))
    return wording.one_line(f"{call.tool} {salient}".strip(), CHARACTERS_MAX)


def answer_in_words(answer: ModelAnswer) -> str:
    """The beginning of what the model says, or what it calls where it says nothing."""
    said = next((block.text for block in answer.content if block.text.strip()), "")
    if said:
        return wording.one_line(said)
    calls = [block.tool_use.tool for block in answer.content if _is_call(block)]
    return (
        f"calls {', '.join(map(wording.plain, calls))}" if calls else f"nothing ({wording.plain(answer.stop_reason)})"
    )


def _is_call(block: ContentBlock) -> bool:
    return block.WhichOneof("block") == "tool_use"


def _salient(input_json: str) -> str:
    try:
        fields = json.loads(input_json)
    except ValueError:
        return input_json
    if not isinstance(fields, dict):
        return input_json
    return next((str(fields[name]) for name in _SALIENT if name in fields), "")
