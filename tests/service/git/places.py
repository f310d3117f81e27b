"""A person's repository, and the adapters of a git service on a directory of their own."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from crewlog.git.clones import Clone, Clones
from crewlog.git.pinning import pin
from crewlog.git.repository import Git
from crewlog.git.worktree import Worktree
from crewlog.git.worktrees import Worktrees
from crewlog.v1.workspace_pb2 import PinBase, PinnedBase, PreparedWorkspace, PrepareWorkspace

PATH = os.environ["PATH"]
WORKSPACE, RUN, TASK, PROJECT = "demo_implementer-1", "demo", "implementer-1", "slugs"


def run_git(directory: Path, *arguments: str | bytes) -> str:
    """git as a person would run it, with a configuration of no one."""
    identity = {f"GIT_{who}_{what}": "me" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {"PATH": PATH, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", **identity}
    done = subprocess.run(["git", *arguments], cwd=directory, env=environment, capture_output=True, check=True)
    return done.stdout.decode(errors="backslashreplace").strip()


@dataclass(frozen=True)
class UserRepository:
    """A repository with a checkout, as a person has it."""

    top: Path

    def git(self, *arguments: str | bytes) -> str:
        return run_git(self.top, *arguments)

    def write(self, path: str, content: str) -> None:
        (self.top / path).parent.mkdir(parents=True, exist_ok=True)
        (self.top / path).write_text(content)

    def commit(self, **files: str) -> str:
        """commit(a="x") writes the file `a` and commits everything."""
        for path, content in files.items():
            self.write(path, content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "work")
        return self.git("rev-parse", "HEAD")

    def fingerprint(self) -> dict[str, str]:
        """Everything below the top, `.git` included: kind, mode, time of change and content."""
        return {str(path.relative_to(self.top)): _fingerprint(path) for path in self.top.rglob("*")}


def _fingerprint(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return "directory"
    content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
    return f"{status.st_mode:o} {status.st_mtime_ns} {hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Bench:
    """The adapters of one git service, below one directory."""

    directory: Path
    git: Git

    @classmethod
    def at(cls, directory: Path) -> Bench:
        return cls(directory, Git(directory, PATH))

    @property
    def clones(self) -> Clones:
        return Clones(self.git, self.directory / "clones")

    @property
    def worktrees(self) -> Worktrees:
        return Worktrees(self.directory / "workspaces")

    @property
    def clone(self) -> Clone:
        return self.clones.find(PROJECT)

    def pin(self, path: Path, base: str = "", project_id: str = PROJECT) -> PinnedBase:
        command = PinBase(project_id=project_id, path=str(path), base=base)
        return pin(self.git, self.clones, self.directory, command)

    def prepare(self, *base_commits: str, generation: int = 1, tree: str = "") -> tuple[Worktree, PreparedWorkspace]:
        command = PrepareWorkspace(
            workspace_id=WORKSPACE,
            project_id=PROJECT,
            run_id=RUN,
            task_id=TASK,
            generation=generation,
            base_commits=base_commits,
            tree=tree,
        )
        prepared = self.worktrees.prepare(self.clone, command)
        return self.worktrees.find(self.clone, WORKSPACE, generation), prepared

    def managed(self, *arguments: str) -> str:
        """git in the managed clone."""
        return run_git(self.directory, f"--git-dir={self.clone.git_dir}", *arguments)

    def files(self, tree: str) -> dict[str, str]:
        """Path and content of every file of a tree."""
        names = self.managed("ls-tree", "-r", "--name-only", tree).splitlines()
        return {name: self.managed("cat-file", "blob", f"{tree}:{name}") for name in names}
