"""What a model call may be, in four units, and what it reserves."""

from __future__ import annotations

import pytest
from crewlog.domain.agent.state import amounts_of, amounts_used
from crewlog.domain.amounts import UNITS, ZERO, Amounts, fits, only_limited
from crewlog.domain.errors import InvalidCommand
from crewlog.executor.model_calls import OUTPUT_TOKENS_MIN, Quote, best_quote, bound_quote, quote
from crewlog.models import failures
from crewlog.models.prices import DEFAULT_MODEL, MARGIN_PERCENT, PROVIDER_COUNT, PriceList, cost, worst_case
from crewlog.models.provider import ModelRequest, input_tokens_bound, input_tokens_counted
from crewlog.v1.budget_pb2 import Price, Usage
from hypothesis import assume, given
from hypothesis import strategies as st

PRICE = Price(
    model="m",
    input_usd_micros_per_mtok=1_000_000,
    output_usd_micros_per_mtok=10_000_000,
    cache_read_usd_micros_per_mtok=100_000,
    cache_write_usd_micros_per_mtok=2_000_000,
)
WHOLE = 8_000
INPUT = 10_000
# 10,000 at 2 and 8,000 at 10 micro-dollars, and the margin.
WORST = 100_000 * (100 + MARGIN_PERCENT) // 100
SHORTEST = 30_240 * (100 + MARGIN_PERCENT) // 100 + 1


def request(text: str = "Go", output_tokens_max: int = WHOLE, model: str = DEFAULT_MODEL) -> ModelRequest:
    return ModelRequest(model, "Role: tester", [{"role": "user", "content": text}], [], output_tokens_max)


def quoted(limit: Amounts, used: Amounts = ZERO, output_tokens_max: int = WHOLE) -> Quote:
    return quote(request(output_tokens_max=output_tokens_max), PRICE, INPUT, limit, used)


@pytest.mark.parametrize(
    ("limit", "used"),
    [
        (ZERO, ZERO),
        (ZERO, Amounts(10**9, 10**9, 10**9, 10**9)),
        (Amounts(WORST, INPUT, WHOLE, 1), ZERO),
        (Amounts(WORST + 7, INPUT + 8, WHOLE + 9, 11), Amounts(7, 8, 9, 10)),
    ],
)
def test_what_fits_is_whole(limit: Amounts, used: Amounts) -> None:
    found = quoted(limit, used)
    assert found.reservation is not None
    assert found.output_tokens_max == found.reservation.output_tokens_max == WHOLE
    assert found.reservation.usd_micros == WORST
    assert (found.wanted, found.wanted_at_least) == (ZERO, ZERO)


@pytest.mark.parametrize(
    ("limit", "output_tokens", "wanted"),
    [
        (Amounts(usd_micros=WORST - 1), 7_999, Amounts(usd_micros=1)),
        (Amounts(usd_micros=SHORTEST), OUTPUT_TOKENS_MIN, Amounts(usd_micros=WORST - SHORTEST)),
        (Amounts(output_tokens=5_000), 5_000, Amounts(output_tokens=3_000)),
        (Amounts(output_tokens=OUTPUT_TOKENS_MIN), OUTPUT_TOKENS_MIN, Amounts(output_tokens=WHOLE - OUTPUT_TOKENS_MIN)),
        (Amounts(WORST - 1, INPUT, 2_000, 1), 2_000, Amounts(1, 0, 6_000, 0)),
    ],
)
@pytest.mark.parametrize("used", [ZERO, Amounts(3, 5, 7, 9)])
def test_what_does_not_fit_is_shorter(limit: Amounts, output_tokens: int, wanted: Amounts, used: Amounts) -> None:
    found = quoted(limit + only_limited(limit, used), used)
    assert found.reservation is not None
    assert found.output_tokens_max == found.reservation.output_tokens_max == output_tokens
    assert (found.wanted, found.wanted_at_least) == (wanted, ZERO)


