"""A run that passes every kind of step in a second or two: calls side by side, each class of tool, a large body,
branches that are merged, a way back, a gate, a map of commands, a child run, a join of files, budgets above the run,
and a person who pauses it, sends a message, and is asked for more money and for an answer.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crewlog.v1.budget_pb2 import Limit, OnExhausted, SetBudget
from crewlog.v1.node_pb2 import CommandNode, GateNode, JoinNode
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.run_pb2 import (
    AgentNode,
    BackEdge,
    MapNode,
    Node,
    NoopNode,
    Role,
    RunView,
    StartRun,
    Workflow,
    WorkflowNode,
)

from tests.chaos.client import INSIST_SECONDS
from tests.chaos.person import Person
from tests.e2e.world import World, git, platform_on

SCRIPT = Path(__file__).with_name("trial.yaml")
TENANT_BUDGET = "tenant"
PLENTY = Limit(usd_micros=1_000_000_000)
TOO_LITTLE = Limit(usd_micros=40_000)
LITTLE = Limit(usd_micros=100)
INNER = Workflow(name="inner", nodes=[Node(node_id="only", noop=NoopNode(steps=1))])
FILES = {"hay.txt": "hay\nneedle\nhay\n", "wide.txt": ("€" * 999 + "\n") * 35, ".gitignore": "*.log\n"}
EXPECTED_FILES = {
    "hay.txt": "hay\npin\nhay\n",
    "made.txt": "made\n",
    "journal.txt": "made\n",
    "left.txt": "left\n",
    "right.txt": "right\nagain\n",
}
TASKS = {
    *("checker-1", "checker-2", "left-1", "maker-1", "right-1", "right-2"),
    *("approved-1", "parts-1", "parts_0-1", "parts_1-1", "inner-1", "joined-1", "tests-1"),
}


@dataclass(frozen=True)
class Trial:
    """One run in a repository of its own."""

    run_id: str
    repository: Path
    person: type[Person] = Person

    @property
    def branch(self) -> str:
        return f"crewlog/{self.run_id}"

    @property
    def budget_id(self) -> str:
        return f"named_{self.run_id}"


@dataclass(frozen=True)
class Done:
    """A trial that has ended, as its client saw it."""

    trial: Trial
    run: RunView
    watched_revisions: tuple[int, ...]


@asynccontextmanager
async def chaos_platform(directory: Path) -> AsyncIterator[World]:
    """A platform whose tenant has a budget."""
    directory.mkdir(exist_ok=True)
    async with platform_on(directory, new_repository(directory / "first"), SCRIPT) as world:
        await world.gateway.budgets.Set(SetBudget(budget_id=TENANT_BUDGET, limit=PLENTY))
        yield world


def new_trial(directory: Path, person: type[Person] = Person) -> Trial:
    run_id = f"trial-{secrets.token_hex(4)}"
    return Trial(run_id, new_repository(directory / run_id), person)


def new_repository(path: Path) -> Path:
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_text(content)
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "the project")
    return path


async def perform(world: World, trial: Trial, patience_seconds: float = INSIST_SECONDS) -> Done:
    """From the registration of the project to the end of the run, whatever dies in between."""
    person = trial.person(world.gateway, trial.run_id, patience_seconds)
    await person.insist(lambda: world.gateway.budgets.Set(SetBudget(budget_id=trial.budget_id, limit=PLENTY)))
    project = await person.insist(lambda: world.gateway.projects.Register(RegisterProject(path=str(trial.repository))))
    await person.insist(lambda: world.gateway.runs.Start(_start(trial, project.project_id)))
    watched = await person.watch_to_the_end(person.act)
    run = await person.get(watched[-1].revision)
    return Done(trial, run, tuple(entry.revision for entry in watched))


def requests(world: World) -> list[str]:
    """The hashes of all that the model server was asked. Two trials never ask the same."""
    return [str(line["request_sha256"]) for line in world.ledger()]


def _start(trial: Trial, project_id: str) -> StartRun:
    return StartRun(
        run_id=trial.run_id,
        project_id=project_id,
        workflow=_workflow(),
        input=f"The trial {trial.run_id}.",
        budget=TOO_LITTLE,
        budgets=[trial.run_id],
        on_exhausted=OnExhausted.ON_EXHAUSTED_ASK,
    )


def _workflow() -> Workflow:
    return Workflow(
        name="trial",
        nodes=[
            _node("maker"),
            _node("left", "maker"),
            _node("right", "maker"),
            _node("checker", "left", "right"),
            Node(node_id="approved", depends_on=["maker"], gate=GateNode(question="Go on?")),
            Node(node_id="parts", depends_on=["approved"], map=MapNode(body=_command("made.txt"), times=2)),
            Node(node_id="inner", depends_on=["maker"], workflow=WorkflowNode(workflow=INNER), budget=LITTLE),
            Node(node_id="joined", depends_on=["left", "inner"], join_files=JoinNode()),
            _command("left.txt", node_id="tests", depends_on=["joined"]),
        ],
        back_edges=[BackEdge(**{"from": "checker"}, to="right", output_contains="VERDICT: once more", visits_max=2)],
    )


def _command(path: str, **fields: Any) -> Node:
    return Node(command=CommandNode(argv=["test", "-f", path]), **fields)


def _node(name: str, *depends_on: str) -> Node:
    role = Role(name=name, prompt=f"Role: {name}", tools=["read", "write", "edit", "glob", "grep", "bash", "ask"])
    return Node(node_id=name, depends_on=depends_on, agent=AgentNode(role=role))
