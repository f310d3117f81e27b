"""The commands that change the course of a run, against a gateway that remembers what it was asked, over real gRPC."""

from __future__ import annotations

import io
import json
import sys

import pytest
from crewlog.cli.exits import ExitCode
from crewlog.domain.errors import Unavailable, WrongState
from crewlog.v1.agent_pb2 import AgentView, ResumeReceipt
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Amounts, Usage
from crewlog.v1.recovery_pb2 import AgentRecovery, RecoverRun, Recovery
from crewlog.v1.run_pb2 import (
    AnswerGate,
    CancelRun,
    CancelTask,
    GateKind,
    GateStatus,
    GateView,
    MessageMode,
    ParkCause,
    PauseRun,
    ResumeRun,
    RetryRun,
    RunLimits,
    RunPaused,
    RunStatus,
    RunView,
    SendMessage,
    TaskResult,
    TaskStatus,
    TaskView,
)
from google.protobuf.message import Message

from tests.service.cli.remembering import Crewlog, Remembering

KEY_REFUSED = Failure(reason="model_key_refused", message="no such key", what_to_do="set a valid key")
OPEN = GateStatus.GATE_STATUS_OPEN


@pytest.mark.parametrize(
    ("arguments", "asked", "said"),
    [
        (["pause", "demo", "--reason", "lunch"], PauseRun(run_id="demo", reason="lunch"), "is paused"),
        (["resume", "demo"], ResumeRun(run_id="demo"), "goes on"),
        (["cancel", "demo"], CancelRun(run_id="demo"), "run demo is being cancelled"),
        (
            ["cancel", "demo", "--grace", "2m", "--reason", "enough"],
            CancelRun(run_id="demo", grace_seconds=120, reason="enough"),
            "is being cancelled",
        ),
        (
            ["cancel", "demo", "--task", "tester-2", "--grace", "9"],
            CancelTask(run_id="demo", task_id="tester-2", grace_seconds=9),
            "task tester-2 of run demo is being cancelled",
        ),
        (
            ["retry", "demo", "--by", "1.50", "--calls", "3", "--request-id", "again"],
            RetryRun(run_id="demo", by=Amounts(usd_micros=1_500_000, model_calls=3), request_id="again"),
            "is taken up again, with $1.50, 3 model calls more",
        ),
        (
            ["send", "demo", "use tabs", "--message-id", "m1"],
            SendMessage(run_id="demo", text="use tabs", message_id="m1", mode=MessageMode.MESSAGE_MODE_STEER),
            "message m1 is sent (steer)",
        ),
        (
            ["send", "demo", "stop", "--mode", "interrupt", "--task", "tester-1", "--message-id", "m2"],
            SendMessage(
                run_id="demo",
                task_id="tester-1",
                text="stop",
                message_id="m2",
                mode=MessageMode.MESSAGE_MODE_INTERRUPT,
            ),
            "message m2 is sent (interrupt)",
        ),
    ],
)
async def test_what_is_asked_for_is_sent(
    crewlog: Crewlog, remembering: Remembering, arguments: list[str], asked: Message, said: str
) -> None:
    done = await crewlog(*arguments)
    assert (done.returncode, done.stdout) == (ExitCode.OK, ""), done.stderr
    assert remembering.asked == [asked]
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["pause", "demo"], {"run_id"}),
        (["resume", "demo"], {"run_id"}),
        (["cancel", "demo"], {"run_id"}),
        (["cancel", "demo", "--task", "a-1"], {"run_id", "task_id"}),
        (["retry", "demo"], {"run_id", "request_id"}),
        (["send", "demo", "hello"], {"run_id", "message_id"}),
    ],
)
async def test_the_receipt_is_data(crewlog: Crewlog, arguments: list[str], names: set[str]) -> None:
    for form in ("json", "jsonl"):
        shown = json.loads((await crewlog(*arguments, "-o", form)).stdout)
        assert (shown["revision"], shown.keys()) == ("7", names | {"revision"})


