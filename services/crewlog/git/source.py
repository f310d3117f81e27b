"""The user's repository, as it is read: where it is, what a name means in it, whether its checkout has changes.

Nothing here writes, and nothing that its configuration names is run. crewlog.git.delivery brings a branch into it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from crewlog.domain.errors import InvalidCommand, NotFound, WrongState
from crewlog.git.repository import Git, Limits, Place, Repository, foreign

_ASKED = (
    "--is-bare-repository",
    "--is-inside-git-dir",
    "--show-object-format",
    "--path-format=absolute",
    "--absolute-git-dir",
    "--git-common-dir",
    "--show-toplevel",  # the last one: it fails where there is no checkout
)
_MENTIONS_FILTERS = re.compile(rb"\[\s*(filter|include)", re.IGNORECASE)
_OFF = {"clean": "", "smudge": "", "process": "", "required": "false"}


@dataclass(frozen=True, slots=True)
class Source:
    """`git_dir` is that of the checkout, `common_dir` that of the repository; `top` is None for a bare one."""

    git: Git
    git_dir: Path
    common_dir: Path
    top: Path | None
    object_format: str

    @property
    def repository(self) -> Repository:
        return foreign(self.git, self.git_dir)


def locate(git: Git, path: str) -> Source:
    """The repository that holds a directory: its top, a directory below, a linked worktree, or a bare repository.

    Raises NotFound when there is no such directory, InvalidCommand when it is no repository.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise NotFound(f"{path} is no directory on this host", what_to_do="give the path of a git repository")
    answer = git.run(["rev-parse", *_ASKED], Place(cwd=directory))
    lines = answer.out.decode(errors="surrogateescape").splitlines()
    if len(lines) < len(_ASKED) - 2:
        why = _reason(answer.err)
        raise InvalidCommand(f"{path} is no git repository: {why}", what_to_do="run `git init`, or give another path")
    bare, inside, object_format, git_dir, common_dir = lines[:5]
    top = Path(lines[5]) if len(lines) > 5 else None
    if top is None and bare != "true" and inside == "true":
        raise InvalidCommand(f"{path} is inside a git directory", what_to_do="give the path of the checkout")
    return Source(git, Path(git_dir), Path(common_dir), top, object_format)


def resolve(source: Source, base: str) -> tuple[str, str]:
    """The commit that `base` (HEAD when empty) names, and the branch that HEAD names, if it does.

    Raises WrongState when there are no commits yet, NotFound when the name means nothing.
    """
    found = source.repository.run(
        "rev-parse", f"{base or 'HEAD'}^{{commit}}", "--symbolic-full-name", "HEAD", accept=(0, 128)
    )
    lines = found.text.splitlines()
    if found.code == 0 and len(lines) >= 1:
        head = lines[1] if len(lines) > 1 else ""
        return lines[0], head.removeprefix("refs/heads/") if head.startswith("refs/heads/") else ""
    if not base:
        raise WrongState(f"{source.top or source.git_dir} has no commits yet", what_to_do="make a first commit")
    if not source.repository.run("rev-parse", "--verify", "--quiet", "HEAD", accept=(0, 1)).text:
        raise WrongState(f"{source.top or source.git_dir} has no commits yet", what_to_do="make a first commit")
    raise NotFound(f"{base!r} names no commit of {source.top or source.git_dir}", what_to_do="see `git log --all`")


def has_uncommitted_changes(source: Source, ignored: Path) -> bool:
    """Whether the checkout has changed or untracked files. What lies below `ignored` does not count."""
    if source.top is None:
        return False
    without = [f":(exclude,top,literal){ignored.relative_to(source.top)}"] if ignored.is_relative_to(source.top) else []
    status = Repository(source.git, source.git_dir, {**source.repository.settings, **_filters_off(source)}).run(
        "status",
        "--porcelain",
        "-z",
        "--untracked-files=normal",
        "--ignore-submodules=all",
        "--",
        *([".", *without] if without else []),
        work_tree=source.top,
        limits=Limits(output_bytes=1, truncate=True),
    )
    return bool(status.out)


def _filters_off(source: Source) -> dict[str, str]:
    """Content filters are programs that the repository's configuration names."""
    files = [source.common_dir / "config", source.git_dir / "config.worktree"]
    if not any(path.is_file() and _MENTIONS_FILTERS.search(path.read_bytes()) for path in files):
        return {}
    names = source.repository.run("config", "-z", "--name-only", "--get-regexp", r"^filter\.", accept=(0, 1)).fields
    drivers = {name.decode(errors="surrogateescape").rpartition(".")[0] for name in names}
    return {f"{driver}.{key}": value for driver in drivers for key, value in _OFF.items()}


def _reason(err: str) -> str:
    lines = [line.removeprefix("fatal: ") for line in err.splitlines() if line]
    return lines[0][:300] if lines else "git does not say why"
