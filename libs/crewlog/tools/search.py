"""glob and grep. Both read the workspace by the rule of `root`, in the order of names, and say what they left out."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

from crewlog.tools.answers import FAILED, TIMED_OUT, NotDone, ToolAnswer, shown
from crewlog.tools.limits import (
    ANSWER_CHARACTERS_MAX,
    GLOB_PATHS_MAX,
    GREP_SECONDS_MAX,
    PATTERN_CHARACTERS_MAX,
)
from crewlog.tools.patterns import name_pattern
from crewlog.tools.tool import ToolContext, ToolInput
from crewlog.tools.walk import Walk
from pydantic import Field

_WORKER = str(Path(__file__).with_name("grep_worker.py"))


class GlobInput(ToolInput):
    pattern: str = Field(
        min_length=1,
        max_length=PATTERN_CHARACTERS_MAX,
        description="Such as `src/**/*.py` or `*.{ts,tsx}`. Without a slash it is looked for in every directory.",
    )


class GrepInput(ToolInput):
    pattern: str = Field(
        min_length=1,
        max_length=PATTERN_CHARACTERS_MAX,
        description="A regular expression of Python, searched in each line. `(?i)` in front ignores case.",
    )
    path: str = Field(
        default=".", min_length=1, description="File or directory to search; the whole workspace if left out."
    )
    glob: str = Field(
        default="", max_length=PATTERN_CHARACTERS_MAX, description="Only files that match this pattern, such as `*.py`."
    )


def glob(given: GlobInput, context: ToolContext) -> str:
    pattern = name_pattern(given.pattern)
    walk = Walk(context.files, named=pattern.named, deadline=time.monotonic() + GREP_SECONDS_MAX)
    paths = sorted(shown("/".join(parts)) for parts in walk.files() if pattern.matches(parts))
    kept = _fitting(paths)
    if len(kept) < len(paths):
        walk.left_out.append(f"{len(paths) - len(kept)} more files: make the pattern narrower")
    notes = [f"({what})" for what in walk.left_out]
    return "\n".join([*(kept or [f"no file matches {shown(given.pattern)}"]), *notes])


def _fitting(paths: list[str]) -> list[str]:
    kept: list[str] = []
    characters = 0
    for path in paths[:GLOB_PATHS_MAX]:
        characters += len(path) + 1
        if characters > ANSWER_CHARACTERS_MAX:
            break
        kept.append(path)
    return kept


async def grep(given: GrepInput, context: ToolContext) -> ToolAnswer:
    asked = {"root": str(context.files.path), "pattern": given.pattern, "path": given.path, "glob": given.glob}
    worker = _start(json.dumps(asked))
    try:
        async with asyncio.timeout(GREP_SECONDS_MAX):
            output, _ = await asyncio.to_thread(worker.communicate)
    except TimeoutError:
        what_to_do = "make the pattern simpler (no nested repetition), or give a path or a glob"
        raise NotDone(TIMED_OUT, f"the search took more than {GREP_SECONDS_MAX:.0f} s: {what_to_do}") from None
    finally:
        worker.kill()  # where it lives still; the thread then sees its end
    return _answer(output)


def _start(asked: str) -> Popen[bytes]:
    """Not by the event loop, which forks: a copy of a process with gRPC's threads may crash before it is the worker."""
    command = (sys.executable, "-I", "-S", _WORKER, asked)
    return Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env={})


def _answer(output: bytes) -> ToolAnswer:
    if not output:
        raise NotDone(
            FAILED, "the search ended without an answer: it may have run out of memory; give a path or a glob"
        )
    answer = json.loads(output)
    reason = answer.get("reason", "")
    return ToolAnswer(answer["text"], is_error=bool(reason), reason=reason)
