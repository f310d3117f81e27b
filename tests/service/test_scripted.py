"""The scripted model speaks the protocol of the real one, and refuses what the real one refuses."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import fields
from email.utils import parsedate_to_datetime
from pathlib import Path
from textwrap import indent
from typing import Any, get_args

import anthropic
import httpx2
import pytest
from anthropic import types
from crewlog.domain.errors import InvalidCommand
from crewlog.models import request_checks
from crewlog.models.script import STOP_REASONS, Answer, Error, Fault, fault_of
from crewlog.models.script_file import load_script
from crewlog.models.scripted import serve_scripted
from pydantic import TypeAdapter

MODEL = "claude-sonnet-5-5"
SCRIPT = """
name: test
scripts:
  - system: "Role: implementer"
    prompt: "(?i)changes requested"
    steps:
      - say: I do it again
  - system: "Role: implementer"
    steps:
      - say: "I look at the code first, ünïcödé and all."
        tools:
          - {tool: read, input: {path: src/slug.py}}
          - {tool: grep, input: {pattern: slugify, deep: [1, {a: null}]}}
      - cases:
          - expect: "AssertionError: (?P<what>\\\\w+)"
            say: "It fails with {{what}} and {{nothing}}"
            tools: [{tool: bash, input: {command: "grep {{what}}"}}]
          - expect: "(?P<count>\\\\d+) passed"
            say: "Done. {{count}}"
