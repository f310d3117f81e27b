"""Names of properties, and values that a schema holds, are data: no word of it, whatever they are called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.workflow import schemas

WORDS = (
    *(
        "$anchor",
        "$comment",
        "$defs",
        "$dynamicAnchor",
        "$dynamicRef",
        "$id",
        "$recursiveAnchor",
        "$recursiveRef",
        "$ref",
    ),
    *(
        "$schema",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "contains",
        "default",
        "definitions",
        "dependencies",
    ),
    *("enum", "examples", "if", "items", "not", "oneOf", "pattern", "patternProperties", "properties", "type"),
)
MANY = range(schemas.PARTS_MAX)
PATTERNS: Any = {"patternProperties": {f"a{number}": True for number in range(schemas.PATTERNS_MAX + 1)}}


def fits(schema: Any, value: Any) -> bool:
    schemas.check_schema(json.dumps(schema))
    return not schemas.violations_of(json.dumps(schema), json.dumps(value))


def refused(schema: Any) -> str:
    with pytest.raises(InvalidCommand) as refusal:
        schemas.check_schema(json.dumps(schema))
    return refusal.value.violations["schema"]


@pytest.mark.parametrize("word", WORDS)
def test_a_property_may_be_called_as_a_word_is(word: str) -> None:
    schema = {"type": "object", "properties": {word: {"type": "string"}}, "required": [word]}
    assert fits(schema, {word: "x"})
    assert not fits(schema, {word: 1}) and not fits(schema, {})


@pytest.mark.parametrize("word", WORDS)
def test_a_property_of_a_schema_that_refers_to_itself_may_be_called_so(word: str) -> None:
    schema = {"type": "object", "properties": {word: {"type": "string"}, "inner": {"$ref": "#"}}}
    assert fits(schema, {"inner": {word: "x"}}) and not fits(schema, {"inner": {word: 1}})


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("written", ["https://example.org/a", "#/nowhere", "(", 7, {"a": "b"}])
def test_a_value_in_a_schema_is_no_schema(word: str, written: Any) -> None:
    value = {word: written}
    for schema in ({"enum": [value]}, {"const": value}, {"const": [value]}):
        assert fits(schema, schema.get("const", value)) and not fits(schema, {word: "other"})
    for free in ({"default": value}, {"examples": [value]}, {"x-own": value}):
        assert fits({**free, "type": "object"}, value) and not fits({**free, "type": "object"}, 1)


@pytest.mark.parametrize("place", ["const", "default", "x-own", "properties"])
@pytest.mark.parametrize("word", ["$id", "$anchor", "$dynamicRef"])
def test_what_is_referred_to_is_a_schema_wherever_it_stands(place: str, word: str) -> None:
    schema = {place: {"a": {"type": "string"}}, "items": {"$ref": f"#/{place}/a"}}
    assert refused({**schema, place: {"a": {word: "https://example.org/a"}}}).startswith(f"cannot use {word!r}")
    assert "patterns" in refused({**schema, place: {"a": PATTERNS}})
    if place != "const":
        assert fits(schema, ["x"]) and not fits(schema, [1])


@pytest.mark.parametrize("name", ["$defs", "definitions", "enum", "x"])
def test_what_stands_at_a_property_counts_whatever_that_is_called(name: str) -> None:
    large = {"properties": {f"a{number}": True for number in MANY}}
    assert "parts" in refused({"properties": {name: large}})
    assert "parts" in refused({"enum": [{f"a{number}": number for number in MANY}]})


@pytest.mark.parametrize(
    "around",
    [
        *({word: ...} for word in ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames")),
        *({word: ...} for word in ("then", "unevaluatedItems", "unevaluatedProperties", "additionalItems")),
        *({word: [..., True]} for word in ("allOf", "anyOf", "oneOf", "prefixItems")),
        *({word: {"a": ...}} for word in ("$defs", "definitions", "dependencies", "dependentSchemas", "properties")),
        {"patternProperties": {"a": ...}},
    ],
)
def test_a_schema_within_one_is_one(around: dict[str, Any]) -> None:
    def holding(inner: Any) -> Any:
        return json.loads(json.dumps(around, default=lambda _: inner))

    assert "cannot use '$id'" in refused(holding({"$id": "https://example.org/a"}))
    assert "cannot use '$ref'" in refused(holding({"$ref": "https://example.org/a"}))
    assert "patterns" in refused(holding(PATTERNS))
    schemas.check_schema(json.dumps(holding({"const": {"$id": "a"}})))


def test_a_reference_is_written_as_it_is_meant() -> None:
    """Whoever decodes it finds something else than whoever counts what it leads to."""
    assert "'%'" in refused({"$defs": {"a": {"type": "string"}, "%61": {}}, "items": {"$ref": "#/$defs/%61"}})
