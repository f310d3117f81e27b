"""The commands about money: what cannot be an amount is refused before anybody is asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from crewlog.cli import starting
from crewlog.cli.exits import ExitCode
from crewlog.cli.main import main
from crewlog.cli.starting import Limits, Request, Spending
from crewlog.v1.budget_pb2 import Limit, OnExhausted


def _status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["crewlog", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize("amount", ["nan", "inf", "0.0000001", "$5", "5 EUR", "9" * 40, "0", ""])
@pytest.mark.parametrize("verb", ["raise", "lower"])
def test_a_change_by_what_is_no_amount_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, amount: str
) -> None:
    assert _status(monkeypatch, "budget", verb, "tenant", amount, "--address", "127.0.0.1:1") == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("crewlog: ") and "Traceback" not in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["budget", "set", "tenant", "--limit", "5 EUR"],
        ["budget", "set", "tenant", "--limit=-5"],
        ["budget", "raise", "tenant", "--", "-5"],
        ["budget", "set", "tenant", "--period", "year"],
        ["budget", "set", "tenant", "--calls", "-1"],
        ["cost", "--by", "colour"],
        ["cost", "-o", "xml"],
        ["runs", "-o", "csv"],
        ["gates", "answer", "r", "g", "raise", "5 EUR"],
        ["run", "do it", "--on-exhausted", "hope"],
        ["run", "do it", "--max-calls", "-1"],
    ],
)
def test_arguments_that_make_no_sense_are_a_usage_error(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    assert _status(monkeypatch, *arguments) == ExitCode.USAGE


@pytest.mark.parametrize("arguments", [["cost"], ["budget", "list"], ["gates"], ["budget", "show", "tenant"]])
def test_without_a_platform_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]) -> None:
    assert _status(monkeypatch, *arguments, "--data-dir", str(tmp_path)) == ExitCode.UNAVAILABLE


def test_a_run_says_what_it_may_cost_and_who_pays(tmp_path: Path) -> None:
    spending = Spending(Limits("0.5", 1, 2, 3), "ask", ["team-a", "named:team-b"])
    command = starting.to_command(Request("do it", tmp_path, spending=spending))
    assert command.budget == Limit(usd_micros=500_000, input_tokens=1, output_tokens=2, model_calls=3)
    assert command.on_exhausted == OnExhausted.ON_EXHAUSTED_ASK
    assert list(command.budgets) == ["team-a", "team-b"]
