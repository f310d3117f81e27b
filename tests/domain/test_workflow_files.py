"""What is written in a workflow's file is what a run pins: every kind of node, every field, every short form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from crewlog.crews import load_role, load_workflow
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.node_pb2 import (
    CommandNode,
    GateNode,
    GateNodeKind,
    Join,
    JoinMode,
    JoinNode,
    Outcome,
    RetryPolicy,
    WaitNode,
)
from crewlog.v1.run_pb2 import Node, NoopNode, Workflow
from crewlog.v1.workflow_file_pb2 import DESCRIPTOR
from google.protobuf.message import Message

ROOT = Path(__file__).parents[2]

Load = Callable[[str], Workflow]
APPROVE, CHOOSE, ANSWER, EDIT = (
    GateNodeKind.GATE_NODE_KIND_APPROVE,
    GateNodeKind.GATE_NODE_KIND_CHOOSE,
    GateNodeKind.GATE_NODE_KIND_ANSWER,
    GateNodeKind.GATE_NODE_KIND_EDIT,
)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str) -> Workflow:
        path = tmp_path / "w.yaml"
        path.write_text(text)
        return load_workflow(str(path))

    return load_text


def _node(load: Load, fields: str) -> Node:
    return load(f"nodes: [{{id: a, {fields}}}]").nodes[0]


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        ("noop: {}", "noop", NoopNode()),
        ("noop: {steps: 3}", "noop", NoopNode(steps=3)),
        ("command: [a, '-b']", "command", CommandNode(argv=["a", "-b"])),
        (
            "command: {argv: [a], report: r.xml, network: true, ok_exit_codes: [1, 5]}",
            "command",
            CommandNode(argv=["a"], report_path="r.xml", network=True, ok_exit_codes=[1, 5]),
        ),
        ("gate: Is it good?", "gate", GateNode(kind=APPROVE, question="Is it good?")),
        (
            "gate: {question: q, choices: [b, c], expires: 2d, default: b}",
            "gate",
            GateNode(kind=CHOOSE, question="q", choices=["b", "c"], expires_seconds=172_800, default_answer="b"),
        ),
        ("gate: {question: q, text: t}", "gate", GateNode(kind=EDIT, question="q", text="t")),
        ("gate: {kind: answer, question: q}", "gate", GateNode(kind=ANSWER, question="q")),
        ("wait: 90", "wait", WaitNode(seconds=90)),
        ("wait: 2h", "wait", WaitNode(seconds=7_200)),
        ("wait: {signal: deployed, time: 1 d}", "wait", WaitNode(signal="deployed", seconds=86_400)),
        ("join: all", "join_files", JoinNode()),
    ],
)
def test_every_kind_that_names_nothing_else(load: Load, fields: str, kind: str, expected: Message) -> None:
    node = _node(load, fields)
    assert node.WhichOneof("kind") == kind
    assert getattr(node, kind) == expected


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ("timeout: 30m", "timeout_seconds", 1_800),
        ("retry: 3", "retry", RetryPolicy(attempts_max=3)),
        (
            "retry: {attempts_max: 4, back_off: 5, back_off_max: 1m, reasons: [x]}",
            "retry",
            RetryPolicy(attempts_max=4, back_off_seconds=5, back_off_seconds_max=60, reasons=["x"]),
        ),
        ("on_failure: continue", "continue_on_failure", True),
        ("on_failure: stop", "continue_on_failure", False),
        ("branch: first", "exclusive", True),
        ("branch: all", "exclusive", False),
        ("budget: 1.5", "budget", Limit(usd_micros=1_500_000)),
        ("budget: {usd: 0.000001, model_calls: 2}", "budget", Limit(usd_micros=1, model_calls=2)),
        ("join: {mode: quorum, count: 2}", "join", Join(mode=JoinMode.JOIN_MODE_QUORUM, count=2)),
        ("join: {mode: any, keep_rest: true}", "join", Join(mode=JoinMode.JOIN_MODE_ANY, keep_rest=True)),
        ("runs_on: [gpu]", "executor_labels", ["gpu"]),
    ],
)
def test_what_any_node_may_say(load: Load, fields: str, name: str, expected: object) -> None:
    node = _node(load, f"noop: {{}}, {fields}")
    assert getattr(node, name) == expected
    assert node.WhichOneof("kind") == "noop"


def test_an_agent_with_all_it_may_have(load: Load) -> None:
    node = _node(load, "role: tester, prompt: p, children: [reviewer], children_max: 2, output_schema: {type: object}")
    assert (node.agent.role, node.agent.prompt) == (load_role("tester"), "p")
    assert (list(node.agent.children), node.agent.children_max) == ([load_role("reviewer")], 2)
    assert json.loads(node.agent.output_schema) == {"type": "object"}


@pytest.mark.parametrize("plans", ["[tester]", "{roles: [tester], nodes_max: 7}"])
def test_a_planner(load: Load, plans: str) -> None:
    planning = _node(load, f"role: engineer, plans: {plans}").agent.planning
    assert list(planning.roles) == [load_role("tester")]
    assert planning.nodes_max == (7 if "7" in plans else 0)


def test_a_schema_keeps_its_order_and_its_numbers(load: Load) -> None:
    schema = "{type: object, properties: {z: {maximum: 1.5, minimum: -3}, a: {enum: [b, 2, true, null, '5']}}}"
    assert _node(load, f"role: tester, output_schema: {schema}").agent.output_schema == (
        '{"type":"object","properties":{"z":{"maximum":1.5,"minimum":-3},"a":{"enum":["b",2,true,null,"5"]}}}'
    )


@pytest.mark.parametrize("fan", ["lines(run.input)", "{over: lines(run.input), at_once_max: 4, failures_max: 2}"])
def test_what_stands_beside_a_map_is_that_of_an_item(load: Load, fan: str) -> None:
    common = "timeout: 5m, retry: 2, budget: 1, runs_on: [gpu], files: {none: true}"
    node = _node(
        load, f"map: {fan}, role: tester, prompt: 'p {{{{ item }}}}', {common}, on_failure: continue, join: all"
    )
    body = node.map.body
    assert (node.map.over, body.agent.prompt) == ("lines(run.input)", "p {{ item }}")
    assert (node.map.at_once_max, node.map.failures_max) == ((4, 2) if "at_once_max" in fan else (0, 0))
    assert (body.timeout_seconds, body.retry.attempts_max, body.budget.usd_micros) == (300, 2, 1_000_000)
    assert (list(body.executor_labels), body.files.none) == (["gpu"], True)
    assert (node.timeout_seconds, node.continue_on_failure, node.join.mode) == (0, True, JoinMode.JOIN_MODE_ALL)


def test_a_map_over_numbers_and_over_workflows(load: Load) -> None:
    fan = _node(load, "map: {times: 3}, workflow: {name: agent, input: 'Do {{ index }}'}").map
    assert (fan.times, fan.body.workflow.input) == (3, "Do {{ index }}")
    assert fan.body.workflow.workflow == load_workflow("agent")


def test_edges(load: Load) -> None:
    nodes = "nodes: [{id: a, noop: {}}, {id: b, noop: {}}, {id: c, noop: {}, depends_on: [a]}]\n"
    first = "  - {from: a, to: b, on: [failed, timed_out], when: task.visit > 1, output_contains: x, priority: -3}\n"
    workflow = load(f"{nodes}edges:\n{first}  - {{from: c, to: a, visits_max: 4}}\nvisits_max: 50\ndescription: d\n")
    edge, back = workflow.edges
    assert (getattr(edge, "from"), edge.to, list(edge.on)) == (
        "a",
        "b",
        [Outcome.OUTCOME_FAILED, Outcome.OUTCOME_TIMED_OUT],
    )
    assert (edge.when, edge.output_contains, edge.priority) == ("task.visit > 1", "x", -3)
    assert (back.to, back.visits_max, workflow.visits_max, workflow.description) == ("a", 4, 50, "d")


def test_files_from_a_node_that_is_chosen(load: Load) -> None:
    files = (
        load("nodes: [{id: a, noop: {}}, {id: b, noop: {}, files: {from: \"'a'\", with_conflicts: true}}]")
        .nodes[1]
        .files
    )
    assert (getattr(files, "from"), files.with_conflicts) == ("'a'", True)


def test_json_is_yaml(load: Load) -> None:
    assert load(json.dumps({"name": "j", "nodes": [{"id": "a", "noop": {"steps": 1}}]})).nodes[0].noop.steps == 1


def _page() -> str:
    return (ROOT / "docs/workflows.md").read_text()


def test_the_examples_of_the_page_are_valid(load: Load) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", _page(), re.DOTALL)
    assert len(examples) >= 5
    assert all(load(example).nodes for example in examples)


def test_no_other_page_has_examples_that_nobody_checks() -> None:
    """Those of the scripted model are checked with it, in tests/service/test_scripted.py."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    written = {page.name for page in pages if re.search(r"^```ya?ml", page.read_text(), re.MULTILINE)}
    assert written == {"workflows.md", "scripted-model.md"}


def test_the_page_names_every_field() -> None:
    messages = [message for message in DESCRIPTOR.message_types_by_name.values() if message.name != "RoleFile"]
    fields = {field.name for message in messages for field in message.fields}
    words = set(re.findall(r"[a-z_]+", _page()))
    assert fields - words == {"steps"}


def test_the_schema_of_editors_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "tools/generate_workflow_schema.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_agrees_with_the_loader() -> None:
    schema = jsonschema_rs.validator_for(json.loads((ROOT / "schemas/workflow.schema.json").read_text()))
    for path in (ROOT / "libs/crewlog/crews/workflows").glob("*.yaml"):
        written = re.sub(r"(?<=[{ ])on:", '"on":', path.read_text())
        assert [error.message for error in schema.iter_errors(yaml.safe_load(written))] == []
    for wrong in ({}, {"nodes": [{"id": "a"}]}, {"nodes": [{"id": "a", "noop": {}, "rol": "x"}]}):
        assert not schema.is_valid(wrong)
    node = {"id": "a", "noop": {}}
    assert not schema.is_valid({"nodes": [{**node, "timeout": "soon"}]})
    assert schema.is_valid({"nodes": [{**node, "timeout": "30m", "retry": 3, "join": {"mode": "first", "count": 2}}]})


def test_a_node_may_have_a_model_tools_and_limits_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(
        "nodes:\n- id: a\n  role: engineer\n- id: b\n  role: engineer\n  model: claude-haiku-4-5\n"
        "  tools: [read]\n  limits: {turns_max: 3}\n"
    )
    plain, adapted = (node.agent.role for node in load_workflow(str(path)).nodes)
    assert (adapted.model, list(adapted.tools), adapted.limits.turns_max) == ("claude-haiku-4-5", ["read"], 3)
    assert (plain.model, plain.prompt) == ("", adapted.prompt)
    assert plain.version != adapted.version
    assert adapted.limits.output_tokens_max == plain.limits.output_tokens_max


def test_a_tool_that_is_none_is_found_where_the_node_names_it(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("nodes:\n- id: a\n  role: engineer\n  tools: [rm]\n")
    with pytest.raises(InvalidCommand, match=r"w\.yaml:4:\d+: nodes\[0\]\.tools names 'rm'"):
        load_workflow(str(path))
