"""What a model call costs: list prices of a maintained package, or of a file that overrides them.

Money is integer micro-dollars, and every rounding is up. Where the package has several prices for a model (a higher one
for large inputs), the price is the highest that can apply.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from crewlog.domain.errors import InvalidCommand
from crewlog.v1.budget_pb2 import Price, Reservation, Usage

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices

DEFAULT_MODEL = "claude-sonnet-5-5"
PROVIDER = "anthropic"

_MTOK = 1_000_000
_FIELDS = ("input", "output", "cache_read", "cache_write")
_KEYS = tuple(f"{field}_usd_micros_per_mtok" for field in _FIELDS)
_PRICE_MAX = 10**12  # a million dollars per million tokens: above it is a slip of the pen


def warm_up() -> None:
    """Loads the price list, which takes most of a second; otherwise the first `price_of` does."""
    import genai_prices.data  # noqa: F401


def price_of(
    model: str,
    *,
    input_tokens: int | None = None,
    overrides: Mapping[str, Price] | None = None,
    now: datetime | None = None,
) -> Price:
    """The list price; with `input_tokens`, the one for an input of that size. Raises InvalidCommand for an unknown
    model. `overrides` come from `load_overrides` and win."""
    if overrides and model in overrides:
        return overrides[model]
    return _list_price(model, input_tokens, now or datetime.now(UTC))


def cost(price: Price, usage: Usage) -> int:
    """Micro-dollars, rounded up."""
    return _rounded_up(
        usage.input_tokens * price.input_usd_micros_per_mtok
        + usage.output_tokens * price.output_usd_micros_per_mtok
        + usage.cache_read_tokens * price.cache_read_usd_micros_per_mtok
        + usage.cache_write_tokens * price.cache_write_usd_micros_per_mtok
    )


def worst_case(price: Price, input_tokens: int, output_tokens: int) -> Reservation:
    """What a call can cost at most: all of its input is written to the provider's cache, the dearest it can be."""
    dearest = max(
        price.input_usd_micros_per_mtok, price.cache_write_usd_micros_per_mtok, price.cache_read_usd_micros_per_mtok
    )
    return Reservation(
        usd_micros=_rounded_up(input_tokens * dearest + output_tokens * price.output_usd_micros_per_mtok),
        input_tokens_max=input_tokens,
        output_tokens_max=output_tokens,
        price=price,
    )


def load_overrides(path: Path) -> Mapping[str, Price]:
    """Reads a price file; raises InvalidCommand that names the file and the field.

    [models."claude-sonnet-5-5"]
    input_usd_micros_per_mtok = 2_000_000
    output_usd_micros_per_mtok = 10_000_000
    cache_read_usd_micros_per_mtok = 100_000
    cache_write_usd_micros_per_mtok = 2_500_000
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidCommand(f"the price file {path} cannot be read: {error}", what_to_do=_FILE_HELP) from error
    _only_known(content, ("models",), str(path))
    models = _table(content.get("models", {}), f"{path}: models")
    return {model: _override(path, model, fields) for model, fields in models.items()}


_FILE_HELP = f"Give for each model, under [models.NAME], the whole numbers {', '.join(_KEYS)}."


def _override(path: Path, model: str, fields: object) -> Price:
    where = f"{path}: models.{model}"
    table = _table(fields, where)
    _only_known(table, _KEYS, where)
    price = Price(model=model, source=path.name)
    for key in _KEYS:
        setattr(price, key, _amount(table.get(key), f"{where}.{key}"))
    return price


def _amount(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _PRICE_MAX:
        raise InvalidCommand(
            f"{where} must be a whole number of micro-dollars from 0 to {_PRICE_MAX}, not {value!r}",
            what_to_do=_FILE_HELP,
        )
    return value


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidCommand(f"{where} must be a table, not {value!r}", what_to_do=_FILE_HELP)
    return value


def _only_known(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise InvalidCommand(f"{where} has the unknown field {unknown[0]!r}", what_to_do=_FILE_HELP)


def _list_price(model: str, input_tokens: int | None, now: datetime) -> Price:
    import genai_prices

    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(), model, provider_id=PROVIDER, genai_request_timestamp=now
        ).model_price
    except LookupError as error:
        raise InvalidCommand(
            f"there is no price for the model {model!r}",
            what_to_do=f"Choose a known model such as {DEFAULT_MODEL}, or give its price in a price file.",
            violations={"model": "unknown"},
        ) from error
    listed = {field: getattr(found, f"{field}_mtok") for field in _FIELDS}
    micros = {field: _micros(value, input_tokens) for field, value in listed.items() if value is not None}
    price = Price(model=model, source=f"genai-prices {genai_prices.__version__}")
    for field, key in zip(_FIELDS, _KEYS, strict=True):
        # Without a price of its own, cached input costs what input costs.
        setattr(price, key, micros.get(field, micros["input"]))
    return price


def _micros(value: Decimal | TieredPrices, input_tokens: int | None) -> int:
    dollars = (
        value
        if isinstance(value, Decimal)
        else max(
            value.base,
            *(tier.price for tier in value.tiers if input_tokens is None or input_tokens > tier.start),
            Decimal(0),
        )
    )
    return int((dollars * _MTOK).to_integral_value(ROUND_CEILING))


def _rounded_up(millionths: int) -> int:
    return -(-millionths // _MTOK)
