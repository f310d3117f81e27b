"""Pins the commit that a run starts from: what the name means now, brought into the managed clone."""

from __future__ import annotations

from pathlib import Path

from crewlog.git import source as sources
from crewlog.git.clones import Clones, fetch_commit
from crewlog.git.repository import Git
from crewlog.v1.workspace_pb2 import PinBase, PinnedBase


def pin(git: Git, clones: Clones, managed: Path, command: PinBase) -> PinnedBase:
    """`managed` is our own directory: it is no change of anybody's checkout, wherever it lies.

    Raises NotFound, InvalidCommand, Conflict or WrongState, each for a repository that cannot be worked on.
    """
    source = sources.locate(git, command.path)
    commit, branch = sources.resolve(source, command.base)
    fetch_commit(clones.open(command.project_id, source), source, commit)
    dirty = sources.has_uncommitted_changes(source, managed)
    return PinnedBase(commit=commit, branch=branch, has_uncommitted_changes=dirty)