"""
HEADERS = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
USER = {"role": "user", "content": "Fix it"}
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 500, "system": "Role: implementer", "messages": [USER]}

Open = Callable[[str], Awaitable[str]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def play(stack: AsyncExitStack, tmp_path: Path) -> Open:
    async def start(script: str = SCRIPT) -> str:
        path = tmp_path / "script.yaml"
        path.write_text(script)
        return await stack.enter_async_context(serve_scripted(path))

    return start


@pytest.fixture
async def http(stack: AsyncExitStack) -> httpx2.AsyncClient:
    return await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, headers=HEADERS))


def client_of(stack: AsyncExitStack, url: str) -> anthropic.AsyncAnthropic:
    client = anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0, open_telemetry=False)
    stack.push_async_callback(client.close)
    return client


def results(*texts: str, ids: str = "t") -> list[Any]:
    """The conversation after the first answer of the script, with these results."""
    named = {f"{ids}{place}": text for place, text in enumerate(texts)}
    calls = [{"type": "tool_use", "id": call_id, "name": "read", "input": {}} for call_id in named]
    answers = [{"type": "tool_result", "tool_use_id": call_id, "content": text} for call_id, text in named.items()]
    return [USER, {"role": "assistant", "content": calls}, {"role": "user", "content": answers}]


async def say(http: httpx2.AsyncClient, url: str, **changes: Any) -> dict[str, Any]:
    answer = await http.post(f"{url}/v1/messages", json={**BODY, **changes})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_the_real_client_reads_the_same_streamed_or_not(play: Open, stack: AsyncExitStack) -> None:
    client = client_of(stack, await play(SCRIPT))
    whole = await client.messages.create(**BODY)
    async with client.messages.stream(**BODY) as stream:
        streamed = await stream.get_final_message()
    assert streamed.to_dict() == whole.to_dict()
    assert [block.type for block in whole.content] == ["text", "tool_use", "tool_use"]
    assert isinstance(whole.content[2], types.ToolUseBlock)
    assert whole.content[2].input == {"pattern": "slugify", "deep": [1, {"a": None}]}
    assert (whole.stop_reason, whole.model, whole.role) == ("tool_use", MODEL, "assistant")


async def test_what_is_sent_has_the_types_of_the_real_client(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play(SCRIPT)
    TypeAdapter(types.Message).validate_python(await say(http, url), strict=True)
    for name, event in await events_of(http, url):
        assert name == event["type"]
        if name != "ping":
            TypeAdapter[Any](types.RawMessageStreamEvent).validate_python(event)


async def events_of(http: httpx2.AsyncClient, url: str) -> list[tuple[str, dict[str, Any]]]:
    answer = await http.post(f"{url}/v1/messages", json={**BODY, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["request-id"]
    lines = [event.split("\n") for event in answer.text.split("\n\n") if event]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


async def test_the_events_come_in_the_order_of_the_real_api(play: Open, http: httpx2.AsyncClient) -> None:
    events = await events_of(http, await play(SCRIPT))
    order = [name for place, (name, _) in enumerate(events) if not place or name != events[place - 1][0]]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    first = ["content_block_start", "ping", "content_block_delta", "content_block_stop"]
    assert order == ["message_start", *first, *block, *block, "message_delta", "message_stop"]
    assert [event["index"] for name, event in events if name == "content_block_start"] == [0, 1, 2]
    inputs = [event["delta"]["partial_json"] for _, event in events if event.get("delta", {}).get("partial_json") == ""]
    assert len(inputs) == 2
    start, end = events[0][1]["message"], events[-2][1]
    assert start["content"] == [] and start["stop_reason"] is None and start["usage"]["input_tokens"] > 0
    assert end["delta"]["stop_reason"] == "tool_use" and end["usage"]["output_tokens"] > 1


async def test_every_stop_reason_is_one_of_the_real_client() -> None:
    assert set(STOP_REASONS) == set(get_args(types.StopReason))


def test_every_field_of_a_request_is_known() -> None:
    known = types.message_create_params.MessageCreateParamsBase.__annotations__.keys() | {"stream"}
    assert known == request_checks._FIELDS


async def test_the_step_is_the_number_of_answers_in_the_request(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play(SCRIPT)
    assert (await say(http, url, messages=results("3 passed")))["content"][0]["text"] == "Done. 3"
    failed = await say(http, url, messages=results("ok", "AssertionError: slug"))
    assert failed["content"][0]["text"] == "It fails with slug and {{nothing}}"
    assert failed["content"][1]["input"] == {"command": "grep slug"}
    again = await say(http, url, messages=[{"role": "user", "content": "Changes requested: x"}])
    assert again["content"][0]["text"] == "I do it again"


async def test_a_script_that_does_not_go_on_says_so_and_ends_the_turn(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play(SCRIPT)
    unexpected = await say(http, url, messages=results("segmentation fault"))
    assert "expected" in unexpected["content"][0]["text"] and "segmentation fault" in unexpected["content"][0]["text"]
    assert unexpected["stop_reason"] == "end_turn"
    over = await say(http, url, messages=[*results("a"), *results("b", ids="u")[1:]])
    assert "ends after 2 steps" in over["content"][0]["text"]


async def test_the_same_request_gets_the_same_bytes(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play(SCRIPT)
    first, second = [await http.post(f"{url}/v1/messages", json={**BODY, "stream": True}) for _ in range(2)]
    assert first.content == second.content
    other = await say(http, url, messages=[{"role": "user", "content": "Fix that"}])
    assert other["id"] != (await say(http, url))["id"]


REFUSED = [
    ({"messages": []}, 400, "messages"),
    ({"messages": [USER, {"role": "assistant", "content": "Hi"}]}, 400, "last message"),
    ({"messages": [*results("x")[:2], USER]}, 400, "tool_use ids were found without tool_result blocks"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "white space"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": True}, 400, "max_tokens"),
    ({"model": ""}, 400, "model"),
    ({"system": ""}, 400, "no conversation"),
    ({"system": [{"type": "text", "text": ""}]}, 400, "system"),
    ({"system": 5}, 400, "system"),
    ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, 400, "tools.0.name"),
    ({"tools": [{"name": "a", "input_schema": {}}]}, 400, "tools.0.input_schema"),
    ({"tools": [{"name": "a", "input_schema": {"type": "object"}}] * 2}, 400, "unique"),
    ({"tools": {}}, 400, "tools"),
    ({"temprature": 1}, 400, "temprature: extra"),
    ({"stream": "yes"}, 400, "stream"),
    (
        {"system": [{"type": "text", "text": "Role: implementer", "cache_control": {"type": "ephemeral"}}] * 5},
        400,
        "at most 4",
    ),
    ({"messages": [{"role": "user", "content": "x" * 4_100_000}]}, 400, "prompt is too long"),
]


@pytest.mark.parametrize(("changes", "status", "why"), REFUSED)
async def test_what_the_real_api_refuses_is_refused(
    play: Open, http: httpx2.AsyncClient, changes: dict[str, Any], status: int, why: str
) -> None:
    answer = await http.post(f"{await play(SCRIPT)}/v1/messages", json={**BODY, **changes})
    assert answer.status_code == status
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert why in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "path", "status", "kind"),
    [
        ({"x-api-key": ""}, "/v1/messages", 401, "authentication_error"),
        ({"x-api-key": "", "authorization": "Bearer k"}, "/v1/messages", 200, ""),
        ({"anthropic-version": ""}, "/v1/messages", 400, "invalid_request_error"),
        ({}, "/v1/messagez", 404, "not_found_error"),
        ({}, "/", 404, "not_found_error"),
    ],
)
async def test_keys_and_paths(
    play: Open, http: httpx2.AsyncClient, headers: dict[str, str], path: str, status: int, kind: str
) -> None:
    answer = await http.post(f"{await play(SCRIPT)}{path}", json=BODY, headers=headers)
    assert (answer.status_code, answer.json().get("error", {}).get("type", "")) == (status, kind)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_none_is_refused(play: Open, http: httpx2.AsyncClient, content: bytes) -> None:
    answer = await http.post(f"{await play(SCRIPT)}/v1/messages", content=content)
    assert answer.status_code == 400


async def test_errors_come_as_often_as_the_script_says_for_every_request(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play("scripts: [{steps: [{error: {status: 529, times: 2, headers: {retry-after: '1'}}, say: Hi}]}]")
    for prompt in ("one", "two"):
        body = {**BODY, "messages": [{"role": "user", "content": prompt}]}
        answers = [await http.post(f"{url}/v1/messages", json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [529, 529, 200]
        assert answers[0].headers["retry-after"] == "1"
        assert answers[0].json()["error"]["type"] == "overloaded_error"


async def test_faults_come_one_after_the_other_and_are_in_the_ledger(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play("""
scripts:
  - steps:
      - say: Hi
        faults:
          - {error: {status: 429}, times: 2}
          - {error: {status: 529, after: 1}}
          - {disconnect_after: 2}
          - {delay_millis: 1}
