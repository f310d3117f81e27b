"""What an expression or a schema costs is bounded before it is worked out; whoever writes it, and whatever it sees."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow import schemas
from crewlog.domain.workflow.expressions import PATTERN_CHARACTERS_MAX, ExpressionFailed, compile_expression
from crewlog.domain.workflow.templates import EXPRESSIONS_MAX, Template
from hypothesis import given, settings
from hypothesis import strategies as st

LIST_TEXTS = [f"part {number}" for number in range(100)]
LARGE = {"item": list(range(5_000)), "task": {"output": "a" * 60_000, "result": LIST_TEXTS}, "index": 1}


@contextmanager
def soon(seconds: float = 3) -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds


@pytest.mark.parametrize(
    "text",
    [
        "item.map(x, x)",
        "item.map(x, task.output)",
        "item.filter(x, item.exists(y, y == x))",
        "task.result.map(x, item.map(y, y))",
        "task.result.map(x, task.result).map(y, y + y)",
        "(task.result + task.result + task.result + task.result).map(x, task.output + task.output)",
        "task.result.all(x, x.matches('" + r"\\w?" * 40 + "b'))",
        "item.exists_one(x, item.exists_one(y, x == y))",
        "item.filter(x, // for all of them\n x > 1)",
    ],
)
def test_loops_that_would_copy_too_much_are_not_begun(text: str) -> None:
    with soon(), pytest.raises(ExpressionFailed, match="too long"):
        compile_expression(text).value(LARGE)


@pytest.mark.parametrize(
    "text,value",
    [
        ("item.exists(x, x == 4999)", True),
        ("size(task.result.map(x, x + '!'))", 100),
        ("size(task.result.filter(x, x.endsWith('7')))", 10),
        ("task.result.all(x, x.matches('^part [0-9]+$'))", True),
        ("size(task.result.map(x, {'title': x, 'of': index}))", 100),
        ("size(item)", 5_000),
    ],
)
def test_what_people_write_is_worked_out(text: str, value: Any) -> None:
    with soon():
        assert compile_expression(text).value(LARGE) == value


LONG = {
    "task": {"output": "\n".join(map(str, range(12_000)))},
    "item": json.dumps([0] * 20_000),
    "index": "[0]\n" * 500,
}


@pytest.mark.parametrize(
    "text",
    [
        "lines(task.output).map(x, x)",
        "lines(task.output).filter(x, x != '')",
        "lines(index).map(x, lines(task.output))",
        "lines(index).map(x, lines(index).map(y, y))",
        "(lines(index) + lines(index) + lines(index)).map(x, x)",
        "parse_json(item).exists(x, parse_json(item).exists(y, y > x))",
        "lines(task.output).all(x, x.matches('[0-9]+'))",
        " && ".join(["size(lines(task.output)) > 0"] * 12),
    ],
)
def test_what_is_made_of_a_text_counts_like_what_is_given(text: str) -> None:
    with soon(), pytest.raises(ExpressionFailed, match="more values than can be gone through"):
        compile_expression(text).value(LONG)


@pytest.mark.parametrize(
    "text,value",
    [
        ("size(lines(task.output))", 12_000),
        ("lines(task.output)[11999]", "11999"),
        ("'11999' in lines(task.output)", True),
        ("lines(task.output).exists(x, x == '11999')", True),
        ("size(parse_json(item))", 20_000),
        ("size(lines(index).map(x, parse_json(x)[0]))", 500),
    ],
)
def test_long_texts_are_read(text: str, value: Any) -> None:
    with soon():
        assert compile_expression(text).value(LONG) == value


def test_what_the_expressions_of_a_template_make_counts_together() -> None:
    once = "{{ size(lines(task.output)) }}"
    with soon():
        assert Template.of(once * 5).render(LONG) == "12000" * 5
        with pytest.raises(ExpressionFailed, match="more values"):
            Template.of(once * 20).render(LONG)


def test_values_that_are_too_large_or_too_deep_are_not_looked_at() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    for given_ in (deep, ["x" * 1_000_000] * 100):
        with soon(), pytest.raises(ExpressionFailed, match="too large"):
            compile_expression("size(item)").value({"item": given_})


def test_a_template_costs_no_more_than_an_expression() -> None:
    once = "{{ task.result.filter(x, x != '') }}"
    assert Template.of(once).render(LARGE)
    many = {"task": {"result": LIST_TEXTS * 10}}
    assert Template.of(once).render(many)
    with soon(), pytest.raises(ExpressionFailed, match="too long"):
        Template.of(once * 20).render(many)
    with pytest.raises(InvalidCommand, match=f"may have {EXPRESSIONS_MAX}"):
        Template.of("{{ 1 }}" * (EXPRESSIONS_MAX + 1))


@pytest.mark.parametrize(
    "pattern",
    [
        "'(a{1,100}){100}b'",
        r"'a\x7b100\x7d'",
        r"r'\w{3}'",
        "task.output",
        "'a' + 'b'",
        f"'{'a' * PATTERN_CHARACTERS_MAX}'",
    ],
)
def test_a_pattern_is_a_short_text_that_stays_short(pattern: str) -> None:
    with pytest.raises(InvalidCommand, match="matches what is no text"):
        compile_expression(f"task.output.matches({pattern})")


@pytest.mark.parametrize("pattern", [r"\\w?" * 40 + "b", "(a*)*" * 38 + "b", "a?" * 95 + "b", "(a|b|ab)*" * 20 + "c"])
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    with soon(1):
        assert compile_expression(f"task.output.matches('{pattern}')").value(LARGE) is False


@pytest.mark.parametrize(
    "text,why",
    [
        ("x == 1", "names 'x'; there are index, item, run, task, tasks"),
        ("item.map(x, x) == x", "names 'x'"),
        ("task.output.lower()", "calls 'lower'"),
        ("map(item, x, x)", "calls 'map'"),
        ("item.existsOne(x, x == 1)", "calls 'existsOne'"),
        ("item.exists(tasks, tasks.plan)", "the name 'tasks'"),
        ("size(tasks[r'plan'])", "without a node"),
        ("'plan' in tasks.map(x, x)", "without a node"),
        ('"""a" + tasks + """', "without a node"),
    ],
)
def test_what_is_not_there_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        compile_expression(text)
    assert why in refusal.value.violations["expression"]


