"""Where a watch ends: with the run, or with a pause that lasts until somebody has mended something."""

from __future__ import annotations

import pytest
from crewlog.cli.exits import ExitCode
from crewlog.eventlog import codec
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry, RecordedEntry
from crewlog.v1.run_pb2 import (
    GateKind,
    GateOpened,
    Node,
    NoopNode,
    ParkCause,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStatus,
    RunSucceeded,
    RunView,
    TaskClaimed,
    TaskParked,
    TaskUnparked,
    Workflow,
)
from google.protobuf.message import Message

from tests.service.cli.remembering import Crewlog, Remembering

KEY_REFUSED = Failure(reason="model_key_refused", message="no such key", what_to_do="set a valid key")
PAUSED = RunPaused(reason="model_key_refused", failure=KEY_REFUSED, at_unix_micros=1)
PARKED = TaskParked(task_id="a-1", node_id="a", visit=1, cause=ParkCause.PARK_CAUSE_MODEL, failure=KEY_REFUSED)
DONE = RunView(run_id="demo", status=RunStatus.RUN_STATUS_SUCCEEDED)


def _history(*facts: Message) -> list[RecordedEntry]:
    node = Node(node_id="a", noop=NoopNode(steps=1))
    started = RunStarted(run_id="demo", workflow=Workflow(name="w", nodes=[node]))
    claimed = TaskClaimed(task_id="a-1", node_id="a", visit=1, generation=1)
    aggregate = Aggregate(tenant="local", kind="run", id="demo")
    return [
        RecordedEntry(
            revision=revision, entry=Entry(aggregate=aggregate, decisions=[Decision(events=[codec.pack(fact)])])
        )
        for revision, fact in enumerate((started, claimed, *facts), 1)
    ]


async def test_a_pause_that_needs_somebody_ends_it_and_says_what_to_do(
    watch: Crewlog, remembering: Remembering
) -> None:
    remembering.entries = _history(PARKED, PAUSED, TaskUnparked(task_id="a-1"))
    remembering.view = RunView(run_id="demo", status=RunStatus.RUN_STATUS_PAUSED, paused=PAUSED)
    done = await watch()
    assert done.returncode == ExitCode.RUN_PAUSED, done.stderr
    assert "paused: model_key_refused: no such key" in done.stderr
    assert "resume it  " in done.stderr and "waits no more" not in done.stderr
    assert "… run demo paused" in done.stdout
    assert "  to do    set a valid key" in done.stdout
    assert "resume demo" in done.stdout
    assert "nothing changed" not in done.stdout


@pytest.mark.parametrize(
    "pause",
    [
        RunPaused(by="local", reason="lunch"),
        RunPaused(failure=KEY_REFUSED, resumes_at_unix_micros=1_700_000_000_000_000),
    ],
)
async def test_a_pause_that_ends_without_mending_is_waited_for(
    watch: Crewlog, remembering: Remembering, pause: RunPaused
) -> None:
    remembering.entries = _history(pause, RunResumed(by="local"), RunSucceeded())
    remembering.view = RunView(run_id="demo", status=RunStatus.RUN_STATUS_PAUSED, paused=pause)
    said = (await watch()).stderr
    assert "paused" in said and "goes on, says local" in said


async def test_a_pause_of_the_past_is_told_and_passed_over(watch: Crewlog, remembering: Remembering) -> None:
    remembering.entries = _history(PAUSED, RunResumed(by="local"), RunSucceeded())
    remembering.view = DONE
    done = await watch()
    assert done.returncode == ExitCode.OK, done.stderr
    assert "paused: model_key_refused" in done.stderr and "goes on" in done.stderr


async def test_a_question_says_how_to_answer_it(watch: Crewlog, remembering: Remembering) -> None:
    opened = GateOpened(gate_id="g", task_id="a-1", kind=GateKind.GATE_KIND_QUESTION, question="Tabs?")
    remembering.entries, remembering.view = _history(opened, RunSucceeded()), DONE
    said = (await watch()).stderr
    assert "asks: Tabs?" in said
    assert "answer it  " in said and "gates answer demo g 'the answer'" in said
