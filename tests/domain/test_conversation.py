"""Whatever an agent has been through, what it sends next is a conversation that the provider accepts."""

import json
from typing import Any

import pytest
from crewlog.models.conversation import CONTINUE, ToolOutcome, Turn, check_legal, messages
from crewlog.models.legality import RULES
from crewlog.v1.agent_pb2 import ContentBlock, ToolUse
from crewlog.v1.body_pb2 import BlobRef, Body
from hypothesis import given
from hypothesis import strategies as st


def text(words: str) -> ContentBlock:
    return ContentBlock(text=words)


def call(call_id: str = "toolu_1", tool: str = "read", written: bytes = b'{"path":"a"}') -> ContentBlock:
    return ContentBlock(tool_use=ToolUse(tool_use_id=call_id, tool=tool, input_json=Body(inline=written)))


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def said(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def used(call_id: str, name: str = "read", **fields: object) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {}, **fields}


def result(call_id: str, content: object = "ok", **fields: object) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def test_a_first_request_is_the_prompt() -> None:
    assert messages("Fix it", []) == [user(said("Fix it"))]


def test_results_stand_in_the_order_of_the_calls_whatever_is_known_of_them() -> None:
    turn = Turn(
        [text("Look"), call("a"), call("b"), call("c")],
        [ToolOutcome("one"), None, ToolOutcome("three", is_error=True)],
        said="Hurry",
    )
    *_, answer, following = messages("Fix it", [turn])
    assert [block["type"] for block in answer["content"]] == ["text", "tool_use", "tool_use", "tool_use"]
    assert [block.get("tool_use_id") for block in following["content"]] == ["a", "b", "c", None]
    assert [block.get("is_error", False) for block in following["content"]] == [False, True, True, False]
    assert "unknown" in following["content"][1]["content"]
    assert following["content"][3] == said("Hurry")


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        (b'{"path": "a\\u00e9"}', {"path": "aé"}),
        (b"", {}),
        (b'{"path": ', {"INVALID_JSON": '{"path": '}),
        (b"[1]", {"INVALID_JSON": "[1]"}),
        (b'{"a": NaN}', {"INVALID_JSON": '{"a": NaN}'}),
        (b'{"a": 1e999}', {"INVALID_JSON": '{"a": 1e999}'}),
        (b'{"a": "\\ud800"}', {"a": "?"}),
        (b'{"a": "\xff"}', {"INVALID_JSON": '{"a": "�"}'}),
        (b'{"a":' * 100 + b"1" + b"}" * 100, {"INVALID_JSON": '{"a":' * 100 + "1" + "}" * 100}),
        (b"[" * 100_000, {"INVALID_JSON": "[" * 100_000}),
    ],
)
def test_tool_input_goes_back_as_an_object_that_can_be_sent(written: bytes, sent: dict[str, Any]) -> None:
    conversation = messages("Fix it", [Turn([call(written=written)])])
    assert conversation[1]["content"][0]["input"] == sent
    json.dumps(conversation, allow_nan=False, ensure_ascii=False).encode()


def test_ids_and_names_that_would_be_refused_are_replaced_and_stay_the_same_later() -> None:
    turns = [Turn([call("a"), call("a"), call(""), call("x y", "bash; rm")]), Turn([call("call_1")])]
    short, long = messages("Fix it", turns[:1]), messages("Fix it", turns)
    ids = [block["id"] for block in short[1]["content"]]
    assert ids[0] == "a" and len(set(ids)) == 4
    assert short[1]["content"][3]["name"] == "bash__rm"
    assert long[: len(short)] == short
    assert check_legal(long) == []


def test_blank_text_is_left_out_and_an_empty_answer_is_no_message() -> None:
    assert messages("Fix it", [Turn([text(" \n")], said="Well?")]) == [user(said("Fix it"), said("Well?"))]


def test_an_answer_that_nothing_follows_is_asked_to_go_on() -> None:
    assert messages("Fix it", [Turn([text("Half an ans")])])[-1] == user(said(CONTINUE))


