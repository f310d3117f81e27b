"""Brings a change home: one branch in the user's repository, and nothing else.

Objects first, without a name; then the branch is made, if and only if it is not there. A later attempt of the same run
moves it, if and only if it stands where the one before has left it and nobody works on it. Hooks are off, and nothing
that the repository's configuration says has a part in it.
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


def deliver(clone: Clone, command: DeliverChange, left_at: str = "") -> Change:
    """Merges the commits and makes the branch, or moves it from `left_at`. The same command again finds it done.

    No branch is made when the files are those of the base. Raises Conflict when the branch stands at another commit or
    is checked out, WrongState when the commits contradict each other or the repository cannot be written.
    """
    commit = commits.merged(clone, list(command.commits) or [command.base_commit])
    base_tree, tree = commits.trees_of(clone, command.base_commit, commit)
    if base_tree == tree and not left_at:
        return Change(commit=command.base_commit, base_commit=command.base_commit)
    commits.keep(clone, {_kept_as(command): commit})
    _bring_home(clone, command, commit, left_at)
    stat, paths = commits.stat_of(clone, base_tree, tree)
    return Change(
        branch=command.branch, commit=commit, base_commit=command.base_commit, stat=stat, paths=paths[:PATHS_MAX]
    )


def _kept_as(command: DeliverChange) -> str:
    """What was delivered once is kept, whatever a later attempt delivers."""
    attempt = f"_{command.attempt}" if command.attempt else ""
    return f"{DELIVERIES}/{command.run_id}{attempt}"


def _bring_home(clone: Clone, command: DeliverChange, commit: str, left_at: str) -> None:
    target, branch = _target(clone), command.branch
    before = _commit_of(target, branch)
    if before == commit:
        return
    _check_free(target, command, before, left_at)
    try:
        _fetch(target, clone.git_dir, commit)
        expected = before or "0" * len(commit)
        target.run("update-ref", "-m", "crewlog: deliver", f"refs/heads/{branch}", commit, expected)
    except GitFailed as failure:
        now = _commit_of(target, branch)
        if now == commit:
            return
        if now != before:
            raise _taken(target, command, now, left_at) from failure
        raise WrongState(
            f"branch {branch!r} cannot be made in {target.git_dir}: {failure.message}",
            what_to_do="see to it that the repository can be written and no branch stands in the way, and try again",
        ) from failure


def _check_free(target: Repository, command: DeliverChange, before: str, left_at: str) -> None:
    if before in ("", left_at):
        where = _checked_out_at(target, command.branch) if before else ""
        if where:
            raise Conflict(
                f"branch {command.branch!r} is checked out at {where}: moving it would change what is seen there",
                what_to_do=f"switch to another branch there, then `crewlog retry {command.run_id}`",
            )
        return
    raise _taken(target, command, before, left_at)


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


def _commit_of(target: Repository, branch: str) -> str:
    """Empty where there is no such branch."""
    return target.run("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", accept=(0, 1)).text


def _checked_out_at(target: Repository, branch: str) -> str:
    """The checkout that shows the branch; empty where none does."""
    return target.run("for-each-ref", "--format=%(worktreepath)", f"refs/heads/{branch}").text


def _taken(target: Repository, command: DeliverChange, found: str, left_at: str) -> Conflict:
    """The branch is another commit: says whose."""
    branch = command.branch
    if not found:
        return Conflict(f"branch {branch!r} was deleted just now", what_to_do=f"`crewlog retry {command.run_id}`")
    message = target.run("cat-file", "commit", found).text.partition("\n\n")[2]
    run_id = commits.run_that_made(message)
    owner = f"made by run {run_id!r}" if run_id else "not made by a run"
    at = f"at {found[:12]} ({message.partition(chr(10))[0][:80]!r}, {owner})"
    if left_at:
        return Conflict(
            f"branch {branch!r} stands {at} and not at {left_at[:12]}, where this run had left it",
            what_to_do=f"rename it (`git branch -m {branch} NAME`) or delete it, then `crewlog retry {command.run_id}`",
        )
    return Conflict(f"branch {branch!r} exists {at}", what_to_do="choose another branch, or rename or delete that one")
