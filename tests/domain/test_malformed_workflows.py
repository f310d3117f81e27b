"""Wrong files of workflows are refused at once, with the place, the field and the way out."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from crewlog.crews import load_role, load_workflow, strict_yaml
from crewlog.crews.compiling import WORKFLOW_BYTES_MAX
from crewlog.crews.findings import FINDINGS_MAX, InvalidFile
from crewlog.crews.loader import BUILT_IN
from crewlog.domain.errors import InvalidCommand
from hypothesis import given
from hypothesis import strategies as st

from tests.domain.malformed import BESIDE, CASES, LATER, NOOP, ON_AGAIN, Case

SECONDS_MAX = 1.0
MESSAGE_CHARACTERS_MAX = 6_000
SCHEMA = BUILT_IN / "workflow.schema.json"


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is imported once does not count as the time of one file, nor does to look through what other tests have left
    in memory, again and again."""
    path = tmp_path_factory.mktemp("warm") / "w.yaml"
    path.write_text("nodes: [{id: a, role: tester, prompt: '{{ run.input }}', output_schema: {type: object}}]")
    load_workflow(str(path))
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_file_is_refused_with_its_place(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_bytes(case.content.encode() if isinstance(case.content, str) else case.content)
    began = time.process_time()
    with pytest.raises(InvalidFile) as refused:
        load_workflow(str(path))
    assert time.process_time() - began < SECONDS_MAX
    assert refused.value.message.startswith(f"{path}:{case.place}: " if case.place else f"{path}: ")
    assert case.why in refused.value.message
    assert len(refused.value.message) < MESSAGE_CHARACTERS_MAX


@pytest.mark.parametrize(
    "content",
    [
        LATER % "prompt: '{{ tasks.b.output }}'" + ON_AGAIN % ("b", "a", "task.visit < 2 && tasks.a.visit < 3"),
        LATER % "prompt: '{{ tasks.a.output }}'" + ON_AGAIN % ("a", "a", "tasks.a.visit < 2"),
        LATER % "prompt: '{{ tasks.a.output }}', retry: 2",
        LATER % "map: {times: 2}, prompt: '{{ tasks.b.output }}'" + ON_AGAIN % ("b", "a", "true"),
        BESIDE % "depends_on: [a], gate: '{{ tasks.a.output }}'",
        BESIDE % "gate: '{{ tasks.a.output }}'" + "edges: [{from: a, to: b, on: [failed], when: tasks.a.visit > 0}]",
    ],
    ids=["a loop", "a loop of one", "another attempt", "items in a loop", "before it", "over an edge"],
)
def test_a_template_may_name_what_can_have_run_before(content: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(content)
    assert len(load_workflow(str(path)).nodes) == 2


def test_the_corpus_is_large_and_each_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("nodes:\n  - {id: a, noop: 7}\n  - {id: b, rol: x}\nvisits_max: many\n")
    with pytest.raises(InvalidFile) as refused:
        load_workflow(str(path))
    assert [(each.mark.line, each.field) for each in refused.value.findings if each.mark] == [
        (2, "nodes[0].noop"),
        (3, "nodes[1].rol"),
        (4, "visits_max"),
    ]
    assert refused.value.violations.keys() == {"nodes[0].noop", "nodes[1].rol", "visits_max"}


def test_of_very_much_the_beginning_is_said(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("nodes:\n" + "  - {id: a, noop: {}, x: 1}\n" * 500)
    with pytest.raises(InvalidFile) as refused:
        load_workflow(str(path))
    assert refused.value.message.endswith("and 490 more")
    assert refused.value.message.count("\n") == FINDINGS_MAX


def test_a_workflow_cannot_contain_itself(tmp_path: Path) -> None:
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "a.yaml").write_text("nodes:\n  - {id: x, workflow: b}\n")
    (folder / "b.yaml").write_text("nodes:\n  - {id: x, workflow: {name: a}}\n")
    with pytest.raises(InvalidFile) as refused:
        load_workflow("a", [tmp_path])
    assert "a.yaml:2:23: nodes[0].workflow names 'b'" in refused.value.message
    assert "b.yaml:2:30: nodes[0].workflow.name names 'a'" in refused.value.message
    assert "it contains itself (a > b > a)" in refused.value.message


@pytest.mark.parametrize(("levels", "is_valid"), [(4, True), (5, False)])
def test_workflows_are_only_so_deep(levels: int, is_valid: bool, tmp_path: Path) -> None:
    folder = tmp_path / "workflows"
    folder.mkdir()
    for level in range(1, levels):
        (folder / f"w{level}.yaml").write_text(f"nodes: [{{id: x, workflow: w{level + 1}}}]")
    (folder / f"w{levels}.yaml").write_text(NOOP)
    if is_valid:
        assert load_workflow("w1", [tmp_path]).nodes[0].workflow.workflow.name == "w2"
        return
    with pytest.raises(InvalidFile, match="more than 4 workflows deep"):
        load_workflow("w1", [tmp_path])


def test_workflows_that_multiply_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    folder = tmp_path / "workflows"
    folder.mkdir()
    many = "nodes:\n" + "".join(f"  - {{id: n{n}, workflow: NEXT}}\n" for n in range(300))
    for level in range(1, 4):
        (folder / f"w{level}.yaml").write_text(many.replace("NEXT", f"w{level + 1}"))
    (folder / "w4.yaml").write_text("nodes:\n" + "".join(f"  - {{id: n{n}, role: tester}}\n" for n in range(300)))
    began = time.process_time()
    with pytest.raises(InvalidFile, match=f"larger than {WORKFLOW_BYTES_MAX} bytes"):
        load_workflow("w1", [tmp_path])
    assert time.process_time() - began < SECONDS_MAX


def test_a_wrong_role_is_told_with_its_file_and_with_who_names_it(tmp_path: Path) -> None:
    (tmp_path / "roles").mkdir()
    role = tmp_path / "roles/mine.md"
    role.write_text("---\ntools: [read]\nnetwrk: true\n---\nP\n")
    path = tmp_path / "w.yaml"
    path.write_text("nodes:\n  - {id: a, role: mine}\n")
    with pytest.raises(InvalidFile, match="did you mean 'network'") as refused:
        load_role("mine", [tmp_path])
    assert refused.value.message.startswith(f"{role}:3:1: netwrk")
    with pytest.raises(InvalidFile) as refused:
        load_workflow(str(path), [tmp_path])
    assert f"{path}:2:19: nodes[0].role names 'mine', which is not valid: {role}:3:1" in refused.value.message


@given(st.text(alphabet="{}[]:,-? \n'\"&*!|>%@`#abc01", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        strict_yaml.parse("nodes:\n" + text, "any.yaml")
    except InvalidFile as refusal:
        assert str(refusal).startswith("any.yaml:")


def _like(schema: dict[str, object]) -> st.SearchStrategy[object]:
    """What is nearly a workflow, and sometimes something else."""
    plain = st.one_of(st.none(), st.booleans(), st.integers(-3, 70_000), st.text("ab{}.-_ ", max_size=8))
    names = st.sampled_from([*sorted(schema), "x"])
    whole: st.SearchStrategy[object] = st.recursive(
        plain, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=4))
    )
    return whole


def _fields() -> dict[str, object]:
    definitions = json.loads(SCHEMA.read_text())["definitions"]
    return {field: None for each in definitions.values() for field in each["properties"]}


@given(nodes=st.lists(st.dictionaries(st.sampled_from(sorted(_fields())), _like(_fields()), max_size=5), max_size=3))
def test_any_mapping_is_a_workflow_or_refused(
    nodes: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "w.yaml"
    path.write_text(json.dumps({"nodes": nodes}))
    try:
        load_workflow(str(path))
    except InvalidCommand as refusal:
        assert refusal.message.startswith(f"{path}")
