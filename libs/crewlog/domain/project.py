"""A project: a git repository that runs work on.

NONE --register--> REGISTERED
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass
from typing import TypeAlias

from crewlog.domain import git_names, names
from crewlog.domain.errors import Conflict
from crewlog.v1.project_pb2 import ProjectRegistered, ProjectView, RegisterProject
from google.protobuf.message import Message

KIND = "project"
VERSION = 1
PROJECT_ID_CHARACTERS_MAX = 48
_HASH_CHARACTERS = 8

Command: TypeAlias = RegisterProject
Event: TypeAlias = ProjectRegistered


@dataclass(frozen=True, slots=True)
class Project:
    registered: ProjectRegistered | None = None


INITIAL = Project()


def decide(project: Project, command: Command) -> list[Message]:
    """What a command causes. Raises InvalidCommand or Conflict."""
    names.check_name("project_id", command.project_id, PROJECT_ID_CHARACTERS_MAX)
    git_names.check_host_path("path", command.path)
    known = project.registered
    if known is None:
        at = command.at_unix_micros
        return [ProjectRegistered(project_id=command.project_id, path=command.path, at_unix_micros=at)]
    if known.path != command.path:
        raise Conflict(f"project {command.project_id!r} is {known.path}", what_to_do="choose another project id")
    return []


def evolve(project: Project, event: Event) -> Project:
    """What an event means."""
    return Project(registered=event)


def view(project: Project, *, revision: int = 0) -> ProjectView:
    known = project.registered or ProjectRegistered()
    return ProjectView(project_id=known.project_id, path=known.path, revision=revision)


def tidy_path(path: str) -> str:
    """The one way in which a path is written, so that the same repository is the same project."""
    return posixpath.normpath(path).replace("//", "/", 1) if path else ""


def id_of_path(path: str) -> str:
    """The id of a project that was given none: the name of the repository and a hash of its path."""
    name = posixpath.basename(path).removesuffix(".git").lower()
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    digest = hashlib.sha256(path.encode()).hexdigest()[:_HASH_CHARACTERS]
    room = PROJECT_ID_CHARACTERS_MAX - _HASH_CHARACTERS - 1
    return f"{slug[:room].rstrip('-') or 'project'}-{digest}"
