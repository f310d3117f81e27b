"""The example for any repository reacts to what the tools really return, whatever the repository is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from crewlog.crews import load_workflow
from crewlog.models.script import Answer, next_move
from crewlog.models.script_file import load_script
from crewlog.tools import sandbox
from crewlog.tools.registry import ToolContext, run_tool

EXAMPLE = Path(__file__).parents[2] / "examples" / "any-repo" / "script.yaml"
TURNS_MAX = 10


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[ToolContext]:
    """An empty repository, and tools in it. The script is ours: its commands need no sandbox."""
    _git(tmp_path, "init", "-q")
    unconfined = await sandbox.choose("none")
    yield ToolContext(root=tmp_path, sandbox=unconfined)
    await unconfined.close()


@pytest.mark.parametrize(
    ("files", "notes"),
    [
        (
            {"README.md": "# A title\n\nText.\n", "src/a.py": "# TODO: more\n"},
            "# Notes on A title\n\n2 files under version control, in 1 commits.\n\n"
            "The first note about something to do: `src/a.py:1:# TODO: more`\n",
        ),
        (
            {"README.md": "![badge](x)\n\n## Späti 🚲\n", "README.txt": "other\n"},
            "# Notes on Späti 🚲\n\n2 files under version control, in 1 commits.\n\n"
            "The first note about something to do: `no line matches \\b(TODO|FIXME)\\b`\n",
        ),
        (
            {"README": "no heading\n"},
            "# Notes\n\n1 files under version control, in 1 commits. No README with a heading.\n\n"
            "The first note about something to do: `no line matches \\b(TODO|FIXME)\\b`\n",
        ),
        (
            {"docs/README.md": "# Not this one\n", "a b/c'd\".py": "x = 1  # FIXME\n"},
            "# Notes\n\n2 files under version control, in 1 commits. No README with a heading.\n\n"
            "The first note about something to do: `a b/c'd\".py:1:x = 1  # FIXME`\n",
        ),
        (
            {},
            "# Notes\n\n0 files under version control, in 1 commits. No README with a heading.\n\n"
            "The first note about something to do: `no line matches \\b(TODO|FIXME)\\b`\n",
        ),
    ],
    ids=["heading", "late heading", "no heading", "no README", "empty"],
)
async def test_the_notes(context: ToolContext, files: dict[str, str], notes: str) -> None:
    for name, text in files.items():
        path = context.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _git(context.root, "add", "-A")
    _git(context.root, "commit", "-q", "--allow-empty", "-m", "all of it")

    last = await _play(context)

    assert (context.root / "NOTES-CREWLOG.md").read_text() == notes
    assert last.say == f"NOTES-CREWLOG.md says what I found in {len(files)} files. Nothing else was changed."
    assert _git(context.root, "status", "--porcelain") == "?? NOTES-CREWLOG.md\n"


async def _play(context: ToolContext) -> Answer:
    """The conversation of the workflow `agent`, as the executor would have it; answers its last message."""
    script = load_script(EXAMPLE)
    system = load_workflow("agent").nodes[0].agent.role.prompt
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Take notes"}]
    for _ in range(TURNS_MAX):
        move = next_move(script, {"system": system, "messages": messages})
        assert move is not None
        if not move.answer.tools:
            return move.answer
        messages.append({"role": "assistant", "content": move.answer.say})
        results = [await run_tool(call.tool, json.dumps(call.input).encode(), context) for call in move.answer.tools]
        blocks = [{"type": "tool_result", "content": result.text} for result in results]
        messages.append({"role": "user", "content": blocks})
    pytest.fail("the conversation does not end")


def _git(path: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@localhost")
    command = ("git", "-C", str(path), *identity, *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
