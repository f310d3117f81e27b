"""The events of one streamed answer, folded into content blocks. Pure: it sees parsed events, never the network.

Nothing of an answer may be used before `complete`: a stream that ends earlier has said nothing. Text stays text, a tool
call keeps its input as the model wrote it, and any other block is kept whole, as JSON, to be sent back as it came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crewlog.v1.agent_pb2 import ContentBlock, ToolUse
from crewlog.v1.body_pb2 import Body

ANSWER_BYTES_MAX = 16 * 1024 * 1024
# Stop reasons at which the last block may have been cut off.
CUT_SHORT = frozenset({"max_tokens", "model_context_window_exceeded", "refusal"})


class Unreadable(Exception):
    """The provider sent what the Messages API does not describe."""


@dataclass
class _Block:
    start: dict[str, Any]
    pieces: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass
class Answer:
    """`take` every event in order; then, if `complete`, read the fields and `content`. `has_shrunk`: a count of `usage`
    became smaller, so it is not to be believed."""

    model: str = ""
    stop_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    has_shrunk: bool = False
    complete: bool = False
    size_bytes: int = 0
    _blocks: dict[int, _Block] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> str:
        """Returns the text that the event adds, for whoever watches. Raises Unreadable."""
        try:
            return self._take(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise Unreadable(f"an event of type {event.get('type')!r} has another shape than expected") from error

    def content(self) -> list[ContentBlock]:
        return [self._content_block(block) for _, block in sorted(self._blocks.items())]

    def _take(self, event: Mapping[str, Any]) -> str:
        match event["type"]:
            case "message_start":
                self.model = event["message"]["model"]
                self._count(event["message"].get("usage"))
            case "content_block_start":
                return self._start(event["index"], event["content_block"])
            case "content_block_delta":
                return self._add(self._blocks[event["index"]], event["delta"])
            case "content_block_stop":
                self._blocks[event["index"]].stopped = True
            case "message_delta":
                self.stop_reason = event["delta"].get("stop_reason") or self.stop_reason
                self._count(event.get("usage"))
            case "message_stop":
                self.complete = bool(self.stop_reason) and all(block.stopped for block in self._blocks.values())
            case _:
                pass  # the provider's rule: event types may be added, and clients pass over them
        return ""

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        # Later figures are cumulative and may leave out what has not changed.
        for name, value in (usage or {}).items():
            if value is not None:
                self.has_shrunk |= _is_less(value, self.usage.get(name))
                self.usage[name] = value

    def _start(self, index: int, start: Mapping[str, Any]) -> str:
        if index in self._blocks:
            raise Unreadable(f"block {index} started twice")
        block = _Block(dict(start))
        self._blocks[index] = block
        return self._grow(block, start["text"]) if start["type"] == "text" else ""

    def _add(self, block: _Block, delta: Mapping[str, Any]) -> str:
        match delta["type"]:
            case "text_delta":
                return self._grow(block, delta["text"])
            case "input_json_delta":
                self._grow(block, delta["partial_json"])
            case "thinking_delta":
                block.start["thinking"] = block.start.get("thinking", "") + self._grow(block, delta["thinking"])
            case "signature_delta":
                block.start["signature"] = delta["signature"]
            case "citations_delta":
                block.start["citations"] = [*(block.start.get("citations") or []), delta["citation"]]
            case unknown:
                # Passing over it would change a block that has to be sent back as it came.
                raise Unreadable(f"a block grew by an unknown {unknown!r}")
        return ""

    def _grow(self, block: _Block, piece: str) -> str:
        self.size_bytes += len(piece.encode("utf-8", "replace"))
        if self.size_bytes > ANSWER_BYTES_MAX:
            raise Unreadable(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
        block.pieces.append(piece)
        return piece

    def _content_block(self, block: _Block) -> ContentBlock:
        kind = block.start["type"]
        if kind == "text" and not block.start.get("citations"):
            return ContentBlock(text=_sound(block.text))
        if kind == "tool_use":
            return ContentBlock(tool_use=self._tool_use(block))
        return ContentBlock(other_json=_as_json(self._whole(block)))

    def _whole(self, block: _Block) -> dict[str, Any]:
        if block.start["type"] == "text":
            return {**block.start, "text": block.text}
        if block.start["type"] == "server_tool_use" and block.pieces:
            return {**block.start, "input": json.loads(block.text)}
        return block.start

    def _tool_use(self, block: _Block) -> ToolUse:
        written = block.text.encode("utf-8", "replace")
        if not written and self.stop_reason not in CUT_SHORT:
            # A tool without parameters is called without any delta; a call that was cut off before its first is not.
            written = _as_json(block.start.get("input", {})).encode()
        return ToolUse(
            tool_use_id=_sound(block.start["id"]), tool=_sound(block.start["name"]), input_json=Body(inline=written)
        )


def _is_less(count: object, before: object) -> bool:
    return isinstance(count, int) and isinstance(before, int) and count < before


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _sound(text: str) -> str:
    """Half of a surrogate pair is JSON but not UTF-8, and a protobuf string must be."""
    return text.encode("utf-8", "replace").decode("utf-8")
