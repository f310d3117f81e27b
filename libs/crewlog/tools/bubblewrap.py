"""The command line of bubblewrap: own namespaces of every kind, no capabilities, one writable directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from crewlog.tools.confine import ETC_PATHS, NETWORK_PATHS, SYSTEM_PATHS

PROGRAM = "bwrap"
_ID_FOR_ROOT = 1000
_GENERATED = ("/etc/passwd", "/etc/group", "/etc/hosts")


def find() -> str | None:
    return shutil.which(PROGRAM, path="/usr/local/bin:/usr/bin:/bin")


def generated_files() -> dict[str, str]:
    """Small files in place of the host's, by the name under which the command line asks for them."""
    uid, gid = os.getuid() or _ID_FOR_ROOT, os.getgid() or _ID_FOR_ROOT
    return {
        "passwd": f"agent:x:{uid}:{gid}:agent:/tmp/home:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\n",
        "group": f"agent:x:{gid}:\nroot:x:0:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    }


def command_line(
    program: str,
    argv: Sequence[str],
    *,
    root: Path,
    read_only_paths: Sequence[str],
    network: bool,
    temporary_bytes: int,
) -> list[str]:
    """Later binds lie over earlier ones: the workspace over everything, and what is read-only within it over that."""
    inside = [path for path in read_only_paths if root in Path(path).parents]
    outside = [path for path in read_only_paths if path not in inside]
    return [
        program,
        *_namespaces(network),
        *_identity(),
        *_system(network),
        *_own_directories(temporary_bytes),
        *_read_only(outside),
        *("--bind", str(root), str(root)),
        *_read_only([*inside, *_git_file(root)]),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(root), "--seccomp", "{fd:seccomp}", "--"),
        *argv,
    ]


def _namespaces(network: bool) -> list[str]:
    kinds = ["user", "ipc", "pid", "uts", *([] if network else ["net"])]
    return ["--die-with-parent", "--new-session", *(f"--unshare-{kind}" for kind in kinds), "--unshare-cgroup-try"]


def _identity() -> list[str]:
    ids = ["--uid", str(_ID_FOR_ROOT), "--gid", str(_ID_FOR_ROOT)] if os.getuid() == 0 else []
    return [*ids, "--cap-drop", "ALL", "--hostname", "sandbox"]


def _system(network: bool) -> list[str]:
    words: list[str] = []
    for path in SYSTEM_PATHS:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        else:
            words += ["--ro-bind-try", path, path]
    words += _read_only([path for path in ETC_PATHS if path not in _GENERATED])
    for path in _GENERATED:
        words += ["--ro-bind-data", f"{{fd:{Path(path).name}}}", path]
    return words + (_read_only(NETWORK_PATHS) if network else [])


def _own_directories(temporary_bytes: int) -> list[str]:
    size = ["--size", str(temporary_bytes)]
    return [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        *size,
        "--tmpfs",
        "/dev/shm",
        *size,
        "--tmpfs",
        "/tmp",
        "--dir",
        "/tmp/home",
    ]


def _read_only(paths: Sequence[str]) -> list[str]:
    return [word for path in paths for word in ("--ro-bind-try", path, path)]


def _git_file(root: Path) -> list[str]:
    """The file that leads from a worktree to its repository; a directory is left as it is."""
    return [str(root / ".git")] if (root / ".git").is_file() else []
