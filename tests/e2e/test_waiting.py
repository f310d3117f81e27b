"""A workflow that waits for everything that a workflow can wait for, driven by commands as a person types them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crewlog.cli.exits import ExitCode

from tests.e2e.held import let_go_until
from tests.e2e.world import WAIT_SECONDS, World, platform_on

LOOK_AGAIN_SECONDS = 0.1
OUTER = """
name: outer
nodes:
  - id: ask
    gate: {question: Which way?, kind: choose, choices: [left, right]}
  - {id: leftover, noop: {}}
  - {id: words, gate: {question: Is this well said?, kind: edit, text: "good\\n"}}
  - id: hold
    depends_on: [words]
    wait: {signal: released, time: 1h}
  - id: parts
    depends_on: [hold]
    map: {times: 2}
    role: engineer
    prompt: "Part {{ index }}"
  - {id: inner, depends_on: [parts], workflow: inner}
  - id: check
    depends_on: [inner]
    command:
      - sh
      - -c
      - test "$1" = 7 && test "$2" = better
      - _
      - "{{ tasks.hold.result.version }}"
      - "{{ tasks.words.result.text }}"
edges:
  - {from: ask, to: leftover, when: task.result.choice == "left"}
  - {from: ask, to: words, when: task.result.choice == "right"}
"""
INNER = """
name: inner
nodes:
  - {id: agree, gate: Shall it go on?}
  - {id: look, depends_on: [agree], command: [ls]}
"""
SCRIPT = """
name: waits
scripts:
  - system: "Role: engineer"
    steps:
      - say: I wait until somebody lets me go on.
        tools:
          - {tool: bash, input: {command: "until [ -e go ]; do sleep 0.05; done", timeout_seconds: 120}}
      - say: Done.
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Crewlog = Callable[..., Awaitable[Done]]


@pytest.fixture
async def world(tmp_path: Path, repository: Path) -> AsyncIterator[World]:
    script = tmp_path / "script.yaml"
    script.write_text(SCRIPT)
    async with platform_on(tmp_path, repository, script) as found:
        yield found


@pytest.fixture
def crewlog(world: World, repository: Path) -> Crewlog:
    where = ("--address", world.platform.gateway_address)
    environment = {**os.environ, "CREWLOG_TOKEN": world.platform.token, "NO_COLOR": "1"}

    async def run(*words: str, ends_with: int = ExitCode.OK) -> Done:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "crewlog.cli", *words, *where)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=repository, env=environment
        )
        out, err = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
        assert process.returncode == ends_with, err.decode()
        return Done(process.returncode, out.decode(), err.decode())

    return run


async def until_it_says(crewlog: Crewlog, words: tuple[str, ...], *said: str) -> str:
    """What the command prints, as soon as all of it is said."""
    out, until = "", time.monotonic() + WAIT_SECONDS
    while not all(each in out for each in said):
        assert time.monotonic() < until, out
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        out = (await crewlog(*words)).out
    return out


WHY = ("runs", "--why-waiting", "waits")


async def begin(crewlog: Crewlog, folder: Path) -> None:
    """One engineer at a time."""
    (folder / "workflows").mkdir(parents=True)
    (folder / "workflows" / "inner.yaml").write_text(INNER)
    workflow = folder / "outer.yaml"
    workflow.write_text(OUTER)
    await crewlog("limits", "set", "role", "engineer", "1")
    started = ("run", "wait for everything", "-w", str(workflow), "--run-id", "waits", "-d")
    await crewlog(*started, "--priority", "interactive")


async def answer_the_gates(crewlog: Crewlog) -> None:
    """A choice and a text; what is no answer is refused."""
    said = await until_it_says(crewlog, WHY, "gate ask-1-1: Which way?")
    assert "dependencies" in said
    refused = await crewlog("gates", "answer", "waits", "ask-1-1", "up", ends_with=ExitCode.USAGE)
    assert "left, right" in refused.err
    await crewlog("gates", "answer", "waits", "ask-1-1", "right")
    await until_it_says(crewlog, WHY, "gate words-1-2: Is this well said?")
    missing = await crewlog("gates", "answer", "waits", "words-1-2", ends_with=ExitCode.USAGE)
    assert "the answer is missing" in missing.err
    await crewlog("gates", "answer", "waits", "words-1-2", "--text", "better")


async def signal_twice(crewlog: Crewlog) -> None:
    assert "until" in await until_it_says(crewlog, WHY, "signal: the signal released")
    for _ in range(2):
        await crewlog("signal", "waits", "released", "--data", '{"version": 7}', "--request-id", "once")


async def see_the_limit_hold(crewlog: Crewlog) -> None:
    said = await until_it_says(crewlog, WHY, "0 of 2 items have ended", "role=engineer: 1 of 1 at work")
    assert "limit" in said
    assert ["role", "engineer", "1", "1"] in [line.split() for line in (await crewlog("limits")).out.splitlines()]
    shown = (await crewlog("show", "waits")).out
    assert "0 of 2 done, 1 at work" in shown
    assert "parts_0-1" not in shown
    assert "parts_0-1" in (await crewlog("show", "waits", "--items")).out


async def agree_in_the_child(crewlog: Crewlog, world: World) -> str:
    """The id of the child run."""
    await let_go_until(world, until_it_says(crewlog, WHY, "the child run waits-inner-1"))
    child: dict[str, Any] = json.loads((await crewlog("runs", "waits", "--children", "-o", "jsonl")).out)
    run_id = str(child["run_id"])
    assert child["parent"]["run_id"] == "waits"
    assert run_id in (await crewlog("show", "waits")).out
    assert run_id not in (await crewlog("runs")).out
    assert run_id in (await crewlog("runs", "--children")).out
    await crewlog("gates", "answer", run_id, "agree-1-1", "approve")
    return run_id


async def look_back(crewlog: Crewlog, child: str) -> None:
    shown = (await crewlog("show", "waits")).out
    assert "2 of 2 done" in shown
    assert "skipped" in next(line for line in shown.splitlines() if line.startswith("leftover-1"))
    trace = (await crewlog("trace", "waits")).out
    for name in ("gate ask-1", "wait hold-1", "map parts-1", "    invoke_agent parts_1-1", "invoke_workflow inner-1"):
        assert name in trace
    assert f"is done by run {child}" in (await crewlog("replay", "waits")).out
    assert (await crewlog("signal", "waits", "released", ends_with=ExitCode.FAILED)).err.startswith("crewlog: ")


async def test_whatever_it_waits_for_is_said_and_goes_on_when_it_comes(
    world: World, crewlog: Crewlog, tmp_path: Path
) -> None:
    await begin(crewlog, tmp_path / "flows")
    await answer_the_gates(crewlog)
    await signal_twice(crewlog)
    await see_the_limit_hold(crewlog)
    child = await agree_in_the_child(crewlog, world)
    assert "✓ run waits succeeded" in (await crewlog("watch", "waits")).out
    await look_back(crewlog, child)
    for run_id in ("waits", child):
        assert (await crewlog("replay", run_id, "--verify")).out.startswith("verified: ")
        assert f"✓ run {run_id} succeeded" in (await crewlog("watch", run_id)).out
        assert (await crewlog("diff", run_id)).code == ExitCode.OK
