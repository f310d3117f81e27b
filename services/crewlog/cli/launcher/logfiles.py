"""Logs of the children: one file each, cut before it grows without end, and their last words when a child has died."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

LOG_BYTES_MAX = 16 * 1024 * 1024
TAIL_BYTES = 16 * 1024
LAST_WORDS_CHARACTERS_MAX = 300


def cut(folder: Path) -> None:
    """Moves what a file that is too long holds to `<name>.1`. Children append, so they go on at the new beginning."""
    for path in folder.glob("*.log"):
        if path.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)


def last_words(path: Path) -> str:
    """The message of the last line that says something, for a person; empty for an empty log."""
    with suppress(FileNotFoundError):
        lines = [line for line in _tail(path).splitlines() if line.strip()]
        return _message(lines[-1])[:LAST_WORDS_CHARACTERS_MAX] if lines else ""
    return ""


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def _message(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return line.strip()
    return str(record.get("message", line)) if isinstance(record, dict) else line
