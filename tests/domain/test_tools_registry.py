"""Whatever a model sends to a tool is answered with what would be right, and never raised."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.tools.registry import TOOLS, ToolAnswer, ToolContext, effect_class_of, run_tool, tool_definitions
from crewlog.v1 import agent_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = ["read", "write", "edit", "glob", "grep", "bash", "ask"]


@pytest.fixture
def context(tmp_path: Path) -> ToolContext:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    return ToolContext(root=tmp_path)


def test_the_tools_are_those_of_the_roles() -> None:
    assert list(TOOLS) == NAMES


def test_effect_classes() -> None:
    classes = {name: agent_pb2.EffectClass.Name(effect_class_of(name)) for name in NAMES}
    assert classes == {
        "read": "EFFECT_CLASS_PURE",
        "write": "EFFECT_CLASS_QUERYABLE",
        "edit": "EFFECT_CLASS_QUERYABLE",
        "glob": "EFFECT_CLASS_PURE",
        "grep": "EFFECT_CLASS_PURE",
        "bash": "EFFECT_CLASS_REVERSIBLE",
        "ask": "EFFECT_CLASS_KEYED",
    }
    assert effect_class_of("bash", network=True) == agent_pb2.EFFECT_CLASS_OPAQUE
    assert effect_class_of("read", network=True) == agent_pb2.EFFECT_CLASS_PURE
    assert [name for name in NAMES if TOOLS[name].changes_files] == ["write", "edit", "bash"]


@pytest.mark.parametrize("name", NAMES)
def test_definitions_are_closed_schemas_with_a_description_of_every_field(name: str) -> None:
    [definition] = tool_definitions([name])
    assert definition["name"] == name
    assert definition["description"]
    schema = definition["input_schema"]
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert all(field["description"] and field["type"] for field in schema["properties"].values())
    assert "title" not in json.dumps(schema)


def test_a_definition_of_a_tool_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidCommand, match="the tools are read, write"):
        tool_definitions(["read", "sed"])


@pytest.mark.parametrize(
    ("name", "input_json", "reason", "says"),
    [
        ("sed", b"{}", "unknown_tool", "sed is no tool. You have: read, write, edit, glob, grep, bash, ask"),
        ("x\x1b[2J\u202e", b"{}", "unknown_tool", r"x\x1b[2J\u202e is no tool"),
        ("read", b"", "malformed_input", "path: Field required"),
        ("read", b"{", "malformed_input", "Invalid JSON"),
        ("read", b"\xff\xfe", "malformed_input", "Invalid JSON"),
        (
            "read",
            b"[]",
            "malformed_input",
            'a JSON object of "path" (string), "offset" (integer, optional)',
        ),
        ("read", b"null", "malformed_input", "object"),
        ("read", b'{"path": 3}', "malformed_input", "path: Input should be a valid string"),
        ("read", b'{"path": "a.txt", "offset": "1"}', "malformed_input", "offset: Input should be a valid integer"),
        ("read", b'{"path": "a.txt", "offset": 0}', "malformed_input", "offset: Input should be greater than or equal"),
        ("read", b'{"path": "a.txt", "offset": 1.5}', "malformed_input", "offset"),
        ("read", b'{"path": "a.txt", "lines": 1}', "malformed_input", "lines: this field does not exist"),
        ("read", b'{"path": "\\ud800"}', "malformed_input", "Invalid JSON"),
        ("read", b"[" * 100_000, "malformed_input", "Invalid JSON"),
        ("read", b" " * (8 * 1024 * 1024 + 1), "malformed_input", "at most"),
        ("edit", b'{"path": "a.txt", "old_text": "", "new_text": ""}', "malformed_input", "old_text"),
    ],
)
async def test_bad_calls_are_answered(
    context: ToolContext, name: str, input_json: bytes, reason: str, says: str
) -> None:
    answer = await run_tool(name, input_json, context)
    assert answer.is_error
    assert answer.reason == reason
    assert says in answer.text
    assert len(answer.text) < 2000


async def test_a_tool_that_the_role_does_not_have_is_denied(tmp_path: Path) -> None:
    context = ToolContext(root=tmp_path, tools=frozenset({"read", "grep"}))
    answer = await run_tool("write", b'{"path": "a", "content": ""}', context)
    assert answer == ToolAnswer("write may not be used here. You have: read, grep", is_error=True, reason="denied")
    assert not os.listdir(tmp_path)  # noqa: PTH208


async def test_bash_without_a_sandbox_is_denied(context: ToolContext) -> None:
    answer = await run_tool("bash", b'{"command": "true"}', context)
    assert answer.is_error
    assert answer.reason == "denied"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["read", "write", "edit", "glob"]) | st.text(), input_json=st.binary(max_size=200))
async def test_any_bytes_are_answered(context: ToolContext, name: str, input_json: bytes) -> None:
    answer = await run_tool(name, input_json, context)
    assert answer.is_error
    assert answer.reason in ("malformed_input", "unknown_tool")
