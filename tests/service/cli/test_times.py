"""Durations on the command line, and the limits of a run that are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from crewlog.cli import durations, starting
from crewlog.cli.starting import Request, Times
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.run_pb2 import RunLimits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("90", 90), ("90s", 90), ("30m", 1_800), ("2h", 7_200), (" 1d ", 86_400), ("24855d", 24_855 * 86_400)],
)
def test_durations(text: str, seconds: int) -> None:
    assert durations.seconds(text, "--grace") == seconds


@pytest.mark.parametrize("text", ["0", "-1", "1.5h", "1w", "h", "soon", " ", "9" * 10, "24856d", "9" * 9 + "d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidCommand, match="no duration"):
        durations.seconds(text, "--grace")


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("0.5", 0.5), ("40", 40), ("40s", 40), ("5m", 300), (0.0, 0)])
def test_a_command_may_take_a_duration_or_less_than_a_second(text: str | float, seconds: float) -> None:
    assert durations.any_seconds(text) == seconds


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1 week"])
def test_what_a_command_cannot_take_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        durations.any_seconds(text)


def test_a_run_says_how_long_it_may_take(tmp_path: Path) -> None:
    command = starting.to_command(Request("do it", tmp_path, times=Times("2h", "30m")))
    assert command.limits == RunLimits(duration_seconds_max=7_200, waiting_seconds_max=1_800)
    assert not starting.to_command(Request("do it", tmp_path)).HasField("limits")


@pytest.mark.parametrize("times", [Times("-1"), Times("", "1 fortnight")])
def test_a_limit_that_is_no_duration_is_refused(tmp_path: Path, times: Times) -> None:
    with pytest.raises(InvalidCommand, match="--max-"):
        starting.to_command(Request("do it", tmp_path, times=times))
