"""A text that a person changes in an editor of their choice."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from crewlog.cli import config
from crewlog.cli.exits import Failed

STANDARD_ERROR = 2


def edited(text: str) -> str:
    """The text as it is when the editor ends. Raises Failed when that says that nothing is to be done."""
    editor = config.editor()
    with tempfile.TemporaryDirectory(prefix="crewlog-") as folder:
        file = Path(folder) / "answer.md"
        file.write_bytes(text.encode())
        try:
            # What the command answers with goes to standard output, and nothing else.
            done = subprocess.run((*shlex.split(editor), str(file)), stdout=STANDARD_ERROR, check=False)
        except (OSError, ValueError) as error:
            raise Failed(f"the editor {editor!r} does not start: {error}; set EDITOR, or give --text") from error
        if done.returncode:
            raise Failed(f"nothing is answered: {editor} ended with status {done.returncode}")
        return file.read_bytes().decode(errors="replace")
