"""Looks at a person's repository and changes nothing in it: not the index, not a lock, no hook runs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from crewlog.cli import wording
from crewlog.domain.errors import InvalidCommand, Unavailable

SECONDS_MAX = 60.0
WHY_CHARACTERS_MAX = 200
_READ_ONLY = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


@dataclass(frozen=True, slots=True)
class Repository:
    """`path` is its top directory, with links resolved."""

    path: Path
    has_uncommitted_changes: bool


def look_at(path: Path) -> Repository:
    """Raises InvalidCommand where there is no repository with a working tree."""
    top = _git(path.expanduser().absolute(), "rev-parse", "--show-toplevel")
    if top.returncode or not top.stdout.strip():
        why = wording.one_line(top.stderr.decode(errors="replace"), WHY_CHARACTERS_MAX)
        raise InvalidCommand(
            f"{path} is not in a git repository with a working tree ({why})",
            what_to_do="name one with --repo, or make one: git init, git add, git commit",
        )
    root = Path(os.fsdecode(top.stdout).rstrip("\n"))
    return Repository(root, bool(_git(root, "status", "--porcelain", "-z").stdout))


def _git(path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    if not path.is_dir():
        raise InvalidCommand(f"{path} is not a directory", what_to_do="name a git repository with --repo")
    command = ("git", *_READ_ONLY, "-C", str(path), *arguments)
    try:
        return subprocess.run(command, capture_output=True, timeout=SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"git takes longer than {SECONDS_MAX:.0f} s in {path}", what_to_do="try again") from None
