"""Files of the past: what trees of a managed clone hold, and how they differ."""

from __future__ import annotations

from crewlog.domain.errors import InvalidCommand, NotFound, TooLarge
from crewlog.git import commits
from crewlog.git.clones import Clone
from crewlog.git.repository import Limits
from crewlog.v1.workspace_pb2 import Diff, FileContent, FileEntry, FileList

LIST_BYTES_MAX = 16 * 1024 * 1024
FILE_BYTES_MAX = 64 * 1024 * 1024
PATCH_BYTES_MAX = 4 * 1024 * 1024


def list_files(clone: Clone, tree: str) -> FileList:
    """Every file below, in the order of the paths. Raises NotFound, or TooLarge for a list over 16 MiB."""
    commits.trees_of(clone, tree)
    listed = clone.repository.run(
        "ls-tree", "-r", "-l", "-z", "--full-tree", tree, limits=Limits(output_bytes=LIST_BYTES_MAX)
    )
    return FileList(files=[_entry(row) for row in listed.fields])


def read_file(clone: Clone, tree: str, path: str) -> FileContent:
    """The content of a file, or where a symbolic link points. Raises NotFound, InvalidCommand or TooLarge."""
    commits.trees_of(clone, tree)
    rows = clone.repository.run("ls-tree", "-l", "-z", "--full-tree", tree, "--", path).fields
    if not rows:
        raise NotFound(f"there is no {path!r} in {tree[:12]}")
    entry = _entry(rows[0])
    if entry.mode in ("040000", "160000"):
        raise InvalidCommand(f"{path!r} is no file", what_to_do="list the files and choose one")
    if entry.size_bytes > FILE_BYTES_MAX:
        raise TooLarge(f"{path!r} has {entry.size_bytes} bytes, more than {FILE_BYTES_MAX}")
    content = clone.repository.run("cat-file", "blob", entry.object_id).out
    return FileContent(content=content, mode=entry.mode)


def compare(clone: Clone, from_tree: str, to_tree: str) -> Diff:
    """A unified diff, cut at 4 MiB. No tree means no files."""
    ends = [tree or commits.empty_tree(clone) for tree in (from_tree, to_tree)]
    before, after = commits.trees_of(clone, *ends)
    patch = clone.repository.run(
        "diff-tree",
        "-r",
        "-p",
        "-M",
        "--no-ext-diff",
        "--no-textconv",
        before,
        after,
        limits=Limits(output_bytes=PATCH_BYTES_MAX, truncate=True),
    )
    return Diff(patch=patch.out, stat=commits.stat_of(clone, before, after)[0], truncated=patch.truncated)


def _entry(row: bytes) -> FileEntry:
    facts, _, path = row.partition(b"\t")
    mode, _, object_id, size = facts.decode().split()
    return FileEntry(
        path=commits.path_text(path), mode=mode, size_bytes=0 if size == "-" else int(size), object_id=object_id
    )
