"""Snapshots: the files of a worktree, named by git trees.

    tree        what a commit would hold
    full_tree   the same with ignored files, as many as fit; those that a tool makes again come last

Every index is written beside the last one and renamed: a git that was killed leaves a file that nobody reads, and no
lock. Empty directories and special files are in no snapshot.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from crewlog.git import commits
from crewlog.git.clones import is_by_product
from crewlog.git.repository import GitFailed, write_file
from crewlog.git.worktree import Look, Position, Worktree, look, on_disk, untracked_files
from crewlog.v1.workspace_pb2 import Snapshot, TakenSnapshot

IGNORED_FILES_MAX = 10_000
IGNORED_BYTES_MAX = 64 * 1024 * 1024
PATHS_MAX = 1_000
SNAPSHOTS = "refs/crewlog/snapshots"

_SEED = b".crewlog-seed"
_EMPTY_BLOBS = {
    40: b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    64: b"473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
}


def take(worktree: Worktree, label: str, prepared: Snapshot) -> TakenSnapshot:
    """Names the files as they are now, and keeps them. The same label again compares with the same snapshot as before.

    `prepared` is what the worktree was made from.
    """
    position = Position.load(worktree, prepared)
    seen = _look(worktree, position)
    before = position.before if position.label == label else position.after
    if position.seen and position.seen == seen.signature and not seen.is_modified:
        after = position.after
    else:
        after = _stage(worktree, seen, position.after)
    if after != position.after:
        _keep(worktree, label, after)
    Position(label, before, after, seen.signature).save(worktree)
    paths = commits.changed_paths(worktree.clone, before.tree, after.tree)
    return TakenSnapshot(snapshot=after, changed=before != after, paths=paths[:PATHS_MAX])


def restore(worktree: Worktree, wanted: Snapshot, prepared: Snapshot) -> TakenSnapshot:
    """Makes the files exactly those of `wanted`: what is not in its full tree goes. What was there is kept before."""
    commits.trees_of(worktree.clone, wanted.tree, wanted.full_tree)
    take(worktree, "before-restore", prepared)
    checkout(worktree, wanted.full_tree, wanted.tree)
    return take(worktree, "restored", prepared)


def checkout(worktree: Worktree, full_tree: str, tree: str) -> None:
    """Writes the files of `full_tree`, removes all others, and has `tree` in the index."""
    fresh = _copy_of(worktree, _full_index(worktree) if _full_index(worktree).exists() else worktree.index)
    worktree.git("read-tree", "--reset", "-u", full_tree, index=fresh)
    worktree.git("clean", "-ffdxq", index=fresh)
    if full_tree != tree:
        worktree.git("read-tree", "--reset", tree, index=fresh)
    fresh.replace(worktree.index)
    _forget_full(worktree)


def _keep(worktree: Worktree, label: str, snapshot: Snapshot) -> None:
    """The refs that keep a snapshot reachable."""
    place = f"{SNAPSHOTS}/{worktree.workspace_id}/{worktree.generation}/{label}"
    full = {f"{place}/full": snapshot.full_tree} if snapshot.full_tree != snapshot.tree else {}
    commits.keep(worktree.clone, {f"{place}/tree": snapshot.tree, **full})


def _look(worktree: Worktree, position: Position) -> Look:
    """An index that cannot be read is made again: it holds nothing that the files do not."""
    try:
        return look(worktree)
    except GitFailed:
        fresh = worktree.directory / f"index.{secrets.token_hex(4)}"
        worktree.git("read-tree", position.after.tree, index=fresh)
        fresh.replace(worktree.index)
        _forget_full(worktree)
        return look(worktree)


def _stage(worktree: Worktree, seen: Look, last: Snapshot) -> Snapshot:
    fresh = _copy_of(worktree, worktree.index)
    if seen.nested:
        _seed(worktree, fresh, seen.nested, _EMPTY_BLOBS[len(last.tree)])
    unread = _add(worktree, fresh, seen.too_large)
    tree = worktree.git("write-tree", index=fresh).text
    fresh.replace(worktree.index)
    rest = untracked_files(worktree, worktree.index) if seen.untracked or seen.nested else []
    chosen, left_out = _choose(worktree, rest)
    full_tree = _stage_full(worktree, chosen, tree) if chosen else tree
    if not chosen:
        _forget_full(worktree)
    return Snapshot(tree=tree, full_tree=full_tree, files_left_out=left_out + unread)


def _add(worktree: Worktree, index: Path, without: Sequence[bytes]) -> int:
    """Brings everything that is not ignored into the index; how many files of the index cannot be read."""
    pathspec = ["--pathspec-from-file=-", "--pathspec-file-nul"] if without else []
    rows = [b".", *(b":(exclude,literal)" + path for path in without)] if without else []
    added = worktree.git("add", "-A", "--ignore-errors", *pathspec, index=index, stdin=_lines(rows), accept=(0, 1))
    return len(worktree.git("ls-files", "-z", "-m", index=index).fields) if added.code else 0


def _seed(worktree: Worktree, index: Path, nested: Sequence[bytes], blob: bytes) -> None:
    """git looks into a repository inside of the files only when the index has a file of it; `add` drops this one."""
    rows = [b"100644 " + blob + b"\t" + directory + b"/" + _SEED for directory in nested]
    worktree.git("update-index", "-z", "--index-info", index=index, stdin=_lines(rows))


def _choose(worktree: Worktree, paths: Iterable[bytes]) -> tuple[list[bytes], int]:
    """The ignored files that fit, and how many do not."""
    chosen: list[bytes] = []
    bytes_left, left_out = IGNORED_BYTES_MAX, 0
    for path in sorted(paths, key=lambda path: (is_by_product(path), path)):
        size = _readable_size(on_disk(worktree, path))
        if size is None or size > bytes_left or len(chosen) >= IGNORED_FILES_MAX:
            left_out += 1
            continue
        bytes_left -= size
        chosen.append(path)
    return chosen, left_out


def _readable_size(path: bytes) -> int | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISREG(status.st_mode) and not os.access(path, os.R_OK):
        return None
    return status.st_size


def _stage_full(worktree: Worktree, chosen: Sequence[bytes], tree: str) -> str:
    """Goes on from the last full index where it can: what did not change is not read again."""
    last_tree, known = _last_full(worktree)
    dropped = known - set(chosen)
    if last_tree and not any(os.path.lexists(on_disk(worktree, path)) for path in dropped):
        paths = [*chosen, *dropped, *_changed(worktree, last_tree, tree)]
        # It fails where a file became a directory, or the like.
        with suppress(GitFailed):
            return _write_full(worktree, _full_index(worktree), paths, chosen, tree)
    return _write_full(worktree, worktree.index, chosen, chosen, tree)


def _write_full(worktree: Worktree, index: Path, paths: Sequence[bytes], chosen: Sequence[bytes], tree: str) -> str:
    fresh = _copy_of(worktree, index)
    worktree.git("update-index", "-z", "--add", "--remove", "--replace", "--stdin", index=fresh, stdin=_lines(paths))
    full_tree = worktree.git("write-tree", index=fresh).text
    _forget_full(worktree)
    fresh.replace(_full_index(worktree))
    write_file(worktree.directory / "ignored", _lines([tree.encode(), *chosen]), durable=False)
    return full_tree


def _changed(worktree: Worktree, from_tree: str, to_tree: str) -> list[bytes]:
    if from_tree == to_tree:
        return []
    return worktree.git("diff-tree", "-r", "-z", "--name-only", "--no-renames", from_tree, to_tree).fields


def _full_index(worktree: Worktree) -> Path:
    return worktree.directory / "index.full"


def _last_full(worktree: Worktree) -> tuple[str, set[bytes]]:
    """The tree that the full index goes with, and the ignored files in it; nothing when there is none."""
    path = worktree.directory / "ignored"
    if not path.is_file() or not _full_index(worktree).is_file():
        return "", set()
    tree, *chosen = path.read_bytes().split(b"\0")[:-1] or [b""]
    return tree.decode(), set(chosen)


def _forget_full(worktree: Worktree) -> None:
    for name in ("ignored", "index.full"):
        (worktree.directory / name).unlink(missing_ok=True)


def _copy_of(worktree: Worktree, index: Path) -> Path:
    """With its time: git reads a file again that may have changed in the moment in which the index was written."""
    fresh = worktree.directory / f"index.{secrets.token_hex(4)}"
    shutil.copy2(index, fresh)
    return fresh


def _lines(rows: Iterable[bytes]) -> bytes:
    return b"".join(row + b"\0" for row in rows)