""")
    statuses = []
    for _ in range(6):
        try:
            answer = await http.post(f"{url}/v1/messages", json={**BODY, "stream": True})
            statuses.append(f"{answer.status_code}{' error' if 'event: error' in answer.text else ''}")
        except httpx2.RemoteProtocolError:
            statuses.append("broken")
    assert statuses == ["429", "429", "200 error", "broken", "200", "200"]
    entries = [json.loads(line) for line in (await http.get(f"{url}/ledger")).text.splitlines()]
    assert [entry["fault"] for entry in entries] == ["error", "error", "error", "disconnect", "delay", ""]
    assert len({entry["request_sha256"] for entry in entries}) == 1


@pytest.mark.parametrize(
    ("wish", "header", "value"),
    [("seconds: 7", "retry-after", "7"), ("millis: 1500", "retry-after-ms", "1500")],
)
async def test_a_wish_to_be_asked_later(
    play: Open, http: httpx2.AsyncClient, wish: str, header: str, value: str
) -> None:
    url = await play(f"scripts: [{{steps: [{{error: {{status: 429, retry_after: {{{wish}}}}}}}]}}]")
    assert (await http.post(f"{url}/v1/messages", json=BODY)).headers[header] == value


async def test_a_wish_to_be_asked_later_as_a_date(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play("scripts: [{steps: [{error: {status: 429, retry_after: {date_seconds: 100}}}]}]")
    at = parsedate_to_datetime((await http.post(f"{url}/v1/messages", json=BODY)).headers["retry-after"])
    assert 90 < at.timestamp() - time.time() <= 101


async def test_calls_can_be_many_and_have_the_same_id(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play('scripts: [{steps: [{tools: [{tool: a, id: same, repeat: 200, input: {n: "{{n}}"}}]}]}]')
    calls = (await say(http, url, max_tokens=9_000))["content"]
    assert {call["id"] for call in calls} == {"same"}
    assert [call["input"]["n"] for call in calls] == [str(n) for n in range(1, 201)]


async def test_counts_can_be_wrong_and_blocks_of_any_kind(play: Open, http: httpx2.AsyncClient) -> None:
    block = "{type: server_tool_use, id: s1, name: web_search, input: {query: x}}"
    url = await play(f"scripts: [{{steps: [{{say: Hi, usage: {{output_tokens: 0}}, other_blocks: [{block}]}}]}}]")
    whole = await say(http, url)
    assert whole["usage"]["output_tokens"] == 0 and whole["usage"]["input_tokens"] > 0
    assert whole["content"][1] == {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}}
    events = await events_of(http, url)
    assert [event["content_block"]["type"] for name, event in events if name == "content_block_start"] == [
        "text",
        "server_tool_use",
    ]


STEERED = """
scripts:
  - steps:
      - {say: I look, tools: [{tool: read}]}
      - cases:
          - {expect: "ok", said: '(?i)use (?P<what>\\w+)', say: "I use {{what}}"}
          - {expect: '(?P<n>\\d+) failed', said: stop, say: "{{n}} are left"}
          - {said: "^$", say: nobody said anything}
