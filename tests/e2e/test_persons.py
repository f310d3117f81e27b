"""A person and a running crew on a real platform: messages that the model reacts to, stops, questions, and causes of a
pause that are mended. The model plays a script that says what it has heard."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from crewlog.cli import board, following, live, past, watching
from crewlog.cli.exits import ExitCode
from crewlog.cli.verifying import verify
from crewlog.domain.errors import Conflict
from crewlog.runtime.channel import dial
from crewlog.v1.budget_pb2 import Amounts, Limit
from crewlog.v1.budget_service_pb2_grpc import GateServiceStub
from crewlog.v1.run_pb2 import (
    AgentNode,
    AnswerGate,
    CancelRun,
    CancelTask,
    GateStatus,
    GateView,
    MessageMode,
    Node,
    ParkCause,
    ResumeRun,
    RetryRun,
    Role,
    RunStatus,
    RunView,
    SendMessage,
    TaskStatus,
    Workflow,
)
from crewlog.v1.workspace_pb2 import ListFiles
from rich.console import Console

from tests.e2e.held import let_go, workspaces
from tests.e2e.test_control import SERVICES, ended, nobody_works, nth, when
from tests.e2e.world import WAIT_SECONDS, World, in_spite, platform_on, types_of

LOOK_AGAIN_SECONDS = 0.02
Play = Callable[[str], AbstractAsyncContextManager[World]]
TOOLS = ("read", "write", "bash", "ask")
STEER, QUEUE, INTERRUPT = (
    MessageMode.MESSAGE_MODE_STEER,
    MessageMode.MESSAGE_MODE_QUEUE,
    MessageMode.MESSAGE_MODE_INTERRUPT,
)
FOREVER = f"3141.{os.getpid():09}"
"""Seconds of a sleep that no other process sleeps."""


def crew(*names: str) -> Workflow:
    """One role after the other."""
    nodes = [
        Node(
            node_id=name,
            depends_on=names[number - 1 : number] if number else (),
            agent=AgentNode(role=Role(name=name, prompt=f"Role: {name}", tools=TOOLS)),
        )
        for number, name in enumerate(names)
    ]
    return Workflow(name="crew", nodes=nodes)


@pytest.fixture(params=["none", pytest.param("process", marks=pytest.mark.campaign)])
def playing(request: pytest.FixtureRequest, tmp_path: Path, repository: Path) -> Play:
    """A platform whose model plays a script; its agents live in the executor, or each in a process of its own."""

    @asynccontextmanager
    async def play(script: str) -> AsyncIterator[World]:
        path = tmp_path / "script.yaml"
        path.write_text(script)
        async with platform_on(tmp_path, repository, path, isolation=request.param) as world:
            yield world

    return play


async def start(world: World, *names: str, **fields: object) -> None:
    await world.start("run", workflow=crew(*names), workflow_name=None, **fields)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not is_so():
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def sleeps_forever() -> bool:
    """Whether any process of this machine still does."""
    found = (path / "cmdline" for path in Path("/proc").iterdir() if path.name.isdecimal())
    return any(FOREVER.encode() in _read(path) for path in found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def files_of(world: World) -> list[str]:
    """What `crewlog replay run --files` lists."""
    found = past.fold_all(await following.until_now(world.gateway, "run"))
    assert found.files is not None
    request = ListFiles(project_id=world.project_id, tree=found.files.tree)
    return [file.path for file in (await world.gateway.files.List(request)).files]


async def recorded(world: World) -> list[str]:
    return [name for entry in await following.until_now(world.gateway, "run") for name in types_of(entry)]


async def failures(world: World) -> list[str]:
    """Why tool calls have failed."""
    events = (
        event
        for entry in await following.until_now(world.gateway, "run")
        for decision in entry.entry.decisions
        for event in decision.events
    )
    return [event.tool_call_failed.failure.reason for event in events if event.HasField("tool_call_failed")]


def summary_of(view: RunView, task_id: str = "engineer-1") -> str:
    return next(task.result.summary for task in view.tasks if task.task_id == task_id)


HEARS = {"said": "use (?P<what>tabs)", "expect": "waiting", "say": "I heard {{what}} in the middle."}
HEARS_LATE = {"said": "use (?P<what>tabs)", "say": "I heard {{what}} at the end."}
FINISHES_FIRST = {"said": "finish", "say": "First I finish."}
WAITS = {"say": "I wait.", "tools": [{"tool": "bash", "input": {"command": "sleep 0.1; echo waiting"}}]}
WAITING = json.dumps(
    {
        "name": "waiting",
        "scripts": [
            {
                "system": "Role: engineer",
                "steps": [WAITS, *[{"cases": [HEARS, HEARS_LATE, FINISHES_FIRST, WAITS]}] * 150],
            }
        ],
    }
)


@pytest.mark.parametrize(
    ("mode", "heard"), [(STEER, "I heard tabs in the middle."), (QUEUE, "I heard tabs at the end.")]
)
async def test_a_message_is_read_when_its_mode_says(playing: Play, mode: MessageMode.ValueType, heard: str) -> None:
    async with playing(WAITING) as world:
        await start(world, "engineer")
        await world.watch("run", nth("tool_call_started", 1))
        send = world.gateway.runs.Send
        await send(SendMessage(run_id="run", message_id="m", mode=mode, text="Please use tabs."))
        if mode == QUEUE:
            await send(SendMessage(run_id="run", message_id="n", mode=STEER, text="Come, finish."))
        run = await world.finished("run")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        assert summary_of(run) == heard
        assert sorted(run.tasks[0].result.messages_read) == ([1, 2] if mode == QUEUE else [1])
        assert "message_undelivered" not in await recorded(world)
        await verify(world.gateway, "run")


BUSY = """
name: busy
scripts:
  - system: "Role: engineer"
    steps:
      - say: I wait for ever.
        tools: [{tool: bash, input: {command: "echo > begun; until [ -e go ]; do sleep 0.02; done; echo went"}}]
      - cases:
          - {said: "use (?P<what>tabs)", say: "I heard {{what}} and stopped."}
