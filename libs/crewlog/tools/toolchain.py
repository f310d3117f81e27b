"""What of the host a command sees beside its workspace: the system, and the tools that PATH names, all read-only."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from crewlog.tools.confine import SYSTEM_PATHS

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BIN_NAMES = ("bin", "sbin", "shims")
_IDENTITY = {"NAME": "Crewlog", "EMAIL": "crewlog@localhost"}


def environment_of(path: str) -> dict[str, str]:
    """All that a command gets to see of an environment; HOME and TMPDIR are added where they are made."""
    identity = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _IDENTITY.items()}
    return {
        "PATH": search_path(path),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        **identity,
    }


def search_path(path: str) -> str:
    """The directories of `path` that exist, then those of the system, then that of our own Python."""
    wanted = [*path.split(os.pathsep), *DEFAULT_PATH.split(os.pathsep), str(Path(sys.base_prefix) / "bin")]
    return os.pathsep.join(dict.fromkeys(entry for entry in wanted if entry.startswith("/") and Path(entry).is_dir()))


def tool_directories(path: str) -> list[str]:
    """What has to be readable outside of the system's directories, so that the programs of `path` run."""
    entries = [Path(entry) for entry in search_path(path).split(os.pathsep)]
    found = [str(prefix) for entry in entries for prefix in _prefixes(entry) if not _is_of_the_system(prefix)]
    return list(dict.fromkeys(found))


def _prefixes(entry: Path) -> list[Path]:
    """`/opt/go/bin` needs `/opt/go`; a virtual environment also the Python that it was made from."""
    real = entry.resolve()
    prefixes = [_prefix_of(entry), _prefix_of(real)]
    python = real / "python3"
    if (real.parent / "pyvenv.cfg").is_file() and python.exists():
        prefixes.append(_prefix_of(python.resolve().parent))
    return prefixes


def _prefix_of(directory: Path) -> Path:
    """Never a person's home, or what in it holds more than programs."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    kept_private = {home, home / ".local", home / ".cargo", home / ".config", *home.parents}
    if directory.name in _BIN_NAMES and directory.parent not in kept_private:
        return directory.parent
    return directory


def _is_of_the_system(path: Path) -> bool:
    return any(path == Path(system) or Path(system) in path.parents for system in SYSTEM_PATHS)
