"""A negative control: with an executor that acknowledges before it stores, the sweep goes red."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from crewlog.cli.launcher import environment
from crewlog.cli.launcher.child import Program
from crewlog.cli.launcher.environment import Plan

from tests.chaos.points import Failpoints, Kill, Point
from tests.chaos.sweep import Attack, Sweep
from tests.chaos.trial import chaos_platform

pytestmark = pytest.mark.slow

FORGETFUL = Path(__file__).with_name("forgetful_executor.py")
IN_THE_MIDDLE_OF_A_CALL = Attack((Kill(Point("executor", "model.after"), 2),))


@pytest.fixture
async def broken(failpoints: Failpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sweep]:
    right = environment.service

    def service(plan: Plan, name: str) -> Program:
        program = right(plan, name)
        return replace(program, arguments=(sys.executable, "-P", str(FORGETFUL))) if name == "executor" else program

    monkeypatch.setattr(environment, "service", service)
    async with chaos_platform(tmp_path / "world") as found:
        yield Sweep(found, failpoints, tmp_path)


async def test_without_durable_intents_the_sweep_goes_red(broken: Sweep) -> None:
    await broken.look()
    with pytest.raises(AssertionError, match="a recorded answer was asked for again"):
        await broken.carry_out(IN_THE_MIDDLE_OF_A_CALL)
