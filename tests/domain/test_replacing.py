"""Replacing fields of a state does what the standard library does."""

from __future__ import annotations

import dataclasses

from crewlog.domain.agent.state import Agent, Turn
from crewlog.domain.replacing import replace
from crewlog.domain.run.state import Run
from immutables import Map


def test_it_is_what_the_standard_library_makes_and_the_old_one_stays() -> None:
    before = Run(ready=("a",), visits=Map(a=1))
    after = replace(before, ready=("b",), warned_percent=80)
    assert after == dataclasses.replace(before, ready=("b",), warned_percent=80)
    assert (before.ready, before.warned_percent) == (("a",), 0)
    assert replace(Agent(), attempts=3) == dataclasses.replace(Agent(), attempts=3)


def test_it_is_the_same_for_what_has_slots() -> None:
    before = Turn((), "end_turn")
    after = replace(before, stop_reason="tool_use")
    assert after == dataclasses.replace(before, stop_reason="tool_use")
    assert before.stop_reason == "end_turn"
