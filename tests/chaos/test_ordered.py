"""A graph of nodes in a strict order, while services are killed at random: each of them once, and in that order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from crewlog.cli.following import until_now
from crewlog.cli.launcher import supervisor
from crewlog.cli.verifying import verify
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.run_pb2 import MapNode, Node, NoopNode, RunStatus, StartRun, Workflow

from tests.chaos.campaign import Campaign, Hear
from tests.chaos.checks import events_of
from tests.chaos.options import Options
from tests.chaos.person import Person
from tests.chaos.trial import Trial, chaos_platform, new_trial
from tests.e2e.world import World

pytestmark = pytest.mark.slow
logger = logging.getLogger("chaos")

NODES, NODES_OF_PART = 1_023, 127
ITEMS = 10_000
VICTIMS = ("scheduler", "executor", "gateway")
ENTRIES_BETWEEN, ENTRIES_BETWEEN_OF_PART, ENTRIES_BETWEEN_OF_MAP = (10, 60), (30, 120), (100, 1_000)
PATIENCE_SECONDS = 600.0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies every second is not kept waiting."""
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS_MAX", supervisor.PAUSE_SECONDS_MIN)


async def perform(world: World, trial: Trial, workflow: Workflow, hear: Hear) -> list[RecordedEntry]:
    """The history of the run, once it has succeeded; `hear` heard each entry when the client did."""
    person = Person(world.gateway, trial.run_id, PATIENCE_SECONDS)
    project = await person.insist(lambda: world.gateway.projects.Register(RegisterProject(path=str(trial.repository))))
    start = StartRun(run_id=trial.run_id, project_id=project.project_id, workflow=workflow, input="one by one")
    await person.insist(lambda: world.gateway.runs.Start(start))
    watched = await person.watch_to_the_end(hear)
    run = await person.get(watched[-1].revision)
    assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
    return watched


async def checked(world: World, trial: Trial, watched: Sequence[RecordedEntry]) -> list[RecordedEntry]:
    """Against the log itself: the client has seen all of it."""
    await verify(world.gateway, trial.run_id)
    entries = await until_now(world.gateway, trial.run_id)
    assert [one.revision for one in watched] == [one.revision for one in entries][: len(watched)]
    return entries


def ended(entries: Sequence[RecordedEntry]) -> list[str]:
    return [fact.task_succeeded.task_id for fact in events_of(entries) if fact.HasField("task_succeeded")]


def begun(entries: Sequence[RecordedEntry]) -> list[str]:
    """First claims; another one goes on with what was begun."""
    claims = (fact.task_claimed for fact in events_of(entries) if fact.HasField("task_claimed"))
    return [claim.task_id for claim in claims if claim.generation == 1]


def in_order(count: int) -> Iterator[Node]:
    for number in range(count):
        yield Node(node_id=f"n{number}", depends_on=[f"n{number - 1}"] if number else [], noop=NoopNode(steps=1))


async def test_nodes_in_a_strict_order_run_once_each_and_in_that_order(tmp_path: Path, asked: Options) -> None:
    logger.info("SEED=%d", asked.seed)
    count, between = (NODES, ENTRIES_BETWEEN) if asked.everything else (NODES_OF_PART, ENTRIES_BETWEEN_OF_PART)
    async with chaos_platform(tmp_path / "world") as world:
        campaign = Campaign(world, tmp_path, asked.random(), victims=VICTIMS)
        trial = new_trial(tmp_path)
        workflow = Workflow(name="ordered", nodes=list(in_order(count)))
        async with campaign.striking_each(between) as hear:
            watched = await perform(world, trial, workflow, hear)
        entries = await checked(world, trial, watched)
        expected = [f"n{number}-1" for number in range(count)]
        assert begun(entries) == expected
        assert ended(entries) == expected
        logger.info("%d nodes, %d deaths, %d entries", count, len(campaign.deaths), len(entries))
        assert campaign.deaths


@pytest.mark.campaign
async def test_a_map_of_ten_thousand_ends_while_services_are_killed(tmp_path: Path, asked: Options) -> None:
    async with chaos_platform(tmp_path / "world") as world:
        campaign = Campaign(world, tmp_path, asked.random(), victims=VICTIMS)
        trial = new_trial(tmp_path)
        fan = MapNode(body=Node(noop=NoopNode(steps=1)), times=ITEMS, at_once_max=64)
        workflow = Workflow(name="wide", nodes=[Node(node_id="all", map=fan)], visits_max=2 * ITEMS)
        async with campaign.striking_each(ENTRIES_BETWEEN_OF_MAP) as hear:
            watched = await perform(world, trial, workflow, hear)
        entries = await checked(world, trial, watched)
        items = [task_id for task_id in ended(entries) if task_id != "all-1"]
        assert sorted(items) == sorted(f"all_{index}-1" for index in range(ITEMS))
        logger.info("%d items, %d deaths, %d entries", ITEMS, len(campaign.deaths), len(entries))
        assert campaign.deaths
