"""What may be handed over with `finish`, and what is said about what may not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crewlog.tools.answers import NotDone
from crewlog.tools.finish import definition, finish
from crewlog.tools.limits import STRUCTURED_BYTES_MAX
from crewlog.v1.run_pb2 import AgentNode, Planning, Role

VERDICT = {
    "type": "object",
    "properties": {"verdict": {"enum": ["good", "bad"]}, "why": {"type": "string"}},
    "required": ["verdict"],
    "additionalProperties": False,
}
CHOICE = {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
LIST = {"type": "array", "items": {"$ref": "#/$defs/name"}, "$defs": {"name": {"type": "string"}}}


def node(schema: Any) -> AgentNode:
    return AgentNode(output_schema=json.dumps(schema))


PLANNER = AgentNode(planning=Planning(roles=[Role(name="implementer"), Role(name="tester")], nodes_max=3))


@pytest.mark.parametrize(
    ("schema", "given", "value"),
    [
        (VERDICT, {"verdict": "good"}, {"verdict": "good"}),
        (CHOICE, {"value": {"b": 1}}, {"b": 1}),
        (LIST, {"value": ["x", "ü"]}, ["x", "ü"]),
        ({"type": "integer"}, {"value": 3}, 3),
        ({"type": ["object", "null"]}, {"value": None}, None),
    ],
)
def test_what_fits_is_handed_over_as_it_is(schema: Any, given: Any, value: Any) -> None:
    answer = finish(node(schema), "judge", json.dumps(given).encode())
    assert not answer.is_error and json.loads(answer.structured_json) == value


@pytest.mark.parametrize("schema", [VERDICT, CHOICE, LIST, {"type": "integer"}, {}])
def test_the_input_is_an_object_for_every_schema(schema: Any) -> None:
    described = definition(node(schema))
    assert described["name"] == "finish" and described["description"]
    assert described["input_schema"]["type"] == "object"
    assert not {"oneOf", "anyOf", "allOf"} & set(described["input_schema"])


def test_references_still_lead_to_their_definitions() -> None:
    described = definition(node(LIST))["input_schema"]
    assert described["$defs"] == LIST["$defs"]
    assert described["properties"]["value"] == {"type": "array", "items": {"$ref": "#/$defs/name"}}


@pytest.mark.parametrize(
    ("schema", "written", "said"),
    [
        (VERDICT, '{"verdict": "so so"}', "good"),
        (VERDICT, '{"verdict": "good", "more": 1}', "more"),
        (VERDICT, "{}", "verdict"),
        (VERDICT, '{"verdict": ', "no JSON"),
        (VERDICT, "", "verdict"),
        (VERDICT, '{"verdict": "good", "why": "\\ud800"}', "no JSON"),
        ({"type": "number"}, '{"value": NaN}', "no JSON"),
        ({"type": "number"}, '{"value": 1e999}', "no JSON"),
        ({}, '{"value": ' + "[" * 100_000, "no JSON"),
        (LIST, '["x"]', "`value`"),
        (LIST, '{"value": [], "other": 1}', "`value`"),
        ({}, '{"value": "' + "x" * STRUCTURED_BYTES_MAX + '"}', str(STRUCTURED_BYTES_MAX)),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_do(schema: Any, written: str, said: str) -> None:
    with pytest.raises(NotDone, match="Call `finish` again") as refused:
        finish(node(schema), "judge", written.encode())
    assert refused.value.reason == "invalid_output"
    assert said in refused.value.text


def task(id: str, role: str = "implementer", *depends_on: str) -> dict[str, Any]:
    return {"id": id, "role": role, "prompt": f"Do {id}", "depends_on": depends_on}


def test_a_plan_is_a_graph_of_tasks() -> None:
    plan = {"tasks": [task("a"), task("b", "tester", "a")]}
    answer = finish(PLANNER, "plan", json.dumps(plan).encode())
    assert json.loads(answer.structured_json)["tasks"][1]["depends_on"] == ["a"]
    assert definition(PLANNER)["input_schema"]["properties"]["tasks"]


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([], "1"),
        ([task("a", "chef")], "chef"),
        ([task("a", "implementer", "b")], "'b'"),
        ([task("a", "implementer", "b"), task("b", "tester", "a")], "circle"),
        ([task("a"), task("a")], "twice"),
        ([task(name) for name in "abcd"], "3"),
        ([task("c1")], "children"),
        ([{"id": "a"}], "role"),
    ],
)
def test_a_plan_that_is_none_is_told_with_all_that_is_wrong(tasks: list[Any], said: str) -> None:
    with pytest.raises(NotDone) as refused:
        finish(PLANNER, "plan", json.dumps({"tasks": tasks}).encode())
    assert refused.value.reason == "invalid_output"
    assert said in refused.value.text
