"""Input is counted: by a bound that holds for every conversation, and by the provider, over real connections."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from crewlog.models import provider
from crewlog.models.conversation import ToolOutcome, Turn, messages
from crewlog.models.failures import ModelError
from crewlog.models.prices import DEFAULT_MODEL
from crewlog.models.prompt_cache import PromptCache, total_tokens
from crewlog.models.provider import AnthropicModel, ModelRequest, Timeouts, input_tokens_bound, input_tokens_counted
from crewlog.models.request_checks import wrong_with
from crewlog.models.scripted import serve_scripted
from crewlog.tools.registry import TOOLS, tool_definitions
from crewlog.v1.agent_pb2 import ContentBlock, ToolUse
from crewlog.v1.body_pb2 import Body
from hypothesis import given
from hypothesis import strategies as st

KEY = "sk-canary-0123456789"
SHORT = Timeouts(first_byte_seconds=0.3)
SCRIPT = "name: test\nscripts:\n  - steps:\n      - say: Hi\n"

Answering = Callable[..., Awaitable[AnthropicModel]]


def asked(prompt: str = "Go", *turns: Turn, system: str = "Role: tester", tools: tuple[str, ...] = ()) -> ModelRequest:
    return ModelRequest(DEFAULT_MODEL, system, messages(prompt, turns), tool_definitions(tools), 1_000)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def scripted(stack: AsyncExitStack, tmp_path: Path) -> AnthropicModel:
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT)
    return _client(stack, await stack.enter_async_context(serve_scripted(path)))


@pytest.fixture
def answering(stack: AsyncExitStack) -> Answering:
    """A client of a server that gives one fixed answer to anything; None: never one."""

    async def start(answer: bytes | None) -> AnthropicModel:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if answer is not None:
                await _whole_request(reader)
                writer.write(answer)
            else:
                await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        stack.callback(server.close)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return _client(stack, url, SHORT if answer is None else None)

    return start


async def _whole_request(reader: asyncio.StreamReader) -> None:
    """A connection that is closed over what was not read is reset, and the answer may be lost with it."""
    head = await reader.readuntil(b"\r\n\r\n")
    [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    await reader.readexactly(int(length.split(b":")[1]))


def _client(stack: AsyncExitStack, url: str, timeouts: Timeouts | None = None) -> AnthropicModel:
    model = AnthropicModel(KEY, url, timeouts=timeouts)
    stack.push_async_callback(model.close)
    return model


def _http(status: int, body: bytes, content_type: str = "application/json", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*head, "connection: close", "", ""]).encode() + body


async def test_the_provider_counts_what_it_will_charge(scripted: AnthropicModel) -> None:
    for text in ("Go", "ünïcödé 日本語 🦀 " * 1_000):
        request = asked(text, tools=tuple(TOOLS))
        count = await scripted.count_tokens(request)
        usage = (await scripted.call(request, lambda _: None)).usage
        assert count == usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        assert count < input_tokens_counted(request, count) <= input_tokens_bound(request)


async def test_cache_writes_are_asked_for_five_minutes() -> None:
    body = provider.body_of(asked())
    marks = [block["cache_control"] for block in (*body["system"], *body["messages"][-1]["content"])]
    assert marks == [{"type": "ephemeral", "ttl": "5m"}] * 2


_OVERLOADED = json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "busy " + KEY}}).encode()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_http(529, _OVERLOADED), "model_overloaded"),
        (_http(429, b"{}", "application/json", "retry-after: 7"), "model_rate_limited"),
        (_http(401, b"{}"), "model_key_refused"),
        (_http(404, b"{}"), "model_unknown"),
        (_http(200, b"{}"), "model_answer_unreadable"),
        (_http(200, b'{"input_tokens": 0}'), "model_answer_unreadable"),
        (_http(200, b'{"input_tokens": -7}'), "model_answer_unreadable"),
        (_http(200, b'{"input_tokens": "12"}'), "model_answer_unreadable"),
        (_http(200, b'{"input_tokens": true}'), "model_answer_unreadable"),
        (_http(200, b'{"input_tokens": NaN}'), "model_answer_unreadable"),
        (_http(200, b"[1]"), "model_answer_unreadable"),
        (_http(200, b"{"), "model_answer_unreadable"),
        (_http(200, b"\xff"), "model_answer_unreadable"),
        (_http(200, b"[" * 100_000), "model_answer_unreadable"),
        (_http(200, b"<html>", "text/html"), "model_answer_unreadable"),
        (b"HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\n{", "model_disconnected"),
        (b"", "model_disconnected"),
        (None, "model_timed_out"),
    ],
)
async def test_a_count_that_fails_is_classified_and_costs_nothing(
    answering: Answering, answer: bytes | None, reason: str
) -> None:
    model = await answering(answer)
    with pytest.raises(ModelError) as raised:
        await model.count_tokens(asked())
    assert raised.value.failure.reason == reason
    assert not raised.value.may_have_charged
    assert KEY not in str(raised.value.failure)
    assert raised.value.retry_after_millis == (7_000 if reason == "model_rate_limited" else 0)


async def test_a_count_that_cannot_be_is_not_believed(answering: Answering) -> None:
    model = await answering(_http(200, b'{"input_tokens": 3}'))
    with pytest.raises(ModelError, match="as few tokens as 3"):
        await model.count_tokens(asked("word " * 1_000))


CHARACTERS = st.characters(codec="utf-8")
TEXTS = st.text(CHARACTERS, min_size=1, max_size=300) | st.builds(
    lambda piece, times: piece * times, st.text(CHARACTERS, min_size=1, max_size=9), st.integers(1, 3_000)
)
TOOL_USES = st.builds(
    lambda value: ContentBlock(
        tool_use=ToolUse(tool_use_id="t", tool="read", input_json=Body(inline=json.dumps({"path": value}).encode()))
    ),
    TEXTS,
)
TURNS = st.builds(
    lambda blocks, outcomes, said: Turn(blocks, outcomes, said),
    st.lists(st.builds(lambda text: ContentBlock(text=text), TEXTS) | TOOL_USES, max_size=4),
    st.lists(st.builds(ToolOutcome, TEXTS, st.booleans()), max_size=4),
    TEXTS | st.just(""),
)
REQUESTS = st.builds(
    lambda prompt, turns, system, tools: asked(prompt, *turns, system=system, tools=tuple(tools)),
    TEXTS,
    st.lists(TURNS, max_size=5),
    TEXTS,
    st.sets(st.sampled_from(sorted(TOOLS))),
)


@given(REQUESTS)
def test_no_count_and_no_usage_exceeds_the_bound(request: ModelRequest) -> None:
    body: dict[str, Any] = provider.body_of(request)
    assert not wrong_with({"anthropic-version": "1"}, body, counting=False)
    bound, cache = input_tokens_bound(request), PromptCache()
    for _ in range(2):
        usage = cache.count(body)
        assert usage.fresh + usage.cache_read + usage.cache_write == total_tokens(body) <= bound
    # No tokenizer that covers a byte with every token has more than these, before and after it has normalised the text.
    assert bound >= _most_tokens(body)


def _most_tokens(value: Any) -> int:
    """One for every byte of text that the model is shown, in the longer of its forms, and one for each part."""
    if isinstance(value, dict):
        return sum(_most_tokens(part) for part in value.values()) + len(value)
    if isinstance(value, list):
        return sum(_most_tokens(part) for part in value) + 1
    return max(len(form.encode()) for form in (str(value), *_normal(str(value))))


def _normal(text: str) -> tuple[str, ...]:
    return unicodedata.normalize("NFC", text), unicodedata.normalize("NFKC", text)


@pytest.mark.parametrize("letter", ["a", "ü", "日", "🦀", "\ufdfa", "\u0958", "\U0001d160", '"', "\n", "\x00"])
def test_the_bound_grows_by_every_byte_that_a_tokenizer_may_see(letter: str) -> None:
    longest = max(len(form.encode()) for form in (letter, *_normal(letter)))
    assert input_tokens_bound(asked("x" + letter * 1_000)) - input_tokens_bound(asked("x")) >= 1_000 * longest
