"""Schedulers and executors under crashes, freezes, cut links, clocks that jump and a log that loses its answers.

`SEED=7` repeats one simulation exactly, and shows what has happened in it; `SEEDS=1000` runs so many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SeedsOf = Callable[[int], range]
ROOT = Path(__file__).resolve().parents[2]
ONLY_ONE_SEED = "SEED" in os.environ
USUAL, MANY = 60, 300
CONTROL = 8
WORKERS = 2
SECONDS_MAX = 3_000
PATHS = (
    "AgentCancelled",
    "AgentTakenOver",
    "AllotmentShared",
    "ChildRunRequested",
    "ChildSpawned",
    "EdgeSkipped",
    "EdgeTaken",
    "EffectPutInDoubt",
    "GATE_KIND_APPROVAL",
    "GATE_KIND_CHOICE",
    "GateAnswered",
    "GateExpired",
    "GraphGrown",
    "HANDLING_CONTINUE",
    "HANDLING_EDGE",
    "HANDLING_RETRY",
    "HANDLING_TOLERATED",
    "JOIN_MODE_ANY",
    "JOIN_MODE_QUORUM",
    "MapExpanded",
    "MergeRequested",
    "MessageReceived",
    "MessageUndelivered",
    "PARK_CAUSE_BUDGET",
    "PARK_CAUSE_CHILDREN",
    "PARK_CAUSE_HANDED_OVER",
    "PARK_CAUSE_PAUSED",
    "PARK_CAUSE_QUESTION",
    "RESOLUTION_RESTORED_AND_RUN_AGAIN",
    "RESOLUTION_RUN_AGAIN",
    "RESOLUTION_TOLD_UNKNOWN",
    "RunPaused",
    "RunResumed",
    "RunRetried",
    "SignalReceived",
    "TaskCancelRequested",
    "TaskRetried",
    "TaskSkipped",
    "TaskTimedOut",
    "WaitStarted",
    "a child run gets more",
    "acknowledgement lost",
    "answer lost",
    "answered: invalid_output",
    "append in doubt",
    "closed by the scheduler",
    "command performed again",
    "conflict",
    "conflict of files",
    "delivery reordered",
    "delivery repeated",
    "entry late",
    "failed: command_failed",
    "failed: command_in_doubt",
    "failed: gate_rejected",
    "failed: map_failed",
    "failed: merge_conflict",
    "half-open stream",
    "in doubt: EFFECT_CLASS_KEYED",
    "in doubt: EFFECT_CLASS_MODEL",
    "in doubt: EFFECT_CLASS_OPAQUE",
    "in doubt: EFFECT_CLASS_PURE",
    "in doubt: EFFECT_CLASS_QUERYABLE",
    "in doubt: EFFECT_CLASS_REVERSIBLE",
    "lapse: its executor does not report",
    "lapse: its executor does not work on it",
    "lapse: its executor is gone",
    "lapse: its executor was started again",
    "log is down",
    "receipt with answers that were reused",
    "scheduler leads",
    "shut out by a later claim",
)
SELDOM = (
    "JOIN_MODE_FIRST",
    "LateOutcomeRecorded",
    "PARK_CAUSE_MODEL",
    "RESOLUTION_ASKED",
    "a child run gives more to its own",
    "effect of a zombie",
    "failed: output_invalid",
    "lapse: its executor lives, and does not get on with it",
    "not needed any more",
    "tool hangs",
    "way back",
)
"""An unrelated change of what is drawn may miss them in the usual seeds: asked for with SEEDS=300 and more."""


def test_everything_is_right_whatever_happens(seeds: SeedsOf) -> None:
    paths: Counter[str] = Counter()
    for report in _campaign(seeds(USUAL), "many disasters"):
        assert not report["mistakes"], _told(report)
        paths.update(report["paths"])
    assert ONLY_ONE_SEED or not (missed := _missed(paths, len(seeds(USUAL)))), f"never happened: {missed}"


def _missed(paths: Counter[str], seeds: int) -> list[str]:
    expected = (PATHS if seeds >= USUAL else ()) + (SELDOM if seeds >= MANY else ())
    return [path for path in expected if not paths[path]]


def test_without_disasters_nothing_is_lost(seeds: SeedsOf) -> None:
    for report in _campaign(seeds(10), "no disasters"):
        assert not report["mistakes"], _told(report)
        assert not {"EffectPutInDoubt", "TaskClaimLapsed", "LateOutcomeRecorded"} & report["paths"].keys()


@pytest.mark.parametrize(
    ("control", "words"),
    [
        ("no version check", ("follows entry", "is damaged", "is begun twice", "follows the end")),
        ("no fencing", ("has not taken over", "is begun again while it is open")),
        ("no intents", ("has no intent", "there was no intent")),
    ],
)
def test_a_log_that_does_not_do_its_part_is_found_out(control: str, words: tuple[str, ...]) -> None:
    found = [report["mistakes"] for report in _campaign(range(1, CONTROL + 1), control)]
    red = [mistakes for mistakes in found if any(word in mistake for mistake in mistakes for word in words)]
    assert len(red) >= CONTROL // 4


def test_a_seed_repeats_its_simulation() -> None:
    alone, after_another = _campaign(range(7, 8), "many disasters"), _campaign(range(6, 8), "many disasters")
    assert alone[0]["digest"] == after_another[-1]["digest"]
    assert alone[0]["paths"] == after_another[-1]["paths"]


def _campaign(seeds: range, plan: str) -> list[dict[str, Any]]:
    """The reports of the seeds. They run in processes whose hashes do not change from one to the next."""
    step = -(-len(seeds) // WORKERS)
    parts = [seeds[start : start + step] for start in range(0, len(seeds), step)]
    running = [_started(part, plan) for part in parts]
    reports = [json.loads(line) for process in running for line in _lines(process)]
    assert len(reports) == len(seeds)
    return reports


def _started(seeds: range, plan: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.simulation.processes", str(seeds.start), str(seeds.stop), plan]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)


def _lines(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0
    return output.splitlines()


def _told(report: dict[str, Any]) -> str:
    lines = [f"SEED={report['seed']}", *report["mistakes"]]
    return "\n".join([*lines, *report.get("trace", [])] if ONLY_ONE_SEED else lines[:20])
