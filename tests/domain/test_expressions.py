"""Expressions, templates and schemas: what they accept, what they refuse, and that values are never anything else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow import schemas
from crewlog.domain.workflow.expressions import CHARACTERS_MAX, ExpressionFailed, compile_expression
from crewlog.domain.workflow.templates import RENDERED_BYTES_MAX, Template, escaped
from hypothesis import given
from hypothesis import strategies as st

CONTEXT = {
    "tasks": {"plan": {"result": {"parts": [1, 2, 3], "title": "it"}}, "write-tests": {"output": "ok"}},
    "task": {"result": None, "visit": 2},
}


@pytest.mark.parametrize(
    "text,value",
    [
        ("size(tasks.plan.result.parts) == 3", True),
        ('tasks["write-tests"].output', "ok"),
        ("tasks [ 'write-tests' ] . output", "ok"),
        ("has(tasks.nobody)", False),
        ("has(tasks.nobody) && tasks.nobody.result.x > 3", False),
        ("tasks.plan.result.parts.map(p, p * 2)", [2, 4, 6]),
        ("tasks.plan.result.parts.exists(p, p == 2)", True),
        ("task.result == null", True),
        ("task.visit == 2.0", True),
        ("'tasks' + \"tasks[x]\"", "taskstasks[x]"),
        ("{'tasks': 1}.tasks", 1),
    ],
)
def test_what_an_expression_is_worth(text: str, value: Any) -> None:
    assert compile_expression(text).value(CONTEXT) == value


PRINTED = {
    "tasks": {"list": {"output": "b.py\r\n\n  \na b.py\n c.md", "result": {"report": None}}},
    "run": {"input": '{"parts": [{"n": 1}, {"n": 2.5}], "é": null}', "id": '{"n": 1}\n{"n": 2}'},
    "item": "[" * 20_000,
}


@pytest.mark.parametrize(
    "text,value",
    [
        ("lines(tasks.list.output)", ["b.py", "a b.py", " c.md"]),
        ("lines('')", []),
        ("lines(tasks.list.output + '\\nd.py').filter(f, f.endsWith('.py'))", ["b.py", "a b.py", "d.py"]),
        ("size(lines(tasks.list.output)) > 2", True),
        ("'b.py' in lines(tasks.list.output)", True),
        ("parse_json(run.input).parts.map(p, p.n)", [1, 2.5]),
        ("parse_json(run.input)", {"parts": [{"n": 1}, {"n": 2.5}], "é": None}),
        ("has(parse_json(run.input).other)", False),
        ("parse_json(' true ')", True),
        ("lines(run.id).map(each, parse_json(each).n)", [1, 2]),
        ("false && parse_json(tasks.list.output)", False),
    ],
)
def test_what_was_printed_becomes_values(text: str, value: Any) -> None:
    assert compile_expression(text).value(PRINTED) == value
    assert Template.of(f"<{{{{ {text} }}}}>").render(PRINTED) == f"<{json.dumps(value, ensure_ascii=False)}>"


@pytest.mark.parametrize(
    "text,why",
    [
        ("lines(tasks.list.result.report)", r"lines\(...\) needs a text, and is given nothing"),
        ("lines(tasks.list.result)", "needs a text, and is given several fields"),
        ("parse_json(tasks.list.output)", r"parse_json\(...\) is given no JSON: Expecting value \(line 1, column 1\)"),
        ("parse_json('[1, ]')", r"line 1, column 5"),
        ("parse_json('')", "no JSON"),
        ("parse_json('NaN')", "NaN is no number"),
        ("parse_json('[1e999]')", "a number that is too large: 1e999"),
        ("parse_json('9223372036854775808')", "a number of more than 64 bits: 9223372036854775808"),
        ("parse_json(item)", "nested too deep"),
        (r"parse_json('\"\\ud800\"')", "half of a character"),
        ("parse_json('no') || true", "no JSON"),
        ("parse_json('no').x == 1 ? 1 : 2", "no JSON"),
        ("size(parse_json('7')) == 1", r"size\(...\) cannot be given this value"),
    ],
)
def test_what_was_printed_can_be_something_else(
    text: str, why: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExpressionFailed, match=why):
        compile_expression(text).value(PRINTED)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


def test_an_expression_knows_what_it_needs() -> None:
    expression = compile_expression("tasks.plan.result.parts.all(p, p > 0) && tasks['write-tests'].output == run.input")
    assert expression.tasks == {"plan", "write-tests"}
    assert expression.variables == {"tasks", "run"}


@pytest.mark.parametrize(
    "text,why",
    [
        ("", "cannot be read"),
        ("1 ++ 2", "line 1, column 4"),
        ("now() > 1", "calls 'now'"),
        ("timestamp('2020-01-01T00:00:00Z') != null", "calls 'timestamp'"),
        ("tasks[item].x", "uses `tasks` without a node"),
        ("tasks.map(t, t)", "uses `tasks` without a node"),
        ("size(tasks)", "uses `tasks` without a node"),
        ("tasks['a\\u0062'].x", "uses `tasks` without a node"),
        ("[1].map(a, [1].map(b, [1].map(c, 1)))", "loops more than 2 times"),
        ("[1].map(run, run)", "the name 'run'"),
        ("(" * 400 + "1" + ")" * 400, "cannot be read"),
        ("1 + " * 300 + "1", f"longer than {CHARACTERS_MAX}"),
    ],
)
def test_what_is_refused_before_it_is_worked_out(text: str, why: str) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        compile_expression(text)
    assert why in refusal.value.violations["expression"]


@pytest.mark.parametrize(
    "text", ["tasks.nobody.x", "1 / 0", "task.result.x", "'a' + 1", "int('x')", "[1][5]", "'a'.matches('[')", "b'a'"]
)
def test_what_has_no_value(text: str) -> None:
    with pytest.raises(ExpressionFailed):
        compile_expression(text).value(CONTEXT)


def test_values_stand_in_the_same_order_each_time() -> None:
    """That of the value where the whole of it is named, else that of the alphabet."""
    value = {"tasks": {"plan": {"result": {name: {"z": 1, "a": 2} for name in "hgfedcba"}}}}
    for _ in range(5):
        assert "".join(compile_expression("tasks.plan['result']").value(value)) == "hgfedcba"
        assert "".join(compile_expression("tasks.plan.result.h").value(value)) == "za"
        made = compile_expression("[tasks.plan.result]").value(value)
        assert ("".join(made[0]), "".join(made[0]["h"])) == ("abcdefgh", "az")
    assert Template.of("{{ tasks.plan.result.h }}").render(value) == '{"z": 1, "a": 2}'


def test_a_condition_is_true_or_false() -> None:
    with pytest.raises(ExpressionFailed, match="true or false"):
        compile_expression("1 + 1").holds(CONTEXT)


def test_a_regular_expression_does_not_take_for_ever() -> None:
    began = time.process_time()
    compile_expression("task.text.matches('(a+)+$')").value({"task": {"text": "a" * 20_000 + "!"}})
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "text,rendered",
    [
        ("no values", "no values"),
        ("a {{ tasks.plan.result.title }} b", "a it b"),
        ("{{tasks.plan.result.parts}}", "[1, 2, 3]"),
        ("{{ {'a': {'b': 1}} }}", '{"a": {"b": 1}}'),
        ("{{ '}}' }}", "}}"),
        (r"\{{ 1 }}", "{{ 1 }}"),
        ("} { }}", "} { }}"),
    ],
)
def test_what_a_template_becomes(text: str, rendered: str) -> None:
    assert Template.of(text).render(CONTEXT) == rendered


@pytest.mark.parametrize(
    "text,why",
    [
        ("a\n {{ 1", "in line 2, column 2 is not closed"),
        ("{{ }}", "in line 1, column 1 cannot be read"),
        ("{{ tasks }}", "uses `tasks` without a node"),
        ("{{ '}} }}", "is not closed"),
    ],
)
def test_what_is_no_template(text: str, why: str) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        Template.of(text)
    assert why in refusal.value.violations["template"]


@given(st.text(alphabet="{}\\ a\n'\"") | st.text())
def test_a_value_is_inserted_as_it_is(value: str) -> None:
    assert Template.of("<{{ task.output }}>").render({"task": {"output": value}}) == f"<{value}>"


@given(st.text(alphabet="{}\\ a\n'\"") | st.text())
def test_an_escaped_text_stays_what_it_is(text: str) -> None:
    assert Template.of(escaped(text)).render({}) == text


def test_a_text_that_becomes_too_large() -> None:
    with pytest.raises(ExpressionFailed, match="larger than"):
        Template.of("{{ task.output }}").render({"task": {"output": "x" * (RENDERED_BYTES_MAX + 1)}})


VERDICT = json.dumps(
    {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "why": {"type": "string", "pattern": "^(a+)+$"}},
        "required": ["ok"],
    }
)


@pytest.mark.parametrize(
    "value,place",
    [
        ('{"ok": true}', ""),
        ('{"ok": 1}', "/ok: "),
        ("{}", "/: "),
        ("[]", "/: "),
        ("{", "is not JSON"),
        ('{"ok": NaN}', "is not JSON"),
        ('{"ok": true, "why": "' + "a" * 30_000 + '!"}', "/why: "),
        ('{"ok": true, "x": ' + "[" * 40 + "]" * 40 + "}", "deep"),
        ('{"x": "' + "x" * schemas.VALUE_BYTES_MAX + '"}', "larger"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(value: str, place: str) -> None:
    found = schemas.violations_of(VERDICT, value)
    assert (place in found[0]) if place else not found
    assert all(len(each) <= schemas.VIOLATION_CHARACTERS_MAX for each in found)


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "[]",
        "true",
        '{"type": "strin"}',
        '{"$ref": "https://example.org/schema.json"}',
        '{"$ref": "file:///etc/passwd"}',
        '{"type": "string", "pattern": "("}',
        '{"type": "string", "pattern": "(?=a)b"}',
        '{"x": ' + "[" * 5_000 + "]" * 5_000 + "}",
        '{"description": "' + "x" * schemas.SCHEMA_BYTES_MAX + '"}',
    ],
)
def test_what_is_no_schema(schema: str) -> None:
    with pytest.raises(InvalidCommand):
        schemas.check_schema(schema)


def test_a_schema_may_refer_to_itself() -> None:
    tree = '{"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}'
    assert schemas.violations_of(tree, '{"kids": [{"kids": []}]}') == []
    assert schemas.violations_of(tree, '{"kids": [1]}')


def test_only_so_many_violations_are_named() -> None:
    many = json.dumps(dict.fromkeys((f"k{number}" for number in range(100)), 1))
    schema = '{"additionalProperties": {"type": "string"}}'
    assert len(schemas.violations_of(schema, many)) == schemas.VIOLATIONS_MAX
