"""Roles and workflows in files: what is built in, what overrides it, and what a wrong file is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crewlog.crews import available_workflows, load_role, load_workflow, strict_yaml
from crewlog.domain.errors import InvalidCommand, NotFound, Refused
from crewlog.domain.workflow import roles
from crewlog.domain.workflow.validation import roles_of
from crewlog.tools.registry import TOOLS
from crewlog.v1.run_pb2 import OnUnknown
from hypothesis import given
from hypothesis import strategies as st

ROLES = ["architect", "chief-reviewer", "engineer", "implementer", "integrator", "judge", "reproducer", "reviewer"]
ROLES += ["spec-writer", "tester"]
WORKFLOWS = ["agent", "best-of-n", "feature", "fix", "review"]
DEMO = Path(__file__).parents[2] / "examples" / "demo" / "crew.yaml"
READS_ONLY = {"read", "glob", "grep"}
SECONDS_MAX = 5.0

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("roles/x.md", text): a file of a directory that overrides what is built in; answers the directory."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return write_file


@pytest.mark.parametrize("name", ROLES)
def test_built_in_roles_say_who_they_are(name: str) -> None:
    role = load_role(name)
    assert role.name == name
    assert f"Role: {name}" in role.prompt.splitlines()
    assert set(role.tools) <= TOOLS.keys()
    assert role.version and role.limits.turns_max > 0


def test_the_rules_know_the_tools_that_there_are() -> None:
    assert frozenset(TOOLS) == roles.TOOLS


def test_who_may_not_change_files_has_no_tool_for_it() -> None:
    for name in ("architect", "chief-reviewer", "spec-writer"):
        assert set(load_role(name).tools) == READS_ONLY
    assert not {"write", "edit"} & set(load_role("judge").tools)
    assert not {"write", "edit"} & set(load_role("reviewer").tools)


def test_the_reviewer_is_told_the_phrase_that_the_workflow_looks_for() -> None:
    (back,) = load_workflow(str(DEMO)).back_edges
    assert back.output_contains in load_role("reviewer").prompt.splitlines()
    assert "VERDICT: approved" in load_role("reviewer").prompt.splitlines()


def test_the_built_in_workflows() -> None:
    assert available_workflows() == WORKFLOWS
    assert all(load_workflow(name).name == name for name in WORKFLOWS)
    assert all(load_workflow(name).description for name in WORKFLOWS)
    assert {role.name for name in WORKFLOWS for _, role in roles_of(load_workflow(name))} == set(ROLES)


def test_whoever_copies_best_of_n_finds_its_numbers_in_step() -> None:
    attempt, judge, _ = load_workflow("best-of-n").nodes
    winner = json.loads(judge.agent.output_schema)["properties"]["winner"]
    assert winner["maximum"] == attempt.map.times - 1


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_loop_of_a_built_in_workflow_ends(name: str) -> None:
    backs = [edge for edge in load_workflow(name).edges if edge.visits_max]
    assert all(1 < edge.visits_max <= 5 for edge in backs)
    assert bool(backs) == (name in ("feature", "fix"))


def test_the_workflow_of_the_demo() -> None:
    crew = load_workflow(str(DEMO))
    assert [(node.node_id, list(node.depends_on)) for node in crew.nodes] == [
        ("spec-writer", []),
        ("implementer", ["spec-writer"]),
        ("tester", ["implementer"]),
        ("reviewer", ["tester"]),
    ]
    (back,) = crew.back_edges
    assert (getattr(back, "from"), back.to, back.visits_max) == ("reviewer", "implementer", 3)


def test_the_first_directory_that_has_the_name_wins(tmp_path: Path, write: Write) -> None:
    write("first/roles/tester.md", "---\ntools: [read]\n---\nMine.")
    write("second/roles/tester.md", "---\ntools: [grep]\n---\nTheirs.")
    directories = [tmp_path / "none", tmp_path / "first", tmp_path / "second"]
    assert load_role("tester", directories).prompt == "Mine."
    assert load_role("reviewer", directories) == load_role("reviewer")
    tester = next(node for node in load_workflow("feature", directories).nodes if node.node_id == "tester")
    assert tester.agent.role.prompt == "Mine."


def test_a_version_is_the_content(write: Write) -> None:
    directory = write("roles/writer.md", "---\ntools: [read]\n---\nWrite.")
    before = load_role("writer", [directory])
    assert load_role("writer", [directory]).version == before.version
    write("roles/writer.md", "---\ntools: [read]\n---\nWrite!")
    assert load_role("writer", [directory]).version != before.version


def test_a_changed_role_is_another_version_of_the_workflow(write: Write) -> None:
    directory = write("roles/engineer.md", "---\ntools: [read]\n---\nOther.")
    assert load_workflow("agent", [directory]).version != load_workflow("agent").version


def test_every_field_of_a_workflow_and_a_role(write: Write) -> None:
    limits = "turns_max: 1\nduration_seconds_max: 2\ntokens_max: 3"
    write("roles/w.md", f"---\nmodel: m\ncheaper_model: c\ntools: []\n{limits}\n---\n\nP\n")
    text = "name: own\nnodes:\n  - {id: a, role: w, prompt: more}\n  - {id: b, noop: {steps: 2}, depends_on: [a]}\n"
    directory = write("workflows/own.yaml", text + "back_edges:\n  - {from: b, to: a, output_contains: again}\n")
    workflow = load_workflow("own", [directory])
    role, noop, back = workflow.nodes[0].agent.role, workflow.nodes[1], workflow.back_edges[0]
    assert (role.model, role.cheaper_model, role.prompt, workflow.nodes[0].agent.prompt) == ("m", "c", "P", "more")
    assert (role.limits.turns_max, role.limits.duration_seconds_max, role.limits.tokens_max) == (1, 2, 3)
    assert (noop.noop.steps, list(noop.depends_on), back.visits_max) == (2, ["a"], 2)
    assert available_workflows([directory]) == sorted([*WORKFLOWS, "own"])


def test_limits_of_calls_the_network_and_labels(write: Write) -> None:
    limits = ("model_call_seconds_max", "first_byte_seconds_max", "silence_seconds_max", "tool_seconds_max")
    fields = "".join(f"{name}: {seconds}\n" for seconds, name in enumerate(limits, 1))
    write("roles/w.md", f"---\n{fields}network: true\non_unknown: ask\n---\nP")
    directory = write("workflows/w.yaml", "nodes: [{id: a, role: w, runs_on: [gpu, big]}, {id: b, role: tester}]")
    first, second = load_workflow("w", [directory]).nodes
    role, usual = first.agent.role, second.agent.role
    assert [getattr(role.limits, name) for name in limits] == [1, 2, 3, 4]
    assert (role.network, role.on_unknown, list(first.executor_labels)) == (
        True,
        OnUnknown.ON_UNKNOWN_ASK,
        ["gpu", "big"],
    )
    assert (usual.network, usual.on_unknown, list(second.executor_labels)) == (False, 0, [])
    write("roles/w.md", "---\non_unknown: tell\nnetwork: false\n---\nP")
    role = load_role("w", [directory])
    assert (role.network, role.on_unknown) == (False, OnUnknown.ON_UNKNOWN_TELL)


def test_a_workflow_by_its_path(write: Write) -> None:
    directory = write("plans/mine.yaml", "nodes: [{id: a, noop: {}}]")
    assert load_workflow(str(directory / "plans/mine.yaml")).name == "mine"
    with pytest.raises(NotFound, match="no workflow file"):
        load_workflow(str(directory / "plans/other.yaml"))


@pytest.mark.parametrize("name", ["", "nope", "../roles/tester", "Agent", "agent\n", "x" * 10_000, "a/b", ".."])
def test_an_unknown_name_is_told_what_there_is(name: str) -> None:
    with pytest.raises(NotFound) as refused:
        load_workflow(name)
    assert ", ".join(WORKFLOWS) in refused.value.what_to_do
    assert len(refused.value.message) < 200
    with pytest.raises(NotFound):
        load_role(name)


def test_a_link_leads_nowhere_else(tmp_path: Path, write: Write) -> None:
    write("private/x.md", "---\ntools: []\n---\nSecret.")
    link = write("repository/roles/none.md", "") / "repository/roles/x.md"
    link.symlink_to(tmp_path / "private/x.md")
    with pytest.raises(NotFound):
        load_role("x", [tmp_path / "repository"])


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        ("", "file", "mapping"),
        ("name: [", "file", "not valid YAML"),
        ("name: a\nnodes: [{id: a, noop: {}}]\nnode: 1", "node", "is no field"),
        ("nodes: [{noop: {}}]", "nodes[0].id", "missing"),
        ("nodes: [{id: a}]", "nodes[0]", "has to say what is done: role, command"),
        ("nodes: [{id: a, noop: {}, role: tester}]", "nodes[0]", "only one of role and noop"),
        ("nodes: [{id: a, role: nope}]", "nodes[0].role", "'nope', which is no role"),
        ("nodes: [{id: a, noop: {steps: -1}}]", "nodes[0].noop.steps", "whole number from 0"),
        ("nodes: [{id: a, noop: {}, depends_on: [a]}]", "nodes", "in a circle: a"),
        ("nodes: [{id: a, noop: {}, depends_on: [b]}]", "nodes[0].depends_on", "'b', which is no node"),
        ("nodes: [{id: a, noop: {}, runs_on: gpu}]", "nodes[0].runs_on", "a list"),
        ("nodes: [{id: a, noop: {}, runs_on: [g_pu]}]", "nodes[0].runs_on", "'g_pu' has to be 1 to 32"),
        ("nodes: []", "nodes", "1 to 2000"),
        ("nodes: [{id: a, noop: {}}]\nback_edges: [{from: a, to: a}]", "back_edges[0].output_contains", "missing"),
        (
            "nodes: [{id: a, noop: {}}]\nback_edges: [{from: a, to: a, output_contains: x, visits_max: 99}]",
            "back_edges[0].visits_max",
            "1 to 20",
        ),
    ],
)
def test_a_wrong_workflow_is_told_the_file_and_the_field(write: Write, text: str, field: str, why: str) -> None:
    directory = write("workflows/w.yaml", text)
    with pytest.raises(InvalidCommand) as refused:
        load_workflow("w", [directory])
    assert set(refused.value.violations) == {field}
    assert why in refused.value.violations[field]
    assert str(directory / "workflows/w.yaml") in refused.value.message


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        ("no front matter", "file", "'---'"),
        ("---\ntools: []\n", "file", "'---'"),
        ("---\ntools: []\n---\n", "prompt", "is missing"),
        ("---\ntools: [curl]\n---\nP", "tools", "'curl'; there are ask, bash"),
        ("---\ntools: read\n---\nP", "tools", "a list"),
        ("---\nturns_max: many\n---\nP", "turns_max", "whole number"),
        ("---\nturns: 5\n---\nP", "turns", "is no field"),
        ("---\ncheaper_model: 4\n---\nP", "cheaper_model", 'in quotes, "4"'),
        ("---\nnetwork: 1\n---\nP", "network", "true or false"),
        ("---\nnetwork: null\n---\nP", "network", "missing"),
        ("---\non_unknown: guess\n---\nP", "on_unknown", "one of: tell, ask"),
        ("---\non_unknown: true\n---\nP", "on_unknown", "'true' is none"),
        ("---\nfirst_byte_seconds_max: 86401\n---\nP", "first_byte_seconds_max", "at most 86400 (a day)"),
        ("---\ntool_seconds_max: -1\n---\nP", "tool_seconds_max", "whole number from 0"),
        ("---\ntools: []\n---\n" + "x" * 70_000, "prompt", "longer than 65536 bytes"),
        (b"---\ntools: []\n---\n\xff\xfe", "file", "not UTF-8: invalid start byte at byte 18"),
        (b"x" * (strict_yaml.BYTES_MAX + 1), "file", "larger than"),
    ],
)
def test_a_wrong_role_is_told_the_file_and_the_field(write: Write, text: str | bytes, field: str, why: str) -> None:
    directory = write("roles/r.md", text)
    with pytest.raises(InvalidCommand) as refused:
        load_role("r", [directory])
    assert set(refused.value.violations) == {field}
    assert why in refused.value.violations[field]
    assert str(directory / "roles/r.md") in refused.value.message


def test_files_of_other_systems_are_read_as_well(write: Write) -> None:
    directory = write("roles/r.md", b"\xef\xbb\xbf---\r\ntools: [read]\r\n---\r\nOne.\r\nTwo.\r\n")
    assert load_role("r", [directory]).prompt == "One.\nTwo."


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 50_000, "{a: " * 25_000, "? " * 50_000, "a: b\n" * 20_000, '"' * 100_000]
)
def test_a_bomb_is_refused_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidCommand):
        strict_yaml.parse(text, "bomb")
    assert time.process_time() - began < SECONDS_MAX


@given(st.text(max_size=200))
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    try:
        assert isinstance(strict_yaml.parse(text, "any"), strict_yaml.Fields)
    except Refused as refusal:
        assert refusal.violations.keys() == {"file"}
