"""Which release this is."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

from crewlog.cli.options import Output
from crewlog.cli.output import write_line


def release() -> str:
    return version("crewlog")


def write_version(output: Output) -> None:
    if output is Output.TABLE:
        write_line(f"crewlog {release()}")
        return
    write_line(json.dumps({"crewlog": release(), "python": platform.python_version(), "system": platform.platform()}))
