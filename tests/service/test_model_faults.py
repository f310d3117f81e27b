"""What a model provider can do wrong, over real HTTP and with the real client, as an agent lives it: call by call.

The agent here is its rules and its calls, without the processes around it: every outcome that the executor would record
is decided and folded, and what comes next is asked of the same rules.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from crewlog.domain.agent import decider as rules
from crewlog.domain.agent.state import Agent
from crewlog.domain.agent.steps import MODEL_ATTEMPTS_MAX, CallModel, Fail, RunTools, Step, Succeed, Wait, next_step
from crewlog.domain.decider import fold
from crewlog.eventlog.memory import MemoryBlobs
from crewlog.executor import model_calls
from crewlog.models import failures
from crewlog.models.conversation import check_legal
from crewlog.models.prices import PriceList
from crewlog.models.provider import AnthropicModel, Timeouts
from crewlog.models.scripted import serve_scripted
from crewlog.tools.registry import ToolContext, effect_class_of, run_tool
from crewlog.v1.agent_pb2 import (
    EffectKey,
    FinishModelCall,
    FinishToolCall,
    HostAgent,
    ModelFailure,
    StartModelCall,
    ToolFailure,
    ToolOutput,
    ToolSpec,
)
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import AgentLimits, AgentNode, Role
from google.protobuf.message import Message

MODEL = "claude-haiku-5-5"
PRICES = PriceList()
NOW = 1_795_132_800_000_000
TURNS_MAX = 5
ROLE = Role(name="tester", prompt="Role: tester", tools=["read", "bash"])
HOST = HostAgent(
    agent_id="r_t-1",
    run_id="r",
    task_id="t-1",
    generation=1,
    executor_id="e1",
    node=AgentNode(role=ROLE),
    model=MODEL,
    prompt=Body(inline=b"Go"),
    tools=[ToolSpec(name=name, effect_class=effect_class_of(name)) for name in ROLE.tools],
    limits=AgentLimits(turns_max=TURNS_MAX),
    at_unix_micros=NOW,
)

PATIENT = Timeouts(total_seconds=30)
Play = Callable[..., Awaitable["Life"]]


@dataclass
class Life:
    """An agent and the server that it talks to. `events` is its history, `heard` the text as it arrived."""

    model: AnthropicModel
    root: Path
    url: str = ""
    state: Agent = rules.INITIAL
    events: list[Message] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)

    def do(self, command: rules.Command) -> list[Message]:
        """Decides a command of the only claim, as of now."""
        command.agent_id, command.generation, command.at_unix_micros = HOST.agent_id, HOST.generation, NOW
        events = rules.decide(self.state, command)
        self.state = fold(rules, events, self.state)
        self.events += events
        return events

    @property
    def next(self) -> Step:
        return next_step(self.state, NOW)

    async def call(self, timeouts: Timeouts | None = None) -> tuple[StartModelCall, FinishModelCall]:
        """The next model call, which the rules have to want."""
        step = self.next
        assert isinstance(step, CallModel), step
        messages = await model_calls.Conversation(self.blobs).messages(self.state)
        assert not list(check_legal(messages))
        request = model_calls.request_of(self.state, step, messages)
        quoted = model_calls.bound_quote(request, PRICES, self.state.allotment, self.state.spent)
        started = model_calls.start_command(step, MODEL, quoted, "scripted", [])
        self.do(started)
        finished = await model_calls.perform(
            self.model, request, started, self.blobs, self.heard.append, PRICES, timeouts
        )
        self.do(finished)
        return started, finished

    async def failure(self, timeouts: Timeouts | None = None) -> ModelFailure:
        _, finished = await self.call(timeouts)
        assert finished.HasField("failure"), finished.answer
        return finished.failure

    async def run_tools(self) -> list[str]:
        """The reasons of the outcomes, empty for those that went well."""
        step = self.next
        assert isinstance(step, RunTools), step
        reasons = []
        for place, effect in step.calls:
            assert effect.call is not None
            written = effect.call.input_json.inline
            given = await run_tool(effect.call.tool, written, ToolContext(self.root, tools=frozenset(ROLE.tools)))
            text, key = (
                Body(inline=given.text.encode()),
                EffectKey(turn=place[0], index=place[1], attempt=1),
            )
            failed = ToolFailure(reason=given.reason, text=text) if given.is_error else None
            output = None if given.is_error else ToolOutput(text=text)
            self.do(FinishToolCall(key=key, output=output, failure=failed))
            reasons.append(given.reason)
        return reasons

    async def ledger(self) -> list[dict[str, Any]]:
        async with httpx2.AsyncClient(trust_env=False) as http:
            return [json.loads(line) for line in (await http.get(f"{self.url}/ledger")).text.splitlines()]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def born(stack: AsyncExitStack, url: str, root: Path, timeouts: Timeouts = PATIENT) -> Life:
    model = AnthropicModel("sk-test-0123456789", url, timeouts=timeouts)
    stack.push_async_callback(model.close)
    life = Life(model, root, url)
    life.do(HOST)
    return life


@pytest.fixture
def play(stack: AsyncExitStack, tmp_path: Path) -> Play:
    """An agent whose model plays the steps given, as YAML."""

    async def start(*steps: str) -> Life:
        path = tmp_path / "script.yaml"
        path.write_text("name: faults\nscripts:\n  - steps:\n" + "".join(f"      - {step}\n" for step in steps))
        return born(stack, await stack.enter_async_context(serve_scripted(path)), tmp_path)

    return start


def error(text: str) -> str:
    return f"{{say: Done, faults: [{{error: {{{text}}}}}]}}"


@pytest.mark.parametrize(
    ("refusal", "wish"),
    [
        ("status: 429, retry_after: {seconds: 3}", 3_000),
        ("status: 429, retry_after: {millis: 1500}", 1_500),
        ("status: 429, retry_after: {date_seconds: 40}", 40_000),
        ("status: 429", 0),
        ("status: 503, retry_after: {seconds: 2}", 2_000),
        ("status: 529, retry_after: {seconds: 2}", 2_000),
    ],
)
async def test_fault_60_a_refusal_is_obeyed_and_costs_nothing(play: Play, refusal: str, wish: int) -> None:
    life = await play(error(refusal))
    refused = await life.failure()
    assert refused.failure.retryable and not refused.may_have_charged
    assert (refused.cost_usd_micros, life.state.spent.usd_micros, life.state.reserved.usd_micros) == (0, 0, 0)
    assert wish - 1_100 <= refused.retry_after_millis <= wish + 1_000
    again = life.next
    assert isinstance(again, CallModel) and again.attempt == 2
    assert again.after_millis_min == refused.retry_after_millis <= again.after_millis
    assert (await life.call())[1].answer.stop_reason == "end_turn"
    assert [entry["status"] for entry in await life.ledger()] == [int(refusal[8:11]), 200]


async def test_fault_60_a_burst_is_one_request_per_attempt_until_the_agent_waits(play: Play) -> None:
    """The client library does not retry: whatever arrives at the server is an attempt of the agent."""
    life = await play("{say: Done, faults: [{error: {status: 529}, times: 5}, {error: {status: 503}, times: 99}]}")
    while isinstance(life.next, CallModel):
        await life.failure()
    assert len(await life.ledger()) == life.state.attempts == MODEL_ATTEMPTS_MAX
    assert isinstance(life.next, Wait) and "crewlog resume" in life.next.failure.what_to_do


async def test_fault_60_a_provider_that_says_no_is_not_asked_again(play: Play) -> None:
    life = await play(error("status: 529, headers: {x-should-retry: 'false'}"))
    assert not (await life.failure()).failure.retryable
    assert isinstance(life.next, Wait)


async def test_fault_60_a_long_wish_lets_go_of_the_agent(play: Play) -> None:
    life = await play(error("status: 429, retry_after: {seconds: 3600}"))
    await life.failure()
    assert life.next == Wait(life.events[-1].failure.failure, 3_600_000)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ("status: 400", failures.REQUEST_INVALID),
        ("status: 400, message: 'prompt is too long: 210000 tokens > 200000 maximum'", failures.CONTEXT_TOO_LONG),
        ("status: 400, message: 'Your credit balance is too low.'", failures.SPEND_LIMIT),
        ("status: 401", failures.KEY_REFUSED),
        ("status: 403", failures.NOT_PERMITTED),
        ("status: 404", failures.UNKNOWN),
        ("status: 413", failures.TOO_LARGE),
        ("status: 429, code: enforced_spend_limit_reached", failures.SPEND_LIMIT),
    ],
)
async def test_fault_61_what_does_not_pass_by_itself_waits_for_somebody(
    play: Play, refusal: str, kind: failures.Kind
) -> None:
    life = await play(error(refusal))
    refused = await life.failure()
    assert (refused.failure.reason, refused.failure.retryable) == (kind.reason, False)
    assert refused.cost_usd_micros == 0
    assert life.next == Wait(refused.failure)
    assert "`crewlog resume RUN`" in refused.failure.what_to_do
    assert len(await life.ledger()) == 1


@pytest.mark.parametrize("kind", failures.KINDS, ids=lambda kind: kind.reason)
def test_fault_61_every_failure_ends_with_the_next_step(kind: failures.Kind) -> None:
    assert kind.what_to_do.endswith("`crewlog resume RUN`.")
    assert kind.what_to_do[0].isupper()


async def test_fault_61_a_conversation_longer_than_the_context_is_told_by_the_real_rule(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    path = tmp_path / "script.yaml"
    path.write_text("context_tokens: 10\nscripts: [{steps: [{say: Hi}]}]")
    life = born(stack, await stack.enter_async_context(serve_scripted(path)), tmp_path)
    assert (await life.failure()).failure.reason == "context_too_long"


async def test_fault_62_a_connection_that_is_not_made(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Its queue is full, so the host answers nothing at all: as behind a wall."""
    wall = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    address = wall.getsockname()
    for _ in range(2):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(address)
    life = born(stack, f"http://127.0.0.1:{address[1]}", tmp_path, Timeouts(connect_seconds=0.3))
    failed = await life.failure()
    assert (failed.failure.reason, failed.may_have_charged) == ("model_unreachable", False)
    assert "no connection within 0.3 s" in failed.failure.message
    assert isinstance(life.next, CallModel)