async def test_ids_that_nobody_gave_are_new_each_time(crewlog: Crewlog, remembering: Remembering) -> None:
    for _ in range(2):
        await crewlog("send", "demo", "hello")
        await crewlog("retry", "demo")
    ids = [getattr(each, "message_id", "") or getattr(each, "request_id", "") for each in remembering.asked]
    assert len(set(ids)) == 4 and all(ids)


async def test_a_retry_raises_nothing_by_itself(crewlog: Crewlog, remembering: Remembering) -> None:
    await crewlog("retry", "demo", "--request-id", "r")
    assert remembering.asked == [RetryRun(run_id="demo", request_id="r")]


async def test_a_message_can_come_from_standard_input(
    crewlog: Crewlog, remembering: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    assert (await crewlog("send", "demo", "-")).returncode == ExitCode.OK
    [sent] = remembering.asked
    assert isinstance(sent, SendMessage) and sent.text == "two\nlines\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "demo", "  "],
        ["send", "demo", "x", "--mode", "shout"],
        ["send", "demo", "x", "--task", ""],
        ["cancel", "demo", "--task", ""],
        ["cancel", "demo", "--task", " "],
        ["cancel", "demo", "--grace", "soon"],
        ["cancel", "demo", "--grace", "0"],
        ["cancel", "demo", "--grace", "999999999d"],
        ["retry", "demo", "--by", "5 EUR"],
        ["recover"],
    ],
)
async def test_what_makes_no_sense_is_not_asked_for(
    crewlog: Crewlog, remembering: Remembering, arguments: list[str]
) -> None:
    done = await crewlog(*arguments)
    assert (done.returncode, done.stdout, remembering.asked) == (ExitCode.USAGE, "", [])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["pause", "demo"], ["retry", "demo"], ["send", "demo", "x"], ["cancel", "demo"]])
async def test_a_refusal_says_why_and_what_to_do(
    crewlog: Crewlog, remembering: Remembering, arguments: list[str]
) -> None:
    remembering.refusal = WrongState("run 'demo' is over", what_to_do="see `crewlog show`")
    done = await crewlog(*arguments)
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert done.stderr.splitlines() == ["crewlog: run 'demo' is over", "  see `crewlog show`"]


class TestCancelOfWhatIsOver:
    VIEW = RunView(
        run_id="demo",
        status=RunStatus.RUN_STATUS_FAILED,
        tasks=[
            TaskView(task_id="a-1", status=TaskStatus.TASK_STATUS_SUCCEEDED),
            TaskView(task_id="b-1", status=TaskStatus.TASK_STATUS_FAILED),
            TaskView(task_id="c-1", status=TaskStatus.TASK_STATUS_CANCELLED),
        ],
    )

    @pytest.mark.parametrize(
        ("task", "said"),
        [
            ([], "run demo has failed already, and stays as it is"),
            (["--task", "a-1"], "task a-1 of run demo has succeeded already, and stays as it is"),
            (["--task", "b-1"], "task b-1 of run demo has failed already, and stays as it is"),
            (["--task", "c-1"], "task c-1 of run demo is being cancelled: what it has done is kept"),
        ],
    )
    async def test_it_is_said_how_it_ended(
        self, crewlog: Crewlog, remembering: Remembering, task: list[str], said: str
    ) -> None:
        remembering.view = self.VIEW
        done = await crewlog("cancel", "demo", *task)
        assert (done.returncode, done.stderr.splitlines()[0]) == (ExitCode.OK, said)
        assert ("crewlog watch" in done.stderr) == ("is being cancelled" in said)

    async def test_what_cannot_be_looked_at_is_being_cancelled_all_the_same(
        self, crewlog: Crewlog, remembering: Remembering
    ) -> None:
        remembering.blindness = Unavailable("not that far yet")
        done = await crewlog("cancel", "demo", "-o", "jsonl")
        assert json.loads(done.stdout) == {"run_id": "demo", "revision": "7"}
        assert (done.returncode, remembering.asked) == (ExitCode.OK, [CancelRun(run_id="demo")])
        assert done.stderr.startswith("run demo is being cancelled")


