"""The `.git` of a worktree: for the agent alone. This service writes it once and never reads or trusts it.

It is a repository of its own, whose old objects stand in the managed clone (see docs/adr/0002-workspace-git.md).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from crewlog.git.clones import Clone

_CONFIG = """\
[core]
\trepositoryformatversion = {version}
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
{extensions}[user]
\tname = Crewlog
\temail = crewlog@localhost
[gc]
\tauto = 0
"""


def write_agent_git(tree: Path, clone: Clone, branch: str, commit: str, index: Path) -> None:
    """Makes `tree` a checkout of `commit` on `branch`, with a copy of `index`."""
    git_dir = tree / ".git"
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (git_dir / name).mkdir(parents=True)
    ref = git_dir / "refs" / "heads" / branch
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(f"{commit}\n")
    (git_dir / "HEAD").write_text(f"ref: refs/heads/{branch}\n")
    (git_dir / "config").write_text(_config(commit))
    (git_dir / "objects" / "info" / "alternates").write_text(f"{clone.objects}\n")
    shutil.copy2(index, git_dir / "index")
    shutil.copyfile(clone.git_dir / "info" / "exclude", git_dir / "info" / "exclude")
    if (clone.git_dir / "shallow").is_file():
        shutil.copyfile(clone.git_dir / "shallow", git_dir / "shallow")


def _config(commit: str) -> str:
    is_sha256 = len(commit) == 64
    return _CONFIG.format(
        version=1 if is_sha256 else 0,
        extensions="[extensions]\n\tobjectformat = sha256\n" if is_sha256 else "",
    )
