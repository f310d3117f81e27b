"""One worktree as it lies on the disk, and one look at it: does anything differ from the last snapshot?

The look is one command, and reads no file: changed and deleted files by git's index, untracked ones by what the file
system says about them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crewlog.git.clones import Clone
from crewlog.git.repository import Argument, Finished, write_file
from crewlog.v1.workspace_pb2 import Snapshot

FILE_BYTES_MAX = 64 * 1024 * 1024
# Two changes of a file within one tick of the file system's clock can look like one.
CLOCK_TICK_NANOS = 20_000_000


@dataclass(frozen=True, slots=True)
class Worktree:
    """The files of one generation of a workspace (`tree`), and what this service keeps beside them."""

    clone: Clone
    workspace_id: str
    generation: int
    directory: Path

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    @property
    def index(self) -> Path:
        return self.directory / "index"

    def git(
        self, *arguments: Argument, index: Path | None = None, stdin: bytes = b"", accept: Sequence[int] = (0,)
    ) -> Finished:
        """Runs git on these files with the repository of the managed clone, never with the `.git` among the files."""
        return self.clone.repository.run(
            *arguments, work_tree=self.tree, index=index or self.index, stdin=stdin, accept=accept
        )


@dataclass(frozen=True, slots=True)
class Position:
    """The last snapshot, the one before it, and what was seen at the last: empty when nothing may rely on it."""

    label: str
    before: Snapshot
    after: Snapshot
    seen: str

    def save(self, worktree: Worktree) -> None:
        states = [[state.tree, state.full_tree, state.files_left_out] for state in (self.before, self.after)]
        content = json.dumps([self.label, *states, self.seen and f"{self.seen} {_identity(worktree.index)}"])
        write_file(worktree.directory / "position.json", content.encode(), durable=False)

    @classmethod
    def load(cls, worktree: Worktree, prepared: Snapshot) -> Position:
        """Where the worktree stands; after the loss of the file, at `prepared`, with everything to be looked at."""
        try:
            label, before, after, noted = json.loads((worktree.directory / "position.json").read_bytes())
            seen, _, identity = noted.partition(" ")
            is_of_this_index = identity == _identity(worktree.index)
            return cls(label, _snapshot(*before), _snapshot(*after), seen if is_of_this_index else "")
        except (OSError, ValueError, TypeError, AttributeError):
            return cls("", prepared, prepared, "")


@dataclass(frozen=True, slots=True)
class Look:
    """What differs from the index. `nested` are directories among the untracked that are repositories of their own."""

    is_modified: bool
    untracked: Sequence[bytes]
    nested: Sequence[bytes]
    too_large: Sequence[bytes]
    signature: str


def look(worktree: Worktree) -> Look:
    """Looks at everything, ignored or not."""
    rows = worktree.git("ls-files", "-z", "-t", "-m", "-d", "-o").fields
    untracked, nested = _expand(worktree, [row[2:] for row in rows if row.startswith(b"? ")])
    signature, too_large = _sign(worktree, untracked)
    is_modified = any(not row.startswith(b"? ") for row in rows)
    return Look(is_modified, untracked, nested, too_large, signature)


def untracked_files(worktree: Worktree, index: Path) -> list[bytes]:
    """Everything that is not in `index`, ignored or not."""
    return _expand(worktree, worktree.git("ls-files", "-z", "-o", index=index).fields)[0]


def on_disk(worktree: Worktree, path: bytes) -> bytes:
    return os.fsencode(worktree.tree) + b"/" + path


def _expand(worktree: Worktree, listed: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """git names a repository inside of the files by its directory, and does not look into it."""
    files = [path for path in listed if not path.endswith(b"/")]
    nested: list[bytes] = []
    for path in listed:
        if path.endswith(b"/"):
            for kind, found in _walk(os.fsencode(worktree.tree), path.rstrip(b"/")):
                (nested if kind == "nested" else files).append(found)
    return files, nested


def _walk(top: bytes, directory: bytes) -> Iterator[tuple[str, bytes]]:
    """Files, symbolic links and nested repositories below a directory; never follows a link, nor enters a `.git`."""
    for entry in _entries(top + b"/" + directory):
        path = directory + b"/" + entry.name
        if entry.name == b".git":
            yield "nested", directory
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(top, path)
        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield "file", path


def _entries(directory: bytes) -> list[os.DirEntry[bytes]]:
    """None, where the directory is gone or cannot be read: git sees nothing there either."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _sign(worktree: Worktree, paths: Sequence[bytes]) -> tuple[str, list[bytes]]:
    """A hash that changes when a file does, and the files that are too large. The hash is empty when it might not."""
    settled = time.time_ns() - CLOCK_TICK_NANOS
    hashed, too_large, is_reliable = hashlib.sha256(), [], True
    for path in paths:
        try:
            status = os.lstat(on_disk(worktree, path))
        except OSError:
            is_reliable = False
            continue
        facts = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        hashed.update(repr((path, facts)).encode())
        is_reliable = is_reliable and status.st_ctime_ns < settled
        if stat.S_ISREG(status.st_mode) and status.st_size > FILE_BYTES_MAX:
            too_large.append(path)
    return (hashed.hexdigest() if is_reliable else ""), too_large


def _identity(index: Path) -> str:
    """An index is never changed, only replaced."""
    status = index.stat()
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _snapshot(tree: str, full_tree: str, files_left_out: int) -> Snapshot:
    return Snapshot(tree=tree, full_tree=full_tree, files_left_out=files_left_out)
