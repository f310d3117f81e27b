"""What a tool is: a name, a typed input, how recovery may treat it, and the function that does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from crewlog.tools.answers import ToolAnswer
from crewlog.tools.root import Root
from crewlog.v1.agent_pb2 import EffectClass
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from crewlog.tools.command import CommandLimits
    from crewlog.tools.sandbox import Sandbox


class ToolInput(BaseModel):
    """Nothing is converted and nothing is ignored: a model that is wrong about the input is told so."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@dataclass(frozen=True)
class ToolContext:
    """Where one call runs. `root` is the only place that tools may change; `on_output` hears what a command prints.

    `sandbox` is needed by `bash` alone. `tools` are the names that the agent may use; None allows all.
    """

    root: Path
    sandbox: Sandbox | None = None
    read_only_paths: tuple[Path, ...] = ()
    on_output: Callable[[str], None] | None = None
    limits: CommandLimits | None = None
    tools: frozenset[str] | None = None
    network: bool = False
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def files(self) -> Root:
        return Root(self.root)


I = TypeVar("I", bound=ToolInput)  # noqa: E741


@dataclass(frozen=True)
class Tool(Generic[I]):
    """`changes_files` says that a snapshot is due after it. `effect_class` is that of a call without network."""

    name: str
    description: str
    input: type[I]
    effect_class: EffectClass.ValueType
    changes_files: bool
    run: Callable[[I, ToolContext], Awaitable[ToolAnswer]]

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the input, without what a model has no use for."""
        return without_titles(self.input.model_json_schema())


def in_thread(work: Callable[[I, ToolContext], str]) -> Callable[[I, ToolContext], Awaitable[ToolAnswer]]:
    """Makes a tool of a function that blocks."""

    async def run(given: I, context: ToolContext) -> ToolAnswer:
        return ToolAnswer(await asyncio.to_thread(work, given, context))

    return run


def without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_titles(value) for key, value in schema.items() if key not in ("title", "description")}


def _without_titles(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    fields = cast(dict[str, Any], value)
    return {
        key: _without_titles(item) for key, item in fields.items() if not (key == "title" and isinstance(item, str))
    }
