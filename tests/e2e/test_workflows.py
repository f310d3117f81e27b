"""The built-in workflows on a repository, from the task to the branch; also while services are killed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from crewlog.cli.verifying import verify
from crewlog.crews import load_workflow
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.run_pb2 import AnswerGate, RunStatus, RunView, Workflow

from tests.e2e.test_control import nth, when
from tests.e2e.test_crew import entries_of
from tests.e2e.test_fleet import until
from tests.e2e.world import ROOT, World, finished_in_spite, git, in_spite, platform_on, types_of

SCRIPTS = Path(__file__).with_name("scripts")
EVERYTHING = ("gateway", "scheduler", "executor", "git", "nats-server")
BUDGET = Limit(usd_micros=20_000_000)


@dataclass(frozen=True)
class Expected:
    """What the workflow of a script comes to, whatever dies on the way. `last_line` is that of slugify; `results` are
    those of the last visit."""

    visits: Mapping[str, int]
    last_line: str = "return slug[:length_max]"
    paths: Sequence[str] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    # Texts that were added: they stand there once.
    added: Mapping[str, str] = field(default_factory=dict)


def each(times: int, *nodes: str) -> dict[str, int]:
    return dict.fromkeys(nodes, times)


EXPECTED = {
    "agent": Expected(
        each(1, "engineer"),
        last_line='return slug.strip("-")[:length_max].rstrip("-")',
        paths=["slugger/slug.py"],
    ),
    "feature": Expected(
        each(3, "plan", "implement", "implement_0", "merge", "test")
        | each(2, "review")
        | each(1, "spec", "implement_1", "implement_2", "resolve"),
        last_line='return slug.strip("-")[:length_max].rstrip("-") or "untitled"',
        paths=["README.md", "slugger/slug.py", "tests/test_slug.py"],
        results={"review": {"verdict": "approved"}},
        added={"README.md": 'Without letters it is "untitled".', "tests/test_slug.py": "test_titles_without_letters"},
    ),
    "feature-without-tests": Expected(
        each(1, "spec", "plan", "implement", "implement_0", "merge", "tester", "review"),
        paths=["README.md"],
        results={"review": {"verdict": "approved"}},
        added={"README.md": "The function is slugify."},
    ),
    "fix": Expected(
        each(2, "reproduce", "is-red", "fix", "is-green"),
        last_line='return slug.strip("-")[:length_max].rstrip("-")',
        paths=["slugger/slug.py", "tests/test_slug.py"],
        results={"is-red": {"exit_code": 1}, "is-green": {"exit_code": 0}},
        added={"tests/test_slug.py": "test_a_cut_slug"},
    ),
    "review": Expected(
        each(1, "look", "look_0", "look_1", "look_2", "verdict"), results={"verdict": {"verdict": "changes_requested"}}
    ),
    "best-of-n": Expected(
        each(1, "attempt", "attempt_0", "attempt_1", "attempt_2", "judge", "keep"),
        last_line='return slug.strip("-")[:length_max].strip("-")',
        paths=["slugger/slug.py"],
        results={"judge": {"winner": 1}},
    ),
}


@asynccontextmanager
async def platform_for(tmp_path: Path, repository: Path, script: str) -> AsyncIterator[World]:
    async with platform_on(tmp_path, repository, SCRIPTS / f"{script}.yaml") as world:
        await world.start("run", workflow_name=script.removesuffix("-without-tests"), budget=BUDGET)
        yield world


async def check(world: World, repository: Path, script: str) -> None:
    """The run has ended as it always does, and nothing that was recorded has happened twice."""
    expected, run = EXPECTED[script], await finished_in_spite(world, "run")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, (run.failure, said(run))
    ended = [task for task in run.tasks if task.HasField("result")]
    assert Counter(task.node_id for task in ended) == expected.visits, said(run)
    assert (list(run.change.paths), bool(run.change.branch)) == (list(expected.paths), bool(expected.paths))
    results = {task.node_id: task.result.structured_json for task in ended}
    for node_id, wanted in expected.results.items():
        assert wanted.items() <= json.loads(results[node_id]).items()
    check_files(repository, run.change.branch or "HEAD", expected)
    await verify(world.gateway, "run")
    await check_calls(world)


def check_files(repository: Path, where: str, expected: Expected) -> None:
    assert git(repository, "show", f"{where}:slugger/slug.py").splitlines()[-1].strip() == expected.last_line
    for path, text in expected.added.items():
        assert git(repository, "show", f"{where}:{path}").count(text) == 1


async def check_calls(world: World) -> None:
    happened = Counter([name async for entry in entries_of(world, "run") for name in types_of(entry)])
    answers, doubts = happened["model_call_succeeded"], happened["effect_put_in_doubt"]
    assert answers <= len(world.ledger()) <= answers + doubts


@dataclass(frozen=True)
class Death:
    """Of these services, at the event of this number."""

    services: Sequence[str]
    event: str
    number: int = 1


DEATHS = {
    "feature": [
        Death(["scheduler"], "map_expanded"),
        Death(["executor"], "tool_call_started", 6),
        Death(["git", "scheduler"], "merge_requested"),
        Death(EVERYTHING, "edge_taken", 2),
        Death(["gateway", "executor"], "map_expanded", 3),
    ],
    "fix": [
        Death(["executor"], "tool_call_started", 3),
        Death(["scheduler"], "edge_taken"),
        Death(EVERYTHING, "agent_failed"),
        Death(["git", "executor"], "edge_taken", 3),
    ],
    "best-of-n": [
        Death(["scheduler", "executor"], "map_expanded"),
        Death(["git"], "tool_call_succeeded", 2),
        Death(EVERYTHING, "task_succeeded", 3),
    ],
}


async def die(world: World, death: Death) -> None:
    await in_spite(lambda: world.watch("run", nth(death.event, death.number)))
    await until(lambda: all(world.platform.pid_of(name) for name in death.services))
    world.kill(*death.services)


def said(run: RunView) -> list[str]:
    """For whoever reads why the test has failed."""
    return [f"{task.task_id}: {task.result.summary[:300]} {task.failure.message[:300]}" for task in run.tasks]


@pytest.mark.parametrize("script", EXPECTED)
async def test_a_built_in_workflow(tmp_path: Path, repository: Path, script: str) -> None:
    async with platform_for(tmp_path, repository, script) as world:
        await check(world, repository, script)


def of_the_page(name: str, folder: Path) -> Workflow:
    """An example of docs/workflows.md, as somebody would copy it."""
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/workflows.md").read_text(), re.DOTALL)
    path = folder / f"{name}.yaml"
    path.write_text(next(example for example in examples if example.startswith(f"name: {name}\n")))
    return load_workflow(str(path))


async def test_the_example_of_the_page_goes_from_a_list_of_files_to_a_question(
    tmp_path: Path, repository: Path
) -> None:
    async with platform_on(tmp_path, repository, SCRIPTS / "each-file.yaml") as world:
        await world.start("run", workflow=of_the_page("each-file", tmp_path), budget=BUDGET)
        await world.watch("run", lambda name: name == "gate_opened")
        gate = (await when(world, "run", lambda view: bool(view.gates))).gates[0]
        assert gate.question == "The tests pass. Keep what was done in 2 files?"
        await world.gateway.gates.Answer(AnswerGate(run_id="run", gate_id=gate.gate_id, choice="approve"))
        run = await world.finished("run")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, (run.failure, said(run))
        assert Counter(task.node_id for task in run.tasks if task.HasField("result")) == each(
            2, "each", "each_0", "each_1", "joined", "test"
        ) | each(1, "list", "ask"), said(run)
        assert list(run.change.paths) == ["slugger/slug.py"]
        assert 'slug.strip("-")[:length_max]' in git(repository, "show", f"{run.change.branch}:slugger/slug.py")
        await verify(world.gateway, "run")


@pytest.mark.slow
@pytest.mark.parametrize("workflow", DEATHS)
async def test_it_ends_the_same_while_services_are_killed(tmp_path: Path, repository: Path, workflow: str) -> None:
    async with platform_for(tmp_path, repository, workflow) as world:
        for death in DEATHS[workflow]:
            await die(world, death)
        await check(world, repository, workflow)