@pytest.mark.parametrize(
    ("fault", "limits", "message"),
    [
        ("delay_millis: 60000", Timeouts(first_byte_seconds=0.3), "did not begin within 0.3 s"),
        ("stall_after: 0", Timeouts(first_byte_seconds=0.3), "did not begin within 0.3 s"),
        ("stall_after: 5", Timeouts(silence_seconds=0.3), "silence for 0.3 s"),
    ],
)
async def test_fault_62_a_silence_counts_as_spent_and_leaves_nothing_behind(
    play: Play, fault: str, limits: Timeouts, message: str
) -> None:
    life = await play(f"{{say: 'I say something that is longer than one piece', faults: [{{{fault}}}]}}")
    started, finished = await life.call(limits)
    failed = finished.failure
    assert (failed.failure.reason, failed.failure.retryable) == ("model_timed_out", True)
    assert message in failed.failure.message
    assert failed.may_have_charged and failed.cost_usd_micros == started.reservation.usd_micros > 0
    assert bool(life.heard) == (fault == "stall_after: 5")
    assert not life.state.turns
    await life.call()
    assert [turn.content[0].text for turn in life.state.turns] == ["I say something that is longer than one piece"]
    assert life.state.lost_usd_micros == failed.cost_usd_micros


CALLS = "say: I look, tools: [{tool: bash, input: {command: 'touch done; echo a long command of several pieces'}}]"


