"""`crewlog run`: registers the repository, starts the run, and follows it."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crewlog.cli import crew_files, durations, money, repository, watching
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, write_message
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.names import RUN_ID_CHARACTERS_MAX
from crewlog.v1.budget_pb2 import Limit, OnExhausted
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.run_pb2 import GetRun, RunLimits, StartRun

WORDS_OF_RUN_ID = 4
SUFFIX_BYTES = 2
PRIORITIES = {"batch": -10, "normal": 0, "interactive": 10}


@dataclass(frozen=True, slots=True)
class Limits:
    """0 for no limit."""

    dollars: str = "2"
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Spending:
    """What a run may cost, what is done when that is gone, and the named budgets that it is charged to."""

    limits: Limits = field(default_factory=Limits)
    on_exhausted: str = "unspecified"
    charge: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Times:
    """Such as `2h`; empty for the default. How long the run may take, and how long a task may wait for an executor."""

    whole: str = ""
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """As a person gives it on the command line."""

    task: str
    repo: Path
    workflow: str = "agent"
    model: str = ""
    spending: Spending = field(default_factory=Spending)
    run_id: str = ""
    base: str = ""
    times: Times = field(default_factory=Times)
    priority: str = "normal"


async def run(gateway: Gateway, request: Request, *, detach: bool, output: Output) -> int:
    """The exit status: of the run when it was followed, of the start when not."""
    run_id, revision = await start(gateway, request)
    if not detach:
        return await watching.watch(gateway, run_id, output, repo=str(request.repo))
    say(f"  watch it   {gateway.command(f'watch {run_id}')}")
    if output is not Output.TABLE:
        write_message(await gateway.runs.Get(GetRun(run_id=run_id, at_least_revision=revision)), output)
    return 0


async def start(gateway: Gateway, request: Request) -> tuple[str, int]:
    """Registers the repository where it is new, and starts the run: its id, and the revision at which it is there."""
    command = await asyncio.to_thread(to_command, request)
    found = await asyncio.to_thread(repository.look_at, request.repo)
    if found.has_uncommitted_changes and not request.base:
        say(f"{found.path} has changes that are not committed: the run does not see them")
    registered = await gateway.projects.Register(RegisterProject(path=str(found.path)))
    command.project_id = registered.project_id
    receipt = await gateway.runs.Start(command)
    say(f"run {command.run_id} on {found.path}")
    return command.run_id, receipt.revision


def to_command(request: Request) -> StartRun:
    """Without the project. Raises InvalidCommand for what cannot be read."""
    text = sys.stdin.read() if request.task == "-" else request.task
    if not text.strip():
        raise InvalidCommand("the task is empty", what_to_do='say what to do: crewlog run "fix the failing test"')
    command = StartRun(
        run_id=request.run_id or new_run_id(text),
        input=text,
        budget=_limit(request.spending.limits),
        model=request.model,
        base=request.base,
        budgets=[name.removeprefix("named:").removeprefix("named_") for name in request.spending.charge],
        on_exhausted=OnExhausted.Value(f"ON_EXHAUSTED_{request.spending.on_exhausted.upper()}"),
        limits=_run_limits(request.times),
        priority=priority_of(request.priority),
    )
    plan = crew_files.to_send(request.workflow, request.repo)
    if plan is None:
        command.workflow_name = request.workflow
    else:
        command.workflow.CopyFrom(plan)
    return command


def _limit(limits: Limits) -> Limit:
    return Limit(
        usd_micros=money.usd_micros(limits.dollars),
        input_tokens=limits.input_tokens,
        output_tokens=limits.output_tokens,
        model_calls=limits.calls,
    )


def priority_of(text: str) -> int:
    """A word or a number. Raises InvalidCommand for any other."""
    known = {**PRIORITIES, **{str(number): number for number in range(-10, 11)}}
    if text.removeprefix("+") not in known:
        raise InvalidCommand(
            f"--priority {text[:80]!r} is none", what_to_do=f"use {', '.join(PRIORITIES)}, or a number from -10 to 10"
        )
    return known[text.removeprefix("+")]


def _run_limits(times: Times) -> RunLimits | None:
    """None where nothing was asked for."""
    limits = RunLimits(
        duration_seconds_max=durations.seconds(times.whole, "--max-time"),
        waiting_seconds_max=durations.seconds(times.waiting, "--max-waiting-time"),
    )
    return limits if limits.ByteSize() else None


def new_run_id(text: str) -> str:
    """The first words of the task and something random, so that a person recognises it."""
    words = re.findall(r"[a-z0-9]+", text.lower()[:500])[:WORDS_OF_RUN_ID]
    suffix = secrets.token_hex(SUFFIX_BYTES)
    stem = "-".join(words)[: RUN_ID_CHARACTERS_MAX - len(suffix) - 1].strip("-") or "run"
    return f"{stem}-{suffix}"
