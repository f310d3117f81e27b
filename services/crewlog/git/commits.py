"""Trees and commits of a managed clone: what they are, what they differ in, merges, and new commits.

Whatever is made here depends on its arguments alone: made twice, it is the same object.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from crewlog.domain.errors import MergeConflict, NotFound
from crewlog.git.clones import Clone
from crewlog.git.repository import Finished
from crewlog.v1.workspace_pb2 import CommittedWorkspace, CommitWorkspace, DiffStat, MergeCommits, MergedCommits

PATHS_NAMED_MAX = 20
CONFLICTS_NAMED_MAX = 1_000
COMMITS = "refs/crewlog/commits"
MERGES = "refs/crewlog/merges"

_EMPTY_TREES = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
_WHEN = re.compile(rb"^committer .*> (\d+) [+-]\d{4}$", re.MULTILINE)
_RUN = re.compile(r"^Crewlog-Run: (\S+)$", re.MULTILINE)


def path_text(path: bytes) -> str:
    """A path for people and for protobuf: bytes that are not UTF-8 become `\\xff`."""
    return path.decode(errors="backslashreplace")


def empty_tree(clone: Clone) -> str:
    return _EMPTY_TREES[clone.repository.run("rev-parse", "--show-object-format").text]


def trees_of(clone: Clone, *objects: str) -> list[str]:
    """The trees of commits or trees, in one command. Raises NotFound when one is missing or is neither."""
    names = [f"{name}^{{tree}}" for name in objects]
    found = clone.repository.run("rev-parse", *names, accept=(0, 128))
    if found.code:
        raise NotFound(f"project {clone.project_id!r} has no files under {' or '.join(objects)}")
    return found.text.split()


def require_commits(clone: Clone, commits: Sequence[str]) -> None:
    """Raises NotFound unless all of them are commits of the clone."""
    found = clone.repository.run("rev-parse", *(f"{name}^{{commit}}" for name in commits), accept=(0, 128))
    if found.code or found.text.split() != list(commits):
        raise NotFound(f"project {clone.project_id!r} has no commit {' or '.join(commits)}")


@dataclass(frozen=True, slots=True)
class Merged:
    """One commit that contains several, and the paths that hold conflict markers; without markers it has no commit when
    there are such paths."""

    commit: str
    conflicts: tuple[str, ...] = ()


def merged(clone: Clone, commits: Sequence[str]) -> str:
    """One commit that contains them all. Raises MergeConflict, with the paths, when they contradict each other."""
    result = merge(clone, commits)
    if result.commit:
        return result.commit
    named = result.conflicts[:PATHS_NAMED_MAX]
    raise MergeConflict(
        f"what was done side by side cannot be merged: both change {', '.join(named)}",
        what_to_do="let one of the tasks start from the other's files, or give the node an edge for `conflicted`",
        violations=dict.fromkeys(named, "changed on both sides"),
    )


def merge(clone: Clone, commits: Sequence[str], *, with_conflicts: bool = False) -> Merged:
    """Two and two, until there is one; what another one contains already drops out. The same commits are the same
    merge."""
    require_commits(clone, commits)
    wanted = list(dict.fromkeys(commits))
    if len(wanted) > 1:
        independent = set(clone.repository.run("merge-base", "--independent", *wanted).text.split())
        wanted = [commit for commit in wanted if commit in independent]
    conflicts = dict[str, None]()
    while len(wanted) > 1:
        made = list[str]()
        for ours, theirs in zip(wanted[::2], wanted[1::2], strict=False):
            tree, paths = _merged_tree(clone, ours, theirs)
            conflicts |= dict.fromkeys(paths)
            if paths and not with_conflicts:
                return Merged("", tuple(conflicts))
            made.append(_commit_merge(clone, tree, ours, theirs))
        wanted = made + wanted[2 * len(made) :]
    return Merged(wanted[0], tuple(conflicts))


def _merged_tree(clone: Clone, ours: str, theirs: str) -> tuple[str, list[str]]:
    """The tree, with conflict markers in the paths that are named."""
    merge = _merge_tree(clone, "--no-messages", ours, theirs)
    tree, *paths = [path_text(field) for field in merge.fields]
    return tree, sorted(set(paths) or _moved(clone, ours, theirs)) if merge.code else []


def _moved(clone: Clone, ours: str, theirs: str) -> set[str]:
    """The paths of conflicts that are not about the sides of one file, such as a directory that became two."""
    _, *said = [path_text(field) for field in _merge_tree(clone, "--messages", ours, theirs).fields]
    paths, place = set[str](), said.index("") + 1
    while place < len(said):
        count = int(said[place])
        paths.update(said[place + 1 : place + 1 + count])
        place += count + 3  # behind the paths stand the kind of the message and the message
    return paths


def _merge_tree(clone: Clone, messages: str, ours: str, theirs: str) -> Finished:
    options = ("--write-tree", "-z", "--name-only", messages)
    return clone.repository.run("merge-tree", *options, ours, theirs, accept=(0, 1))


def _commit_merge(clone: Clone, tree: str, ours: str, theirs: str) -> str:
    at = max(committed_at(clone, ours), committed_at(clone, theirs))
    return make_commit(clone, tree, [ours, theirs], f"Merge {theirs[:12]} into {ours[:12]}\n", at)


def merge_for_run(clone: Clone, command: MergeCommits) -> MergedCommits:
    """As `merge`; what comes of it is kept for as long as the clone."""
    result = merge(clone, command.commits, with_conflicts=command.with_conflicts)
    if not result.commit:
        return MergedCommits(conflicts=result.conflicts[:CONFLICTS_NAMED_MAX])
    keep(clone, {f"{MERGES}/{command.run_id}/{result.commit}": result.commit})
    base_tree, tree = trees_of(clone, command.base_commit, result.commit)
    stat, _ = stat_of(clone, base_tree, tree)
    return MergedCommits(commit=result.commit, conflicts=result.conflicts[:CONFLICTS_NAMED_MAX], stat=stat)


def committed_at(clone: Clone, commit: str) -> int:
    """Seconds since 1970."""
    found = _WHEN.search(clone.repository.run("cat-file", "commit", commit).out)
    return int(found[1]) if found else 0


def make_commit(clone: Clone, tree: str, parents: Sequence[str], message: str, at_unix_seconds: int) -> str:
    date = f"@{at_unix_seconds} +0000"
    return clone.repository.run(
        "commit-tree",
        *(word for parent in parents for word in ("-p", parent)),
        tree,
        stdin=message.encode(),
        environment={"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date},
    ).text


def commit_snapshot(clone: Clone, command: CommitWorkspace, base_commit: str) -> CommittedWorkspace:
    """Makes a commit of the snapshot's tree on the base; the base itself when the files are the same."""
    base_tree, tree = trees_of(clone, base_commit, command.snapshot.tree)
    if tree == base_tree:
        return CommittedWorkspace(commit=base_commit, stat=DiffStat())
    commit = make_commit(clone, tree, [base_commit], _message(command), command.at_unix_micros // 1_000_000)
    keep(clone, {f"{COMMITS}/{command.workspace_id}": commit})
    return CommittedWorkspace(commit=commit, stat=stat_of(clone, base_tree, tree)[0])


def _message(command: CommitWorkspace) -> str:
    """The trailers are the last paragraph, whatever the message says."""
    trailers = {
        "Crewlog-Run": command.run_id,
        "Crewlog-Task": command.workspace_id.partition("_")[2],
        "Crewlog-Role": command.role,
        "Crewlog-Event": str(command.revision),
    }
    lines = "".join(f"{name}: {value}\n" for name, value in trailers.items() if value)
    return f"{command.message.strip() or 'Changes of an agent'}\n\n{lines}"


def keep(clone: Clone, refs: dict[str, str]) -> None:
    """Sets refs, so that what they name is there for as long as the clone."""
    lines = "".join(f"update {name}\0{value}\0\0" for name, value in refs.items())
    clone.repository.run("update-ref", "-z", "--stdin", stdin=lines.encode())


def run_that_made(message: str) -> str:
    """The run in the trailers of a commit of ours; empty for anybody else's."""
    found = _RUN.search(message.rstrip().rpartition("\n\n")[2])
    return found[1] if found else ""


def changed_paths(clone: Clone, from_tree: str, to_tree: str) -> list[str]:
    """In the order of the paths."""
    if from_tree == to_tree:
        return []
    names = clone.repository.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", from_tree, to_tree).fields
    return [path_text(name) for name in names]


def stat_of(clone: Clone, from_tree: str, to_tree: str) -> tuple[DiffStat, list[str]]:
    """How much two trees differ, and in which paths. Lines of binary files do not count."""
    if from_tree == to_tree:
        return DiffStat(), []
    rows = clone.repository.run("diff-tree", "-r", "-z", "--numstat", "--no-renames", from_tree, to_tree).fields
    counted = [row.split(b"\t", 2) for row in rows]
    stat = DiffStat(
        files=len(counted),
        insertions=sum(int(row[0]) for row in counted if row[0] != b"-"),
        deletions=sum(int(row[1]) for row in counted if row[1] != b"-"),
    )
    return stat, [path_text(row[2]) for row in counted]
