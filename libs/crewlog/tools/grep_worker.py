"""Searches the files of a workspace for a regular expression, as a process that can be killed.

A regular expression can take for ever, and Python holds its lock meanwhile: in a thread it would stop the executor.
Is given one JSON object, writes one to stdout. Run as `python -I -S grep_worker.py JSON`; started so, it has only
the standard library, which keeps a search at some 20 ms.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from crewlog.tools.answers import FAILED, NotDone, shown, shown_output
from crewlog.tools.limits import (
    ANSWER_CHARACTERS_MAX,
    GREP_FILE_BYTES_MAX,
    GREP_LINE_CHARACTERS_MAX,
    GREP_MATCHES_MAX,
    GREP_MEMORY_BYTES_MAX,
    GREP_SECONDS_MAX,
)
from crewlog.tools.patterns import PathPattern, name_pattern
from crewlog.tools.root import Place, Root, open_place
from crewlog.tools.walk import Parts, Walk, directory_below

_BINARY_PROBE_BYTES = 8192


def search(asked: dict[str, Any]) -> str:
    """`asked` has root, pattern, path and glob. Returns the matches as text; raises NotDone."""
    expression = _compiled(asked["pattern"])
    chosen = name_pattern(asked["glob"]) if asked["glob"] else None
    start: str = asked["path"]
    named = frozenset(start.split("/")) | (chosen.named if chosen else frozenset[str]())
    walk = Walk(Root(Path(asked["root"])), start, named, time.monotonic() + 0.7 * GREP_SECONDS_MAX)
    return _text(_found(walk, expression, chosen), walk, asked["pattern"])


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        why = f"{shown(pattern)} is not a regular expression of Python: {error}"
        raise NotDone(FAILED, f"{why}. Escape characters that are meant literally with a backslash") from error


def _found(walk: Walk, expression: re.Pattern[str], chosen: PathPattern | None) -> Iterator[str]:
    for parts in walk.files():
        if chosen is None or chosen.matches(parts):
            yield from _in_file(walk, parts, expression)


def _in_file(walk: Walk, parts: Parts, expression: re.Pattern[str]) -> Iterator[str]:
    content = _content_of(walk.root, parts)
    name = shown("/".join(parts))
    for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), 1):
        if expression.search(line):
            yield f"{name}:{number}:{_shown_line(line)}"


def _content_of(root: Root, parts: Parts) -> bytes:
    """Nothing for what is no text, or cannot be read: a search goes on."""
    try:
        with directory_below(root, parts[:-1]) as directory:
            return _text_content(Place(directory, parts[-1], parts))
    except (OSError, NotDone):
        return b""


def _text_content(place: Place) -> bytes:
    with open_place(place) as (descriptor, info):
        if info.st_size > GREP_FILE_BYTES_MAX:
            return b""
        content = os.read(descriptor, GREP_FILE_BYTES_MAX)
    return b"" if b"\0" in content[:_BINARY_PROBE_BYTES] else content


def _shown_line(line: str) -> str:
    cut = " (line cut)" if len(line) > GREP_LINE_CHARACTERS_MAX else ""
    return shown_output(line[:GREP_LINE_CHARACTERS_MAX].removesuffix("\r")) + cut


def _text(found: Iterator[str], walk: Walk, pattern: str) -> str:
    lines: list[str] = []
    characters = 0
    for line in found:
        characters += len(line) + 1
        if len(lines) == GREP_MATCHES_MAX or characters > ANSWER_CHARACTERS_MAX:
            walk.left_out.append("there are more matches: make the pattern, path or glob narrower")
            break
        lines.append(line)
    notes = [f"({what})" for what in walk.left_out]
    return "\n".join([*(lines or [f"no line matches {shown(pattern)}"]), *notes])


def main() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (GREP_MEMORY_BYTES_MAX, GREP_MEMORY_BYTES_MAX))
    try:
        answer = {"text": search(json.loads(sys.argv[1]))}
    except NotDone as refusal:
        answer = {"text": refusal.text, "reason": refusal.reason}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
