"""Money is whole micro-dollars, never less than what the provider takes."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import genai_prices
import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.models.price_file import KEYS
from crewlog.models.prices import (
    DEFAULT_MODEL,
    MARGIN_PERCENT,
    PROVIDER_COUNT,
    cost,
    longest_answer,
    price_of,
    worst_case,
)
from crewlog.v1.budget_pb2 import Price, Usage
from hypothesis import given
from hypothesis import strategies as st

PRICE = Price(
    model="m",
    input_usd_micros_per_mtok=3_000_000,
    output_usd_micros_per_mtok=15_000_000,
    cache_read_usd_micros_per_mtok=300_000,
    cache_write_usd_micros_per_mtok=3_750_000,
)
COUNTS = st.integers(0, 2_000_000)
PRICES = st.integers(0, 10**9)


def test_the_default_model_has_the_list_price() -> None:
    price = price_of(DEFAULT_MODEL, now=datetime(2026, 11, 20, 23, tzinfo=timezone(timedelta(hours=-2))))
    assert price.model == DEFAULT_MODEL
    assert price.source == f"genai-prices {genai_prices.__version__}, 2026-11-21"
    assert price.input_usd_micros_per_mtok == 2_000_000
    assert price.output_usd_micros_per_mtok == 10_000_000
    assert price.cache_read_usd_micros_per_mtok == 100_000
    assert price.cache_write_usd_micros_per_mtok == 2_500_000


def test_a_price_with_steps_is_the_highest_unless_the_input_is_known_to_be_small() -> None:
    assert price_of("claude-sonnet-4-5").input_usd_micros_per_mtok == 6_000_000
    assert price_of("claude-sonnet-4-5", input_tokens=200_001).input_usd_micros_per_mtok == 6_000_000
    assert price_of("claude-sonnet-4-5", input_tokens=200_000).input_usd_micros_per_mtok == 3_000_000


def test_a_price_that_changed_is_the_one_of_the_day() -> None:
    before, after = datetime(2026, 3, 12, tzinfo=UTC), datetime(2026, 3, 13, tzinfo=UTC)
    assert price_of("claude-opus-4-6", now=before).output_usd_micros_per_mtok == 37_500_000
    assert price_of("claude-opus-4-6", now=after).output_usd_micros_per_mtok == 25_000_000


def test_cached_input_without_a_price_of_its_own_costs_what_input_costs() -> None:
    price = price_of("claude-2")
    assert price.cache_write_usd_micros_per_mtok == price.input_usd_micros_per_mtok == 8_000_000


@pytest.mark.parametrize("model", ["", "scripted", "gpt-9", "claude-sonnet-99", "x" * 10_000, "*"])
def test_an_unknown_model_is_refused_with_what_to_do(model: str) -> None:
    with pytest.raises(InvalidCommand, match="no price") as refused:
        price_of(model)
    assert DEFAULT_MODEL in refused.value.what_to_do
    assert "model" in refused.value.violations


@pytest.mark.parametrize(
    ("usage", "micros"),
    [
        (Usage(), 0),
        (Usage(input_tokens=1), 3),
        (Usage(cache_read_tokens=1), 1),
        (Usage(input_tokens=1_000_000), 3_000_000),
        (Usage(input_tokens=10, output_tokens=10, cache_read_tokens=10, cache_write_tokens=10), 221),
    ],
)
def test_cost_is_rounded_up(usage: Usage, micros: int) -> None:
    assert cost(PRICE, usage) == micros


@given(COUNTS, COUNTS, COUNTS, COUNTS, PRICES, PRICES, PRICES, PRICES)
def test_the_worst_case_covers_every_use_of_the_same_size(
    fresh: int, written: int, read: int, output: int, p_in: int, p_out: int, p_read: int, p_write: int
) -> None:
    price = Price(
        input_usd_micros_per_mtok=p_in,
        output_usd_micros_per_mtok=p_out,
        cache_read_usd_micros_per_mtok=p_read,
        cache_write_usd_micros_per_mtok=p_write,
    )
    usage = Usage(input_tokens=fresh, cache_write_tokens=written, cache_read_tokens=read, output_tokens=output)
    reservation = worst_case(price, fresh + written + read, output)
    assert cost(price, usage) <= reservation.usd_micros
    assert reservation.input_tokens_max == fresh + written + read
    assert reservation.price == price


@given(COUNTS, COUNTS, PRICES, PRICES, st.integers(0, 50), st.integers(0, 10**12))
def test_the_longest_answer_fits_and_one_token_more_does_not(
    input_tokens: int, output_tokens: int, p_in: int, p_out: int, margin: int, usd_micros: int
) -> None:
    price = Price(input_usd_micros_per_mtok=p_in, output_usd_micros_per_mtok=p_out)

    def fits(answer: int) -> bool:
        return worst_case(price, input_tokens, answer, margin_percent=margin).usd_micros <= usd_micros

    longest = longest_answer(price, input_tokens, output_tokens, usd_micros, margin_percent=margin)
    assert longest == output_tokens or not fits(longest + 1)
    assert fits(longest) if longest >= 0 else not fits(0)


def test_the_margin_is_added_to_the_dollars_and_recorded() -> None:
    bare = worst_case(PRICE, 1_000_000, 1_000_000, margin_percent=0)
    reserved = worst_case(PRICE, 1_000_000, 1_000_000, counted_by=PROVIDER_COUNT)
    assert bare.usd_micros == 18_750_000
    assert reserved.usd_micros == 18_750_000 * (100 + MARGIN_PERCENT) // 100
    assert (reserved.margin_percent, reserved.counted_by) == (MARGIN_PERCENT, "provider")
    assert (bare.margin_percent, bare.counted_by) == (0, "bound")
    assert (reserved.input_tokens_max, reserved.output_tokens_max) == (1_000_000, 1_000_000)
    assert worst_case(PRICE, 1, 0, margin_percent=1).usd_micros == 4


def test_cache_writes_are_those_that_live_for_five_minutes() -> None:
    listed = genai_prices.calc_price(genai_prices.Usage(), DEFAULT_MODEL, provider_id="anthropic").model_price
    five_minutes, an_hour = listed.cache_write_mtok, listed.cache_write_1h_mtok
    assert isinstance(five_minutes, Decimal) and isinstance(an_hour, Decimal)
    assert price_of(DEFAULT_MODEL).cache_write_usd_micros_per_mtok == five_minutes * 10**6 < an_hour * 10**6


def test_a_batch_costs_half() -> None:
    whole, batch = price_of(DEFAULT_MODEL), price_of(DEFAULT_MODEL, is_batch=True)
    for key in KEYS:
        assert getattr(batch, key) * 2 == getattr(whole, key)


@given(st.sampled_from(["claude-haiku-5-5", "claude-sonnet-4-5", DEFAULT_MODEL]), st.data())
def test_a_smaller_input_is_never_dearer(model: str, data: st.DataObject) -> None:
    larger = data.draw(st.integers(0, 400_000))
    smaller = data.draw(st.integers(0, larger))
    for key in KEYS:
        assert getattr(price_of(model, input_tokens=smaller), key) <= getattr(price_of(model, input_tokens=larger), key)
