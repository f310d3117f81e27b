"""Files that do not fit together: a refusal that the run can lead on from, or markers of which the agent is told."""

from __future__ import annotations

import pytest
from crewlog.domain.errors import MergeConflict, WrongState
from crewlog.executor.desk import CONFLICTS_SHOWN_MAX, Desk
from crewlog.v1.agent_pb2 import AgentStatus
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import AgentNode, Node, Role
from crewlog.v1.scheduler_pb2 import Grant
from crewlog.v1.workspace_pb2 import PreparedWorkspace, PrepareWorkspace

from tests.service.executor.desks import Desks
from tests.service.executor.test_structured_output import said_to_model
from tests.service.git.places import UserRepository

MENDER = Node(node_id="mender", agent=AgentNode(role=Role(name="mender", prompt="Role: mender", tools=["read"])))
CHECK = Node(node_id="check", command=CommandNode(argv=["true"]))


class Refusing:
    """A git service that refuses to prepare."""

    def __init__(self, refusal: WrongState) -> None:
        self.refusal = refusal

    async def Prepare(self, command: PrepareWorkspace, **_: object) -> PreparedWorkspace:
        raise self.refusal


async def diverged(desks: Desks, user: UserRepository) -> list[str]:
    """Two commits that change the same line, in the managed clone."""
    user.git("checkout", "-q", "-b", "left")
    left = user.commit(**{"hay.txt": "left\n"})
    await desks.pin(user)
    user.git("checkout", "-q", "-b", "right", "main")
    right = user.commit(**{"hay.txt": "right\n"})
    await desks.pin(user)
    return [left, right]


@pytest.mark.parametrize("node", [MENDER, CHECK], ids=["agent", "command"])
async def test_a_conflict_ends_the_task_with_a_reason_of_its_own(
    desks: Desks, user: UserRepository, node: Node
) -> None:
    agent = await desks.work(node, base_commits=await diverged(desks, user))
    assert agent.status == AgentStatus.AGENT_STATUS_FAILED
    assert agent.failure is not None and agent.failure.reason == "merge_conflict", agent.failure


@pytest.mark.parametrize(
    ("refusal", "reason"), [(MergeConflict("they do not fit"), "merge_conflict"), (WrongState("not now"), "refused")]
)
async def test_what_git_refuses_ends_the_task_with_the_reason(desks: Desks, refusal: WrongState, reason: str) -> None:
    desks.service.workspaces = Refusing(refusal)
    agent = await desks.work(CHECK, with_conflicts=True)
    assert agent.failure is not None and agent.failure.reason == reason
    assert refusal.message in agent.failure.message


async def test_an_agent_is_told_which_files_have_conflict_markers(desks: Desks, user: UserRepository) -> None:
    commits = await diverged(desks, user)
    await desks.play("{tools: [{tool: read, input: {path: hay.txt}}]}", '{cases: [{expect: "<<<<<<<", say: I see it}]}')
    agent = await desks.work(MENDER, base_commits=commits, with_conflicts=True)
    assert agent.result is not None and agent.result.output.inline == b"I see it"
    first = str((await said_to_model(desks, agent))[0])
    assert "- hay.txt" in first and first.index("hay.txt") < first.index("Do it.")


async def test_files_that_fit_are_not_spoken_of(desks: Desks) -> None:
    await desks.play("{say: Done}")
    agent = await desks.work(MENDER, with_conflicts=True)
    assert agent.started.prompt.inline == b"Do it."


def test_only_so_many_files_are_named() -> None:
    desk = Desk(Grant(), None, None, None, None, None)  # type: ignore[arg-type]
    paths = [f"f{number}.txt" for number in range(CONFLICTS_SHOWN_MAX + 5)]
    desk.prepared = PreparedWorkspace(conflicts=paths)
    told = desk.with_conflicts_told("Do it.")
    assert told.count("- f") == CONFLICTS_SHOWN_MAX and "5 more" in told and told.endswith("Do it.")