def test_names_in_texts_and_comments_are_no_names() -> None:
    expression = compile_expression(r"""run.input == "tasks \" x" || r'\' == task.output // tasks[nobody]""")
    assert expression.variables == {"run", "task"}
    assert not expression.tasks


def test_a_node_that_may_not_have_been_visited_can_be_asked_for() -> None:
    expression = compile_expression("'code-review' in tasks ? tasks['code-review'].output : ''")
    assert expression.tasks == {"code-review"}
    assert expression.value({"tasks": {}}) == ""


def test_what_is_no_number_in_json_is_no_value() -> None:
    for text in ("1.0 / 0.0", "[0.0 / 0.0]", "{1: 2}"):
        with pytest.raises(ExpressionFailed):
            compile_expression(text).value({})


_PIECES = (
    *("tasks", "run", "item", ".plan", "['plan']", ".map(", ".exists(", ".filter(", "x,", "x", "(", ")", "[", "]"),
    *("1", "-1", "2u", "0.5", "'a'", '"b"', "r'c'", "b'd'", "null", "true", "+", "-", "*", "/", "%", "==", "<", "in"),
    *(
        "&&",
        "||",
        "!",
        "?",
        ":",
        ",",
        ".",
        " ",
        "\n",
        "//",
        "size(",
        "has(",
        "lines(",
        "parse_json(",
        "int(",
        "double(",
        ".matches('a')",
        "\\",
    ),
    *("{", "}", "9223372036854775807", "-9223372036854775808", "\ud800", "\0", "é"),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join), st.recursive(st.none() | st.text(), st.lists))
def test_whatever_is_written_it_is_refused_or_has_a_value_or_fails(text: str, value: Any) -> None:
    try:
        result = compile_expression(text).value({"item": value, "run": {"plan": [value]}, "tasks": {"plan": value}})
    except (InvalidCommand, ExpressionFailed):
        return
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    "schema,why",
    [
        ({"$ref": "#/$defs/a", "$defs": {}}, "which is not there"),
        ({"$id": "https://example.org/", "type": "object"}, "cannot use '$id'"),
        ({"$dynamicRef": "#x"}, "cannot use '$dynamicRef'"),
        ({"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]}, "then it cannot use 'anyOf'"),
        ({"items": {"$ref": "#/$defs/a", "items": {"$ref": "#"}}, "$defs": {"a": {"$ref": "#"}}}, "beside a reference"),
        ({"properties": {"a": {"pattern": "(a{1,100}){100}b"}}}, "regex"),
        ({"pattern": "a" * 201}, "patterns of 200 characters"),
        ({"properties": {f"p{number}": {"pattern": "a"} for number in range(21)}}, "20 patterns"),
        ({"properties": {f"p{number}": {"$ref": "#"} for number in range(1_300)}}, "2,000 parts"),
        (
            {"properties": {f"p{at}": {"$ref": f"#/properties/p{at + 1}"} for at in range(700)} | {"p700": True}},
            "refers on, too often",
        ),
    ],
)
def test_a_schema_that_could_cost_much_is_refused(schema: dict[str, Any], why: str) -> None:
    with soon(1), pytest.raises(InvalidCommand) as refusal:
        schemas.check_schema(json.dumps(schema))
    assert why in refusal.value.violations["schema"]


def test_references_that_double_at_each_step_are_refused() -> None:
    definitions = {f"n{i}": {"anyOf": [{"$ref": f"#/$defs/n{i + 1}"}] * 2} for i in range(30)}
    with soon(1), pytest.raises(InvalidCommand, match="parts"):
        schemas.check_schema(json.dumps({"$ref": "#/$defs/n0", "$defs": {**definitions, "n30": {"type": "string"}}}))


def test_half_of_a_character_is_no_value() -> None:
    assert "is not JSON" in schemas.violations_of('{"type": "object"}', r'{"a": "\ud800"}')[0]


def test_a_place_in_a_value_is_a_json_pointer() -> None:
    schema = '{"additionalProperties": {"items": {"type": "string"}}}'
    assert schemas.violations_of(schema, '{"a/b~c": ["x", 1]}')[0].startswith("/a~1b~0c/1: ")


def test_all_that_is_wrong_with_a_value_is_told_only_where_that_takes_no_time() -> None:
    """30,000 numbers, each of which fits to a hundred choices: half a minute, in which nobody else got on."""
    choices = [{"minimum": number} for number in range(100)]
    schema = json.dumps({"type": "object", "properties": {"v": {"items": {"oneOf": choices}}}})
    with soon():
        (violation,) = schemas.violations_of(schema, json.dumps({"v": [1] * 30_000}, separators=(",", ":")))
    assert violation.startswith("/v/0: ")
    assert len(schemas.violations_of(schema, '{"v":[1,1,1]}')) == 3
    assert not schemas.violations_of(schema, '{"v":[0,0,0]}')
