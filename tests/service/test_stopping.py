"""How a task at work is told to stop: at once, or with time to end by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crewlog.executor.control import Control, Cut, Leave
from crewlog.scheduler.dispatch import GRACE_SECONDS, stop_of
from crewlog.tools.answers import CANCELLED
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import CancelTask

from tests.domain.playing import Play, agent, node

COMMAND = {"command": CommandNode(argv=["sleep", "60"])}


@pytest.mark.parametrize(("kind", "grace_seconds"), [(COMMAND, 0), ({"agent": agent()}, GRACE_SECONDS)])
def test_a_command_whose_time_is_over_is_told_at_once(kind: dict[str, Any], grace_seconds: int) -> None:
    play = Play(node("a", timeout_seconds=2, **kind))
    play.claim("a-1")
    play.wait(3)
    assert _grace_of(play) == grace_seconds


def test_a_command_that_somebody_cancels_has_time_to_end() -> None:
    play = Play(node("a", **COMMAND))
    play.claim("a-1")
    play.do(CancelTask(task_id="a-1"))
    assert _grace_of(play) == GRACE_SECONDS


async def test_after_the_grace_each_effect_is_cut_off() -> None:
    control = Control()
    control.ask(Leave.CANCEL, grace_seconds=0)
    for _ in range(2):
        async with asyncio.timeout(5):
            with pytest.raises(Cut) as cut:
                await control.within(asyncio.Event().wait(), 3_600)
        assert cut.value.reason == CANCELLED


def _grace_of(play: Play) -> float:
    stop = stop_of(play.run, play.run.tasks["a-1"])
    assert stop is not None
    return stop.grace_seconds
