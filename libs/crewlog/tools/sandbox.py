"""Runs commands of agents at the best level of confinement that the host gives. docs/sandbox.md says what each holds.

A level is chosen once, for all commands; nothing falls back to a lower one later.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from crewlog.domain.errors import InvalidCommand, Unavailable
from crewlog.tools import bubblewrap
from crewlog.tools.command import CommandLimits, CommandResult, Ending, Launcher, OnOutput
from crewlog.tools.confine import Spec
from crewlog.tools.toolchain import DEFAULT_PATH, environment_of, tool_directories

if sys.platform == "linux":
    from crewlog.tools import kernel

_TRIAL_SECONDS = 10.0


class Level(StrEnum):
    """From the strongest to none at all."""

    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Capability:
    """What the host gives of one level. `why` names the reason it cannot be had, or what it comes to here."""

    level: Level
    is_available: bool
    why: str


class Sandbox:
    """Commands at one level. `path` is the PATH that they get; `scratch` holds their temporary files meanwhile."""

    def __init__(
        self, level: Level, *, path: str = DEFAULT_PATH, scratch: Path | None = None, namespaces: bool = True
    ) -> None:
        self.level = level
        self._scratch = str(scratch or tempfile.gettempdir())
        self._namespaces = namespaces
        self._tools = tool_directories(path)
        self._environment = environment_of(path)
        self._launcher = Launcher()

    async def run(
        self,
        argv: Sequence[str],
        *,
        root: Path,
        read_only_paths: Sequence[Path] = (),
        network: bool = False,
        limits: CommandLimits | None = None,
        environment: Mapping[str, str] | None = None,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Runs `argv` in `root`, with no input, and ends all that it has started when it ends.

        Raises Unavailable when the level cannot be had after all. Cancelling kills the command.
        """
        limits = limits or CommandLimits()
        spec = self._spec(argv, root, read_only_paths, network, limits, environment or {})
        return await self._launcher.run(spec, limits, on_output)

    async def close(self) -> None:
        await self._launcher.close()

    def _spec(
        self,
        argv: Sequence[str],
        root: Path,
        read_only_paths: Sequence[Path],
        network: bool,
        limits: CommandLimits,
        more: Mapping[str, str],
    ) -> Spec:
        readable = [*self._tools, *(os.path.realpath(path) for path in read_only_paths)]
        spec = Spec(
            level=self.level,
            argv=list(argv),
            environment={**self._environment, **more},
            root=os.path.realpath(root),
            read_only_paths=readable,
            network=network,
            namespaces=self._namespaces,
            limits=limits.for_launcher(),
            scratch=self._scratch,
            files={},
        )
        return self._in_bubblewrap(spec) if self.level is Level.BUBBLEWRAP else spec

    def _in_bubblewrap(self, spec: Spec) -> Spec:
        denied = (kernel.AF_VSOCK,)
        spec["files"] = {**bubblewrap.generated_files(), "seccomp": kernel.call_filter(denied).decode("latin-1")}
        spec["environment"] |= {"HOME": "/tmp/home", "TMPDIR": "/tmp"}
        spec["argv"] = bubblewrap.command_line(
            bubblewrap.find() or bubblewrap.PROGRAM,
            spec["argv"],
            root=Path(spec["root"]),
            read_only_paths=spec["read_only_paths"],
            network=spec["network"],
            temporary_bytes=spec["limits"]["temporary_bytes"],
        )
        return spec


async def detect(*, path: str = DEFAULT_PATH) -> list[Capability]:
    """Tries every level for real, the strongest first."""
    return [(await _try(level, path))[0] for level in Level]


async def choose(name: str, *, path: str = DEFAULT_PATH, scratch: Path | None = None) -> Sandbox:
    """The sandbox of a level, or with `auto` of the best one above `none`.

    Raises Unavailable when it cannot be had, and says what to do; InvalidCommand for a name that is no level.
    """
    if name == "auto":
        return await _best(path, scratch)
    if name not in list(Level):
        levels = ", ".join(["auto", *Level])
        raise InvalidCommand(f"there is no sandbox level {name[:80]!r}", what_to_do=f"choose one of: {levels}")
    capability, namespaces = await _try(Level(name), path)
    if not capability.is_available:
        raise Unavailable(f"the sandbox level {name} cannot be had here: {capability.why}", what_to_do=_WHAT_TO_DO)
    return Sandbox(Level(name), path=path, scratch=scratch, namespaces=namespaces)


_WHAT_TO_DO = (
    "install bubblewrap (the package `bubblewrap` of Debian, Ubuntu and Fedora), or use a kernel with Landlock, or ask "
    "by name for no sandbox: --sandbox none. Then commands of agents can do whatever you can"
)


async def _best(path: str, scratch: Path | None) -> Sandbox:
    reasons: list[str] = []
    for level in (Level.BUBBLEWRAP, Level.LANDLOCK):
        capability, namespaces = await _try(level, path)
        if capability.is_available:
            return Sandbox(level, path=path, scratch=scratch, namespaces=namespaces)
        reasons.append(f"{level}: {capability.why}")
    raise Unavailable(f"this host can confine no commands ({'; '.join(reasons)})", what_to_do=_WHAT_TO_DO)


async def _try(level: Level, path: str) -> tuple[Capability, bool]:
    """With the second value: whether namespaces can be had."""
    missing = _missing(level)
    if missing:
        return Capability(level, False, missing), False
    why = await _trial(level, path, namespaces=True)
    if why and level is Level.LANDLOCK:
        refused = why
        why = await _trial(level, path, namespaces=False)
        return Capability(level, not why, why or _means_without_namespaces(refused)), False
    return Capability(level, not why, why or _means(level)), True


def _missing(level: Level) -> str:
    if level is Level.NONE:
        return ""
    if sys.platform != "linux":
        return f"{level} is for Linux; on this system there is only `none` for now"
    if not kernel.has_call_filter():
        return "only x86_64 and aarch64 are known"
    if level is Level.BUBBLEWRAP and bubblewrap.find() is None:
        return "the program `bwrap` is not installed"
    if level is Level.LANDLOCK and kernel.landlock_abi() < 1:
        return "the kernel has no Landlock, or has it switched off"
    return ""


def _means(level: Level) -> str:
    if level is Level.NONE:
        return "nothing but limits: commands can do whatever you can"
    own = "own namespaces of users, processes, mounts and network"
    return own if level is Level.BUBBLEWRAP else f"ABI {kernel.landlock_abi()}, and {own}"


def _means_without_namespaces(refused: str) -> str:
    return f"ABI {kernel.landlock_abi()}, without namespaces ({refused}): no private /tmp, no sockets at all"


async def _trial(level: Level, path: str, *, namespaces: bool) -> str:
    """Empty, or why `true` does not run there."""
    sandbox = Sandbox(level, path=path, namespaces=namespaces)
    with tempfile.TemporaryDirectory(prefix="crewlog-") as root:
        try:
            result = await sandbox.run(["true"], root=Path(root), limits=CommandLimits(seconds=_TRIAL_SECONDS))
        except Unavailable as refusal:
            return refusal.message
        finally:
            await sandbox.close()
    if result.ending is Ending.EXITED and result.exit_code == 0:
        return ""
    return json.dumps(result.output.strip()[-300:]) if result.output else f"`true` ended with {result.exit_code}"