@pytest.mark.parametrize("events", range(5, 12))
async def test_fault_63_no_tool_runs_from_an_answer_that_breaks_off(play: Play, events: int) -> None:
    """Cut after every event from the start of the call to the last one before the end."""
    life = await play(f"{{{CALLS}, faults: [{{disconnect_after: {events}}}]}}", "{say: Done}")
    failed = await life.failure()
    assert (failed.failure.reason, failed.failure.retryable) == ("model_disconnected", True)
    assert failed.may_have_charged and not life.state.open
    assert not any(type(event).__name__ == "ToolCallStarted" for event in life.events)
    await life.call()
    assert len(life.state.open) == 1 and isinstance(life.next, RunTools)


async def test_fault_63_an_error_inside_a_stream_is_no_answer_either(play: Play) -> None:
    life = await play(f"{{{CALLS}, faults: [{{error: {{status: 529, after: 7}}}}]}}")
    failed = await life.failure()
    assert (failed.failure.reason, failed.failure.retryable) == ("model_overloaded", True)
    assert failed.may_have_charged and not life.state.open


BAD_CALLS = """say: Several at once
        tools:
          - {tool: read, malformed_input: '{"path": "a'}
          - {tool: read, malformed_input: '[1, 2]'}
          - {tool: reed, input: {path: a}}
          - {tool: "rm -rf /; \\u202e", input: {}}
          - {tool: read, input: {path: 7}}
          - {tool: read, input: {path: script.yaml}, id: same}
          - {tool: read, input: {path: script.yaml, limit: 1}, id: same}
          - {tool: write, input: {path: a, content: b}}"""


async def test_fault_64_whatever_is_wrong_with_a_call_is_answered_to_the_model(play: Play) -> None:
    life = await play(BAD_CALLS, "{say: I see}")
    await life.call()
    malformed, unknown = "malformed_input", "unknown_tool"
    assert await life.run_tools() == [malformed, malformed, unknown, unknown, malformed, "", "", "denied"]
    await life.call()
    assert life.next == Succeed("I see")


async def test_fault_64_two_hundred_calls_at_once_all_get_their_outcome(play: Play) -> None:
    life = await play("{tools: [{tool: read, id: same, repeat: 200, input: {path: 'no-{{n}}'}}]}", "{say: Done}")
    await life.call()
    assert await life.run_tools() == ["failed"] * 200
    await life.call()
    assert life.next == Succeed("Done")


async def test_fault_64_a_model_that_does_not_mend_its_calls_ends_with_its_turns(play: Play) -> None:
    life = await play(*["{tools: [{tool: read, malformed_input: '{'}]}"] * TURNS_MAX)
    for _ in range(TURNS_MAX):
        await life.call()
        assert await life.run_tools() == ["malformed_input"]
    assert isinstance(life.next, Fail) and life.next.failure.reason == "turns_exhausted"


