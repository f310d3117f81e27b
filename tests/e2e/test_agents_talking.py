"""A parent talks to its child, and a plan grows into tasks, on a real platform."""

from __future__ import annotations

from pathlib import Path

from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.run_pb2 import AgentNode, Node, Planning, RunStatus, Workflow

from tests.e2e.test_agents import repository, role, summary_of
from tests.e2e.world import platform_on

SCRIPT = """
name: talking
scripts:
  - system: "Role: planner"
    steps:
      - tools: [{tool: finish, input: {tasks: [{id: one, role: cook, prompt: "Cook"}]}}]
      - cases:
          - expect: not accepted
            tools:
              - tool: finish
                input:
                  tasks:
                    - {id: one, role: lead, prompt: "First {{ tasks }}"}
                    - {id: two, role: lead, prompt: "Second", depends_on: [one]}
  - system: "Role: lead"
    steps:
      - say: "Planned and done"
  - system: "Role: parent"
    steps:
      - tools: [{tool: spawn, input: {role: child, task: "Wait for word"}}]
      - tools:
          - {tool: message_child, input: {child: parent_c1, text: "The word is heron"}}
          - {tool: wait_for_children, input: {}}
      - cases:
          - said: "Heard heron"
            say: "It has heard me"
  - system: "Role: child"
    steps:
"""
LISTENS = """
      - cases:
          - said: "The word is (?P<word>\\\\w+)"
            say: "Heard {{word}}"
          - tools: [{tool: bash, input: {command: "sleep 0.2"}}]
"""


async def test_a_child_hears_its_parent_and_a_plan_grows(tmp_path: Path) -> None:
    script = tmp_path / "script.yaml"
    script.write_text(SCRIPT + LISTENS * 150)
    planner = AgentNode(role=role("planner"), planning=Planning(roles=[role("lead")]))
    parent = AgentNode(role=role("parent"), children=[role("child", "bash")])
    plan = Workflow(name="talking", nodes=[Node(node_id="plan", agent=planner), Node(node_id="parent", agent=parent)])
    async with platform_on(tmp_path, repository(tmp_path / "project"), script) as world:
        await world.start("talking-1", workflow_name=None, workflow=plan, budget=Limit(usd_micros=20_000_000))
        run = await world.finished("talking-1")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run
        assert summary_of(run, "parent-1") == "It has heard me"
        assert summary_of(run, "plan_one-1") == summary_of(run, "plan_two-1") == "Planned and done"