"""


@pytest.mark.parametrize(
    ("result", "message", "answer"),
    [
        ("ok", "Please use tabs", "I use tabs"),
        ("3 failed", "stop", "3 are left"),
        ("ok", "", "nobody said anything"),
        ("3 failed", "Use tabs", "the tools returned: 3 failed; the user said: Use tabs"),
    ],
)
async def test_what_the_user_says_after_the_results_can_be_expected(
    play: Open, http: httpx2.AsyncClient, result: str, message: str, answer: str
) -> None:
    url = await play(STEERED)
    conversation = results(result)
    if message:
        conversation[-1]["content"].append({"type": "text", "text": message})
    assert answer in (await say(http, url, messages=conversation))["content"][0]["text"]


async def test_tokens_are_counted_as_they_are_charged(play: Open, stack: AsyncExitStack) -> None:
    client = client_of(stack, await play(SCRIPT))
    asked = {key: value for key, value in BODY.items() if key != "max_tokens"}
    counted = await client.messages.count_tokens(**asked)
    assert counted.input_tokens == (await client.messages.create(**BODY)).usage.input_tokens


def marked(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


async def test_the_cache_reads_what_was_written_up_to_a_mark(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play("scripts: [{steps: [{say: Hi}]}]")
    system = [marked("You are careful. " * 400)]

    async def usage(*blocks: dict[str, Any], system: Any = system) -> tuple[int, int]:
        usage = (await say(http, url, system=system, messages=[{"role": "user", "content": list(blocks)}]))["usage"]
        assert usage["input_tokens"] >= 0
        return usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]

    read, written = await usage({"type": "text", "text": "a" * 400})
    assert read == 0 and written > 1024
    assert await usage({"type": "text", "text": "b" * 400}) == (written, 0)
    read, more = await usage(marked("a" * 400))
    assert read == written and 50 < more < 200
    read_again, little = await usage({"type": "text", "text": "a" * 400}, marked("c"))
    assert read_again == read + more and 0 < little < 30
    assert await usage(marked("a"), system=[marked("short")]) == (0, 0)
    assert (await usage(marked("a"), system=[marked("You are careless. " * 400)]))[0] == 0


async def test_the_ledger_tells_what_was_asked(play: Open, http: httpx2.AsyncClient) -> None:
    url = await play(SCRIPT)
    await say(http, url)
    await say(http, url, system=[marked("Role: implementer")])
    await say(http, url, messages=results("3 passed"))
    await http.post(f"{url}/v1/messages", json={**BODY, "messages": []})
    entries = [json.loads(line) for line in (await http.get(f"{url}/ledger")).text.splitlines()]
    assert [(entry["conversation"], entry["step"], entry["status"]) for entry in entries] == [
        (1, 0, 200),
        (1, 0, 200),
        (1, 1, 200),
    ]
    assert entries[0]["request_sha256"] == entries[1]["request_sha256"] != entries[2]["request_sha256"]
    assert entries[0]["system_head"] == "Role: implementer"
    assert entries[0]["usage"]["output_tokens"] > 0


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("", "must be a mapping"),
        ("name: x", "has no scripts"),
        ("scripts: {}", "scripts must be a list"),
        ("scripts: [{stepz: []}]", r"scripts\[0\] has the unknown field 'stepz'"),
        ("scripts: [{steps: [{say: 5}]}]", r"steps\[0\]: say must be text, not 5"),
        ("scripts: [{steps: [{say: a, say: b}]}]", "a key stands twice"),
        ("scripts: [{steps: [{cases: [{say: a}], say: b}]}]", "unknown field 'say'"),
        ("scripts: [{system: '(', steps: []}]", "system is no regular expression"),
        ("scripts: [{steps: [{tools: [{inputs: {}}]}]}]", "unknown field 'inputs'"),
        ("scripts: [{steps: [{tools: [{input: {}}]}]}]", "names no tool"),
        ("scripts: [{steps: [{tools: [{tool: a, input: {when: 2026-01-01}}]}]}]", "JSON values.*quotes"),
        ("scripts: [{steps: [{tools: [{tool: a, input: {x: .nan}}]}]}]", "JSON values"),
        ("scripts: [{steps: [{tools: [{tool: a, input: {1: x}}]}]}]", "JSON values"),
        ("scripts: [{steps: [{error: {status: 200}}]}]", "status must be from 400 to 599"),
        ("scripts: [{steps: [{error: {status: 429, headers: {retry-after: 1}}}]}]", "retry-after must be text"),
        ("scripts: [{steps: [{faults: [{times: 2}]}]}]", r"faults\[0\] says nothing that goes wrong"),
        ("scripts: [{steps: [{faults: [{error: {status: 429, times: 2}}]}]}]", "unknown field 'times'"),
        ("scripts: [{steps: [{error: {status: 429, retry_after: {}}}]}]", "retry_after must have one of seconds"),
        ("scripts: [{steps: [{error: {status: 429, retry_after: {millis: 1, seconds: 1}}}]}]", "must have one of"),
        ("scripts: [{steps: [{tools: [{tool: a, repeat: 1001}]}]}]", "repeat must be at most 1000"),
        ("scripts: [{steps: [{other_blocks: [{text: a}]}]}]", r"other_blocks\[0\] has no type"),
        ("scripts: [{steps: [{usage: {output_tokens: -1}}]}]", "output_tokens must be a whole number"),
        ("scripts: [{steps: [{delay_millis: -1}]}]", "whole number from 0, not -1"),
        ("scripts: [{steps: [{omit_usage: 1}]}]", "true or false"),
        ("scripts: [{steps: [{stop_reason: done}]}]", "must be one of end_turn"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_a_wrong_script_is_refused_by_place(tmp_path: Path, script: str, why: str) -> None:
    path = tmp_path / "script.yaml"
    path.write_text(script)
    with pytest.raises(InvalidCommand, match=why) as refused:
        load_script(path)
    assert str(path) in refused.value.message and "docs/scripted-model.md" in refused.value.what_to_do


async def test_it_listens_on_loopback_only_and_refuses_a_port_that_is_taken(play: Open, tmp_path: Path) -> None:
    url = await play(SCRIPT)
    assert url.startswith("http://127.0.0.1:")
    with pytest.raises(OSError, match="in use"):
        async with serve_scripted(tmp_path / "script.yaml", int(url.rpartition(":")[2])):
            pass


@pytest.fixture
def script_path(tmp_path: Path) -> Path:
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT)
    return path


async def _started(path: Path, **options: Any) -> tuple[asyncio.subprocess.Process, str]:
    command = [sys.executable, "-m", "crewlog.models.scripted", "--script", str(path)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, **options)
    assert process.stdout is not None
    url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    return process, url


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_as_a_process_it_says_where_it_is_and_stops_on_a_signal(
    script_path: Path, http: httpx2.AsyncClient, number: int
) -> None:
    process, url = await _started(script_path)
    assert (await say(http, url))["stop_reason"] == "tool_use"
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_as_a_process_it_ends_with_its_parent(script_path: Path) -> None:
    read_end, write_end = os.pipe()
    environment = {**os.environ, "CREWLOG_PARENT_FD": str(read_end)}
    process, _ = await _started(script_path, pass_fds=[read_end], env=environment)
    os.close(read_end)
    os.close(write_end)
    assert await asyncio.wait_for(process.wait(), 10) == 0


def test_as_a_process_it_says_what_is_wrong(script_path: Path) -> None:
    script_path.write_text("scripts: 3")
    command = [sys.executable, "-m", "crewlog.models.scripted", "--script", str(script_path)]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert b"scripts must be a list" in ended.stderr and b"Traceback" not in ended.stderr


async def test_a_client_that_waits_does_not_keep_the_server_from_stopping(
    tmp_path: Path, http: httpx2.AsyncClient, play: Open
) -> None:
    await play("scripts: [{steps: [{say: Hi, disconnect_after: 9, stall_after: 1}]}]")
    async with asyncio.timeout(5), serve_scripted(tmp_path / "script.yaml") as url:
        asking = http.build_request("POST", f"{url}/v1/messages", json={**BODY, "stream": True})
        answer = await http.send(asking, stream=True)
        assert answer.status_code == 200
    await answer.aclose()


def test_the_script_of_the_documentation_is_valid(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "scripted-model.md").read_text("utf-8")
    path = tmp_path / "script.yaml"
    path.write_text(document.split("```yaml\n")[1].split("```")[0])
    assert len(load_script(path).conversations) == 2


def test_the_documentation_names_every_field_of_a_step() -> None:
    document = (Path(__file__).parents[2] / "docs" / "scripted-model.md").read_text("utf-8")
    known = [field.name for kind in (Answer, Fault, Error) for field in fields(kind)]
    for field in [*known, "expect", "said", "context_tokens", "malformed_input", "id", "repeat"]:
        assert f"`{field}`" in document, field


def test_the_faults_of_the_documentation_are_valid(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "scripted-model.md").read_text("utf-8")
    path = tmp_path / "script.yaml"
    step = document.split("```yaml\n")[2].split("```")[0]
    path.write_text(f"scripts:\n- steps:\n{indent(step, '  ')}")
    [[case]] = load_script(path).conversations[0].steps
    assert [fault_of(case.answer, n) is None for n in range(8)] == [False] * 6 + [True] * 2
