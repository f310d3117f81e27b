"""The functions that expressions have beside those of CEL: what a command has printed becomes values. They are pure,
and what they make counts as if the expression had been given it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from crewlog.domain.workflow.expression_costs import COPIES_MAX, VALUES_MAX, Cost, Spent, weighed

COMPARED_CHARACTERS_MAX = 50_000_000
_WHOLE_NUMBER_MAX = 2**63 - 1
_KINDS = {type(None): "nothing", bool: "true or false", int: "a number", float: "a number", list: "a list"}


class Calls:
    """The calls of one evaluation, which is paid for here. The library logs what a function raises, and `||` hides it:
    so the first failure is kept instead, and whoever evaluates has to look at it. `cut` are the texts that are not
    whole: no function may take them for all that there is."""

    def __init__(self, cost: Cost, spent: Spent, weight: int, longest: int, cut: Iterable[CutText] = ()) -> None:
        self.failure = ""
        self._cut: dict[str, int] = {text: text.cut_from_bytes for text in cut}
        self._compared = 0
        self._cost = cost
        self._spent = spent
        self._before = spent.copies
        spent.copies += cost.copies(weight, longest)
        self._weight = weight
        self._longest = longest

    def functions(self) -> dict[str, Callable[..., Any]]:
        return {name: self._counted(name, function) for name, function in FUNCTIONS.items()}

    def _counted(self, name: str, function: Callable[[str], Any]) -> Callable[..., Any]:
        def call(text: Any = None) -> Any:
            if self.failure:
                return None
            try:
                self._check_whole(text)
                return self._paid(text, function(_text(text)))
            except _Wrong as problem:
                self.failure = f"{name}(...) {problem}"
                return None

        return call

    def _check_whole(self, text: Any) -> None:
        """Also what a part was put together with something else."""
        if not self._cut or not isinstance(text, str):
            return
        size = self._cut.get(text) or next((size for part, size in self._parts(text) if part in text), 0)
        if size:
            raise _Wrong(
                f"is given an output of {size} bytes of which some are left out: let the command print less, or lead on"
                " by an edge `when: task.output_cut_from_bytes == 0`"
            )

    def _parts(self, text: str) -> Iterator[tuple[str, int]]:
        for part, size in self._cut.items() if self._cost.joins else ():
            self._compared += 1_000 + len(text)
            if self._compared > COMPARED_CHARACTERS_MAX:
                raise _Wrong("has too many texts to look for what is left out of them")
            yield part, size

    def _paid(self, text: str, value: Any) -> Any:
        weight, longest = weighed([text, value])
        self._weight += weight
        self._spent.values += weight
        self._longest = max(self._longest, longest)
        self._spent.copies = self._before + self._cost.copies(self._weight, self._longest)
        if self._spent.values > VALUES_MAX or self._spent.copies > COPIES_MAX:
            raise _Wrong("makes more values than can be gone through")
        return value


class CutText(str):
    """Of a text that was once `cut_from_bytes` long what is there."""

    cut_from_bytes: int

    @classmethod
    def of(cls, text: str, cut_from_bytes: int) -> str:
        """The text itself where nothing of it is left out."""
        if not cut_from_bytes:
            return text
        cut = cls(text)
        cut.cut_from_bytes = cut_from_bytes
        return cut


def cut_texts(values: Sequence[Any]) -> Iterator[CutText]:
    """Those among the values, however deep."""
    level = values
    while level:
        yield from (each for each in level if isinstance(each, CutText))
        held = [each for each in level if isinstance(each, (list, Mapping))]
        level = [part for each in held for part in (each.values() if isinstance(each, Mapping) else each)]


class _Wrong(Exception):
    """Why there is no value."""


def _lines(text: str) -> list[str]:
    """Without their ends, and without those in which nothing stands."""
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def _parse_json(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_int=_whole_number, parse_float=_number)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as problem:
        raise _Wrong(f"is given no JSON: {problem.msg} (line {problem.lineno}, column {problem.colno})") from None
    except RecursionError:
        raise _Wrong("is given JSON that is nested too deep") from None
    except UnicodeEncodeError:
        raise _Wrong("is given JSON with half of a character") from None
    return value


def _no_constant(name: str) -> Any:
    raise _Wrong(f"is given no JSON: {name} is no number of it")


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or not -_WHOLE_NUMBER_MAX <= int(digits) <= _WHOLE_NUMBER_MAX:
        raise _Wrong(f"is given a number of more than 64 bits: {digits[:24]}; it has to be a text")
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Wrong(f"is given a number that is too large: {digits[:24]}")
    return number


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    given = "several fields" if isinstance(value, Mapping) else _KINDS.get(type(value), "something else")
    raise _Wrong(f"needs a text, and is given {given}")


FUNCTIONS: Mapping[str, Callable[[str], Any]] = {"lines": _lines, "parse_json": _parse_json}
