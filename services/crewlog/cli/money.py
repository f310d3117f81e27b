"""Amounts as people give them, read exactly: a limit is never a little more than was meant."""

from __future__ import annotations

import re
from decimal import Decimal

from crewlog.domain.amounts import AMOUNT_MAX
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.budget_pb2 import Amounts, Limit

DECIMALS_MAX = 6
MICROS = 1_000_000
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)", re.ASCII)
_WITH_UNIT = re.compile(r"-?[\d.,]+\s*[A-Za-z€£¥]+|[€£¥]\s*[\d.,]+|[A-Z]{3}\s*[\d.,]+")
_US_DOLLARS = re.compile(r"[\d.]+\s*(?:usd|dollars?)|usd\s*[\d.]+", re.IGNORECASE)


def usd_micros(text: str, name: str = "--budget") -> int:
    """`0.50` is 500,000. Raises InvalidCommand for what is no amount of dollars, or finer than a micro-dollar."""
    if not _NUMBER.fullmatch(text):
        raise _refused(name, text, *_what_is_wrong(text))
    if len(text.partition(".")[2].rstrip("0")) > DECIMALS_MAX:
        raise _refused(name, text, "is finer than a micro-dollar", f"give at most {DECIMALS_MAX} decimals")
    if len(text) > 40 or Decimal(text) * MICROS > AMOUNT_MAX:
        largest = AMOUNT_MAX // MICROS
        raise _refused(name, text, "is too large", f"{largest:,} dollars are the most")
    return int(Decimal(text) * MICROS)


def limit(dollars: str, *, input_tokens: int = 0, output_tokens: int = 0, calls: int = 0, name: str) -> Limit:
    """An empty amount of dollars is no limit of them."""
    return Limit(
        usd_micros=usd_micros(dollars, name) if dollars else 0,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        model_calls=calls,
    )


def amounts(dollars: str, *, input_tokens: int = 0, output_tokens: int = 0, calls: int = 0) -> Amounts:
    """Something, in at least one unit."""
    found = any_amounts(dollars, input_tokens=input_tokens, output_tokens=output_tokens, calls=calls)
    check_some(found)
    return found


def any_amounts(dollars: str, *, input_tokens: int = 0, output_tokens: int = 0, calls: int = 0) -> Amounts:
    """Perhaps nothing."""
    found = limit(dollars, input_tokens=input_tokens, output_tokens=output_tokens, calls=calls, name="the amount")
    return Amounts.FromString(found.SerializeToString())


def check_some(found: Amounts) -> None:
    """Raises InvalidCommand for nothing."""
    if not found.ByteSize():
        raise InvalidCommand(
            "the amount is empty", what_to_do="say how much, such as 5 for five dollars, or --calls 10"
        )


def _what_is_wrong(text: str) -> tuple[str, str]:
    if not text.strip():
        return "is empty", "give an amount such as 0.50; a shell makes nothing of `$5`, so leave out the $"
    if text.startswith("$"):
        return "has a $", f"leave it out: {text[1:].strip()}"
    if text.startswith("-"):
        return "is negative", "give what it may be at most, or use `crewlog budget lower`"
    if _US_DOLLARS.fullmatch(text):
        return "names its currency", "leave it out: every amount is in US dollars"
    if _WITH_UNIT.fullmatch(text):
        return "is in another currency", "only US dollars are known: give the number alone, such as 5.40"
    return "is no number", "give one such as 0.50, or 0 for no limit"


def _refused(name: str, text: str, why: str, what_to_do: str) -> InvalidCommand:
    return InvalidCommand(f"{name} {text[:40]!r} is no amount of dollars: it {why}", what_to_do=what_to_do)
