"""Arithmetic in four units, for whatever amounts there are."""

from __future__ import annotations

import pytest
from crewlog.domain import amounts
from crewlog.domain.amounts import AMOUNT_MAX, UNITS, ZERO, Amounts
from crewlog.domain.errors import InvalidCommand
from crewlog.v1 import budget_pb2
from hypothesis import given
from hypothesis import strategies as st

some = st.builds(Amounts, *(st.one_of(st.just(0), st.integers(0, AMOUNT_MAX)) for _ in UNITS))


@given(some, some)
def test_what_is_added_and_taken_away_again_changes_nothing(a: Amounts, b: Amounts) -> None:
    assert a + b - b == a and a + b == b + a


@given(some, some)
def test_it_fits_where_nothing_is_over(limit: Amounts, used: Amounts) -> None:
    assert amounts.fits(limit, used) == (amounts.over(limit, used) == ZERO)


@given(some, some)
def test_what_is_left_fits_exactly(limit: Amounts, used: Amounts) -> None:
    if amounts.fits(limit, used):
        rest = amounts.left(limit, used)
        assert amounts.fits(limit, used + rest)
        for unit in amounts.limited_units(limit):
            assert not amounts.fits(limit, used + rest + Amounts(**{unit: 1}))


@given(some, st.integers(0, 50))
def test_shares_never_come_to_more_than_the_whole(whole: Amounts, parts: int) -> None:
    part = amounts.share(whole, parts)
    together = amounts.total([part] * max(1, parts))
    assert together.at_most(whole) == together


@given(some, some)
def test_only_limited_units_count(limit: Amounts, used: Amounts) -> None:
    assert set(amounts.limited_units(amounts.only_limited(limit, used))) <= set(amounts.limited_units(limit))
    assert (amounts.percent_of(limit, used) >= 100) == any(
        getattr(used, unit) >= getattr(limit, unit) for unit in amounts.limited_units(limit)
    )


@given(some)
def test_messages_hold_all_of_it(a: Amounts) -> None:
    assert Amounts.of(a.message()) == Amounts.of(a.limit()) == a and bool(a) == (a != ZERO)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("amount", [-1, AMOUNT_MAX + 1, -(2**63), 2**63 - 1])
def test_amounts_that_nobody_means_are_refused(unit: str, amount: int) -> None:
    message = budget_pb2.Amounts()
    setattr(message, unit, amount)
    with pytest.raises(InvalidCommand) as refused:
        amounts.check("by", message)
    assert list(refused.value.violations) == [f"by.{unit}"]


def test_nothing_is_refused_where_something_is_needed() -> None:
    amounts.check("by", budget_pb2.Amounts())
    with pytest.raises(InvalidCommand):
        amounts.check("by", budget_pb2.Amounts(), needs_one=True)
