"""Managed clones: one bare repository per project, which nobody but this service writes.

    <root>/<project>/                    the git directory
        crewlog-source                   the git directory of the user's repository
        info/exclude                     what never goes into a commit unless the project tracks it
        refs/crewlog/bases/<commit>      what runs start from
        refs/crewlog/snapshots/<workspace>/<generation>/<label>/{tree,full}
        refs/crewlog/commits/<workspace>

Nothing in it is ever collected, so whatever an event names stays there.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from crewlog.domain.errors import Conflict, NotFound, WrongState
from crewlog.git.repository import Git, GitFailed, Repository, write_file
from crewlog.git.source import Source

SOURCE = "crewlog-source"
BASES = "refs/crewlog/bases"

BY_PRODUCT_DIRECTORIES = frozenset(
    {
        "__pycache__",
        ".eggs",
        ".hypothesis",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".venv",
        "node_modules",
    }
)
BY_PRODUCT_SUFFIXES = (".pyc", ".pyo")
BY_PRODUCT_FILES = frozenset({".coverage", ".DS_Store"})


@dataclass(frozen=True, slots=True)
class Clone:
    """The managed clone of one project."""

    project_id: str
    repository: Repository

    @property
    def git_dir(self) -> Path:
        return self.repository.git_dir

    @property
    def objects(self) -> Path:
        return self.git_dir / "objects"

    def source(self) -> Path:
        """The git directory of the user's repository."""
        return Path((self.git_dir / SOURCE).read_text(errors="surrogateescape"))


class Clones:
    """All managed clones of this host."""

    def __init__(self, git: Git, root: Path) -> None:
        self._git = git
        self._root = root

    def find(self, project_id: str) -> Clone:
        """Raises NotFound when no run of the project was ever started here."""
        git_dir = self._root / project_id
        if not (git_dir / SOURCE).is_file():
            raise NotFound(f"there is no clone of project {project_id!r}", what_to_do="pin a commit of it first")
        return Clone(project_id, Repository(self._git, git_dir))

    def open(self, project_id: str, source: Source) -> Clone:
        """The clone of this repository, made when there is none. Raises Conflict when it is that of another one."""
        git_dir = self._root / project_id
        if not (git_dir / SOURCE).is_file():
            self._make(git_dir, source)
        clone = Clone(project_id, Repository(self._git, git_dir))
        known = clone.source()
        if known != source.common_dir:
            if known.is_dir():
                raise Conflict(f"project {project_id!r} is the repository at {known}", what_to_do="use another id")
            write_file(git_dir / SOURCE, _source_of(source))
        return clone

    def _make(self, git_dir: Path, source: Source) -> None:
        """Appears as a whole: half a clone would be taken for one."""
        self._root.mkdir(parents=True, exist_ok=True)
        fresh = self._root / f".{git_dir.name}.{secrets.token_hex(4)}"
        Repository(self._git, fresh).run(
            "init", "--quiet", "--bare", "--template=", f"--object-format={source.object_format}"
        )
        (fresh / "info").mkdir()
        (fresh / "info" / "exclude").write_text(_excludes())
        (fresh / SOURCE).write_bytes(_source_of(source))
        try:
            fresh.rename(git_dir)
        except OSError:
            shutil.rmtree(fresh)
            if not (git_dir / SOURCE).is_file():
                raise


def fetch_commit(clone: Clone, source: Source, commit: str) -> None:
    """Brings a commit of the user's repository, with its history, into the clone, and keeps it there."""
    ref = f"{BASES}/{commit}"
    if (clone.git_dir / ref).is_file():
        return
    known = [f"--negotiation-tip={BASES}/*"] if (clone.git_dir / BASES).is_dir() else []
    try:
        clone.repository.run(
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-gc",
            "--update-shallow",
            *known,
            "--",
            source.common_dir,
            f"{commit}:{ref}",
        )
    except GitFailed as failure:
        raise WrongState(
            f"commit {commit[:12]} cannot be read from {source.common_dir}: {failure.message}",
            what_to_do="check the repository with `git fsck`; a partial clone has to be completed first",
        ) from failure


def _source_of(source: Source) -> bytes:
    return str(source.common_dir).encode(errors="surrogateescape")


def is_by_product(path: bytes) -> bool:
    """Whether a tool makes such a file again at any time."""
    *directories, name = path.decode(errors="surrogateescape").split("/")
    if name in BY_PRODUCT_FILES or name.endswith(BY_PRODUCT_SUFFIXES):
        return True
    return not BY_PRODUCT_DIRECTORIES.isdisjoint(directories)


def _excludes() -> str:
    patterns = [f"{name}/" for name in sorted(BY_PRODUCT_DIRECTORIES)]
    patterns += sorted(BY_PRODUCT_FILES) + [f"*{suffix}" for suffix in BY_PRODUCT_SUFFIXES]
    return "\n".join(patterns) + "\n"
