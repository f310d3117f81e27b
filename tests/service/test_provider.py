"""The model client against the scripted server, and against servers that misbehave, over real connections."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest
from crewlog.models import failures, prices
from crewlog.models.conversation import MALFORMED_KEY, ToolOutcome, Turn, messages
from crewlog.models.failures import ModelError
from crewlog.models.provider import (
    AnthropicModel,
    ModelReply,
    ModelRequest,
    Timeouts,
    input_tokens_bound,
    timeouts_of,
    warm_up,
)
from crewlog.models.scripted import serve_scripted
from crewlog.v1.budget_pb2 import Usage
from crewlog.v1.run_pb2 import AgentLimits

KEY = "sk-canary-0123456789"
TOOLS = [{"name": "read", "description": "Reads a file", "input_schema": {"type": "object"}}]

Start = Callable[..., Awaitable[AnthropicModel]]


def asked(*turns: Turn, system: str = "Role: tester", prompt: str = "Go", tokens_max: int = 1000) -> ModelRequest:
    return ModelRequest(prices.DEFAULT_MODEL, system, messages(prompt, turns), TOOLS, tokens_max)


def ignore(_: str) -> None:
    pass


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def play(stack: AsyncExitStack, tmp_path: Path) -> Start:
    """Starts a scripted server whose every conversation has the steps given, and a client for it."""

    async def start(steps: str, timeouts: Timeouts | None = None) -> AnthropicModel:
        path = tmp_path / "script.yaml"
        path.write_text(f"name: test\nscripts:\n  - steps:\n{steps}")
        url = await stack.enter_async_context(serve_scripted(path))
        return _client(stack, url, timeouts)

    return start


@pytest.fixture
def answer_with(stack: AsyncExitStack) -> Callable[..., Awaitable[tuple[AnthropicModel, list[bytes]]]]:
    """Starts a server that gives one fixed answer, and keeps what it was asked."""

    async def start(answer: bytes, timeouts: Timeouts | None = None) -> tuple[AnthropicModel, list[bytes]]:
        requests: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            requests.append(head)
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            writer.write(answer)
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        return _client(stack, f"http://127.0.0.1:{port}", timeouts), requests

    return start


def _client(stack: AsyncExitStack, url: str, timeouts: Timeouts | None) -> AnthropicModel:
    model = AnthropicModel(KEY, url, timeouts=timeouts)
    stack.push_async_callback(model.close)
    return model


async def failure_of(model: AnthropicModel, request: ModelRequest | None = None) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await model.call(request or asked(), ignore)
    error = raised.value
    assert error.failure.message and error.failure.what_to_do
    assert KEY not in str(error.failure)
    return error


def texts(reply: ModelReply) -> list[str]:
    return [block.text for block in reply.content if block.HasField("text")]


async def test_text_arrives_while_it_is_written_and_whole_at_the_end(play: Start) -> None:
    model = await play("      - say: 'The quick brown fox jumps over the lazy dog, ünïcödé included.'")
    pieces: list[str] = []
    reply = await model.call(asked(), pieces.append)
    assert len(pieces) > 1
    assert texts(reply) == ["".join(pieces)] == ["The quick brown fox jumps over the lazy dog, ünïcödé included."]
    assert reply.stop_reason == "end_turn"
    assert reply.model == prices.DEFAULT_MODEL
    assert reply.provider_request_id.startswith("req_")
    assert not reply.usage_estimated
    assert 0 < reply.usage.input_tokens < input_tokens_bound(asked())
    assert reply.usage.output_tokens > 0


PARALLEL = """
      - say: Two at once
        tools:
          - {tool: read, input: {path: a.py, lines: [1, 2.5, null], "ключ": "é"}}
          - {tool: read}
          - {tool: read, malformed_input: '{"path": "a'}
