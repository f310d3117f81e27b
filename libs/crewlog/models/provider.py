"""The model as the executor sees it: one request, one whole answer or one classified error.

There is one retry layer, and it is not here: a call is tried once. Nothing is taken from the environment. The client
library is imported when the first call needs it, as that takes seconds; `warm_up` does it before.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crewlog.models import failures, prices
from crewlog.models.answer import Answer
from crewlog.models.failures import ModelError
from crewlog.models.timeouts import Timeouts, in_time, timeouts_of
from crewlog.runtime import failpoints
from crewlog.v1.agent_pb2 import ContentBlock
from crewlog.v1.budget_pb2 import Usage

if TYPE_CHECKING:
    from crewlog.models.messages_api import MessagesApi

__all__ = [
    "AnthropicModel",
    "ModelError",
    "ModelReply",
    "ModelRequest",
    "Timeouts",
    "input_tokens_bound",
    "input_tokens_counted",
    "timeouts_of",
    "warm_up",
]

ANTHROPIC_URL = "https://api.anthropic.com"

# What the provider adds to a request: the preamble of tool use (under 1,000 tokens by its documentation), and per tool
# and message the marks of its own format. See input_tokens_bound.
PREAMBLE_TOKENS = 2048
TOOL_TOKENS = 64
# No known tokenizer has a longer token; an answer longer than its count of these has a wrong count.
TOKEN_BYTES_MAX = 256
# The provider says of its own count that the real one "may differ by a small amount", and not by how much.
COUNT_ALLOWANCE_PERCENT = 2
COUNT_ALLOWANCE_TOKENS = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRequest:
    """`messages` are as crewlog.models.conversation makes them; `tools` as the Messages API describes them."""

    model: str
    system: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    output_tokens_max: int


@dataclass(frozen=True)
class ModelReply:
    """A whole answer. `usage_estimated`: the provider gave no credible count, so the usage is the most it can be."""

    content: list[ContentBlock]
    stop_reason: str
    usage: Usage
    provider_request_id: str
    model: str
    usage_estimated: bool = False


async def warm_up() -> None:
    """Imports what the first call and the first price need, beside the event loop. A process that ends in the meantime
    does not wait for it."""
    loop, loaded = asyncio.get_running_loop(), asyncio.Event()

    def load() -> None:
        try:
            importlib.import_module("crewlog.models.messages_api").warm_up()
            prices.warm_up()
        except SystemError as error:
            # CPython 3.11, where two threads parse source at once: the first call imports in its own time.
            logger.warning("what model calls need could not be loaded beforehand: %s", error)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(loaded.set)

    threading.Thread(target=load, name="warm-up", daemon=True).start()
    await loaded.wait()


class AnthropicModel:
    """The Anthropic Messages API, or what speaks it at `base_url`. `timeouts` are those of calls that bring none."""

    def __init__(self, api_key: str, base_url: str = "", *, timeouts: Timeouts | None = None) -> None:
        self._api_key = api_key
        self._base_url = base_url or ANTHROPIC_URL
        self._timeouts = timeouts or Timeouts()
        self._api: MessagesApi | None = None

    async def call(
        self, request: ModelRequest, on_text: Callable[[str], None], timeouts: Timeouts | None = None
    ) -> ModelReply:
        """Raises ModelError. `on_text` gets the text as it arrives; it counts only once this returns. Cancelling it
        closes the connection."""
        limits = timeouts or self._timeouts
        with failpoints.around("model"):
            return await in_time(
                self._call(request, on_text, limits), limits.total_seconds, "no whole answer within {}"
            )

    async def count_tokens(self, request: ModelRequest) -> int:
        """How many input tokens the request has, as the provider estimates it: see `input_tokens_counted`. Costs
        nothing, also where it fails. Raises ModelError."""
        try:
            with failpoints.around("model.count"):
                return await self._count_tokens(request)
        except ModelError as error:
            error.may_have_charged = False
            raise

    async def close(self) -> None:
        api, self._api = self._api, None
        if api is not None:
            await api.close()

    async def _call(self, request: ModelRequest, on_text: Callable[[str], None], timeouts: Timeouts) -> ModelReply:
        api = await self._opened()
        answer = Answer()
        request_id = await api.stream(body_of(request), answer, on_text, timeouts)
        return reply_of(request, answer, request_id)

    async def _count_tokens(self, request: ModelRequest) -> int:
        body = body_of(request)
        del body["max_tokens"]
        count = await (await self._opened()).count_tokens(body)
        if count * TOKEN_BYTES_MAX < _text_bytes(request):
            raise failures.error_of(failures.UNREADABLE, f"the request cannot have as few tokens as {count}")
        return count

    async def _opened(self) -> MessagesApi:
        if self._api is None:
            _check_address(self._api_key, self._base_url)
            module = await asyncio.to_thread(importlib.import_module, "crewlog.models.messages_api")
            if self._api is None:  # another call may have been faster meanwhile
                self._api = module.MessagesApi(self._api_key, self._base_url, self._timeouts)
        return self._api


def body_of(request: ModelRequest) -> dict[str, Any]:
    """The request as it is sent, with the two places up to which the provider shall cache it."""
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.output_tokens_max,
        "messages": _with_cache_mark(request.messages),
    }
    if request.system.strip():
        body["system"] = [{"type": "text", "text": request.system, "cache_control": _CACHE}]
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
    return body


def input_tokens_bound(request: ModelRequest) -> int:
    """An upper bound on the input tokens, without asking anyone.

    A token of a byte-level tokenizer covers at least one byte, so text has at most as many tokens as UTF-8 bytes, in
    whatever form the tokenizer brings it into before. The serialised request holds all text that the provider shows to
    the model, and its JSON marks outnumber those of any other rendering; what the provider adds on its own is bounded
    by the constants above. We send no images, whose tokens do not follow from their bytes.
    """
    return _text_bytes(request) + PREAMBLE_TOKENS + TOOL_TOKENS * len(request.tools)


def input_tokens_counted(request: ModelRequest, count: int) -> int:
    """What to reserve once the provider has counted: its count with a declared allowance, and never above the bound."""
    allowance = -(-count * COUNT_ALLOWANCE_PERCENT // 100) + COUNT_ALLOWANCE_TOKENS
    return min(count + allowance, input_tokens_bound(request))


def reply_of(request: ModelRequest, answer: Answer, request_id: str) -> ModelReply:
    """The reply that a complete answer makes."""
    usage = _reported(answer, _text_bytes(request))
    return ModelReply(
        content=answer.content(),
        stop_reason=answer.stop_reason,
        usage=usage or _most_possible(request),
        provider_request_id=request_id,
        model=answer.model or request.model,
        usage_estimated=usage is None,
    )


# Five minutes by name: an hour costs more to write, and the reservation does not cover it.
_CACHE = {"type": "ephemeral", "ttl": "5m"}


def _text_bytes(request: ModelRequest) -> int:
    """The size of the request, in the longest form in which a tokenizer may see it: characters such as U+FDFA grow."""
    serialised = json.dumps(body_of(request), ensure_ascii=False)
    if serialised.isascii():
        return len(serialised)
    forms = [serialised]
    if not unicodedata.is_normalized("NFKC", serialised):  # what is, is in NFC as well
        forms += [unicodedata.normalize("NFC", serialised), unicodedata.normalize("NFKC", serialised)]
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def _with_cache_mark(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    marked = [dict(message) for message in messages]
    for message in reversed(marked):
        if message["role"] == "user":
            blocks = message["content"]
            blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else list(blocks)
            message["content"] = [*blocks[:-1], {**blocks[-1], "cache_control": _CACHE}]
            break
    return marked


def _reported(answer: Answer, input_bytes: int) -> Usage | None:
    """None where the provider gave no count, or one that is too low for the text that there was, or for its own."""
    counts = [_count(answer.usage, name) for name in _USAGE_FIELDS]
    if answer.has_shrunk or None in counts[:2] or -1 in (counts := [count or 0 for count in counts]):
        return None
    fresh, output, read, written = counts
    if output * TOKEN_BYTES_MAX < answer.size_bytes or (fresh + read + written) * TOKEN_BYTES_MAX < input_bytes:
        return None
    return Usage(input_tokens=fresh, output_tokens=output, cache_read_tokens=read, cache_write_tokens=written)


_USAGE_FIELDS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    if value is None:
        return None
    return value if isinstance(value, int) and value >= 0 else -1


def _most_possible(request: ModelRequest) -> Usage:
    # As cache writes, the dearest kind of input: it costs what was reserved for the call.
    return Usage(cache_write_tokens=input_tokens_bound(request), output_tokens=request.output_tokens_max)


def _check_address(api_key: str, base_url: str) -> None:
    if not base_url.startswith(("http://", "https://")):
        raise failures.error_of(failures.ADDRESS_INVALID, f"{base_url!r} is not an address")
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise failures.error_of(
            failures.KEY_MISSING, "there is no key for the model" if not api_key else "no valid key"
        )