"""


async def test_a_message_that_interrupts_is_read_at_once(playing: Play) -> None:
    async with playing(BUSY) as world:
        await start(world, "engineer")
        await until(lambda: any((tree / "begun").exists() for tree in workspaces(world)))
        interrupt = SendMessage(run_id="run", message_id="m", mode=INTERRUPT, text="Please use tabs.")
        await world.gateway.runs.Send(interrupt)
        run = await world.finished("run")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        assert (summary_of(run), await failures(world)) == ("I heard tabs and stopped.", ["interrupted"])
        await verify(world.gateway, "run")


async def test_a_message_that_nobody_reads_any_more_is_given_back(playing: Play) -> None:
    async with playing(BUSY) as world:
        await start(world, "engineer")
        await until(lambda: any((tree / "begun").exists() for tree in workspaces(world)))
        await world.gateway.runs.Send(SendMessage(run_id="run", message_id="m", mode=QUEUE, text="Please use tabs."))
        await world.gateway.runs.Cancel(CancelRun(run_id="run", grace_seconds=1))
        assert (await world.finished("run")).status == RunStatus.RUN_STATUS_CANCELLED
        assert (await recorded(world)).count("message_undelivered") == 1
        await verify(world.gateway, "run")


SLEEPS = f"""
name: sleeps
scripts:
  - system: "Role: engineer"
    steps:
      - say: I sleep.
        tools:
          - tool: bash
            input:
              command: "trap '' TERM; (sleep {FOREVER} &); echo kept > kept.txt; sleep {FOREVER}"
              timeout_seconds: 600
"""


async def test_a_cancelled_command_dies_with_all_its_processes_and_its_files_are_kept(playing: Play) -> None:
    async with playing(SLEEPS) as world:
        await start(world, "engineer")
        await until(lambda: any((tree / "kept.txt").exists() for tree in workspaces(world)))
        assert sleeps_forever()
        await world.gateway.runs.Cancel(CancelRun(run_id="run", reason="enough", grace_seconds=1))
        run = await world.finished("run")
        assert run.status == RunStatus.RUN_STATUS_CANCELLED
        assert not sleeps_forever()
        assert "kept.txt" in await files_of(world)
        assert run.tasks[0].result.HasField("snapshot")
        assert await failures(world) == ["cancelled"]
        await verify(world.gateway, "run")


FINISHES = """
name: finishes
scripts:
  - system: "Role: engineer"
    steps:
      - say: I wait.
        tools:
          - tool: bash
            input: {command: "echo > begun; until [ -e go ]; do sleep 0.02; done; echo done > finished.txt"}
      - say: Never asked for.