@pytest.mark.parametrize(
    "wrong", ["omit_usage: true", "usage: {output_tokens: 0}", "usage: {output_tokens: 1}", "usage: {input_tokens: 0}"]
)
async def test_fault_65_a_count_that_cannot_be_true_is_the_most_that_it_can_be(play: Play, wrong: str) -> None:
    life = await play(f"{{say: '{'word ' * 300}', {wrong}}}")
    started, finished = await life.call()
    answer, reserved = finished.answer, started.reservation
    assert answer.usage_estimated
    assert (answer.usage.cache_write_tokens, answer.usage.output_tokens) == (
        reserved.input_tokens_max,
        reserved.output_tokens_max,
    )
    assert 0 < answer.cost_usd_micros <= reserved.usd_micros
    assert life.state.spent.usd_micros == answer.cost_usd_micros


async def test_fault_65_more_than_was_reserved_is_believed_and_is_an_alarm(play: Play) -> None:
    life = await play("{say: Hi, usage: {output_tokens: 50000}}")
    started, finished = await life.call()
    assert not finished.answer.usage_estimated
    assert life.state.spent.usd_micros == finished.answer.cost_usd_micros > started.reservation.usd_micros
    assert type(life.events[-1]).__name__ == "ReservationExceeded"


async def test_fault_66_a_refusal_ends_the_agent_and_says_so(play: Play) -> None:
    life = await play("{say: I would rather not, stop_reason: refusal}")
    await life.call()
    assert isinstance(life.next, Fail) and life.next.failure.reason == "model_refused"


async def test_fault_66_an_empty_answer_is_an_end(play: Play) -> None:
    life = await play("{stop_reason: end_turn}")
    await life.call()
    assert life.next == Succeed("")


SEARCH = "{type: server_tool_use, id: srv_1, name: web_search, input: {query: x}}"


@pytest.mark.parametrize(
    "pause",
    [
        "{say: I need a moment, stop_reason: pause_turn}",
        "{stop_reason: pause_turn}",
        f"{{say: I search, other_blocks: [{SEARCH}], stop_reason: pause_turn}}",
        "{say: Cut off in the middle of a, stop_reason: max_tokens}",
        "{stop_reason: max_tokens}",
    ],
)
async def test_fault_66_what_is_not_finished_goes_on_until_a_limit(play: Play, pause: str) -> None:
    life = await play(*[pause] * TURNS_MAX)
    await life.call()
    await life.call()
    assert isinstance(life.next, CallModel)
    for _ in range(TURNS_MAX - 2):
        await life.call()
    assert isinstance(life.next, Fail) and life.next.failure.reason == "turns_exhausted"


async def test_fault_66_a_call_that_is_cut_off_by_the_limit_of_the_answer_does_not_run(play: Play) -> None:
    call = '{tool: bash, malformed_input: \'{"command": "touch done\'}'
    life = await play(f"{{tools: [{call}], stop_reason: max_tokens}}")
    await life.call()
    assert await life.run_tools() == ["malformed_input"]
    assert not (life.root / "done").exists()


def streamed(text: str) -> bytes:
    """A whole answer that says `text`."""
    usage = {"input_tokens": 900, "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": MODEL, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": text}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def answering(stack: AsyncExitStack, answers: Iterator[bytes]) -> tuple[str, list[bytes]]:
    """A server that gives each request the next answer and then closes, and keeps the heads of what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head)
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        writer.write(next(answers))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stack.callback(server.close)
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_fault_67_only_the_recorded_answer_counts(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that answers the same request in another way is not asked again, and would change nothing."""
    url, asked = await answering(stack, map(streamed, ("first", "second")))
    life = born(stack, url, tmp_path)
    started, _ = await life.call()
    assert life.next == Succeed("first") and len(asked) == 1
    monkeypatch.setattr(socket, "socket", None)
    replayed = fold(rules, life.events, rules.INITIAL)
    assert replayed == life.state and next_step(replayed, NOW) == Succeed("first")
    late = FinishModelCall(key=started.key)
    late.answer.content.add(text="second")
    assert life.do(late) == []


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"])
async def test_fault_60_a_server_that_hangs_up_is_asked_once_per_attempt(
    stack: AsyncExitStack, tmp_path: Path, answer: bytes
) -> None:
    """Counted where the requests arrive: neither the client library nor its connection pool asks by itself again."""
    url, asked = await answering(stack, itertools.repeat(answer))
    life = born(stack, url, tmp_path)
    assert (await life.failure()).failure.reason == "model_disconnected"
    assert len(asked) == 1
    assert b"x-stainless-retry-count: 0" in asked[0].lower()
