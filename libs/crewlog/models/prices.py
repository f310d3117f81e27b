"""What a model call costs: list prices of a maintained package, or of a file that overrides them.

Money is integer micro-dollars, and every rounding is up. Where the package has several prices for a model (a higher one
for large inputs), the price is the one for the input's size, and the highest that can apply where that is not known.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from crewlog.domain.errors import InvalidCommand
from crewlog.models import price_file
from crewlog.v1.budget_pb2 import Price, Reservation, Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

DEFAULT_MODEL = "claude-sonnet-5-5"
PROVIDER = "anthropic"

MARGIN_PERCENT = 2
"""Reserved beyond the worst case, for a provider that reports more than can be."""

BOUND, PROVIDER_COUNT = "bound", "provider"
"""How the input of a reservation was counted: by crewlog.models.provider.input_tokens_bound, or by the provider."""

_MTOK = 1_000_000
_CACHED_MAX = 256
_FIELDS = ("input", "output", "cache_read", "cache_write")


def warm_up() -> None:
    """Loads the price list, which takes most of a second; otherwise the first `price_of` does."""
    import genai_prices.data  # noqa: F401


@dataclass(frozen=True, slots=True)
class PriceList:
    """The list prices, and those of a file that win."""

    overrides: Mapping[str, Price] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None) -> PriceList:
        """Without a file, the list prices alone. Raises InvalidCommand that names the file and the field."""
        return cls(price_file.load(path) if path else {})

    def price_of(self, model: str, input_tokens: int | None = None, now: datetime | None = None) -> Price:
        """As the function of this name."""
        return price_of(model, input_tokens=input_tokens, overrides=self.overrides, now=now)


def price_of(
    model: str,
    *,
    input_tokens: int | None = None,
    overrides: Mapping[str, Price] | None = None,
    now: datetime | None = None,
    is_batch: bool = False,
) -> Price:
    """The price now; with `input_tokens` (cached ones included), the one for an input of that size. Cache writes are
    those that live for five minutes. Raises InvalidCommand for an unknown model. `overrides` win, whatever the size,
    and have no price for batches of their own."""
    if overrides and model in overrides:
        return overrides[model]
    return _list_price(model, input_tokens, now or datetime.now(UTC), is_batch)


def cost(price: Price, usage: Usage) -> int:
    """Micro-dollars, rounded up."""
    millionths = (
        usage.input_tokens * price.input_usd_micros_per_mtok
        + usage.output_tokens * price.output_usd_micros_per_mtok
        + usage.cache_read_tokens * price.cache_read_usd_micros_per_mtok
        + usage.cache_write_tokens * price.cache_write_usd_micros_per_mtok
    )
    return -(-millionths // _MTOK)


def worst_case(
    price: Price,
    input_tokens: int,
    output_tokens: int,
    *,
    margin_percent: int = MARGIN_PERCENT,
    counted_by: str = BOUND,
) -> Reservation:
    """What a call can cost at most: all of its input is written to the provider's cache, the dearest it can be; and the
    margin. The price has to be the one for an input of this size."""
    millionths = input_tokens * _dearest_input(price) + output_tokens * price.output_usd_micros_per_mtok
    return Reservation(
        usd_micros=-(-millionths * (100 + margin_percent) // (100 * _MTOK)),
        input_tokens_max=input_tokens,
        output_tokens_max=output_tokens,
        price=price,
        counted_by=counted_by,
        margin_percent=margin_percent,
    )


def longest_answer(
    price: Price, input_tokens: int, output_tokens: int, usd_micros: int, *, margin_percent: int = MARGIN_PERCENT
) -> int:
    """The most output tokens, up to those wanted, whose worst case is not above `usd_micros`; negative where not even
    the input fits."""
    left = usd_micros * 100 * _MTOK // (100 + margin_percent) - input_tokens * _dearest_input(price)
    if left < 0:
        return -1
    per_mtok = price.output_usd_micros_per_mtok
    return min(output_tokens, left // per_mtok) if per_mtok else output_tokens


def _dearest_input(price: Price) -> int:
    return max(
        price.input_usd_micros_per_mtok, price.cache_write_usd_micros_per_mtok, price.cache_read_usd_micros_per_mtok
    )


def _list_price(model: str, input_tokens: int | None, now: datetime, is_batch: bool) -> Price:
    import genai_prices

    found = _found(model, now.astimezone(UTC).replace(second=0, microsecond=0), is_batch)
    listed = {name: getattr(found, f"{name}_mtok", None) for name in _FIELDS}
    micros = {name: _micros(value, input_tokens) for name, value in listed.items() if value is not None}
    price = Price(model=model, source=f"genai-prices {genai_prices.__version__}, {now.astimezone(UTC):%Y-%m-%d}")
    for name, key in zip(_FIELDS, price_file.KEYS, strict=True):
        # Without a price of its own, cached input costs what input costs.
        setattr(price, key, micros.get(name, micros["input"]))
    return price


@functools.lru_cache(maxsize=_CACHED_MAX)
def _found(model: str, minute: datetime, is_batch: bool) -> ModelPrice:
    """Looked up once a minute: it takes longer than everything else that a reservation needs."""
    import genai_prices

    context = {"processing": "batch"} if is_batch else None
    try:
        return genai_prices.calc_price(
            genai_prices.Usage(), model, provider_id=PROVIDER, genai_request_timestamp=minute, price_context=context
        ).model_price
    except LookupError as error:
        raise InvalidCommand(
            f"there is no price for the model {model!r}",
            what_to_do=f"Choose a known model such as {DEFAULT_MODEL}, or give its price in a price file.",
            violations={"model": "unknown"},
        ) from error


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