def test_a_pause_in_a_tool_of_the_provider_goes_on_from_the_same_message() -> None:
    paused = ContentBlock(other_json='{"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}')
    conversation = messages("Fix it", [Turn([text("I search"), paused])])
    assert conversation[-1]["role"] == "assistant"
    assert check_legal(conversation) == []
    found = ContentBlock(other_json='{"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}')
    longer = messages("Fix it", [Turn([text("I search"), paused]), Turn([found, text("Found")])])
    assert [block["type"] for block in longer[1]["content"]] == [
        "text",
        "server_tool_use",
        "web_search_tool_result",
        "text",
    ]


def test_other_blocks_go_back_as_they_came() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s=="}
    conversation = messages("Fix it", [Turn([ContentBlock(other_json=json.dumps(thinking)), call()])])
    assert conversation[1]["content"][0] == thinking


def test_an_input_that_is_still_in_a_blob_is_a_bug_of_the_caller() -> None:
    block = ContentBlock(tool_use=ToolUse(tool_use_id="a", tool="read", input_json=Body(blob=BlobRef(size_bytes=9))))
    with pytest.raises(ValueError, match="blob"):
        messages("Fix it", [Turn([block])])


IDS = st.sampled_from(["a", "b", "call_0", "call_1", "", "ü"])
BLOCKS = st.one_of(
    st.text(max_size=8).map(text),
    st.builds(
        call, st.sampled_from(["a", "b", "call_0", "call_1", "", "ü"]), st.text(max_size=6), st.binary(max_size=9)
    ),
    st.just(ContentBlock(other_json='{"type": "thinking", "thinking": "x", "signature": "y"}')),
    st.just(ContentBlock()),
)
OUTCOMES = st.none() | st.builds(ToolOutcome, st.text(st.characters(), max_size=5), st.booleans())
TURNS = st.lists(st.builds(Turn, st.lists(BLOCKS, max_size=5), st.lists(OUTCOMES, max_size=6), st.text(max_size=5)))


@given(st.text(max_size=10), TURNS)
def test_every_prefix_is_legal(prompt: str, turns: list[Turn]) -> None:
    for length in range(len(turns) + 1):
        conversation = messages(prompt, turns[:length])
        assert check_legal(conversation) == []
        json.dumps(conversation, allow_nan=False, ensure_ascii=False).encode()


ILLEGAL: list[tuple[list[dict[str, Any]], str]] = [
    ([assistant(said("hi")), user(said("hi"))], "first message"),
    ([user(said("hi")), assistant(said("hi"))], "last message"),
    ([user()], "empty"),
    ([user(said(" "))], "white space"),
    (
        [user(said("x")), assistant(used("a")), user(result("a", content=[said("")]))],
        "white space",
    ),
    ([user(said("x")), assistant(used("a")), user(result("a", content="", is_error=True))], "is_error"),
    ([user(used("a")), assistant(said("x")), user(said("x"))], "no place"),
    ([user(said("x")), assistant(used("")), user(result(""))], "must match"),
    ([user(said("x")), assistant(used("a"), used("a")), user(result("a"), result("a"))], "unique"),
    ([user(said("x")), assistant(used("a", "b c")), user(result("a"))], "name"),
    ([user(said("x")), assistant(used("a", input=[])), user(result("a"))], "an object"),
    ([user(said("x")), assistant(used("a"), used("b")), user(result("a"))], "immediately after: b"),
    ([user(said("x")), assistant(said("y")), user(result("a"))], "unexpected tool_use_id"),
    ([user(said("x")), assistant(used("a")), user(result("a"), result("a"))], "unexpected tool_use_id"),
    ([user(said("x")), assistant(used("a")), user(said("z"), result("a"))], "come before"),
]
MISSHAPEN: list[tuple[object, str]] = [
    ([], "list of 1"),
    ("hi", "list of 1"),
    ([{"role": "tool", "content": "x"}], "role"),
    ([user({"type": "text"})], "content"),
]


@pytest.mark.parametrize(("conversation", "why"), [*ILLEGAL, *MISSHAPEN])
def test_illegal_conversations_are_found(conversation: object, why: str) -> None:
    assert any(why in sentence for sentence in check_legal(conversation))


def test_every_rule_has_a_conversation_that_breaks_it() -> None:
    for rule in RULES:
        exchanges = [[(message["role"], message["content"]) for message in conversation] for conversation, _ in ILLEGAL]
        assert any(list(rule.broken(exchange)) for exchange in exchanges), rule.says
