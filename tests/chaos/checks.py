"""What has to hold for a trial that has ended, whatever was killed meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence

from crewlog.cli.following import until_now
from crewlog.cli.verifying import verify
from crewlog.scheduler.app import RECONCILE_SECONDS
from crewlog.v1.budget_service_pb2 import GetBudget, QueryCost
from crewlog.v1.entry_pb2 import Event, RecordedEntry
from crewlog.v1.run_pb2 import GateStatus, RunStatus

from tests.chaos.person import Doubter
from tests.chaos.trial import EXPECTED_FILES, TASKS, Done, Trial
from tests.e2e.world import World, git

LOOK_AGAIN_SECONDS = 0.05
SETTLED_SECONDS = 3 * RECONCILE_SECONDS
MODEL_CALL = -1


async def check(world: World, done: Done) -> list[RecordedEntry]:
    """The run, its files, its history and its money; returns the history."""
    check_run(done)
    check_repository(done.trial)
    assert not list((world.directory / "data" / "git" / "workspaces").glob(f"{done.trial.run_id}_*"))
    await verify(world.gateway, done.trial.run_id)
    entries = await until_now(world.gateway, done.trial.run_id)
    check_watched(done, entries)
    check_tools(done, entries)
    await check_money(world, done)
    return entries


def check_run(done: Done) -> None:
    run = done.run
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    visited = {task.task_id for task in run.tasks}
    assert visited == TASKS or (visited > TASKS and done.trial.person is Doubter)
    assert all(gate.status == GateStatus.GATE_STATUS_ANSWERED for gate in run.gates)


def check_repository(trial: Trial) -> None:
    """One branch with exactly the work of one pass, and nothing else."""
    found = {name: git(trial.repository, "show", f"{trial.branch}:{name}") for name in EXPECTED_FILES}
    assert found == EXPECTED_FILES
    changed = git(trial.repository, "diff", "--name-only", "main", trial.branch).split()
    assert sorted(changed) == sorted(EXPECTED_FILES)
    assert git(trial.repository, "for-each-ref", "--format=%(refname:short)").split() == [trial.branch, "main"]
    assert git(trial.repository, "status", "--porcelain") == ""
    subprocess.run(("git", "-C", str(trial.repository), "fsck", "--no-dangling"), check=True, capture_output=True)


def check_watched(done: Done, entries: Sequence[RecordedEntry]) -> None:
    """The client has seen every entry of the run once, in order, though its streams broke."""
    assert list(done.watched_revisions) == [entry.revision for entry in entries][: len(done.watched_revisions)]


def check_tools(done: Done, entries: Sequence[RecordedEntry]) -> None:
    """Every tool did what it was asked for, but those that a person has stopped."""
    failures = [fact.tool_call_failed.failure for fact in events_of(entries) if fact.HasField("tool_call_failed")]
    stopped = {"cancelled"} if done.trial.person is Doubter else set[str]()
    assert {failure.reason for failure in failures} <= stopped, failures


def check_requests(requests: Sequence[str], entries: Sequence[RecordedEntry]) -> None:
    """No recorded answer was asked for again: only what was in flight when something died. `requests` are all that the
    model server had of the runs of these entries."""
    facts = events_of(entries)
    answers = sum(fact.HasField("model_call_succeeded") for fact in facts)
    doubts = sum(
        fact.HasField("effect_put_in_doubt") and fact.effect_put_in_doubt.key.index == MODEL_CALL for fact in facts
    )
    repeated = sum(count - 1 for count in Counter(requests).values())
    said = f"{len(requests)} requests ({repeated} repeated), {answers} answers, {doubts} in doubt"
    assert answers <= len(requests) <= answers + doubts, f"a recorded answer was asked for again: {said}"
    assert repeated <= doubts, f"a recorded answer was asked for again: {said}"


async def check_money(world: World, done: Done) -> None:
    """Every micro-dollar of the run is in one row whatever the rows are by, and its budgets say the same."""
    run = done.run
    for by in ("task", "model", "credential"):
        query = QueryCost(by=[by], run_id=run.run_id, at_least_revision=run.revision)
        found = await world.gateway.costs.Query(query)
        assert sum(row.usd_micros for row in found.rows) == found.total.usd_micros == run.spent_usd_micros
    assert await settled(world, done.trial.budget_id) == run.spent_usd_micros


async def settled(world: World, budget_id: str) -> int:
    """What was spent of a budget, once nothing is allotted of it any more."""
    async with asyncio.timeout(SETTLED_SECONDS):
        while True:
            view = await world.gateway.budgets.Get(GetBudget(budget_id=budget_id))
            if not view.open_allotments:
                return view.spent.usd_micros
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def events_of(entries: Iterable[RecordedEntry]) -> list[Event]:
    return [event for recorded in entries for decision in recorded.entry.decisions for event in decision.events]
