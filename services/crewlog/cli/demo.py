"""`crewlog demo`: a crew repairs a small project, on a platform of its own, from the task to the verified history.

Everything is real but the model, which plays a script unless there is a key: processes, log, git, tools, sandbox.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from crewlog.cli import about, config, gateway, live, replaying, starting, summary, telling, verifying, watching
from crewlog.cli.config import ModelAccess
from crewlog.cli.exits import Failed
from crewlog.cli.gateway import Gateway
from crewlog.cli.launcher.platform import Platform
from crewlog.cli.options import Where
from crewlog.cli.output import say, write_line
from crewlog.cli.starting import Limits, Request, Spending
from crewlog.cli.verifying import Checked
from crewlog.tools import sandbox
from crewlog.tools.sandbox import Level, Sandbox
from crewlog.v1.run_pb2 import GetRun, RunView

RUN_ID = "repair-slugs"
BUDGET = "1.00"
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "demo"
WORKFLOW = str(EXAMPLE / "crew.yaml")
_TESTS = ("python3", "-m", "unittest")
_AUTHOR = ("-c", "user.name=Crewlog demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo takes place."""

    root: Path
    data_dir: Path
    prices: Path | None = None

    @property
    def project(self) -> Path:
        return self.root / "slugger"

    @property
    def checkout(self) -> Path:
        return self.root / "after"


def run(*, keep: bool, sandbox_level: str, model: str, data_dir: Path | None, prices: Path | None = None) -> int:
    """The exit status: 0 when the run has succeeded and its history is verified."""
    if not EXAMPLE.is_dir():
        raise Failed("the demo needs the folder examples/demo of the source: run it from a clone of the repository")
    root = Path(tempfile.mkdtemp(prefix="crewlog-demo-"))
    stage = Stage(root, (data_dir or root / "data").absolute(), prices)
    try:
        return asyncio.run(_play(stage, sandbox_level, _model_access(model), keep))
    finally:
        if not keep:
            shutil.rmtree(root)


async def _play(stage: Stage, sandbox_level: str, model: ModelAccess, keep: bool) -> int:
    script = None if model.api_key else EXAMPLE / "script.yaml"
    _say_what_is_real(script)
    confined = await _sandbox(sandbox_level)
    try:
        await asyncio.to_thread(_make_project, stage.project)
        before = await _tests(confined, stage.project)
        write_line(f"The project: {stage.project}\n  tests before: {before}\n")
        began = time.monotonic()
        async with Platform(
            stage.data_dir,
            scripted_model=script,
            model=model,
            sandbox=confined.level.value,
            prices=stage.prices,
            say=say,
        ) as platform:
            say(f"crewlog is ready after {time.monotonic() - began:.1f} s: {platform.gateway_address}\n")
            async with gateway.connect(Where(stage.data_dir)) as connected:
                view, checked = await _run(connected, stage)
        await _conclude(stage, view, checked, confined, scripted=script is not None, before=before)
    finally:
        await confined.close()
    _say_how_to_look_closer(stage, view, keep)
    return summary.exit_code(view)


async def _run(connected: Gateway, stage: Stage) -> tuple[RunView, Checked]:
    task = (EXAMPLE / "task.txt").read_text()
    request = Request(task, stage.project, WORKFLOW, spending=Spending(Limits(BUDGET)), run_id=RUN_ID)
    await starting.start(connected, request)
    view = live.new_view(telling.new_console())
    with view:
        await watching.show(connected, RUN_ID, view)
    return (
        await connected.runs.Get(GetRun(run_id=RUN_ID, at_least_revision=view.board.revision)),
        await verifying.verify(connected, RUN_ID),
    )


async def _conclude(
    stage: Stage, view: RunView, checked: Checked, confined: Sandbox, *, scripted: bool, before: str
) -> None:
    write_line("")
    for line in summary.in_words(view, scripted=scripted):
        write_line(line)
    write_line(f"\n  tests    before: {before}")
    if view.change.branch:
        await asyncio.to_thread(_check_out, stage, view.change.branch)
        write_line(f"           after:  {await _tests(confined, stage.checkout)}")
    write_line(f"  history  {replaying.in_words(checked)}")


def _say_what_is_real(script: Path | None) -> None:
    if script is None:
        write_line("The model is real: ANTHROPIC_API_KEY is set, and the run spends money, at most $" + BUDGET + ".")
        return
    write_line(
        "The model is scripted: a local server plays examples/demo/script.yaml and reacts to what the tools return.\n"
        "Everything else is real. With ANTHROPIC_API_KEY set, the same command asks a real model."
    )


def _say_how_to_look_closer(stage: Stage, view: RunView, keep: bool) -> None:
    if not keep:
        return
    branch, base, crewlog = view.change.branch, view.base_commit[:10], about.command()
    write_line("\nNothing is running any more. To look closer:")
    if branch:
        write_line(f"  git -C {stage.project} log -p {base}..{branch}")
    write_line(f"  {crewlog} up --detach --data-dir {stage.data_dir}")
    for command in ("replay", "replay --verify", "trace", "diff"):
        verb, _, option = command.partition(" ")
        write_line(f"  {crewlog} {verb} {RUN_ID} {option}".rstrip() + f" --data-dir {stage.data_dir}")
    write_line(f"  {crewlog} down --data-dir {stage.data_dir}")
    write_line(f"To remove everything: rm -r {stage.root}")


async def _sandbox(name: str) -> Sandbox:
    """The best one above `none`; where the host gives none, the demo runs without, and says so."""
    if name == "auto" and not any(found.is_available for found in await sandbox.detect() if found.level != Level.NONE):
        say("This host can confine no commands (see `crewlog doctor`): the demo runs the crew's commands unconfined.")
        name = Level.NONE
    return await sandbox.choose(name)


async def _tests(confined: Sandbox, directory: Path) -> str:
    """What the tests of the project say, in a few words."""
    done = await confined.run(_TESTS, root=directory, environment={"PYTHONDONTWRITEBYTECODE": "1"})
    ran = re.search(r"Ran (\d+) tests?", done.output)
    failed = re.search(r"FAILED \((.*)\)", done.output)
    if ran is None:
        return f"could not be run (exit status {done.exit_code})"
    return f"{ran[1]} run, " + (failed[1] if failed else "all pass")


def _make_project(path: Path) -> None:
    shutil.copytree(EXAMPLE / "project", path, ignore=shutil.ignore_patterns("__pycache__"))
    _git(path, "init", "--quiet", "--initial-branch=main")
    _git(path, "add", "--all")
    _git(path, *_AUTHOR, "commit", "--quiet", "--message", "Slugs for titles")


def _check_out(stage: Stage, branch: str) -> None:
    _git(stage.root, "clone", "--quiet", "--branch", branch, str(stage.project), str(stage.checkout))


def _git(directory: Path, *arguments: str) -> None:
    environment = {**config.inherited(), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(("git", *arguments), cwd=directory, env=environment, check=True)


def _model_access(model: str) -> ModelAccess:
    found = config.model_access()
    return replace(found, model=model or found.model)