"""


async def test_what_is_under_way_may_end_by_itself_within_the_grace(playing: Play) -> None:
    async with playing(FINISHES) as world:
        await start(world, "engineer")
        await until(lambda: any((tree / "begun").exists() for tree in workspaces(world)))
        await world.gateway.runs.Cancel(CancelRun(run_id="run", grace_seconds=600))
        let_go(world)
        run = await world.finished("run")
        assert run.status == RunStatus.RUN_STATUS_CANCELLED
        assert "finished.txt" in await files_of(world)
        types = await recorded(world)
        assert (types.count("tool_call_succeeded"), types.count("model_call_started")) == (1, 1)
        await verify(world.gateway, "run")


TWO = """
name: two
scripts:
  - system: "Role: first"
    steps:
      - say: My part.
        tools: [{tool: write, input: {path: first.txt, content: "first"}}]
      - say: Done with the first.
  - system: "Role: second"
    steps:
      - say: I wait.
        tools: [{tool: bash, input: {command: "echo > begun; until [ -e go ]; do sleep 0.02; done"}}]
      - say: Done with the second.
"""


async def test_a_stop_that_comes_late_does_not_hit_the_successor(playing: Play) -> None:
    async with playing(TWO) as world:
        await start(world, "first", "second")
        await world.watch("run", nth("task_succeeded", 1))
        await when(world, "run", lambda view: summary_of_or_none(view, "first-1") is not None)
        await world.gateway.runs.CancelTask(CancelTask(run_id="run", task_id="first-1", reason="too late"))
        await until(lambda: any((tree / "begun").exists() for tree in workspaces(world)))
        let_go(world)
        run = await world.finished("run")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        assert "task_cancel_requested" not in await recorded(world)
        await verify(world.gateway, "run")


def summary_of_or_none(view: RunView, task_id: str) -> str | None:
    ended_tasks = (task for task in view.tasks if task.status == TaskStatus.TASK_STATUS_SUCCEEDED)
    return next((task.result.summary for task in ended_tasks if task.task_id == task_id), None)


RICH = """
name: rich
scripts:
  - system: "Role: first"
    steps:
      - say: My part.
        tools: [{tool: write, input: {path: first.txt, content: "first"}}]
      - say: Done with the first.
  - system: "Role: second"
    steps:
      - say: I look.
        tools: [{tool: read, input: {path: first.txt}}]
      - say: Done with the second.
"""


async def test_a_run_without_money_is_taken_up_with_more_and_keeps_what_was_done(playing: Play) -> None:
    async with playing(RICH) as world:
        await start(world, "first", "second", budget=Limit(model_calls=3))
        first = await world.finished("run")
        assert (first.status, first.failure.reason) == (RunStatus.RUN_STATUS_FAILED, "budget_exhausted")
        retry = RetryRun(run_id="run", request_id="again", by=Amounts(model_calls=5))
        receipt = await world.gateway.runs.Retry(retry)
        run = await ended(world, "run", receipt.revision)
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        assert [task.task_id for task in run.tasks] == ["first-1", "second-1", "second-2"]
        assert list(run.change.paths) == ["first.txt"]
        asked_of_the_first = [line for line in world.ledger() if "Role: first" in str(line)]
        assert len(asked_of_the_first) == 2
        await verify(world.gateway, "run")


ASKS = """
name: asks
scripts:
  - system: "Role: engineer"
    steps:
      - say: I have to know.
        tools: [{tool: ask, input: {question: "Tabs or spaces?"%s}}]
      - cases:
          - {expect: "(?P<what>tabs|spaces)", say: "Then {{what}}."}
"""


async def open_gate(world: World) -> GateView:
    await world.watch("run", nth("gate_opened", 1))
    return (await when(world, "run", lambda view: bool(view.gates))).gates[0]


@pytest.mark.parametrize(
    ("more", "answer"),
    [(", choices: [tabs, spaces]", AnswerGate(choice="tabs")), ("", AnswerGate(text="tabs, of course"))],
    ids=["choice", "text"],
)
async def test_a_question_is_answered_once_by_another_client_after_everything_was_killed(
    playing: Play, more: str, answer: AnswerGate
) -> None:
    async with playing(ASKS % more) as world:
        await start(world, "engineer")
        gate = await open_gate(world)
        assert (gate.question, gate.task_id) == ("Tabs or spaces?", "engineer-1")
        view = await when(world, "run", nobody_works)
        assert view.tasks[0].park_cause == ParkCause.PARK_CAUSE_QUESTION
        asked = len(world.ledger())
        world.kill(*SERVICES, "nats-server")
        said = AnswerGate(run_id="run", gate_id=gate.gate_id)
        said.MergeFrom(answer)
        async with dial(world.platform.gateway_address, world.platform.token) as channel:
            other = GateServiceStub(channel)
            await in_spite(lambda: other.Answer(said))
            run = await ended(world, "run")
            await other.Answer(said)
            with pytest.raises(Conflict if answer.choice else Exception):
                said.choice, said.text = ("spaces", "") if answer.choice else ("", "spaces")
                await other.Answer(said)
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        assert summary_of(run) == "Then tabs."
        assert (asked, len(world.ledger())) == (1, 2)
        await verify(world.gateway, "run")


async def test_a_question_that_nobody_answers_expires_with_its_default(playing: Play) -> None:
    more = ", choices: [tabs, spaces], default: spaces"
    async with playing(ASKS % more) as world:
        await start(world, "engineer", gate_seconds=2)
        await open_gate(world)
        world.kill("scheduler")
        run = await ended(world, "run")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        assert (summary_of(run), run.gates[0].status) == ("Then spaces.", GateStatus.GATE_STATUS_EXPIRED)
        await verify(world.gateway, "run")


REFUSED = """
name: refused
scripts:
  - system: "Role: engineer"
    steps:
      - say: I write.
        tools: [{tool: write, input: {path: a.txt, content: "a"}}]
      - say: Done, with a valid key.
        faults: [{error: {status: 401, type: authentication_error, message: "invalid x-api-key"}}]
