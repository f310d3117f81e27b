"""Token counts of a request, with figures that behave like the provider's prompt cache.

A request is a list of blocks: tools, system, messages. Up to a block with a cache mark it is remembered; a later
request that begins with the same blocks reads that part from the cache. As at the provider, a short prefix is not
cached, and a mark looks back over a limited number of blocks.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crewlog.models.scripted_answer import TOKEN_BYTES

CACHED_TOKENS_MIN = 1024
LOOK_BACK_BLOCKS = 20
PREFIXES_MAX = 10_000
MARKS_MAX = 4


@dataclass(frozen=True)
class InputCount:
    fresh: int
    cache_read: int
    cache_write: int

    def usage(self) -> dict[str, Any]:
        """As the provider reports it."""
        return {
            "input_tokens": self.fresh,
            "cache_creation_input_tokens": self.cache_write,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation": {"ephemeral_5m_input_tokens": self.cache_write, "ephemeral_1h_input_tokens": 0},
            "service_tier": "standard",
        }


@dataclass(frozen=True)
class _Prefix:
    digest: bytes
    tokens: int
    is_marked: bool


class PromptCache:
    """Counts requests in the order in which they come."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def count(self, body: Mapping[str, Any]) -> InputCount:
        """Counts a request and remembers it."""
        prefixes = list(_prefixes(body))
        marks = [place for place, prefix in enumerate(prefixes) if prefix.is_marked]
        read = max((self._longest_known(prefixes, mark) for mark in marks), default=0)
        cached = prefixes[marks[-1]].tokens if marks else 0
        if cached < CACHED_TOKENS_MIN:
            cached = read = 0
        for mark in marks:
            self._remember(prefixes[mark].digest)
        return InputCount(fresh=total_tokens(body) - cached, cache_read=read, cache_write=cached - read)

    def _longest_known(self, prefixes: list[_Prefix], mark: int) -> int:
        for prefix in reversed(prefixes[max(0, mark - LOOK_BACK_BLOCKS) : mark + 1]):
            if prefix.digest in self._known and prefix.tokens >= CACHED_TOKENS_MIN:
                return prefix.tokens
        return 0

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > PREFIXES_MAX:
            self._known.popitem(last=False)


def total_tokens(body: Mapping[str, Any]) -> int:
    """At least 1."""
    return max([1, *(prefix.tokens for prefix in _prefixes(body))])


def marks_in(body: Mapping[str, Any]) -> int:
    return sum("cache_control" in block for _, block in _blocks(body))


def request_hash(body: Mapping[str, Any]) -> str:
    """The same for requests that ask the same, however they are marked for the cache and delivered."""
    bare = [(place, _bare(block)) for place, block in _blocks(body)]
    return hashlib.sha256(_canonical([body.get("model"), body.get("max_tokens"), bare])).hexdigest()


def _prefixes(body: Mapping[str, Any]) -> Iterator[_Prefix]:
    digest = hashlib.sha256(_canonical(body.get("model")))
    size = 0
    for place, block in _blocks(body):
        content = _canonical([place, _bare(block)])
        digest.update(content)
        size += len(content)
        yield _Prefix(digest.digest(), -(-size // TOKEN_BYTES), "cache_control" in block)


def _blocks(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from (("tool", tool) for tool in body.get("tools") or ())
    yield from (("system", block) for block in _as_blocks(body.get("system") or []))
    for message in body["messages"]:
        yield from ((message["role"], block) for block in _as_blocks(message["content"]))


def _as_blocks(content: Any) -> list[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _bare(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != "cache_control"}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
