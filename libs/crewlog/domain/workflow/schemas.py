"""Structured results: what a JSON Schema may be, and whether a value fits.

A schema stands for itself: it refers to nothing outside. Its regular expressions are matched in linear time. Both come
from others, so that no schema is accepted with which a value could be looked at too often.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, cast

from crewlog.domain.errors import InvalidCommand

SCHEMA_BYTES_MAX = 32 * 1024
VALUE_BYTES_MAX = 64 * 1024
DEPTH_MAX = 32
VIOLATIONS_MAX = 10
VIOLATION_CHARACTERS_MAX = 300
COMPILED_KEPT_MAX = 256
PARTS_MAX = 2_000
"""Of a schema, each as often as something refers to it."""
CHECKS_MAX = 20_000
"""Of each part of a schema with each part of a value: some tenths of a second, when all that does not fit is looked
for; of more, the first is told."""
PATTERNS_MAX = 20
PATTERN_CHARACTERS_MAX = 200
PATTERN_BYTES_MAX = 100_000
"""Of a pattern when it is compiled."""

# Where schemas stand in a schema: one, several, or several by names. All else is data, and so are the names.
_ONE = frozenset(
    {"additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not"}
    | {"propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"}
)
_SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_BY_NAME = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"})
_NOT_HERE = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef"})
_DEFINITIONS = frozenset({"$defs", "definitions"})
_BESIDE = _DEFINITIONS | {"$comment", "$ref", "$schema", "description", "title"}
# With one of these, what refers to itself looks at the same value in several ways, and twice as many one level deeper.
_BRANCHES = frozenset(
    {"allOf", "anyOf", "contains", "dependentSchemas", "else", "if", "not", "oneOf", "patternProperties", "then"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)


def check_schema(text: str) -> None:
    """Raises InvalidCommand that says what is wrong with it."""
    _validator(text)


def violations_of(schema_json: str, value_json: str) -> list[str]:
    """What does not fit, each with the place in the value as a JSON pointer, at most VIOLATIONS_MAX; empty where all
    does. The schema has to be a valid one."""
    try:
        value = parsed(value_json, VALUE_BYTES_MAX)
    except ValueError as problem:
        return [str(problem)]
    found = []
    for error in _errors(_validator(schema_json), value):
        found.append(f"{_pointer(error.instance_path)}: {error.message}"[:VIOLATION_CHARACTERS_MAX])
        if len(found) == VIOLATIONS_MAX:
            break
    return found


def _errors(known: _Validator, value: Any) -> Iterable[Any]:
    """The library collects all before it gives the first: where there may be many, the first is all that is told."""
    import jsonschema_rs

    if known.validator.is_valid(value):
        return ()
    if known.parts * _count(value) <= CHECKS_MAX:
        return cast("Iterable[Any]", known.validator.iter_errors(value))
    try:
        known.validator.validate(value)
    except jsonschema_rs.ValidationError as first:
        return (first,)
    return ()


@dataclass(frozen=True, slots=True)
class _Validator:
    """`parts` is how many the schema has, each as often as something refers to it."""

    validator: Any
    parts: int


@lru_cache(COMPILED_KEPT_MAX)
def _validator(text: str) -> _Validator:
    import jsonschema_rs

    try:
        schema = parsed(text, SCHEMA_BYTES_MAX)
    except ValueError as problem:
        _refuse(str(problem))
    if not isinstance(schema, dict):
        _refuse("has to be an object")
    parts = _checked_parts(schema)
    try:
        jsonschema_rs.meta.validate(schema)
        validator = jsonschema_rs.Draft202012Validator(
            schema, retriever=_nothing_outside, pattern_options=jsonschema_rs.RegexOptions(PATTERN_BYTES_MAX)
        )
        return _Validator(validator, parts)
    except (ValueError, jsonschema_rs.ReferencingError) as problem:
        _refuse(str(problem).strip().splitlines()[0][:VIOLATION_CHARACTERS_MAX])


def _checked_parts(schema: dict[str, Any]) -> int:
    """How many there are, where there are not too many."""
    inner = _all_parts(schema)
    patterns = [pattern for part in inner for word, value in part.items() for pattern in _patterns(word, value)]
    if len(patterns) > PATTERNS_MAX or max(map(len, patterns), default=0) > PATTERN_CHARACTERS_MAX:
        _refuse(f"can have {PATTERNS_MAX} patterns of {PATTERN_CHARACTERS_MAX} characters")
    try:
        parts = _Parts(schema, _no_recursion(inner)).of(schema, (), {})
    except RecursionError:
        _refuse("refers to what refers on, too often")
    if parts > PARTS_MAX:
        _refuse(f"has more than {PARTS_MAX:,} parts, each counted as often as something refers to it")
    return parts


@dataclass(frozen=True, slots=True)
class _Parts:
    """How many parts there are, through all references, data included. `no_recursion`: what is in the way of one that
    leads back to itself; empty for nothing."""

    schema: dict[str, Any]
    no_recursion: str

    def of(self, part: Any, within: tuple[str, ...], known: dict[str, int]) -> int:
        if not isinstance(part, dict):
            return _count(part)
        words = (item for item in part.items() if item[0] not in _DEFINITIONS)
        count = 1 + sum(self._at(word, value, within, known) for word, value in words)
        reference = part.get("$ref")
        return count + self._of_reference(reference, within, known) if isinstance(reference, str) else count

    def _at(self, word: str, value: Any, within: tuple[str, ...], known: dict[str, int]) -> int:
        inner = _inside(word, value)
        if not inner:
            return _count(value)
        return (word not in _ONE) + sum(self.of(each, within, known) for each in inner.values())

    def _of_reference(self, reference: str, within: tuple[str, ...], known: dict[str, int]) -> int:
        if reference in within and self.no_recursion:
            _refuse(f"refers to itself by {reference[:80]!r}; {self.no_recursion}")
        if reference in within:
            return 0
        if reference not in known:
            known[reference] = self.of(_referred(self.schema, reference), (*within, reference), known)
        return known[reference]


def _no_recursion(parts: Sequence[dict[str, Any]]) -> str:
    branching = sorted(_BRANCHES.intersection(word for part in parts for word in part))
    if branching:
        return f"then it cannot use {branching[0]!r}"
    if any("$ref" in part and part.keys() - _BESIDE for part in parts):
        return "then nothing that says more can stand beside a reference"
    return ""


def _referred(schema: dict[str, Any], reference: str) -> Any:
    part: Any = schema
    for name in _steps(reference):
        if not isinstance(part, dict) or name not in part:
            _refuse(f"refers to {reference[:80]!r}, which is not there")
        part = part[name]
    return part


def _steps(reference: str) -> tuple[str, ...]:
    steps = reference[2:].split("/") if reference != "#" else ()
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in steps)


def _all_parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Every schema in it, each once. What is referred to is one, wherever it stands."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    left: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while left:
        place, part = left.pop()
        if isinstance(part, dict) and place not in found:
            found[place] = part
            inner = (item for word, value in part.items() for item in _inside(word, value).items())
            left += [((*place, *steps), each) for steps, each in inner]
            left += [(_steps(reference), _referred(schema, reference)) for reference in _references(part)]
    return [*found.values()]


def _references(part: dict[str, Any]) -> Iterator[str]:
    for word, value in part.items():
        if word in _NOT_HERE or (word == "$ref" and isinstance(value, str) and value[:2] not in ("#", "#/")):
            _refuse(f"cannot use {word!r}: references are `#` or `#/$defs/name`")
        if word == "$ref" and isinstance(value, str):
            if "%" in value:
                _refuse(f"refers to {value[:80]!r}: write the character in place of its number after '%'")
            yield value


def _patterns(word: str, value: Any) -> list[str]:
    if word == "pattern":
        return [value] if isinstance(value, str) else []
    return [*value] if word == "patternProperties" and isinstance(value, dict) else []


def _inside(word: str, value: Any) -> dict[tuple[str, ...], Any]:
    """The schemas that stand at this word, by their places."""
    if word in _ONE:
        return {(word,): value}
    if word in _SEVERAL and isinstance(value, list):
        return {(word, str(number)): each for number, each in enumerate(value)}
    return {(word, name): each for name, each in value.items()} if word in _BY_NAME and isinstance(value, dict) else {}


def _pointer(path: list[str | int]) -> str:
    return "/" + "/".join(str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _nothing_outside(uri: str) -> NoReturn:
    raise ValueError(f"refers to {uri[:80]!r}: a schema has to stand for itself")


def parsed(text: str, bytes_max: int) -> Any:
    """A value of JSON that everybody can go through: what is nested too deep could not be read again somewhere else.
    Raises ValueError that says why not."""
    if len(text.encode(errors="replace")) > bytes_max:
        raise ValueError(f"is larger than {bytes_max} bytes")
    try:
        value = json.loads(text, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"is nested more than {DEPTH_MAX} deep") from None
    except ValueError as problem:
        raise ValueError(f"is not JSON: {problem}") from None
    _check_depth(value, DEPTH_MAX)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _count(value: Any) -> int:
    """The value, and all that is in it."""
    return 1 + sum(map(_count, value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()))


def _check_depth(value: Any, left: int) -> None:
    if not left:
        raise ValueError(f"is nested more than {DEPTH_MAX} deep")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(inner, left - 1)


def _refuse(why: str) -> NoReturn:
    raise InvalidCommand(f"the schema {why}", violations={"schema": why})
