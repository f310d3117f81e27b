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
from crewlog.cli.verifying import verify
from crewlog.v1.run_pb2 import GetRun, RunStatus

from tests.e2e.test_persons import let_go
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
    command: [sh, -c, "test '{{ tasks.hold.result.version }}' = 7 && test '{{ tasks.words.result.text }}' = better"]
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


async def let_go_until(is_so: Awaitable[Any], world: World) -> Any:
    """Whatever waits in a workspace goes on, also what begins later."""
    waiting = asyncio.ensure_future(is_so)
    while not waiting.done():
        let_go(world)
        await asyncio.wait((waiting,), timeout=LOOK_AGAIN_SECONDS)
    return waiting.result()


async def test_whatever_it_waits_for_is_said_and_goes_on_when_it_comes(
    world: World, crewlog: Crewlog, tmp_path: Path
) -> None:
    (tmp_path / "flows" / "workflows").mkdir(parents=True)
    (tmp_path / "flows" / "outer.yaml").write_text(OUTER)
    (tmp_path / "flows" / "workflows" / "inner.yaml").write_text(INNER)
    why = ("runs", "--why-waiting", "waits")
    await crewlog("limits", "set", "role", "engineer", "1")
    started = ("run", "wait for everything", "-w", str(tmp_path / "flows" / "outer.yaml"), "--run-id", "waits", "-d")
    await crewlog(*started, "--priority", "interactive")

    said = await until_it_says(crewlog, why, "gate ask-1-1: Which way?")
    assert "dependencies" in said
    refused = await crewlog("gates", "answer", "waits", "ask-1-1", "up", ends_with=ExitCode.USAGE)
    assert "left, right" in refused.err
    await crewlog("gates", "answer", "waits", "ask-1-1", "right")

    await until_it_says(crewlog, why, "gate words-1-2: Is this well said?")
    missing = await crewlog("gates", "answer", "waits", "words-1-2", ends_with=ExitCode.USAGE)
    assert "the answer is missing" in missing.err
    await crewlog("gates", "answer", "waits", "words-1-2", "--text", "better")

    assert "until" in await until_it_says(crewlog, why, "signal: the signal released")
    await crewlog("signal", "waits", "released", "--data", '{"version": 7}', "--request-id", "once")
    await crewlog("signal", "waits", "released", "--data", '{"version": 7}', "--request-id", "once")

    said = await until_it_says(crewlog, why, "0 of 2 items have ended", "role=engineer: 1 of 1 at work")
    assert "limit" in said
    assert ["role", "engineer", "1", "1"] in [line.split() for line in (await crewlog("limits")).out.splitlines()]
    shown = (await crewlog("show", "waits")).out
    assert "0 of 2 done, 1 at work" in shown
    assert "parts_0-1" not in shown
    assert "parts_0-1" in (await crewlog("show", "waits", "--items")).out

    said = await let_go_until(until_it_says(crewlog, why, "the child run waits-inner-1"), world)
    child = next(
        json.loads(line) for line in (await crewlog("runs", "waits", "--children", "-o", "jsonl")).out.splitlines()
    )
    assert child["parent"]["run_id"] == "waits"
    assert child["run_id"] in (await crewlog("show", "waits")).out
    assert child["run_id"] not in (await crewlog("runs")).out
    await crewlog("gates", "answer", child["run_id"], "agree-1-1", "approve")

    followed = await crewlog("watch", "waits")
    assert "✓ run waits succeeded" in followed.out
    shown = (await crewlog("show", "waits")).out
    assert "2 of 2 done" in shown
    line = next(line for line in shown.splitlines() if line.startswith("leftover-1"))
    assert "skipped" in line
    trace = (await crewlog("trace", "waits")).out
    for name in ("gate ask-1", "wait hold-1", "map parts-1", "  invoke_agent parts_1-1", "invoke_workflow inner-1"):
        assert name in trace
    replayed = (await crewlog("replay", "waits")).out
    assert f"is done by run {child['run_id']}" in replayed
    for run_id in ("waits", child["run_id"]):
        assert (await world.gateway.runs.Get(GetRun(run_id=run_id))).status == RunStatus.RUN_STATUS_SUCCEEDED
        assert (await verify(world.gateway, run_id)).entries
        assert "✓" in (await crewlog("watch", run_id)).out