@pytest.mark.parametrize(
    ("limit", "used", "wanted_at_least"),
    [
        (Amounts(usd_micros=SHORTEST - 1), ZERO, Amounts(usd_micros=1)),
        (Amounts(usd_micros=1), Amounts(usd_micros=5), Amounts(usd_micros=SHORTEST + 4)),
        (Amounts(input_tokens=INPUT - 1), ZERO, Amounts(input_tokens=1)),
        (Amounts(output_tokens=OUTPUT_TOKENS_MIN - 1), ZERO, Amounts(output_tokens=1)),
        (Amounts(model_calls=3), Amounts(model_calls=3), Amounts(model_calls=1)),
        (Amounts(1, 1, 1, 1), Amounts(model_calls=1), Amounts(SHORTEST - 1, INPUT - 1, OUTPUT_TOKENS_MIN - 1, 1)),
    ],
)
def test_what_cannot_be_useful_is_not_quoted(limit: Amounts, used: Amounts, wanted_at_least: Amounts) -> None:
    found = quoted(limit, used)
    assert (found.reservation, found.output_tokens_max) == (None, 0)
    assert found.wanted_at_least == wanted_at_least
    # With what is wanted, the whole answer fits, and not with less.
    assert quoted(limit + found.wanted, used).output_tokens_max == WHOLE


def test_a_role_may_want_less_than_the_shortest_useful_answer() -> None:
    found = quoted(Amounts(output_tokens=100), output_tokens_max=100)
    assert found.output_tokens_max == 100
    assert quoted(Amounts(output_tokens=99), output_tokens_max=100).reservation is None


