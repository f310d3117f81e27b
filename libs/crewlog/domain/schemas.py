"""Structured results: what a JSON Schema may be, and whether a value fits.

A schema stands for itself: it refers to nothing outside. Its regular expressions are matched in linear time.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NoReturn

from crewlog.domain.errors import InvalidCommand

SCHEMA_BYTES_MAX = 32 * 1024
VALUE_BYTES_MAX = 64 * 1024
DEPTH_MAX = 32
VIOLATIONS_MAX = 10
VIOLATION_CHARACTERS_MAX = 300
COMPILED_KEPT_MAX = 256


def check_schema(text: str) -> None:
    """Raises InvalidCommand that says what is wrong with it."""
    _validator(text)


def violations_of(schema_json: str, value_json: str) -> list[str]:
    """What does not fit, each with the place in the value as a JSON pointer, at most VIOLATIONS_MAX; empty where all
    does. The schema has to be a valid one."""
    try:
        value = _parsed(value_json, VALUE_BYTES_MAX)
    except ValueError as problem:
        return [str(problem)]
    found = []
    for error in _validator(schema_json).iter_errors(value):
        found.append(f"/{'/'.join(map(str, error.instance_path))}: {error.message}"[:VIOLATION_CHARACTERS_MAX])
        if len(found) == VIOLATIONS_MAX:
            break
    return found


@lru_cache(COMPILED_KEPT_MAX)
def _validator(text: str) -> Any:
    import jsonschema_rs

    try:
        schema = _parsed(text, SCHEMA_BYTES_MAX)
    except ValueError as problem:
        _refuse(str(problem))
    if not isinstance(schema, dict):
        _refuse("has to be an object")
    try:
        jsonschema_rs.meta.validate(schema)
        return jsonschema_rs.Draft202012Validator(
            schema, retriever=_nothing_outside, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (ValueError, jsonschema_rs.ReferencingError) as problem:
        _refuse(str(problem).strip().splitlines()[0][:VIOLATION_CHARACTERS_MAX])


def _nothing_outside(uri: str) -> NoReturn:
    raise ValueError(f"refers to {uri[:80]!r}: a schema has to stand for itself")


def _parsed(text: str, bytes_max: int) -> Any:
    """Raises ValueError that says why not."""
    if len(text.encode(errors="replace")) > bytes_max:
        raise ValueError(f"is larger than {bytes_max} bytes")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"is nested more than {DEPTH_MAX} deep") from None
    except ValueError as problem:
        raise ValueError(f"is not JSON: {problem}") from None
    _check_depth(value, DEPTH_MAX)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_depth(value: Any, left: int) -> None:
    if not left:
        raise ValueError(f"is nested more than {DEPTH_MAX} deep")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(inner, left - 1)


def _refuse(why: str) -> NoReturn:
    raise InvalidCommand(f"the schema {why}", violations={"schema": why})
