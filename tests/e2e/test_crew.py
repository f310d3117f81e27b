"""A crew on a real platform: four services, a real log, real git, and the scripted model behind the real client.

After every test the whole history is checked: numbering, hashes, invariants, blobs, and the views against the fold.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from crewlog.cli.verifying import verify
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.budget_service_pb2 import QueryCost
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import CancelRun, Node, NoopNode, RunStatus, RunView, Workflow
from crewlog.v1.run_service_pb2 import WatchRun

from tests.e2e.held import AFTER_WRITER, held_script, start_held
from tests.e2e.world import CREW, World, finished_in_spite, git, platform_on, types_of

CANARY = "canary-4f1d2c3b5a69"


def contents(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


async def check_costs(world: World, run: RunView) -> None:
    """Every micro-dollar of the run is in exactly one row, whatever the rows are by."""
    for by in ("task", "role", "model", "credential", "day"):
        query = QueryCost(by=[by], run_id=run.run_id, at_least_revision=run.revision)
        found = await world.gateway.costs.Query(query)
        assert sum(row.usd_micros for row in found.rows) == found.total.usd_micros == run.spent_usd_micros


def is_new_branch(name: str) -> bool:
    return name.startswith((".git/objects/", ".git/refs/heads/crewlog/", ".git/logs/refs/heads/crewlog/"))


async def test_a_crew_repairs_the_project_and_touches_nothing_else(world: World, repository: Path) -> None:
    before = contents(repository)
    await world.start("fix")
    run = await world.finished("fix")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert [task.task_id for task in run.tasks] == [
        "spec-writer-1", "implementer-1", "tester-1", "reviewer-1", "implementer-2", "tester-2", "reviewer-2",
    ]  # fmt: skip
    assert (run.change.branch, list(run.change.paths)) == ("crewlog/fix", ["slugger/slug.py", "tests/test_slug.py"])
    after = contents(repository)
    assert {
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name) and not is_new_branch(name)
    } == set()
    assert not (world.directory / "hook-ran").exists()
    assert "Crewlog-Run: fix" in git(repository, "log", "-1", "--format=%B", "crewlog/fix")
    checkout = world.directory / "checkout"
    git(repository, "worktree", "add", "-q", str(checkout), "crewlog/fix")
    tested = subprocess.run(("python3", "-m", "unittest"), cwd=checkout, capture_output=True, text=True)
    assert tested.returncode == 0 and "Ran 6 tests" in tested.stderr
    await verify(world.gateway, "fix")
    assert sum(task.result.cost_usd_micros for task in run.tasks) == run.spent_usd_micros > 0
    await check_costs(world, run)
    assert not list((world.directory / "data" / "git" / "workspaces").rglob("tree"))


@pytest.mark.parametrize(
    ("victims", "event"),
    [
        (("executor",), "model_call_started"),
        (("executor",), "tool_call_started"),
        (("scheduler",), "task_claimed"),
        (("git",), "workspace_prepared"),
        (("gateway", "scheduler", "executor", "git", "nats-server"), "tool_call_succeeded"),
    ],
)
async def test_a_killed_process_changes_nothing_but_the_time(
    world: World, victims: tuple[str, ...], event: str
) -> None:
    await world.start("fix")
    seen: Counter[str] = Counter()

    def third(name: str) -> bool:
        seen[name] += 1
        return name == event and seen[name] >= 3

    await world.watch("fix", third)
    world.kill(*victims)
    run = await finished_in_spite(world, "fix")
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    assert list(run.change.paths) == ["slugger/slug.py", "tests/test_slug.py"]
    await verify(world.gateway, "fix")
    await check_costs(world, run)
    recorded = [entry async for entry in entries_of(world, "fix")]
    answers = sum(name == "model_call_succeeded" for entry in recorded for name in types_of(entry))
    doubts = sum(name == "effect_put_in_doubt" for entry in recorded for name in types_of(entry))
    # Whatever was recorded was not asked again: only a call that was in flight may have been.
    assert answers <= len(world.ledger()) <= answers + doubts


async def entries_of(world: World, run_id: str) -> AsyncIterator[RecordedEntry]:
    async for message in world.gateway.runs.Watch(WatchRun(run_id=run_id, until_now=True)):
        if message.HasField("entry"):
            yield message.entry


async def test_a_run_stops_in_order_when_its_money_is_used_up(world: World) -> None:
    await world.start("poor", budget=Limit(usd_micros=45_000))
    run = await world.finished("poor")
    assert run.status == RunStatus.RUN_STATUS_FAILED
    assert run.failure.reason == "budget_exhausted"
    assert 0 < run.spent_usd_micros <= 45_000
    await check_costs(world, run)
    await verify(world.gateway, "poor")


async def test_a_cancelled_run_ends_soon_and_keeps_what_was_done(tmp_path: Path, repository: Path) -> None:
    async with platform_on(tmp_path, repository, held_script(tmp_path)) as world:
        await start_held(world, "stop", AFTER_WRITER)
        await world.watch("stop", lambda name: name == "change_committed")
        await world.gateway.runs.Cancel(CancelRun(run_id="stop", reason="enough"))
        run = await world.finished("stop")
        assert run.status == RunStatus.RUN_STATUS_CANCELLED
        assert (run.change.branch, list(run.change.paths)) == ("crewlog/stop", ["written.txt"])
        await verify(world.gateway, "stop")


async def test_a_limit_on_turns_ends_the_run_and_says_so(world: World) -> None:
    workflow = Workflow()
    workflow.CopyFrom(CREW)
    workflow.nodes[1].agent.role.limits.turns_max = 1
    await world.start("short", workflow=workflow, workflow_name=None)
    run = await world.finished("short")
    assert (run.status, run.failure.reason) == (RunStatus.RUN_STATUS_FAILED, "turns_exhausted")


async def test_no_secret_is_in_the_log_the_blobs_or_the_arguments(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    script = tmp_path / "script.yaml"
    script.write_text(LOOKS_FOR_SECRETS)
    async with platform_on(tmp_path, repository, script) as world:
        await world.start("look", workflow_name="agent")
        run = await world.finished("look")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        token = world.platform.token
        arguments = [
            Path(f"/proc/{world.platform.pid_of(n)}/cmdline").read_bytes()
            for n in ("gateway", "executor", "nats-server")
        ]
        assert not any(CANARY.encode() in given or token.encode() in given for given in arguments)
    written = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.name != "token"]
    assert len(written) > 10
    for path in written:
        content = path.read_bytes()
        assert CANARY.encode() not in content, path
        assert token.encode() not in content, path


LOOKS_FOR_SECRETS = """
name: looks-for-secrets
scripts:
  - system: "Role: engineer"
    steps:
      - say: I look around.
        tools:
          - tool: bash
            input: {command: "env; cat /proc/*/environ 2>&1; cat ../../../../../token; ls -la /proc/self/cwd/../.."}
          - {tool: read, input: {path: ../../../../../token}}
      - say: Nothing.
"""


async def test_a_repeated_start_is_the_same_run_and_other_content_is_refused(world: World) -> None:
    short = Workflow(name="short", nodes=[Node(node_id="a", noop=NoopNode(steps=1))])
    await world.start("twice", workflow=short, workflow_name=None)
    await world.start("twice", workflow=short, workflow_name=None)
    with pytest.raises(Exception, match="other content"):
        await world.start("twice", workflow=short, workflow_name=None, input="something else")
    assert (await world.finished("twice")).status == RunStatus.RUN_STATUS_SUCCEEDED
