"""Arithmetic with what is limited: dollars, tokens, model calls. In a limit, 0 means that the unit is not limited."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from crewlog.domain.errors import InvalidCommand
from crewlog.v1 import budget_pb2

UNITS = ("usd_micros", "input_tokens", "output_tokens", "model_calls")
AMOUNT_MAX = 10**15
"""A billion dollars: above it is a slip of the pen, and far below what a field can hold."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """So much of each unit; never more than one sum away from what a field can hold."""

    usd_micros: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0

    @classmethod
    def of(cls, message: budget_pb2.Amounts | budget_pb2.Limit) -> Amounts:
        if not message.ByteSize():
            return ZERO
        return cls(message.usd_micros, message.input_tokens, message.output_tokens, message.model_calls)

    def __add__(self, other: Amounts) -> Amounts:
        return self._with(other, int.__add__) if other else self

    def __sub__(self, other: Amounts) -> Amounts:
        return self._with(other, int.__sub__) if other else self

    def __bool__(self) -> bool:
        return bool(self.usd_micros or self.input_tokens or self.output_tokens or self.model_calls)

    def at_most(self, other: Amounts) -> Amounts:
        return self._with(other, min)

    def at_least_zero(self) -> Amounts:
        return self._with(ZERO, max)

    def message(self) -> budget_pb2.Amounts:
        return budget_pb2.Amounts(
            usd_micros=self.usd_micros,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            model_calls=self.model_calls,
        )

    def limit(self) -> budget_pb2.Limit:
        return budget_pb2.Limit(
            usd_micros=self.usd_micros,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            model_calls=self.model_calls,
        )

    def _with(self, other: Amounts, combine: Callable[[int, int], int]) -> Amounts:
        return Amounts(
            combine(self.usd_micros, other.usd_micros),
            combine(self.input_tokens, other.input_tokens),
            combine(self.output_tokens, other.output_tokens),
            combine(self.model_calls, other.model_calls),
        )


ZERO = Amounts()


def limited_units(limit: Amounts) -> tuple[str, ...]:
    return tuple(unit for unit in UNITS if getattr(limit, unit))


def fits(limit: Amounts, used: Amounts) -> bool:
    """Whether no limited unit is exceeded."""
    return not over(limit, used)


def over(limit: Amounts, used: Amounts) -> Amounts:
    """By how much each limited unit is exceeded."""
    return _where_limited(limit, (used - limit).at_least_zero())


def left(limit: Amounts, used: Amounts) -> Amounts:
    """What remains of each limited unit; 0 also for units that are not limited."""
    return _where_limited(limit, (limit - used).at_least_zero())


def only_limited(limit: Amounts, amounts: Amounts) -> Amounts:
    """The amounts in the units that are limited."""
    return _where_limited(limit, amounts)


def share(amounts: Amounts, parts: int) -> Amounts:
    """An equal part, rounded down."""
    return Amounts(*(getattr(amounts, unit) // max(1, parts) for unit in UNITS))


def proportion(excess: Amounts, held: Amounts, of: Amounts) -> Amounts:
    """What one of those who hold `of` together gives up of an excess, rounded up."""
    units = ((getattr(excess, u), getattr(held, u), max(1, getattr(of, u))) for u in UNITS)
    return Amounts(*(-(-over * own // all_held) for over, own, all_held in units))


def percent_of(limit: Amounts, used: Amounts) -> int:
    """The largest share of a limited unit that is used, rounded down; 0 where nothing is limited."""
    return max((getattr(used, unit) * 100 // getattr(limit, unit) for unit in limited_units(limit)), default=0)


def total(many: Iterable[Amounts]) -> Amounts:
    result = ZERO
    for amounts in many:
        result = result + amounts
    return result


def check(field: str, message: budget_pb2.Amounts | budget_pb2.Limit, *, needs_one: bool = False) -> None:
    """Refuses what is negative or beyond AMOUNT_MAX, and nothing at all where something is needed."""
    for unit in UNITS:
        if not 0 <= getattr(message, unit) <= AMOUNT_MAX:
            why = f"has to be 0 to {AMOUNT_MAX}"
            raise InvalidCommand(f"{field}.{unit} {why}", violations={f"{field}.{unit}": why})
    if needs_one and not Amounts.of(message):
        raise InvalidCommand(f"{field} is empty: give an amount", violations={field: "is empty"})


def _where_limited(limit: Amounts, amounts: Amounts) -> Amounts:
    return Amounts(*(getattr(amounts, unit) if getattr(limit, unit) else 0 for unit in UNITS))
