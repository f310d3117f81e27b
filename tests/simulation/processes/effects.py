"""The tools of a simulation: each kind of effect once, and a ledger of everything that they did.

The input of a call names it, so an effect is recognised whoever performs it, and however often.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from crewlog.tools import registry
from crewlog.tools.answers import ToolAnswer
from crewlog.tools.command import CommandResult, Ending
from crewlog.tools.tool import Tool, ToolContext, ToolInput
from crewlog.v1.agent_pb2 import EffectClass

from tests.simulation.processes.git import ROOT, Git
from tests.simulation.processes.log import Disk
from tests.simulation.processes.loop import Process
from tests.simulation.processes.network import current, pass_time

# The names are those of real tools, as workflows are checked; what they do is the simulation's.
LOOK, PUT, SHELL, MAIL, ASK = "read", "write", "bash", "grep", "ask"
COMMAND, FAR_COMMAND = "command", "command with the network"
CLASSES: Mapping[str, EffectClass.ValueType] = {
    LOOK: EffectClass.EFFECT_CLASS_PURE,
    PUT: EffectClass.EFFECT_CLASS_QUERYABLE,
    SHELL: EffectClass.EFFECT_CLASS_REVERSIBLE,
    MAIL: EffectClass.EFFECT_CLASS_OPAQUE,
}


class CallInput(ToolInput):
    """`place` is `<agent> <turn> <index>`; it takes so long. `hangs`: it never ends, once in a
    simulation."""

    place: str
    millis: int
    fails: bool = False
    hangs: bool = False


@dataclass(frozen=True, slots=True)
class Performed:
    """One effect, and how much of the log there was when it began."""

    place: str
    tool: str
    process: Process
    agent_id: str
    generation: int
    revision: int


@dataclass(slots=True)
class Effects:
    disk: Disk
    git: Git
    paths: Counter[str]
    may_hang: bool = True
    performed: defaultdict[str, list[Performed]] = field(default_factory=lambda: defaultdict(list))

    def tools(self) -> Mapping[str, Tool[Any]]:
        """In place of those of crewlog.tools.registry."""
        return MappingProxyType({ASK: registry.TOOLS[ASK], **{name: self._tool(name) for name in CLASSES}})

    def _tool(self, name: str) -> Tool[Any]:
        changes_files = name in (PUT, SHELL)
        return Tool(name, f"does {name}", CallInput, CLASSES[name], changes_files, self._runner(name))

    def _runner(self, name: str) -> Callable[[Any, ToolContext], Awaitable[ToolAnswer]]:
        async def run(given: CallInput, context: ToolContext) -> ToolAnswer:
            await pass_time(given.millis / 2000)
            self._perform(name, given, str(context.root))
            if given.hangs and self.may_hang and not self.paths["tool hangs"]:
                self.paths["tool hangs"] += 1
                await _for_ever()
            await pass_time(given.millis / 2000)
            if given.fails:
                return ToolAnswer("it did not work", is_error=True, reason="failed")
            return ToolAnswer(json.dumps({"done": given.place}))

        return run

    async def command(self, argv: Sequence[str], root: str, *, network: bool) -> int:
        """`make MILLIS PERCENT`: so often it fails. A task always comes to the same exit code."""
        _, millis, fails = argv
        agent_id, _ = _worker(root)
        await pass_time(int(millis) / 2000)
        given = CallInput(place=f"{agent_id} 1 0", millis=int(millis))
        self._perform(FAR_COMMAND if network else COMMAND, given, root)
        await pass_time(int(millis) / 2000)
        return int(zlib.crc32(f"{agent_id} {millis}".encode()) % 100 < int(fails))

    def _perform(self, tool: str, given: CallInput, root: str) -> None:
        agent_id, generation = _worker(root)
        revision = len(self.disk.stored)
        done = Performed(given.place, tool, current(), agent_id, generation, revision)
        self.performed[given.place].append(done)
        self.paths[f"{tool} performed"] += 1
        files = self.git.files(root)
        if tool == PUT:
            files[f"{agent_id} {given.place}"] = ["put"]
        elif tool in (SHELL, COMMAND, FAR_COMMAND):
            files.setdefault(agent_id, []).append(given.place)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """In place of a crewlog.tools.sandbox.Sandbox: what decides about commands is real, the process is not."""

    effects: Effects

    async def run(self, argv: Sequence[str], *, root: Path, network: bool, **_: Any) -> CommandResult:
        code = await self.effects.command(argv, str(root), network=network)
        return CommandResult(code, f"exit code {code}", Ending.EXITED, 0, 0.0)

    async def close(self) -> None:
        return


def _worker(root: str) -> tuple[str, int]:
    """Whose worktree this is, and under which generation."""
    agent_id, _, generation = root.removeprefix(ROOT).rpartition("/")
    return agent_id, int(generation)


async def _for_ever() -> None:
    """Ignores that it is cancelled, as a thread does."""
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            continue
