"""A scripted answer as the Messages API would put it: one message, or the events of a stream. Pure.

Ids follow from the request, so the same request is answered with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crewlog.models.script import Answer

# Roughly what a token of English or code takes.
TOKEN_BYTES = 4
PIECES_MAX = 200
PIECE_CHARACTERS_MIN = 24

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """A text block, or with `tool` a tool call, whose `written` is its input as JSON; or with `other` one as it stands,
    and `written` the same as JSON."""

    written: str
    tool: str = ""
    tool_use_id: str = ""
    other: Mapping[str, Any] | None = None

    @property
    def tokens(self) -> int:
        return tokens_in(self.written) + tokens_in(self.tool)


@dataclass(frozen=True)
class Message:
    """`usage` without the output tokens; `replaced` are counts of the script's own, which win over all."""

    id: str
    model: str
    blocks: Sequence[Block]
    stop_reason: str
    usage: Mapping[str, Any]
    omit_usage: bool = False
    replaced: Mapping[str, int] = field(default_factory=dict)

    def reported(self, output_tokens: int | None = None) -> dict[str, Any]:
        """The usage, by default the one at the end."""
        if output_tokens is not None:
            return {**self.usage, "output_tokens": output_tokens}
        return {**self.usage, "output_tokens": self.output_tokens, **self.replaced}

    @property
    def output_tokens(self) -> int:
        return max(1, sum(block.tokens for block in self.blocks))


def tokens_in(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // TOKEN_BYTES)


def message_of(answer: Answer, key: str, model: str, output_tokens_max: int, usage: Mapping[str, Any]) -> Message:
    """`key` is the hash of the request. What exceeds the tokens asked for is cut off, even in the middle of a call."""
    whole = [Block(answer.say)] if answer.say else []
    whole += [Block(json.dumps(block), other=block) for block in answer.other_blocks]
    whole += [
        Block(_input(call.input, call.malformed_input), call.tool, call.id or f"toolu_{key[:20]}{place:02}")
        for place, call in enumerate(answer.tools)
    ]
    blocks, was_cut = _cut(whole, output_tokens_max)
    return Message(
        id=f"msg_{key[:24]}",
        model=model,
        blocks=blocks,
        stop_reason="max_tokens" if was_cut else answer.stop_reason or ("tool_use" if answer.tools else "end_turn"),
        usage=usage,
        omit_usage=answer.omit_usage,
        replaced=answer.usage,
    )


def as_json(message: Message) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    content = [_started(block) | _whole(block) for block in message.blocks]
    usage = {} if message.omit_usage else {"usage": message.reported()}
    return {**_envelope(message), "content": content, "stop_reason": message.stop_reason, **usage}


def as_events(message: Message) -> Iterator[Event]:
    """The answer to a request that streams, in the order of the API."""
    usage = {} if message.omit_usage else {"usage": message.reported(output_tokens=1)}
    yield {"type": "message_start", "message": {**_envelope(message), **usage}}
    for index, block in enumerate(message.blocks):
        yield {"type": "content_block_start", "index": index, "content_block": _started(block)}
        if index == 0:
            yield {"type": "ping"}
        for piece in _pieces(block):
            yield {"type": "content_block_delta", "index": index, "delta": _delta(block, piece)}
        yield {"type": "content_block_stop", "index": index}
    end = {} if message.omit_usage else {"usage": message.reported()}
    stop = {"stop_reason": message.stop_reason, "stop_sequence": None, "stop_details": None}
    yield {"type": "message_delta", "delta": stop, **end}
    yield {"type": "message_stop"}


def encoded(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


def _envelope(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "type": "message",
        "role": "assistant",
        "model": message.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _input(value: Mapping[str, Any], malformed: str | None) -> str:
    return json.dumps(value, ensure_ascii=False) if malformed is None else malformed


def _cut(blocks: Sequence[Block], tokens_max: int) -> tuple[list[Block], bool]:
    kept: list[Block] = []
    left = tokens_max
    for block in blocks:
        if block.tokens > left:
            bytes_left = max(0, left - tokens_in(block.tool)) * TOKEN_BYTES
            begun = block.written.encode("utf-8", "replace")[:bytes_left].decode("utf-8", "ignore")
            return [*kept, *([replace(block, written=begun)] if begun else [])], True
        kept.append(block)
        left -= block.tokens
    return kept, False


def _started(block: Block) -> dict[str, Any]:
    if block.other is not None:
        return dict(block.other)
    if not block.tool:
        return {"type": "text", "text": ""}
    return {"type": "tool_use", "id": block.tool_use_id, "name": block.tool, "input": {}}


def _whole(block: Block) -> dict[str, Any]:
    if block.other is not None:
        return {}
    if not block.tool:
        return {"text": block.written}
    try:
        parsed = json.loads(block.written)
    except ValueError:
        parsed = None
    return {"input": parsed if isinstance(parsed, dict) else {"INVALID_JSON": block.written}}


def _pieces(block: Block) -> Iterator[str]:
    if block.other is not None:
        return
    size = max(PIECE_CHARACTERS_MIN, -(-len(block.written) // PIECES_MAX))
    if block.tool:
        yield ""  # as the API begins every input
    yield from (block.written[start : start + size] for start in range(0, len(block.written), size))


def _delta(block: Block, piece: str) -> dict[str, str]:
    if block.tool:
        return {"type": "input_json_delta", "partial_json": piece}
    return {"type": "text_delta", "text": piece}
