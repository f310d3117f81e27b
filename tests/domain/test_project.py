"""Given, when, then: projects."""

from __future__ import annotations

import pytest
from crewlog.domain import names, project
from crewlog.domain.decider import fold
from crewlog.domain.errors import Conflict, InvalidCommand
from crewlog.v1.project_pb2 import ProjectRegistered, RegisterProject

REGISTERED = ProjectRegistered(project_id="slug", path="/repos/slug", at_unix_micros=7)


def decide(given: list[ProjectRegistered], when: RegisterProject) -> list[object]:
    return list(project.decide(fold(project, given), when))


def test_a_project_is_registered_once() -> None:
    command = RegisterProject(project_id="slug", path="/repos/slug", at_unix_micros=7)
    assert decide([], command) == [REGISTERED]
    assert decide([REGISTERED], command) == []
    assert project.view(fold(project, [REGISTERED]), revision=3).path == "/repos/slug"


def test_another_path_under_the_same_id_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="/repos/slug"):
        decide([REGISTERED], RegisterProject(project_id="slug", path="/repos/other"))


@pytest.mark.parametrize(("project_id", "path"), [("", "/a"), ("A", "/a"), ("a" * 49, "/a"), ("a", "a"), ("a", "/a\0")])
def test_bad_names_and_paths_are_refused(project_id: str, path: str) -> None:
    with pytest.raises(InvalidCommand):
        decide([], RegisterProject(project_id=project_id, path=path))


@pytest.mark.parametrize(
    ("path", "begins"),
    [("/repos/My Slug.git", "my-slug-"), ("/repos/ÄÖ", "project-"), ("/" + "x" * 200, "xxx"), ("/", "project-")],
)
def test_an_id_is_made_of_the_name_and_the_path(path: str, begins: str) -> None:
    made = project.id_of_path(path)
    names.check_name("project_id", made, project.PROJECT_ID_CHARACTERS_MAX)
    assert made.startswith(begins)
    assert made == project.id_of_path(path) != project.id_of_path("/elsewhere" + path)


@pytest.mark.parametrize("path", ["/a/b", "/a/b/", "//a/b", "/a//b", "/a/./b", "/a/x/../b"])
def test_a_path_is_written_in_one_way(path: str) -> None:
    assert project.tidy_path(path) == "/a/b"
