"""Replacing fields of a state does what the standard library does."""

from __future__ import annotations

import dataclasses

import pytest
from crewlog.domain.agent_state import Agent
from crewlog.domain.replacing import replace
from crewlog.domain.run_state import Run
from immutables import Map


def test_it_is_what_the_standard_library_makes_and_the_old_one_stays() -> None:
    before = Run(ready=("a",), visits=Map(a=1))
    after = replace(before, ready=("b",), warned_percent=80)
    assert after == dataclasses.replace(before, ready=("b",), warned_percent=80)
    assert (before.ready, before.warned_percent) == (("a",), 0)
    assert replace(Agent(), attempts=3) == dataclasses.replace(Agent(), attempts=3)


def test_a_field_that_does_not_exist_is_a_bug() -> None:
    with pytest.raises(KeyError):
        replace(Run(), colour="red")  # type: ignore[call-arg]
