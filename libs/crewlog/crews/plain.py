"""Plain values as people write them: texts, numbers, durations, dollars, words for enums, and JSON written as YAML."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from crewlog.crews.findings import Mark, quoted
from crewlog.crews.strict_yaml import Fields, Items, Kind, Scalar, Value
from google.protobuf.descriptor import EnumDescriptor

SECONDS_MAX = 2**31 - 1
USD_MAX = 1_000_000

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,10}) ?([smhd]?)")
_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,15})")
_USD = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,6})?")
_TRUE_OR_FALSE = {"true": True, "false": False}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?")
NUMBER_CHARACTERS_MAX = 40


class Unreadable(Exception):
    """Why the value cannot stand there; with a `field` where something within it is wrong."""

    def __init__(self, why: str, mark: Mark | None = None, field: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.mark = mark
        self.field = field

    def inner(self, path: str) -> str:
        return path + self.field


def text(value: Value) -> str:
    if not isinstance(value, Scalar):
        raise Unreadable("has to be a text")
    if value.kind is not Kind.TEXT:
        short = value.text if len(value.text) < 40 else "..."
        raise Unreadable(f'has to be a text: write it in quotes, "{short}"')
    return value.text


def yes_or_no(value: Value) -> bool:
    found = _TRUE_OR_FALSE.get(_scalar(value, "true or false").text.lower())
    if found is None or not isinstance(value, Scalar) or value.kind is not Kind.YES_OR_NO:
        raise Unreadable("has to be true or false")
    return found


def whole_number(value: Value, least: int, most: int) -> int:
    described = f"a whole number from {least} to {most}"
    scalar = _scalar(value, described)
    is_number = scalar.kind is Kind.WHOLE_NUMBER and _WHOLE_NUMBER.fullmatch(scalar.text)
    if not is_number or not least <= int(scalar.text) <= most:
        raise Unreadable(f"has to be {described}")
    return int(scalar.text)


def duration(value: Value) -> int:
    """In seconds."""
    described = "a duration of at least a second, such as 90, 90s, 30m, 2h or 1d"
    scalar = _scalar(value, described)
    found = _DURATION.fullmatch(scalar.text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= seconds <= SECONDS_MAX:
        raise Unreadable(f"has to be {described}")
    return seconds


def written_duration(seconds: int) -> str:
    """As it would be written in a file."""
    unit = next(unit for unit in reversed(_UNITS) if unit and seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def usd_micros(value: Value) -> int:
    described = "an amount of dollars, such as 2 or 1.5"
    scalar = _scalar(value, described)
    if not _USD.fullmatch(scalar.text) or not 0 < Decimal(scalar.text) <= USD_MAX:
        raise Unreadable(f"has to be {described}")
    return int(Decimal(scalar.text) * 1_000_000)


def enum(descriptor: EnumDescriptor, value: Value) -> int:
    numbers = words_of(descriptor)
    described = f"one of: {', '.join(numbers)}"
    word = _scalar(value, described).text
    if word not in numbers:
        raise Unreadable(f"has to be {described}; {quoted(word)} is none")
    return numbers[word]


def words_of(descriptor: EnumDescriptor) -> dict[str, int]:
    """What people write, such as `timed_out` for OUTCOME_TIMED_OUT."""
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {each.name.removeprefix(prefix).lower(): each.number for each in descriptor.values if each.number}


def json_text(value: Value) -> str:
    """The mapping as JSON, its fields in the order of the file."""
    if not isinstance(value, Fields):
        raise Unreadable("has to be a mapping, such as {type: object, properties: {...}}")
    return json.dumps(_json(value, ""), ensure_ascii=False, separators=(",", ":"))


def _json(value: Value, path: str) -> Any:
    match value:
        case Fields():
            return {key.text: _json(inner, f"{path}.{key.text}") for key, inner in value.values}
        case Items():
            return [_json(inner, f"{path}[{number}]") for number, inner in enumerate(value.values)]
        case Scalar(kind=Kind.NOTHING):
            return None
        case Scalar(kind=Kind.TEXT):
            return value.text
        case Scalar(kind=Kind.YES_OR_NO):
            return _json_bool(value, path)
        case _:
            return _json_number(value, path)


def _json_bool(value: Scalar, path: str) -> bool:
    found = _TRUE_OR_FALSE.get(value.text.lower())
    if found is None:
        why = f'may be a text or not: write "{value.text}" in quotes, or true or false'
        raise Unreadable(why, value.mark, path)
    return found


def _json_number(value: Scalar, path: str) -> int | float:
    if len(value.text) > NUMBER_CHARACTERS_MAX or not _NUMBER.fullmatch(value.text):
        raise Unreadable("has to be a number as JSON writes it, or a text in quotes", value.mark, path)
    number: int | float = json.loads(value.text)
    if number in (float("inf"), float("-inf")):
        raise Unreadable("is a number that is too large", value.mark, path)
    return number


def _scalar(value: Value, described: str) -> Scalar:
    if not isinstance(value, Scalar):
        raise Unreadable(f"has to be {described}")
    return value
