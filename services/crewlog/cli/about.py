"""Which release this is, and what to type to call it."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from crewlog.cli.options import Output
from crewlog.cli.output import write_line


def release() -> str:
    return version("crewlog")


def command() -> str:
    """`crewlog` where the shell finds it, else where it lies: below the current directory, or in full."""
    if shutil.which("crewlog"):
        return "crewlog"
    path, here = Path(sys.executable).with_name("crewlog"), Path.cwd()
    if not path.exists():
        return f"{shlex.quote(sys.executable)} -m crewlog.cli"
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def write_version(output: Output) -> None:
    if output is Output.TABLE:
        write_line(f"crewlog {release()}")
        return
    write_line(json.dumps({"crewlog": release(), "python": platform.python_version(), "system": platform.platform()}))