class TestRecover:
    RECEIPT = ResumeReceipt(
        model_answers_reused=2, reused_usd_micros=1_500_000, model_calls_lost=1, lost_usd_micros=20_000
    )
    FOUND = Recovery(
        revision=42,
        agents=[
            AgentRecovery(run_id="demo", task_id="a-1", executor_id="executor-1", generation=3, receipt=RECEIPT),
            AgentRecovery(
                run_id="demo", task_id="b-1", is_parked=True, generation=1, park_cause=ParkCause.PARK_CAUSE_QUESTION
            ),
        ],
    )

    async def test_a_dry_run_says_what_would_be(self, crewlog: Crewlog, remembering: Remembering) -> None:
        remembering.recovery = self.FOUND
        done = await crewlog("recover", "--dry-run")
        assert remembering.asked == [RecoverRun(dry_run=True)]
        assert done.stdout.splitlines() == [
            "demo  a-1  (on executor-1, generation 3)",
            "  reused     2 answers ($1.50, not paid again), 0 tool outcomes",
            "  lost       1 model call under way: asked again, and the $0.0200 reserved for it count as spent",
            "  files      as at its start",
            "demo  b-1  (waits for an answer; after 1 claim)",
            "  reused     nothing: no answer is recorded yet",
            "  files      as at its start",
        ]
        assert done.stderr == "nothing was done: this is what another executor would go on with at revision 42\n"

    async def test_one_run_is_taken_from_its_executors(self, crewlog: Crewlog, remembering: Remembering) -> None:
        remembering.recovery = self.FOUND
        done = await crewlog("recover", "demo", "-o", "json")
        assert remembering.asked == [RecoverRun(run_id="demo")]
        assert [agent["task_id"] for agent in json.loads(done.stdout)["agents"]] == ["a-1", "b-1"]
        assert "taken away from their executors at revision 42" in done.stderr

    async def test_where_nothing_is_at_work(self, crewlog: Crewlog) -> None:
        done = await crewlog("recover", "demo")
        assert done.stdout == "no agent is at work\n"
        assert done.stderr == "nothing to do: no executor is at work on run demo\n"

    async def test_who_only_waits_has_no_executor_to_be_taken_from(
        self, crewlog: Crewlog, remembering: Remembering
    ) -> None:
        remembering.recovery = Recovery(revision=42, agents=self.FOUND.agents[1:])
        done = await crewlog("recover", "demo")
        assert done.stdout.startswith("demo  b-1  (waits for an answer")
        assert done.stderr == "nothing to do: no executor is at work on run demo\n"