"""


async def test_a_refused_key_pauses_the_run_until_it_is_mended(playing: Play) -> None:
    async with playing(REFUSED) as world:
        await start(world, "engineer")
        followed = await crewlog(world, "watch", "run")
        assert followed.returncode == ExitCode.RUN_PAUSED, followed.stderr
        assert "model_key_refused" in followed.stdout and "resume run" in followed.stdout
        view = await when(world, "run", nobody_works)
        assert (view.status, view.paused.failure.reason) == (RunStatus.RUN_STATUS_PAUSED, "model_key_refused")
        assert view.paused.failure.what_to_do and not view.paused.resumes_at_unix_micros
        world.kill("scheduler", "executor", "gateway", "git")
        await in_spite(lambda: world.gateway.runs.Resume(ResumeRun(run_id="run")))
        run = await ended(world, "run")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, run.failure
        assert summary_of(run) == "Done, with a valid key."
        assert [line["status"] for line in world.ledger()] == [200, 401, 200]
        await verify(world.gateway, "run")


BREAKS = """
name: breaks
scripts:
  - system: "Role: engineer"
    steps:
      - say: I wait.
        tools: [{tool: bash, input: {command: "echo > begun; until [ -e go ]; do sleep 0.02; done"}}]
      - say: I begin to say something that is long enough to come in several pieces, and then nothing more comes of it.
        faults: [{stall_after: 6}]
"""


async def test_what_a_dead_attempt_has_said_is_taken_back_from_who_watches(playing: Play) -> None:
    async with playing(BREAKS) as world:
        await start(world, "engineer")
        screen = io.StringIO()
        view = live.new_view(Console(file=screen, width=200))

        def doing() -> str:
            return "".join(row.doing for row in board.rows(view.board))

        watched = asyncio.create_task(watching.show(world.gateway, "run", view))
        await until(lambda: "bash" in doing() or watched.done())
        await until(lambda: any((tree / "begun").exists() for tree in workspaces(world)))
        let_go(world)
        await until(lambda: "I begin" in doing() or watched.done())
        world.kill("executor")
        await watched
        told = screen.getvalue()
        assert "withdrawn: what the model has begun to say in turn 2" in told
        assert told.index("withdrawn") < told.index("outcome not known: model call of turn 2")
        assert "1 model call lost" in told
        assert (await world.finished("run")).status == RunStatus.RUN_STATUS_SUCCEEDED
        await verify(world.gateway, "run")


async def test_the_commands_say_what_becomes_of_a_run(playing: Play) -> None:
    async with playing(BUSY) as world:
        await start(world, "engineer")
        await until(lambda: any((tree / "begun").exists() for tree in workspaces(world)))
        found = await crewlog(world, "recover", "--dry-run")
        assert "run  engineer-1  (on executor" in found.stdout and "1 tool call" in found.stdout, found
        sent = await crewlog(world, "send", "run", "Please use tabs.", "--mode", "interrupt", "-o", "json")
        assert json.loads(sent.stdout)["run_id"] == "run", sent
        run = await world.finished("run")
        assert summary_of(run) == "I heard tabs and stopped."
        told = (await crewlog(world, "replay", "run")).stdout
        assert "message 1 by local (interrupt, read at once): Please use tabs." in told
        assert "reads message 1" in told
        state = (await crewlog(world, "replay", "run", "--at", str(run.revision))).stdout
        assert "Please use tabs." in state and "yes" in state
        refused = await crewlog(world, "pause", "run")
        assert (refused.returncode, refused.stdout) == (ExitCode.FAILED, "")


async def crewlog(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a person types it."""
    words = (sys.executable, "-m", "crewlog.cli", *arguments, "--data-dir", str(world.directory / "data"))
    return await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
