"""Brings a change home: one new branch in the user's repository, and nothing else.

Objects first, without a name; then the branch is made, if and only if it is not there. Hooks are off, and nothing that
the repository's configuration says has a part in it.
"""

from __future__ import annotations

from pathlib import Path

from crewlog.domain.errors import Conflict, WrongState
from crewlog.git import commits
from crewlog.git.clones import Clone
from crewlog.git.repository import GitFailed, Repository, foreign
from crewlog.v1.workspace_pb2 import Change, DeliverChange

PATHS_MAX = 10_000
DELIVERIES = "refs/crewlog/deliveries"


def deliver(clone: Clone, command: DeliverChange) -> Change:
    """Merges the commits and makes the branch. The same command again finds it made.

    No branch is made when the files are those of the base. Raises Conflict when the branch exists with another commit,
    WrongState when the commits contradict each other or the repository cannot be written.
    """
    commit = commits.merged(clone, list(command.commits) or [command.base_commit])
    base_tree, tree = commits.trees_of(clone, command.base_commit, commit)
    if base_tree == tree:
        return Change(commit=command.base_commit, base_commit=command.base_commit)
    commits.keep(clone, {f"{DELIVERIES}/{command.run_id}": commit})
    _make_branch(clone, command.branch, commit)
    stat, paths = commits.stat_of(clone, base_tree, tree)
    return Change(
        branch=command.branch, commit=commit, base_commit=command.base_commit, stat=stat, paths=paths[:PATHS_MAX]
    )


def _make_branch(clone: Clone, branch: str, commit: str) -> None:
    target = _target(clone)
    if _is_there(target, branch, commit):
        return
    try:
        _fetch(target, clone.git_dir, commit)
        target.run("update-ref", "-m", "crewlog: deliver", f"refs/heads/{branch}", commit, "0" * len(commit))
    except GitFailed as failure:
        if _is_there(target, branch, commit):
            return
        raise WrongState(
            f"branch {branch!r} cannot be made in {target.git_dir}: {failure.message}",
            what_to_do="see to it that the repository can be written and no branch stands in the way, and try again",
        ) from failure


def _target(clone: Clone) -> Repository:
    git_dir = clone.source()
    if not git_dir.is_dir():
        raise WrongState(f"the repository at {git_dir} is gone", what_to_do="put it back, and deliver again")
    return foreign(clone.repository.git, git_dir)


def _fetch(target: Repository, managed: Path, commit: str) -> None:
    target.run(
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-auto-gc",
        "--no-recurse-submodules",
        "--",
        managed,
        commit,
    )


def _is_there(target: Repository, branch: str, commit: str) -> bool:
    """Raises Conflict, naming who holds it, when the branch is another commit."""
    found = target.run("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", accept=(0, 1)).text
    if found in ("", commit):
        return bool(found)
    message = target.run("cat-file", "commit", found).text.partition("\n\n")[2]
    run_id = commits.run_that_made(message)
    owner = f"made by run {run_id!r}" if run_id else "not made by a run"
    raise Conflict(
        f"branch {branch!r} exists at {found[:12]} ({message.partition(chr(10))[0][:80]!r}, {owner})",
        what_to_do="choose another branch, or rename or delete that one",
    )
