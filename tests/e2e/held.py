"""A crew that goes on until a test lets it go: what is done to it meanwhile never comes too late.

Its engineer asks for one short command after the other. They say whether there is a file `go` in the workspace. Before
it there may be a writer, who is done at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from crewlog.v1.run_pb2 import AgentNode, Node, Role, Workflow

from tests.e2e.world import LOOK_AGAIN_SECONDS, World

T = TypeVar("T")
STEPS_MAX = 150
LOOK = "for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e go ] && echo go | tee went.txt && exit; sleep 0.05; done; echo waiting"
LOOKS = {"say": "I look.", "tools": [{"tool": "bash", "input": {"command": LOOK}}]}
WRITES = {"say": "I write.", "tools": [{"tool": "write", "input": {"path": "written.txt", "content": "written"}}]}
GOES = {"expect": "go", "say": "I go."}
SCRIPT = {
    "name": "held",
    "scripts": [
        {"system": "Role: writer", "steps": [WRITES, {"say": "Written."}]},
        {"system": "Role: engineer", "steps": [LOOKS, *[{"cases": [GOES, LOOKS]}] * STEPS_MAX]},
    ],
}


def node(name: str, *depends_on: str) -> Node:
    role = Role(name=name, prompt=f"Role: {name}", tools=["bash", "write"])
    return Node(node_id=name, depends_on=depends_on, agent=AgentNode(role=role))


WORKFLOW = Workflow(name="held", nodes=[node("engineer")])
AFTER_WRITER = Workflow(name="held", nodes=[node("writer"), node("engineer", "writer")])


def held_script(directory: Path) -> Path:
    path = directory / "held.yaml"
    path.write_text(json.dumps(SCRIPT))
    return path


async def start_held(world: World, run_id: str, workflow: Workflow = WORKFLOW, **fields: object) -> None:
    await world.start(run_id, workflow=workflow, workflow_name=None, **fields)


def workspaces(world: World) -> list[Path]:
    return list((world.directory / "data" / "git" / "workspaces").glob("*/*/tree"))


def let_go(world: World) -> None:
    """What waits in a workspace goes on. Those that are being removed do not count."""
    with suppress(FileNotFoundError):
        for tree in workspaces(world):
            (tree / "go").touch()


async def let_go_until(world: World, coming: Coroutine[Any, Any, T]) -> T:
    """Again and again: also what begins later goes on, and what is in a workspace that was put back."""
    waiting = asyncio.create_task(coming)
    while not waiting.done():
        let_go(world)
        await asyncio.wait((waiting,), timeout=LOOK_AGAIN_SECONDS)
    return await waiting