class TestGates:
    QUESTION = GateView(run_id="demo", gate_id="a-1-1", kind=GateKind.GATE_KIND_QUESTION, status=OPEN, question="Tabs?")
    CHOICE = GateView(
        run_id="demo",
        gate_id="a-1-2",
        kind=GateKind.GATE_KIND_QUESTION,
        status=OPEN,
        question="Raise or lower?",
        choices=["raise", "lower it"],
        default_choice="raise",
        expires_at_unix_micros=1_700_000_000_000_000,
    )
    MONEY = GateView(
        run_id="demo", gate_id="a-1-3", kind=GateKind.GATE_KIND_BUDGET, status=OPEN, choices=["raise", "stop"]
    )
    UNKNOWN = GateView(
        run_id="demo",
        gate_id="a-1-4",
        kind=GateKind.GATE_KIND_UNKNOWN_OUTCOME,
        status=OPEN,
        choices=["run_again", "tell_unknown"],
    )

    @pytest.mark.parametrize(
        ("answer", "asked"),
        [
            (["a-1-1", "tabs, please"], AnswerGate(gate_id="a-1-1", text="tabs, please")),
            (["a-1-1", "raise"], AnswerGate(gate_id="a-1-1", text="raise")),
            (["a-1-2", "raise"], AnswerGate(gate_id="a-1-2", choice="raise")),
            (["a-1-3", "stop"], AnswerGate(gate_id="a-1-3", choice="stop")),
            (["a-1-3", "raise", "2"], AnswerGate(gate_id="a-1-3", choice="raise", by=Amounts(usd_micros=2_000_000))),
            (["a-1-4", "run_again"], AnswerGate(gate_id="a-1-4", choice="run_again")),
            (["gone", "stop"], AnswerGate(gate_id="gone", choice="stop")),
        ],
    )
    async def test_an_answer_is_a_choice_or_a_text(
        self, crewlog: Crewlog, remembering: Remembering, answer: list[str], asked: AnswerGate
    ) -> None:
        remembering.gates = (self.QUESTION, self.CHOICE, self.MONEY, self.UNKNOWN)
        done = await crewlog("gates", "answer", "demo", *answer, "-o", "jsonl")
        assert json.loads(done.stdout) == {"run_id": "demo", "gate_id": answer[0], "revision": "7"}
        expected = AnswerGate(run_id="demo")
        expected.MergeFrom(asked)
        assert remembering.asked == [expected]

    async def test_a_gate_of_a_child_run_with_the_same_id_is_another(
        self, crewlog: Crewlog, remembering: Remembering
    ) -> None:
        remembering.gates = (GateView(run_id="demo-child", gate_id="a-1-1", status=OPEN, choices=["x"]), self.QUESTION)
        await crewlog("gates", "answer", "demo", "a-1-1", "tabs")
        assert remembering.asked == [AnswerGate(run_id="demo", gate_id="a-1-1", text="tabs")]

    async def test_a_long_answer_comes_from_standard_input(
        self, crewlog: Crewlog, remembering: Remembering, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remembering.gates = (self.QUESTION,)
        monkeypatch.setattr(sys, "stdin", io.StringIO("because\nof this\n"))
        assert (await crewlog("gates", "answer", "demo", "a-1-1", "-")).returncode == ExitCode.OK
        assert remembering.asked == [AnswerGate(run_id="demo", gate_id="a-1-1", text="because\nof this\n")]

    @pytest.mark.parametrize(
        "answer", [["a-1-3", "raise"], ["a-1-3", "stop", "1.50"], ["a-1-1", "tabs", "1.50"], ["gone", "raise"]]
    )
    async def test_an_amount_goes_with_raise_and_only_with_it(
        self, crewlog: Crewlog, remembering: Remembering, answer: list[str]
    ) -> None:
        remembering.gates = (self.QUESTION, self.MONEY)
        done = await crewlog("gates", "answer", "demo", *answer)
        assert (done.returncode, remembering.asked) == (ExitCode.USAGE, [])

    async def test_an_amount_for_another_question_is_refused_without_its_answer(
        self, crewlog: Crewlog, remembering: Remembering
    ) -> None:
        """`raise` may be a choice of any question, so it is the kind of the gate that is named."""
        remembering.gates = (self.CHOICE,)
        done = await crewlog("gates", "answer", "demo", "a-1-2", "raise", "1.50")
        assert (done.returncode, remembering.asked) == (ExitCode.USAGE, [])
        assert "only with the answer `raise` to a gate that asks for money" in done.stderr

    @pytest.mark.parametrize(
        ("gate", "row", "hints"),
        [
            (QUESTION, "any text", ["gates answer demo a-1-1 'the answer'"]),
            (CHOICE, "raise | lower it", ["gates answer demo a-1-2 raise", "gates answer demo a-1-2 'lower it'"]),
            (MONEY, "money", ["gates answer demo a-1-3 raise 1.50", "gates answer demo a-1-3 stop"]),
            (UNKNOWN, "run_again | tell_unknown", ["it runs once more, though it may have happened already"]),
        ],
    )
    async def test_the_list_says_how_to_answer(
        self, crewlog: Crewlog, remembering: Remembering, gate: GateView, row: str, hints: list[str]
    ) -> None:
        remembering.gates = (gate,)
        done = await crewlog("gates")
        assert row in done.stdout
        assert all(hint in done.stderr for hint in hints)


async def test_show_says_why_a_run_is_paused_and_what_its_tasks_wait_for(
    crewlog: Crewlog, remembering: Remembering
) -> None:
    parked = TaskStatus.TASK_STATUS_PARKED
    remembering.view = RunView(
        run_id="demo",
        status=RunStatus.RUN_STATUS_PAUSED,
        paused=RunPaused(failure=KEY_REFUSED),
        limits=RunLimits(duration_seconds_max=7_200),
        spent_usd_micros=10_000,
        tasks=[
            TaskView(
                task_id="a-1",
                status=parked,
                park_cause=ParkCause.PARK_CAUSE_MODEL,
                messages=2,
                result=TaskResult(cost_usd_micros=40_000),
            ),
            TaskView(task_id="b-1", status=TaskStatus.TASK_STATUS_CLAIMED, is_cancel_requested=True),
        ],
    )
    shown = (await crewlog("show", "demo")).stdout
    assert "status    paused\npaused    model_key_refused: no such key\nto do     set a valid key\n" in shown
    assert "cost      $0.0500\n" in shown
    assert "at most   2 h 00 min in all" in shown
    assert "the model's provider refuses: waits until its run is resumed" in shown
    assert "claimed, cancelling" in shown


class TestShowOfARunThatGoesOn:
    VIEW = RunView(
        run_id="demo",
        status=RunStatus.RUN_STATUS_RUNNING,
        spent_usd_micros=10_000,
        usage=Usage(input_tokens=100),
        tasks=[
            TaskView(
                task_id="a-1",
                agent_id="demo.a-1",
                status=TaskStatus.TASK_STATUS_SUCCEEDED,
                ended_at_unix_micros=5,
                result=TaskResult(turns=1, cost_usd_micros=10_000, usage=Usage(input_tokens=100)),
            ),
            TaskView(
                task_id="b-1",
                agent_id="demo.b-1",
                status=TaskStatus.TASK_STATUS_CLAIMED,
                result=TaskResult(turns=2, cost_usd_micros=20_000, usage=Usage(input_tokens=200)),
            ),
            TaskView(task_id="c-1", status=TaskStatus.TASK_STATUS_WAITING),
        ],
    )
    AGENTS = (
        AgentView(agent_id="demo.a-1", turn=9, spent_usd_micros=90_000, usage=Usage(input_tokens=900)),
        AgentView(agent_id="demo.b-1", turn=3, tool_calls=4, spent_usd_micros=30_000, usage=Usage(input_tokens=300)),
    )

    async def test_it_counts_what_is_under_way(self, crewlog: Crewlog, remembering: Remembering) -> None:
        """An ended task is as the run has recorded it; one that goes on is as far as its agent is now."""
        remembering.view, remembering.agents = self.VIEW, self.AGENTS
        lines = (await crewlog("show", "demo")).stdout.splitlines()
        assert {"cost      $0.0400", "tokens    400"} <= set(lines)
        assert [line.split() for line in lines[-3:]] == [
            ["a-1", "succeeded", "1", "100", "$0.0100"],
            ["b-1", "claimed", "3", "4", "300", "$0.0300"],
            ["c-1", "waiting"],
        ]

    async def test_data_is_what_the_gateway_says(self, crewlog: Crewlog, remembering: Remembering) -> None:
        remembering.view, remembering.agents = self.VIEW, self.AGENTS
        shown = json.loads((await crewlog("show", "demo", "-o", "json")).stdout)
        assert shown["tasks"][1]["result"]["turns"] == 2