@st.composite
def limits_and_used(draw: st.DrawFn) -> tuple[Amounts, Amounts]:
    """Some units are not limited; of the others something is left, or too much is used."""
    sizes = {"usd_micros": 10**6, "input_tokens": 10**5, "output_tokens": 50_000, "model_calls": 3}
    used = {unit: draw(st.integers(0, size)) for unit, size in sizes.items()}
    left = {unit: draw(st.none() | st.integers(-size // 20, size)) for unit, size in sizes.items()}
    limit = {unit: 0 if left[unit] is None else max(1, used[unit] + (left[unit] or 0)) for unit in UNITS}
    return Amounts(**limit), Amounts(**used)


PER_MTOK = st.integers(0, 10**8)
PRICES = st.builds(
    lambda a, b, c, d: Price(
        input_usd_micros_per_mtok=a,
        output_usd_micros_per_mtok=b,
        cache_read_usd_micros_per_mtok=c,
        cache_write_usd_micros_per_mtok=d,
    ),
    *(PER_MTOK for _ in range(4)),
)
SHARES = st.tuples(*(st.integers(0, 10**6) for _ in range(4)))


@given(PRICES, st.integers(1, 10**5), st.integers(1, 64_000), limits_and_used(), SHARES)
def test_a_reservation_fits_and_no_usage_within_its_bounds_costs_more(
    price: Price,
    input_tokens: int,
    whole: int,
    limited: tuple[Amounts, Amounts],
    shares: tuple[int, int, int, int],
) -> None:
    limit, used = limited
    found = quote(request(output_tokens_max=whole), price, input_tokens, limit, used)
    if found.reservation is None:
        assert found.wanted_at_least and found.wanted
        return
    reserved = amounts_of(found.reservation)
    assert fits(limit, used + reserved)
    assert min(whole, OUTPUT_TOKENS_MIN) <= found.output_tokens_max == reserved.output_tokens <= whole
    fresh = min(shares[0], input_tokens)
    written = min(shares[1], input_tokens - fresh)
    usage = Usage(
        input_tokens=fresh,
        cache_write_tokens=written,
        cache_read_tokens=min(shares[2], input_tokens - fresh - written),
        output_tokens=min(shares[3], reserved.output_tokens),
    )
    assert fits(reserved, amounts_used(usage, cost(price, usage)))


@given(PRICES, st.integers(1, 10**5), st.integers(1, 64_000), limits_and_used())
def test_an_answer_is_shortened_by_no_more_than_it_has_to_be(
    price: Price, input_tokens: int, whole: int, limited: tuple[Amounts, Amounts]
) -> None:
    limit, used = limited
    found = quote(request(output_tokens_max=whole), price, input_tokens, limit, used)
    assume(found.output_tokens_max < whole)
    one_more = request(output_tokens_max=max(found.output_tokens_max + 1, min(whole, OUTPUT_TOKENS_MIN)))
    longer = quote(one_more, price, input_tokens, limit, used)
    assert longer.wanted


@given(PRICES, st.integers(1, 10**5), st.integers(1, 64_000), st.integers(0, 10**9), st.integers(0, 1_200))
def test_dollars_are_reserved_to_the_last_token_and_no_further(
    price: Price, input_tokens: int, whole: int, spent: int, permille: int
) -> None:
    worst = worst_case(price, input_tokens, whole).usd_micros
    limit, used = Amounts(usd_micros=max(1, spent + worst * permille // 1_000)), Amounts(usd_micros=spent)
    found = quote(request(output_tokens_max=whole), price, input_tokens, limit, used)
    if found.reservation is not None:
        assert fits(limit, used + amounts_of(found.reservation))
        one_more = worst_case(price, input_tokens, found.output_tokens_max + 1)
        assert found.output_tokens_max == whole or not fits(limit, used + amounts_of(one_more))


LIST = PriceList()
TEXT = "word " * 100_000
BOUND = input_tokens_bound(request(TEXT))


async def never(_: ModelRequest) -> int:
    raise AssertionError("nobody has to count")


async def a_fifth(asked: ModelRequest) -> int:
    return input_tokens_bound(asked) // 5


async def unavailable(_: ModelRequest) -> int:
    raise failures.error_of(failures.OVERLOADED, "too much to do")


@pytest.mark.parametrize(
    "limit", [ZERO, Amounts(usd_micros=10**7), Amounts(model_calls=1), Amounts(output_tokens=2_000)]
)
async def test_nobody_counts_what_fits_by_its_bound_or_would_not_fit_more(limit: Amounts) -> None:
    found = await best_quote(request(TEXT), LIST, limit, ZERO, never)
    assert found.counted_by == "bound"
    assert found.reservation is not None and found.reservation.input_tokens_max == BOUND


@pytest.mark.parametrize("limit", [Amounts(usd_micros=10**6), Amounts(input_tokens=BOUND - 1)])
async def test_where_the_bound_does_not_fit_the_providers_count_decides(limit: Amounts) -> None:
    assert bound_quote(request(TEXT), LIST, limit, ZERO).reservation is None
    found = await best_quote(request(TEXT), LIST, limit, ZERO, a_fifth)
    assert found.reservation is not None
    assert (found.counted_by, found.reservation.counted_by) == (PROVIDER_COUNT, PROVIDER_COUNT)
    assert BOUND // 5 < found.reservation.input_tokens_max < BOUND // 4
    assert found.output_tokens_max == WHOLE


async def test_where_nobody_counts_the_bound_holds() -> None:
    asked, limit = request(TEXT), Amounts(usd_micros=10**6)
    assert await best_quote(asked, LIST, limit, ZERO, unavailable) == bound_quote(asked, LIST, limit, ZERO)


async def test_a_smaller_count_may_lie_in_a_cheaper_tier() -> None:
    asked = request(TEXT[:400_000], model="claude-haiku-5-5")
    limit = Amounts(usd_micros=100_000)
    by_bound = bound_quote(asked, LIST, limit, ZERO)
    counted = await best_quote(asked, LIST, limit, ZERO, a_fifth)
    assert by_bound.price.input_usd_micros_per_mtok == 5 * counted.price.input_usd_micros_per_mtok


async def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InvalidCommand, match="no price"):
        await best_quote(request(model="house-model"), LIST, ZERO, ZERO, never)


@given(st.integers(1, 10**6))
def test_the_allowance_never_exceeds_the_bound(count: int) -> None:
    tokens = input_tokens_counted(request(TEXT), count)
    assert tokens <= BOUND
    assert tokens > count or tokens == BOUND
