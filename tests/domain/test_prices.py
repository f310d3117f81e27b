"""Money is whole micro-dollars, never less than what the provider takes."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.models.prices import DEFAULT_MODEL, cost, load_overrides, price_of, worst_case
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
    price = price_of(DEFAULT_MODEL)
    assert price.model == DEFAULT_MODEL
    assert price.source.startswith("genai-prices ")
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


def price_file(directory: Path, content: str) -> Path:
    path = directory / "prices.toml"
    path.write_text(content)
    return path


GOOD = """
[models.house-model]
input_usd_micros_per_mtok = 1_000
output_usd_micros_per_mtok = 2_000
cache_read_usd_micros_per_mtok = 100
cache_write_usd_micros_per_mtok = 1_250
"""


def test_a_file_overrides_and_adds(tmp_path: Path) -> None:
    overrides = load_overrides(price_file(tmp_path, GOOD))
    assert price_of("house-model", overrides=overrides).output_usd_micros_per_mtok == 2_000
    assert price_of("house-model", overrides=overrides).source == "prices.toml"
    assert price_of(DEFAULT_MODEL, overrides=overrides).output_usd_micros_per_mtok == 10_000_000


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (GOOD.replace("1_000", "-1"), "input_usd_micros_per_mtok.*not -1"),
        (GOOD.replace("1_000", "nan"), "whole number.*not nan"),
        (GOOD.replace("1_000", "0.5"), "whole number.*not 0.5"),
        (GOOD.replace("1_000", "true"), "whole number.*not True"),
        (GOOD.replace("1_000", "9" * 20), "whole number"),
        (GOOD.replace("output_", "out_"), "unknown field 'out_usd"),
        (GOOD.replace("cache_read_usd_micros_per_mtok = 100", ""), "cache_read.*not None"),
        ("[prices]", "unknown field 'prices'"),
        ("models = 3", "must be a table"),
        ("[models]\nx = 3", "models.x must be a table"),
        ("not toml", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path: Path, content: str, why: str) -> None:
    with pytest.raises(InvalidCommand, match=why) as refused:
        load_overrides(price_file(tmp_path, content))
    assert "input_usd_micros_per_mtok" in refused.value.what_to_do


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCommand, match="cannot be read"):
        load_overrides(tmp_path / "none.toml")
