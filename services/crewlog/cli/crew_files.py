"""Where workflows and roles are looked for: in the project, in the user's directory, among the built-in ones."""

from __future__ import annotations

from pathlib import Path

from crewlog.cli import config
from crewlog.crews import load_workflow
from crewlog.crews.loader import BUILT_IN, SUFFIXES, Found, found_workflows
from crewlog.v1.run_pb2 import Workflow

PROJECT_FILES = ".crewlog"


def directories(repository: Path) -> list[Path]:
    """Those before the built-in ones; the first that has a name wins."""
    project = _project_files(repository.expanduser().absolute())
    return [*([project] if project else []), config.user_files()]


def load(name_or_path: str, repository: Path) -> Workflow:
    """By its name, or from a file; beside a file and above it are roles and workflows as well."""
    places = directories(repository)
    if name_or_path.endswith(SUFFIXES):
        folder = Path(name_or_path).absolute().parent
        places = [folder, folder.parent, *places]
    return load_workflow(name_or_path, places)


def to_send(name_or_path: str, repository: Path) -> Workflow | None:
    """The workflow in full where this host has a say in it; None for a name that the gateway looks up."""
    if name_or_path.endswith(SUFFIXES):
        return load(name_or_path, repository)
    found = {each.name: each for each in found_workflows(directories(repository))}
    is_own = name_or_path in found and (origin(found[name_or_path]) != "built in" or _has_own_roles())
    return load(name_or_path, repository) if is_own else None


def origin(found: Found) -> str:
    if found.directory == BUILT_IN:
        return "built in"
    return "user" if found.directory == config.user_files() else "project"


def _has_own_roles() -> bool:
    return any((config.user_files() / "roles").glob("*.md"))


def _project_files(path: Path) -> Path | None:
    """Of the repository that the path is in."""
    return next((each / PROJECT_FILES for each in (path, *path.parents) if (each / ".git").exists()), None)