"""


async def test_parallel_tool_calls_keep_their_order_and_their_input_as_written(play: Start) -> None:
    reply = await (await play(PARALLEL)).call(asked(), ignore)
    assert reply.stop_reason == "tool_use"
    calls = [block.tool_use for block in reply.content if block.HasField("tool_use")]
    assert [call.tool for call in calls] == ["read"] * 3
    assert len({call.tool_use_id for call in calls}) == 3
    assert [call.input_json.inline.decode() for call in calls] == [
        '{"path": "a.py", "lines": [1, 2.5, null], "ключ": "é"}',
        "{}",
        '{"path": "a',
    ]


async def test_a_conversation_goes_on_after_malformed_input(play: Start) -> None:
    model = await play(PARALLEL + "      - say: Sorry")
    first = await model.call(asked(), ignore)
    outcomes = [ToolOutcome("one"), ToolOutcome("two"), ToolOutcome("that was no JSON", is_error=True)]
    following = asked(Turn(first.content, outcomes))
    assert following.messages[1]["content"][3]["input"] == {MALFORMED_KEY: '{"path": "a'}
    assert texts(await model.call(following, ignore)) == ["Sorry"]


REFUSALS = [
    ("{status: 400}", failures.REQUEST_INVALID),
    ("{status: 400, message: 'prompt is too long: 210000 tokens > 200000 maximum'}", failures.CONTEXT_TOO_LONG),
    ("{status: 401}", failures.KEY_REFUSED),
    ("{status: 402}", failures.SPEND_LIMIT),
    ("{status: 403}", failures.NOT_PERMITTED),
    ("{status: 404}", failures.UNKNOWN),
    ("{status: 413}", failures.TOO_LARGE),
    ("{status: 429}", failures.RATE_LIMITED),
    ("{status: 429, code: enforced_spend_limit_reached}", failures.SPEND_LIMIT),
    ("{status: 400, message: 'Your credit balance is too low to access the API.'}", failures.SPEND_LIMIT),
    ("{status: 400, message: 'You have reached your specified API usage limits.'}", failures.SPEND_LIMIT),
    ("{status: 500}", failures.BROKEN),
    ("{status: 503}", failures.UNAVAILABLE),
    ("{status: 504}", failures.BROKEN),
    ("{status: 529}", failures.OVERLOADED),
]


@pytest.mark.parametrize(("error", "kind"), REFUSALS)
async def test_refusals_are_classified_and_not_retried(play: Start, error: str, kind: failures.Kind) -> None:
    model = await play(f"      - {{error: {error}, say: Now}}")
    refused = await failure_of(model)
    assert refused.failure.reason == kind.reason
    assert refused.failure.retryable == kind.retryable
    assert refused.may_have_charged == kind.may_have_charged
    assert refused.retry_after_millis == 0
    assert texts(await model.call(asked(), ignore)) == ["Now"]


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ("retry-after: '7'", 7000, 7000),
        ("retry-after-ms: '1500', retry-after: '7'", 1500, 1500),
        ("retry-after: '-3'", 0, 0),
        ("retry-after: soon", 0, 0),
        ("retry-after: nan", 0, 0),
        ("retry-after: '1e300'", 0, 0),
        ("retry-after: '1_0'", 0, 0),
        ("retry-after: inf", 0, 0),
        ("retry-after: '0.0005'", 1, 1),
        ("retry-after-ms: '0', retry-after: '7'", 0, 0),
        ("retry-after-ms: never, retry-after: '7'", 7000, 7000),
        (f"retry-after: '{'9' * 400}'", failures.RETRY_AFTER_MILLIS_MAX, failures.RETRY_AFTER_MILLIS_MAX),
        ("retry-after: 'Fri, 01 Jan 2010 00:00:00 GMT'", 0, 0),
        (
            "retry-after: 'Fri, 31 Dec 9999 23:59:59 GMT'",
            failures.RETRY_AFTER_MILLIS_MAX,
            failures.RETRY_AFTER_MILLIS_MAX,
        ),
    ],
)
async def test_the_provider_says_when_to_try_again(play: Start, headers: str, least: int, most: int) -> None:
    model = await play(f"      - {{error: {{status: 429, headers: {{{headers}}}}}}}")
    assert least <= (await failure_of(model)).retry_after_millis <= most


async def test_the_provider_says_at_which_time_to_try_again(play: Start) -> None:
    at = formatdate(time.time() + 1000, usegmt=True)
    model = await play(f"      - {{error: {{status: 429, headers: {{retry-after: '{at}'}}}}}}")
    assert 900_000 <= (await failure_of(model)).retry_after_millis <= 1_000_000


async def test_the_provider_counts_on_its_own_clock(play: Start) -> None:
    """A date to try again is one of its clock, however far that is from ours."""
    dated = "date: 'Mon, 05 Jan 2060 10:00:00 GMT', retry-after: 'Mon, 05 Jan 2060 10:00:42 GMT'"
    model = await play(f"      - {{error: {{status: 429, headers: {{{dated}}}}}}}")
    assert (await failure_of(model)).retry_after_millis == 42_000


@pytest.mark.parametrize(("status", "says"), [(529, "false"), (400, "true")])
async def test_the_provider_says_whether_to_try_again(play: Start, status: int, says: str) -> None:
    model = await play(f"      - error: {{status: {status}, headers: {{x-should-retry: '{says}'}}}}")
    assert (await failure_of(model)).failure.retryable == (says == "true")


async def test_a_wrong_path_is_not_found(play: Start) -> None:
    model = await play("      - say: Hi")
    wrong = AnthropicModel(KEY, f"{model._base_url}/elsewhere")
    assert (await failure_of(wrong)).failure.reason == failures.UNKNOWN.reason
    await wrong.close()


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
async def test_without_a_key_nothing_is_sent(play: Start, key: str) -> None:
    model = await play("      - say: Hi")
    keyless = AnthropicModel(key, model._base_url)
    with pytest.raises(ModelError) as raised:
        await keyless.call(asked(), ignore)
    assert raised.value.failure.reason == failures.KEY_MISSING.reason
    assert not raised.value.may_have_charged
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{model._base_url}/ledger")).text == ""


async def test_an_address_that_is_none_is_refused() -> None:
    assert (await failure_of(AnthropicModel(KEY, "localhost:80"))).failure.reason == "model_address_invalid"


# The events of this answer: message_start, block start, ping, text; stop, block start, then the input.
CUT = "      - {say: I read, tools: [{tool: read, input: {path: 'a very long path, in pieces'}}], "


@pytest.mark.parametrize("events", [0, 1, 4, 8, 9])
async def test_nothing_comes_out_of_an_answer_that_breaks_off(play: Start, events: int) -> None:
    broken = await failure_of(await play(f"{CUT} disconnect_after: {events}}}"))
    assert broken.failure.reason == failures.DISCONNECTED.reason
    assert broken.failure.retryable and broken.may_have_charged


async def test_nothing_comes_out_of_an_answer_without_its_last_event(play: Start) -> None:
    model = await play(f"{CUT} disconnect_after: 11}}")
    assert (await failure_of(model)).failure.reason == failures.DISCONNECTED.reason


async def test_an_answer_with_a_block_or_a_reason_missing_is_not_whole(answer_with: Any) -> None:
    begun = [BEGUN, _start({"type": "tool_use", "id": "t", "name": "bash", "input": {}})]
    for events in ([*begun, *ENDED], [*begun, {"type": "content_block_stop", "index": 0}, ENDED[1]]):
        model, _ = await answer_with(_sse(events))
        assert (await failure_of(model)).failure.reason == failures.DISCONNECTED.reason


async def test_silence_in_the_middle_of_an_answer_ends_it(play: Start) -> None:
    silent = await failure_of(await play(f"{CUT} stall_after: 8}}", Timeouts(silence_seconds=0.3)))
    assert silent.failure.reason == failures.TIMED_OUT.reason
    assert "silence" in silent.failure.message
    assert silent.failure.retryable and silent.may_have_charged


async def test_an_answer_that_does_not_begin_ends(play: Start) -> None:
    late = await failure_of(await play("      - {say: Hi, delay_millis: 60000}", Timeouts(first_byte_seconds=0.3)))
    assert late.failure.reason == failures.TIMED_OUT.reason
    assert "did not begin within 0.3 s" in late.failure.message
    assert late.may_have_charged


async def test_an_answer_that_takes_too_long_altogether_ends(play: Start) -> None:
    model = await play(f"{CUT} stall_after: 8}}", Timeouts(total_seconds=0.3))
    assert "no whole answer" in (await failure_of(model)).failure.message


@pytest.mark.parametrize(
    ("step", "limits", "message"),
    [
        ("      - {say: Hi, delay_millis: 60000}", {"first_byte_seconds": 0.2}, "did not begin within 0.2 s"),
        (f"{CUT} stall_after: 0}}", {"first_byte_seconds": 0.2}, "did not begin within 0.2 s"),
        (f"{CUT} stall_after: 4}}", {"silence_seconds": 0.2, "first_byte_seconds": 9}, "silence for 0.2 s"),
        (f"{CUT} stall_after: 4}}", {"total_seconds": 0.2}, "no whole answer within 0.2 s"),
    ],
)
async def test_each_limit_of_a_call_has_its_own_message(
    play: Start, step: str, limits: dict[str, float], message: str
) -> None:
    """Whatever the limits of the client are: those of the call hold."""
    model = await play(step, Timeouts(total_seconds=30))
    with pytest.raises(ModelError) as raised:
        await model.call(asked(), ignore, Timeouts(**limits))
    error = raised.value
    assert (error.failure.reason, error.failure.retryable) == (failures.TIMED_OUT.reason, True)
    assert message in error.failure.message


def test_the_limits_of_an_agent_are_those_of_its_calls() -> None:
    assert timeouts_of(AgentLimits()) == Timeouts()
    limits = AgentLimits(model_call_seconds_max=3, first_byte_seconds_max=2, silence_seconds_max=1)
    assert timeouts_of(limits) == Timeouts(first_byte_seconds=2, silence_seconds=1, total_seconds=3)


async def test_where_nobody_listens_nothing_is_charged(unused_tcp_port: int) -> None:
    model = AnthropicModel(KEY, f"http://127.0.0.1:{unused_tcp_port}")
    unreachable = await failure_of(model)
    assert unreachable.failure.reason == failures.UNREACHABLE.reason
    assert unreachable.failure.retryable and not unreachable.may_have_charged
    await model.close()


@pytest.mark.parametrize("sent", [b"", b"event: ping\ndata: {}\n\n"], ids=["before it answers", "while it answers"])
async def test_cancelling_closes_the_connection_at_once(stack: AsyncExitStack, sent: bytes) -> None:
    """The provider goes on computing, and charging, for as long as somebody listens."""
    asked_for, left = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if sent:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + sent)
        asked_for.set()
        await reader.read()  # to its end, past the body
        left.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stack.callback(server.close)
    model = _client(stack, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None)
    call = asyncio.create_task(model.call(asked(), ignore))
    await asyncio.wait_for(asked_for.wait(), 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(left.wait(), 10)


async def test_a_cancelled_call_leaves_a_client_that_works(play: Start) -> None:
    model = await play(f"{CUT} stall_after: 4}}\n      - say: Well")
    begun = asyncio.Event()
    call = asyncio.create_task(model.call(asked(), lambda _: begun.set()))
    await asyncio.wait_for(begun.wait(), 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    turn = Turn((await (await play(PARALLEL)).call(asked(), ignore)).content)
    assert texts(await model.call(asked(turn), ignore)) == ["Well"]


@pytest.mark.parametrize("reason", ["refusal", "pause_turn", "max_tokens", "model_context_window_exceeded"])
async def test_other_reasons_to_stop_are_told(play: Start, reason: str) -> None:
    reply = await (await play(f"      - {{say: Hm, stop_reason: {reason}}}")).call(asked(), ignore)
    assert reply.stop_reason == reason
    empty = await (await play(f"      - stop_reason: {reason}")).call(asked(), ignore)
    assert (empty.stop_reason, empty.content) == (reason, [])


@pytest.mark.parametrize(("tokens", "written"), [(1, b""), (3, b'{"path":')])
async def test_a_call_that_is_cut_off_is_not_a_call_without_input(play: Start, tokens: int, written: bytes) -> None:
    model = await play("      - tools: [{tool: read, input: {path: a/very/long/path/of/a/file.py}}]")
    reply = await model.call(asked(tokens_max=tokens), ignore)
    assert reply.stop_reason == "max_tokens"
    assert [block.tool_use.input_json.inline for block in reply.content] == ([written] if written else [])


async def test_a_call_that_is_cut_off_before_its_first_letter_stays_without_input(answer_with: Any) -> None:
    events = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1, "output_tokens": 1}}},
        _start({"type": "tool_use", "id": "t", "name": "bash", "input": {}}),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    model, _ = await answer_with(_sse(events))
    reply = await model.call(asked(), ignore)
    assert reply.content[0].tool_use.input_json.inline == b""


async def test_without_a_count_the_most_possible_counts(play: Start) -> None:
    request = asked(tokens_max=321)
    reply = await (await play("      - {say: Hi, omit_usage: true}")).call(request, ignore)
    bound = input_tokens_bound(request)
    assert reply.usage_estimated
    assert reply.usage == Usage(cache_write_tokens=bound, output_tokens=321)
    price = prices.price_of(prices.DEFAULT_MODEL)
    assert prices.cost(price, reply.usage) == prices.worst_case(price, bound, 321, margin_percent=0).usd_micros


async def test_what_was_sent_before_is_read_from_the_cache(play: Start) -> None:
    model = await play(PARALLEL + "      - say: Done")
    system = "Role: tester. " + "Be careful. " * 1000
    first = await model.call(asked(system=system), ignore)
    second = await model.call(asked(Turn(first.content), system=system), ignore)
    assert first.usage.cache_write_tokens > 3000 and first.usage.cache_read_tokens == 0
    assert second.usage.cache_read_tokens == first.usage.cache_write_tokens
    assert 0 < second.usage.cache_write_tokens < 500


async def test_many_calls_share_a_client(play: Start) -> None:
    model = await play("      - say: Hi")
    replies = await asyncio.gather(*(model.call(asked(prompt=f"Call {n}"), ignore) for n in range(20)))
    assert len({reply.provider_request_id for reply in replies}) == 20


def _start(block: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(delta: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _sse(events: list[dict[str, Any]]) -> bytes:
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return _http("200 OK", "text/event-stream; charset=utf-8", body.encode())


def _http(status: str, content_type: str, body: bytes, extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


BEGUN: dict[str, Any] = {
    "type": "message_start",
    "message": {"model": "m", "usage": {"input_tokens": 9, "output_tokens": 1}},
}
ENDED: list[dict[str, Any]] = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
]


async def test_other_blocks_are_kept_whole(answer_with: Any) -> None:
    cited = {"type": "char_location", "cited_text": "x"}
    events = [
        BEGUN,
        {"type": "some_event_of_the_future"},
        _start({"type": "thinking", "thinking": "", "signature": ""}),
        _delta({"type": "thinking_delta", "thinking": "hm"}),
        _delta({"type": "signature_delta", "signature": "s=="}),
        {"type": "content_block_stop", "index": 0},
        _start({"type": "redacted_thinking", "data": "xyz"}, 1),
        {"type": "content_block_stop", "index": 1},
        _start({"type": "text", "text": "", "citations": []}, 2),
        _delta({"type": "text_delta", "text": "As said"}, 2),
        _delta({"type": "citations_delta", "citation": cited}, 2),
        {"type": "content_block_stop", "index": 2},
        *ENDED,
    ]
    model, _ = await answer_with(_sse(events))
    reply = await model.call(asked(), ignore)
    assert [json.loads(block.other_json) for block in reply.content] == [
        {"type": "thinking", "thinking": "hm", "signature": "s=="},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "As said", "citations": [cited]},
    ]


@pytest.mark.parametrize(
    ("usage", "estimated"),
    [({"output_tokens": 5}, False), ({"output_tokens": 0}, True), ({"output_tokens": -5}, True), ({}, False)],
)
async def test_an_incredible_count_is_replaced(answer_with: Any, usage: dict[str, int], estimated: bool) -> None:
    end = {**ENDED[0], "usage": usage}
    events = [BEGUN, _start({"type": "text", "text": "Hi"}), {"type": "content_block_stop", "index": 0}, end, ENDED[1]]
    model, _ = await answer_with(_sse(events))
    assert (await model.call(asked(), ignore)).usage_estimated == estimated


@pytest.mark.parametrize(
    "answer",
    [
        _http("200 OK", "text/html", b"<html>Log in to the hotel</html>"),
        _http("200 OK", "text/event-stream", b"event: message_start\ndata: {nonsense\n\n"),
        _http("200 OK", "text/event-stream", b"event: message_start\ndata: [1]\n\n"),
        _http("200 OK", "text/event-stream", b"event: message_start\ndata: \xff\n\n"),
        _http("200 OK", "text/event-stream", b"event: message_start\ndata: " + b"[" * 100_000 + b"\n\n"),
        _sse([{"type": "message_start"}]),
        _sse([BEGUN, _delta({"type": "text_delta", "text": "x"})]),
        _sse([BEGUN, _start({"type": "text", "text": ""}), _delta({"type": "delta_of_the_future"})]),
        _sse([BEGUN, _start({"type": "text", "text": ""}), _start({"type": "text", "text": ""})]),
    ],
)
async def test_nonsense_is_told_apart_and_not_retried(answer_with: Any, answer: bytes) -> None:
    model, _ = await answer_with(answer)
    error = await failure_of(model)
    assert error.failure.reason == failures.UNREADABLE.reason
    assert not error.failure.retryable and error.may_have_charged


async def test_an_error_inside_a_stream_may_have_cost_something(answer_with: Any) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": f"Overloaded, {KEY}"}}
    model, _ = await answer_with(_sse([BEGUN, error]))
    overloaded = await failure_of(model)
    assert overloaded.failure.reason == failures.OVERLOADED.reason
    assert overloaded.failure.retryable and overloaded.may_have_charged


async def test_a_redirect_does_not_get_the_key(answer_with: Any) -> None:
    elsewhere, seen = await answer_with(b"")
    location = f"location: {elsewhere._base_url}/v1/messages\r\n"
    model, _ = await answer_with(_http("307 Temporary Redirect", "text/plain", b"", location))
    assert (await failure_of(model)).failure.reason == failures.ADDRESS_INVALID.reason
    assert seen == []


async def test_the_environment_is_not_read(answer_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-from-the-environment")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "sk-from-the-environment")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-leak: sk-from-the-environment")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    model, requests = await answer_with(_sse([BEGUN, *ENDED]))
    await model.call(asked(), ignore)
    assert len(requests) == 1
    assert KEY.encode() in requests[0]
    assert b"from-the-environment" not in requests[0]
    assert b"traceparent" not in requests[0]


async def test_the_library_does_not_trace_and_does_not_retry(play: Start) -> None:
    model = await play("      - say: Hi")
    await model.call(asked(), ignore)
    assert model._api is not None
    client = model._api._client
    assert client.open_telemetry["traces"]["enabled"] is False
    assert client.max_retries == 0


def test_importing_the_provider_does_not_import_what_is_slow() -> None:
    code = (
        "import sys, crewlog.models.provider, crewlog.models.conversation, crewlog.models.prices;"
        "sys.exit(any(name in sys.modules for name in ('anthropic', 'genai_prices', 'uvicorn', 'starlette')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


async def test_after_warming_up_everything_is_imported() -> None:
    await warm_up()
    assert {"anthropic", "genai_prices.data", "crewlog.models.messages_api"} <= sys.modules.keys()


async def test_what_cannot_be_loaded_beforehand_is_no_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def parsed_at_once() -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr(prices, "warm_up", parsed_at_once)
    await warm_up()
    assert "could not be loaded beforehand: AST constructor" in caplog.text
