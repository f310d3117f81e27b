"""The built-in workflows on a repository, from the task to the branch; also while services are killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from crewlog.cli.verifying import verify
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.run_pb2 import RunStatus, RunView

from tests.e2e.test_crew import entries_of, finished_in_spite
from tests.e2e.world import World, git, platform_on, types_of

SCRIPTS = Path(__file__).with_name("scripts")
EVERYTHING = ("gateway", "scheduler", "executor", "git", "nats-server")
BUDGET = Limit(usd_micros=20_000_000)


@dataclass(frozen=True)
class Expected:
    """What a workflow comes to, whatever dies on the way. `last_line` is that of slugify."""

    tasks: Sequence[str]
    last_line: str = "return slug[:length_max]"
    paths: Sequence[str] = ()
    results: Mapping[str, Any] = field(default_factory=dict)


EXPECTED = {
    "agent": Expected(
        ["engineer-1"],
        last_line='return slug.strip("-")[:length_max].rstrip("-")',
        paths=["slugger/slug.py"],
    ),
    "feature": Expected(
        [
            *("spec-1", "plan-1", "implement-1", "implement_0-1", "implement_1-1", "implement_2-1"),
            *("merge-1", "resolve-1", "test-1"),
            *("plan-2", "implement-2", "implement_0-2", "merge-2", "test-2", "review-1"),
            *("plan-3", "implement-3", "implement_0-3", "merge-3", "test-3", "review-2"),
        ],
        last_line='return slug.strip("-")[:length_max].rstrip("-") or "untitled"',
        paths=["README.md", "slugger/slug.py", "tests/test_slug.py"],
        results={"review-2": {"verdict": "approved"}},
    ),
    "fix": Expected(
        ["reproduce-1", "is-red-1", "reproduce-2", "is-red-2", "fix-1", "is-green-1", "fix-2", "is-green-2"],
        last_line='return slug.strip("-")[:length_max].rstrip("-")',
        paths=["slugger/slug.py", "tests/test_slug.py"],
        results={"is-red-2": {"exit_code": 1}, "is-green-1": {"exit_code": 1}, "is-green-2": {"exit_code": 0}},
    ),
    "review": Expected(
        ["look-1", "look_0-1", "look_1-1", "look_2-1", "verdict-1"],
        results={"verdict-1": {"verdict": "changes_requested"}},
    ),
    "best-of-n": Expected(
        ["attempt-1", "attempt_0-1", "attempt_1-1", "attempt_2-1", "judge-1", "keep-1"],
        last_line='return slug.strip("-")[:length_max].strip("-")',
        paths=["slugger/slug.py"],
        results={"judge-1": {"winner": 1}},
    ),
}


@asynccontextmanager
async def platform_for(tmp_path: Path, repository: Path, workflow: str) -> AsyncIterator[World]:
    async with platform_on(tmp_path, repository, SCRIPTS / f"{workflow}.yaml") as world:
        await world.start("run", workflow_name=workflow, budget=BUDGET)
        yield world


async def check(world: World, repository: Path, workflow: str) -> RunView:
    """The run has ended as it always does, and nothing that was recorded has happened twice."""
    expected, run = EXPECTED[workflow], await finished_in_spite(world, "run")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, (run.failure, said(run))
    assert sorted(task.task_id for task in run.tasks if task.HasField("result")) == sorted(expected.tasks), said(run)
    assert list(run.change.paths) == list(expected.paths)
    results = {task.task_id: task.result.structured_json for task in run.tasks}
    for task_id, wanted in expected.results.items():
        assert wanted.items() <= json.loads(results[task_id]).items()
    where = run.change.branch or "HEAD"
    assert git(repository, "show", f"{where}:slugger/slug.py").splitlines()[-1].strip() == expected.last_line
    await verify(world.gateway, "run")
    await check_calls(world)
    return run


async def check_calls(world: World) -> None:
    happened = Counter([name async for entry in entries_of(world, "run") for name in types_of(entry)])
    answers, doubts = happened["model_call_succeeded"], happened["effect_put_in_doubt"]
    assert answers <= len(world.ledger()) <= answers + doubts


def said(run: RunView) -> list[str]:
    """For whoever reads why the test has failed."""
    return [f"{task.task_id}: {task.result.summary[:300]} {task.failure.message[:300]}" for task in run.tasks]


@pytest.mark.parametrize("workflow", EXPECTED)
async def test_a_built_in_workflow(tmp_path: Path, repository: Path, workflow: str) -> None:
    async with platform_for(tmp_path, repository, workflow) as world:
        await check(world, repository, workflow)
