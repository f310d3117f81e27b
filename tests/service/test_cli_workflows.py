"""`crewlog workflow`: what it says, its exit codes, and where workflows are looked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crewlog.cli import starting
from crewlog.cli.exits import ExitCode
from crewlog.cli.main import main
from crewlog.cli.starting import Request

NOOP = "description: Mine.\nnodes:\n  - {id: a, noop: {}}\n"
Crewlog = Callable[..., tuple[int, str, str]]


@pytest.fixture
def crewlog(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Crewlog:
    """The exit code, what went to standard output, and what to standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crewlog", "workflow", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like one, as the working directory; the user's directory is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    repository = tmp_path / "repository"
    (repository / ".git").mkdir(parents=True)
    monkeypatch.chdir(repository)
    return repository


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_valid_files_are_said_to_be(crewlog: Crewlog, repository: Path) -> None:
    _write(repository / "w.yaml", NOOP)
    status, out, err = crewlog("validate", "w.yaml", "feature")
    assert (status, err) == (ExitCode.OK, "")
    assert [line.split(": ")[:2] for line in out.splitlines()] == [["w.yaml", "valid"], ["feature", "valid"]]


@pytest.mark.parametrize("name", ["w.yml", "w.json"])
def test_a_file_may_have_another_suffix(crewlog: Crewlog, repository: Path, name: str) -> None:
    _write(repository / name, json.dumps({"nodes": [{"id": "a", "noop": {}}]}))
    assert crewlog("validate", name)[:2] == (ExitCode.OK, crewlog("validate", f"./{name}")[1].removeprefix("./"))


def test_what_is_wrong_is_told_with_its_place(crewlog: Crewlog, repository: Path) -> None:
    _write(repository / "bad.yaml", "nodes:\n  - id: a\n    rol: x\n")
    _write(repository / "good.yaml", NOOP)
    status, out, err = crewlog("validate", "bad.yaml", "good.yaml")
    assert status == ExitCode.USAGE
    assert err == "bad.yaml:3:5: nodes[0].rol is no field; did you mean 'role'?\n"
    assert out.startswith("good.yaml: valid: good ")


def test_what_is_wrong_as_json(crewlog: Crewlog, repository: Path) -> None:
    _write(repository / "bad.yaml", "nodes:\n  - id: a\n    rol: x\n")
    status, out, _ = crewlog("validate", "bad.yaml", "none.yaml", "--output", "json")
    bad, none = json.loads(out)
    assert status == ExitCode.USAGE
    (finding,) = bad["findings"]
    assert (finding["line"], finding["column"], finding["field"]) == (3, 5, "nodes[0].rol")
    assert not none["is_valid"] and "no workflow file" in none["message"]


def test_the_list_says_where_from_and_survives_a_broken_one(crewlog: Crewlog, repository: Path, tmp_path: Path) -> None:
    _write(repository / ".crewlog/workflows/mine.yaml", NOOP)
    _write(repository / ".crewlog/workflows/broken.yaml", "nodes: 7\n")
    _write(tmp_path / "config/crewlog/workflows/mine.yaml", NOOP)
    _write(tmp_path / "config/crewlog/workflows/theirs.yaml", NOOP)
    status, out, _ = crewlog("list", "--output", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == ExitCode.OK
    assert (rows["mine"]["from"], rows["theirs"]["from"], rows["agent"]["from"]) == ("project", "user", "built in")
    assert "not valid" in rows["broken"]["description"] and "broken.yaml:1:8" in rows["broken"]["why"]
    assert "broken.yaml:1:8" in crewlog("list")[1]
    assert crewlog("list")[1].splitlines()[0].split() == ["NAME", "FROM", "NODES", "VERSION", "DESCRIPTION"]


def test_a_workflow_is_shown_for_people_and_in_full(crewlog: Crewlog, repository: Path) -> None:
    _write(repository / ".crewlog/workflows/mine.yaml", NOOP)
    assert "NODE" in crewlog("show", "mine")[1]
    assert json.loads(crewlog("show", "mine", "-o", "json")[1])["nodes"][0]["node_id"] == "a"
    status, _, err = crewlog("show", "mien")
    assert status == ExitCode.FAILED
    assert "did you mean 'mine'?" in err


@pytest.mark.parametrize(("form", "begin"), [("terminal", "mine"), ("mermaid", "flowchart TD"), ("svg", "<svg ")])
def test_a_workflow_is_drawn(crewlog: Crewlog, repository: Path, form: str, begin: str) -> None:
    _write(repository / ".crewlog/workflows/mine.yaml", NOOP)
    assert crewlog("graph", "mine", "--format", form)[1].startswith(begin)
    assert crewlog("graph", "mine", "--format", form, "--output-file", "drawn")[1] == ""
    assert (repository / "drawn").read_text().startswith(begin)


def test_the_schema_is_that_of_the_repository(crewlog: Crewlog, repository: Path) -> None:
    published = Path(__file__).parents[2] / "schemas/workflow.schema.json"
    assert json.loads(crewlog("schema")[1]) == json.loads(published.read_text())


def test_a_run_takes_workflows_of_the_project_and_the_user_and_leaves_built_in_names(
    repository: Path, tmp_path: Path
) -> None:
    _write(repository / ".crewlog/workflows/mine.yaml", NOOP)
    _write(tmp_path / "config/crewlog/workflows/theirs.yaml", NOOP)
    below = repository / "folder"
    below.mkdir()
    for name in ("mine", "theirs"):
        assert starting.to_command(Request("do it", below, name)).workflow.name == name
    assert starting.to_command(Request("do it", repository, "feature")).workflow_name == "feature"
    assert starting.to_command(Request("do it", repository, "unknown")).workflow_name == "unknown"


def test_roles_of_the_user_count_for_built_in_workflows(repository: Path, tmp_path: Path) -> None:
    _write(tmp_path / "config/crewlog/roles/engineer.md", "---\ntools: [read]\n---\nMine.\n")
    (node,) = starting.to_command(Request("do it", repository, "agent")).workflow.nodes
    assert node.agent.role.prompt == "Mine."
