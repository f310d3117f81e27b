"""Commands, structured output and children on a real platform, from the first command to the branch."""

from __future__ import annotations

import json
from pathlib import Path

from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import AgentNode, Node, Role, RunStatus, RunView, Workflow

from tests.e2e.world import git, platform_on, types_of

SCHEMA = json.dumps({"type": "object", "properties": {"lines": {"type": "integer"}}, "required": ["lines"]})
SCRIPT = """
name: agents
scripts:
  - system: "Role: judge"
    steps:
      - tools: [{tool: read, input: {path: hay.txt}}]
      - say: I have read it.
        tools: [{tool: finish, input: {lines: three}}]
      - cases:
          - expect: not accepted
            tools: [{tool: finish, input: {lines: 3}}]
  - system: "Role: lead"
    steps:
      - tools:
          - {tool: write, input: {path: lead.txt, content: "led\\n"}}
          - {tool: spawn, input: {role: helper, task: "Count the hay"}}
          - {tool: wait_for_children, input: {}}
      - cases:
          - said: "There are 3 in hay and lead.txt"
            say: My child has counted.
  - system: "Role: helper"
    steps:
      - tools: [{tool: bash, input: {command: "wc -l < hay.txt; ls lead.txt"}}]
      - cases:
          - expect: "(?P<count>\\\\d+)\\\\nlead.txt"
            say: "There are {{count}} in hay and lead.txt"
"""


def role(name: str, *tools: str) -> Role:
    return Role(name=name, prompt=f"Role: {name}", tools=tools)


def repository(path: Path) -> Path:
    path.mkdir()
    (path / "hay.txt").write_text("hay\nneedle\nhay\n")
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "first")
    return path


def workflow() -> Workflow:
    check = Node(node_id="check", command=CommandNode(argv=["sh", "-c", "wc -l hay.txt; echo 1 > made.txt"]))
    judge = AgentNode(role=role("judge", "read"), output_schema=SCHEMA, prompt="{{ tasks.check.result.output }}")
    lead = AgentNode(role=role("lead", "write"), children=[role("helper", "bash")], children_max=2)
    return Workflow(
        name="agents",
        nodes=[
            check,
            Node(node_id="judge", depends_on=["check"], agent=judge),
            Node(node_id="lead", depends_on=["judge"], agent=lead),
        ],
    )


def result_of(run: RunView, task_id: str) -> str:
    [task] = [task for task in run.tasks if task.task_id == task_id]
    return task.result.structured_json


def summary_of(run: RunView, task_id: str) -> str:
    [task] = [task for task in run.tasks if task.task_id == task_id]
    return task.result.summary


async def test_a_command_a_result_and_a_child(tmp_path: Path) -> None:
    script = tmp_path / "script.yaml"
    script.write_text(SCRIPT)
    async with platform_on(tmp_path, repository(tmp_path / "project"), script) as world:
        await world.start("agents-1", workflow_name=None, workflow=workflow(), budget=Limit(usd_micros=10_000_000))
        entries = await world.watch("agents-1", lambda name: name in ("run_succeeded", "run_failed"))
        types = [name for entry in entries for name in types_of(entry)]
        run = await world.finished("agents-1")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run
        assert json.loads(result_of(run, "check-1"))["output"] == "3 hay.txt"
        assert json.loads(result_of(run, "judge-1")) == {"lines": 3}
        assert summary_of(run, "lead-1") == "My child has counted."
        assert types.index("allotment_shared") < types.index("child_spawned")
        assert types.count("child_spawned") == types.count("allotment_shared") == 1
        files = git(tmp_path / "project", "ls-tree", "-r", "--name-only", "crewlog/agents-1").split()
        assert files == ["hay.txt", "lead.txt", "made.txt"]


async def test_it_ends_the_same_while_executor_and_scheduler_are_killed(tmp_path: Path) -> None:
    """Killed at the steps that must not happen twice: the command, the share, the child, the wait."""
    deaths = {"task_claimed": "executor", "allotment_shared": "executor", "child_spawned": "scheduler"}
    script = tmp_path / "script.yaml"
    script.write_text(SCRIPT)
    async with platform_on(tmp_path, repository(tmp_path / "project"), script) as world:
        await world.start("agents-2", workflow_name=None, workflow=workflow(), budget=Limit(usd_micros=10_000_000))
        for event, service in deaths.items():
            await world.watch("agents-2", lambda name, wanted=event: name == wanted)  # type: ignore[misc]
            world.kill(service)
        run = await world.finished("agents-2")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run
        assert summary_of(run, "lead-1") == "My child has counted."
        entries = await world.watch("agents-2", lambda name: name == "run_succeeded")
        types = [name for entry in entries for name in types_of(entry)]
        assert types.count("child_spawned") == types.count("allotment_shared") == 1
