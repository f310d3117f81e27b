"""A question to a person is checked like the input of any other tool, and never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crewlog.tools.answers import NotDone
from crewlog.tools.ask import parse_question
from crewlog.tools.registry import ToolContext, run_tool, tool_definitions
from crewlog.v1.run_pb2 import GATE_KIND_QUESTION, Question
from hypothesis import given
from hypothesis import strategies as st


def parse(**given: Any) -> Question:
    return parse_question(json.dumps(given).encode())


def test_a_question_says_all_that_was_given() -> None:
    assert parse(question="Tabs?") == Question(kind=GATE_KIND_QUESTION, question="Tabs?")
    given = parse(question="Which?", choices=["a", "b"], expires_seconds=60, default="b")
    assert given == Question(
        kind=GATE_KIND_QUESTION, question="Which?", choices=["a", "b"], expires_seconds=60, default_choice="b"
    )
    assert parse(question="Why?", default="no reason").default_choice == "no reason"
    assert parse(question="x" * 4_000, choices=["é" * 100, "b"], expires_seconds=2_592_000).expires_seconds == 2_592_000


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "question: Field required"),
        ({"question": ""}, "question: String should have at least 1 character"),
        ({"question": " \n"}, "question: it says nothing"),
        ({"question": "x" * 4_001}, "question: String should have at most 4000"),
        ({"question": 3}, "question: Input should be a valid string"),
        ({"question": "?", "choices": []}, "choices: Tuple should have at least 2"),
        ({"question": "?", "choices": ["a"]}, "choices: Tuple should have at least 2"),
        ({"question": "?", "choices": [str(n) for n in range(11)]}, "choices: Tuple should have at most 10"),
        ({"question": "?", "choices": ["a", "a"]}, "a choice stands twice"),
        ({"question": "?", "choices": ["a", ""]}, "choices.1: String should have at least 1"),
        ({"question": "?", "choices": ["a", "x" * 101]}, "choices.1: String should have at most 100"),
        ({"question": "?", "choices": ["a", " b"]}, "choices.1: a choice is one line"),
        ({"question": "?", "choices": ["a", "b\n"]}, "choices.1: a choice is one line"),
        ({"question": "?", "choices": ["a", "\x1b[2J"]}, "choices.1: a choice is one line"),
        ({"question": "?", "choices": "ab"}, "choices: Input should be a valid"),
        ({"question": "?", "choices": ["a", "b"], "default": "c"}, "the default is none of the choices"),
        ({"question": "?", "default": "x" * 4_001}, "default: String should have at most 4000"),
        ({"question": "?", "expires_seconds": 59}, "expires_seconds: Input should be greater"),
        ({"question": "?", "expires_seconds": 2_592_001}, "expires_seconds: Input should be less"),
        ({"question": "?", "expires_seconds": "60"}, "expires_seconds: Input should be a valid integer"),
        ({"question": "?", "urgent": True}, "urgent: this field does not exist"),
    ],
)
def test_a_wrong_question_is_answered_with_what_would_be_right(given: dict[str, Any], says: str) -> None:
    with pytest.raises(NotDone) as refused:
        parse(**given)
    assert refused.value.reason == "malformed_input"
    assert says in refused.value.text
    assert '"question" (string), "choices" (array, optional)' in refused.value.text


def test_a_role_without_it_is_denied() -> None:
    with pytest.raises(NotDone, match=r"ask may not be used here\. You have: grep, read") as refused:
        parse_question(b'{"question": "?"}', frozenset({"read", "grep"}))
    assert refused.value.reason == "denied"
    assert parse_question(b'{"question": "?"}', frozenset({"ask"})).question == "?"


async def test_it_is_never_run(tmp_path: Path) -> None:
    context = ToolContext(root=tmp_path)
    answer = await run_tool("ask", b'{"question": "Which?"}', context)
    assert (answer.is_error, answer.reason) == (True, "denied")
    assert "cannot be run here" in answer.text
    assert (await run_tool("ask", b"{}", context)).reason == "malformed_input"


def test_the_model_is_not_told_of_defaults_that_it_could_not_give() -> None:
    [definition] = tool_definitions(["ask"])
    schema = definition["input_schema"]
    assert schema["required"] == ["question"]
    assert all("default" not in field for field in schema["properties"].values())
    assert schema["properties"]["expires_seconds"]["minimum"] == 60


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_question_or_refused(input_json: bytes) -> None:
    try:
        assert parse_question(input_json).question
    except NotDone as refusal:
        assert refusal.reason == "malformed_input"
