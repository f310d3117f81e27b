"""Signals, limits, what tasks wait for, gates of workflows and graphs, against a gateway that remembers what it was
asked, over real gRPC."""

from __future__ import annotations

import io
import json
import sys

import pytest
from crewlog.cli import editing, starting, summary, telling
from crewlog.cli.exits import ExitCode, Failed
from crewlog.domain.errors import InvalidCommand, NotFound, Unavailable, WrongState
from crewlog.v1.admission_pb2 import AdmissionDimension, AdmissionLimit, SetAdmissionLimit
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import (
    AnswerGate,
    GateKind,
    GateStatus,
    GateView,
    ListRuns,
    Parent,
    ParkCause,
    RunStatus,
    RunView,
    SignalRun,
    TaskResult,
    TaskStatus,
    TaskView,
)
from crewlog.v1.waiting_pb2 import ExplainWaiting, Waiting, WaitingReason, WaitingTask

from tests.service.cli.remembering import Crewlog, Remembering

ROLE = AdmissionDimension.ADMISSION_DIMENSION_ROLE
NOON = 1_700_000_000_000_000


async def test_a_signal_carries_its_data(crewlog: Crewlog, remembering: Remembering) -> None:
    done = await crewlog("signal", "demo", "approved", "--data", '{"ok": true}', "--request-id", "r-1")
    assert done.returncode == ExitCode.OK
    expected = SignalRun(run_id="demo", name="approved", payload_json='{"ok": true}', request_id="r-1")
    assert remembering.asked == [expected]


async def test_the_data_of_a_signal_is_read_from_standard_input(
    crewlog: Crewlog, remembering: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("[1, 2]\n"))
    done = await crewlog("signal", "demo", "approved", "--data", "-", "--request-id", "r-1", "-o", "json")
    assert remembering.asked == [SignalRun(run_id="demo", name="approved", payload_json="[1, 2]\n", request_id="r-1")]
    assert json.loads(done.stdout) == {"run_id": "demo", "name": "approved", "request_id": "r-1", "revision": "7"}


async def test_two_signals_without_an_id_are_two(crewlog: Crewlog, remembering: Remembering) -> None:
    await crewlog("signal", "demo", "approved")
    await crewlog("signal", "demo", "approved")
    first, second = (asked.request_id for asked in remembering.asked if isinstance(asked, SignalRun))
    assert first
    assert first != second


@pytest.mark.parametrize("data", ["{", "yes", "[" * 100_000])
async def test_data_that_is_not_json_is_not_sent(crewlog: Crewlog, remembering: Remembering, data: str) -> None:
    done = await crewlog("signal", "demo", "approved", "--data", data)
    assert done.returncode == ExitCode.USAGE
    assert "is not JSON" in done.stderr
    assert not remembering.asked


async def test_a_signal_that_is_refused_ends_with_1(crewlog: Crewlog, remembering: Remembering) -> None:
    remembering.refusal = WrongState("run 'demo' is over")
    done = await crewlog("signal", "demo", "approved")
    assert (done.returncode, done.stderr) == (ExitCode.FAILED, "crewlog: run 'demo' is over\n")


async def test_a_service_behind_the_gateway_that_is_away_is_not_the_gateway(
    crewlog: Crewlog, remembering: Remembering
) -> None:
    message = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused"
    remembering.refusal = Unavailable(message, what_to_do="try again")
    done = await crewlog("signal", "demo", "approved")
    assert done.returncode == ExitCode.UNAVAILABLE
    assert (
        done.stderr
        == "crewlog: a service behind the one that was asked does not answer: Connection refused\n  try again\n"
    )


@pytest.mark.parametrize(("given", "tasks_max"), [("4", 4), ("0", 0), ("-1", -1), ("none", -1)])
async def test_a_limit_is_set(crewlog: Crewlog, remembering: Remembering, given: str, tasks_max: int) -> None:
    done = await crewlog("limits", "set", "role", "implementer", given)
    assert done.returncode == ExitCode.OK
    assert remembering.asked == [SetAdmissionLimit(dimension=ROLE, name="implementer", tasks_max=tasks_max)]


@pytest.mark.parametrize("arguments", [("role", "a", "-2"), ("role", "a", "many"), ("colour", "a", "1"), ("role", "a")])
async def test_what_is_no_limit_is_not_set(
    crewlog: Crewlog, remembering: Remembering, arguments: tuple[str, ...]
) -> None:
    assert (await crewlog("limits", "set", *arguments)).returncode == ExitCode.USAGE
    assert not remembering.asked


@pytest.mark.parametrize("arguments", [("limits",), ("limits", "list")])
async def test_limits_are_listed_with_what_is_at_work(
    crewlog: Crewlog, remembering: Remembering, arguments: tuple[str, ...]
) -> None:
    assert (await crewlog(*arguments)).stdout == "there are no limits\n"
    remembering.limits = [AdmissionLimit(dimension=ROLE, name="implementer", tasks_max=4, tasks_at_work=3)]
    heading, line = (await crewlog(*arguments)).stdout.splitlines()
    assert heading.split() == ["DIMENSION", "NAME", "AT", "MOST", "AT", "WORK"]
    assert line.split() == ["role", "implementer", "4", "3"]


async def test_a_limit_that_was_taken_away_is_listed_only_where_it_still_counts(
    crewlog: Crewlog, remembering: Remembering
) -> None:
    gone = AdmissionLimit(dimension=ROLE, name="tester", tasks_max=-1)
    remembering.limits = [gone]
    assert (await crewlog("limits")).stdout == "there are no limits\n"
    for limits in (
        [AdmissionLimit(dimension=ROLE, name="tester", tasks_max=-1, tasks_at_work=2)],
        [AdmissionLimit(dimension=ROLE, name="*", tasks_max=4), gone],
    ):
        remembering.limits = limits
        assert (await crewlog("limits")).stdout.splitlines()[-1].split()[:3] == ["role", "tester", "none"]


@pytest.mark.parametrize("arguments", [("runs", "zzz", "--children"), ("events", "--run", "zzz")])
async def test_a_run_that_is_not_there_is_no_empty_list(
    crewlog: Crewlog, remembering: Remembering, arguments: tuple[str, ...]
) -> None:
    remembering.blindness = NotFound("there is no run 'zzz'")
    done = await crewlog(*arguments)
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert "no run 'zzz'" in done.stderr


async def test_what_tasks_wait_for_is_listed(crewlog: Crewlog, remembering: Remembering) -> None:
    limit = WaitingReason.WAITING_REASON_LIMIT
    task = WaitingTask(
        run_id="demo", task_id="do_3-1", reason=limit, why="role=a: 4 of 4 at work", since_unix_micros=NOON, ahead=12
    )
    remembering.waiting = Waiting(tasks=[task], is_cut=True)
    done = await crewlog("runs", "--why-waiting", "demo")
    assert done.returncode == ExitCode.OK
    line = done.stdout.splitlines()[1]
    assert line.startswith("demo  do_3-1  20")
    assert line.endswith("limit: role=a: 4 of 4 at work     12")
    assert "there are more" in done.stderr
    found = json.loads((await crewlog("runs", "--why-waiting", "-o", "json")).stdout)
    assert found["tasks"][0]["reason"] == "WAITING_REASON_LIMIT"
    assert remembering.asked == [ExplainWaiting(run_id="demo"), ExplainWaiting()]


async def test_it_is_said_where_to_answer_what_a_child_run_asks(crewlog: Crewlog, remembering: Remembering) -> None:
    reasons = WaitingReason.WAITING_REASON_CHILDREN, WaitingReason.WAITING_REASON_GATE
    tasks = [WaitingTask(run_id=f"demo-{number}", reason=reason) for number, reason in enumerate(reasons)]
    remembering.waiting = Waiting(tasks=tasks[:1])
    assert "gates" not in (await crewlog("runs", "--why-waiting", "demo")).stderr
    remembering.waiting = Waiting(tasks=tasks)
    assert "gates --run demo-1" in (await crewlog("runs", "--why-waiting", "demo")).stderr


async def test_that_nothing_waits_is_said(crewlog: Crewlog) -> None:
    assert (await crewlog("runs", "--why-waiting")).stdout == "nothing waits\n"


async def test_child_runs_are_listed_when_they_are_asked_for(crewlog: Crewlog, remembering: Remembering) -> None:
    await crewlog("runs")
    await crewlog("runs", "--children")
    await crewlog("runs", "demo", "--children")
    assert remembering.asked == [
        ListRuns(page_size=20),
        ListRuns(page_size=20, with_children=True),
        ListRuns(page_size=20, with_children=True, parent_run_id="demo"),
    ]
    assert (await crewlog("runs", "demo")).returncode == ExitCode.USAGE


@pytest.mark.parametrize(
    ("given", "priority"), [("batch", -10), ("normal", 0), ("interactive", 10), ("-3", -3), ("+7", 7)]
)
def test_a_priority_is_a_word_or_a_number(given: str, priority: int) -> None:
    assert starting.priority_of(given) == priority


@pytest.mark.parametrize("given", ["11", "-11", "high", "", "1.5"])
def test_any_other_priority_is_refused(given: str) -> None:
    with pytest.raises(InvalidCommand, match="--priority"):
        starting.priority_of(given)


def gate(kind: GateKind.ValueType, *choices: str) -> GateView:
    status = GateStatus.GATE_STATUS_OPEN
    return GateView(
        run_id="demo",
        gate_id="a-1-1",
        kind=kind,
        status=status,
        choices=choices,
        question="Well?",
        text_to_edit="old\n",
    )


APPROVAL = gate(GateKind.GATE_KIND_APPROVAL, "approve", "reject")
EDIT = gate(GateKind.GATE_KIND_EDIT)


@pytest.mark.parametrize(
    ("asked", "words", "expected"),
    [
        (APPROVAL, ["approve"], AnswerGate(choice="approve")),
        (gate(GateKind.GATE_KIND_CHOICE, "raise", "keep"), ["raise"], AnswerGate(choice="raise")),
        (gate(GateKind.GATE_KIND_ANSWER), ["as it is"], AnswerGate(text="as it is")),
        (EDIT, ["new"], AnswerGate(text="new")),
        (EDIT, ["--text", "- a list"], AnswerGate(text="- a list")),
        (EDIT, ["-"], AnswerGate(text="from there\n")),
    ],
)
async def test_gates_of_workflows_are_answered(
    crewlog: Crewlog,
    remembering: Remembering,
    monkeypatch: pytest.MonkeyPatch,
    asked: GateView,
    words: list[str],
    expected: AnswerGate,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from there\n"))
    remembering.gates = [asked]
    done = await crewlog("gates", "answer", "demo", "a-1-1", *words)
    assert done.returncode == ExitCode.OK, done.stderr
    expected.run_id, expected.gate_id = "demo", "a-1-1"
    assert remembering.asked == [expected]


@pytest.mark.parametrize(("asked", "said"), [(APPROVAL, "approve, reject"), (EDIT, "standard input")])
async def test_an_answer_that_is_missing_says_what_is_possible(
    crewlog: Crewlog, remembering: Remembering, asked: GateView, said: str
) -> None:
    remembering.gates = [asked]
    done = await crewlog("gates", "answer", "demo", "a-1-1")
    assert done.returncode == ExitCode.USAGE
    assert said in done.stderr
    assert not remembering.asked


async def test_at_a_terminal_a_text_is_changed_in_an_editor(
    crewlog: Crewlog, remembering: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "is_interactive", lambda: True)
    monkeypatch.setenv("VISUAL", "sed -i s/old/new/")
    remembering.gates = [EDIT]
    done = await crewlog("gates", "answer", "demo", "a-1-1")
    assert done.returncode == ExitCode.OK, done.stderr
    assert remembering.asked == [AnswerGate(run_id="demo", gate_id="a-1-1", text="new\n")]


@pytest.mark.parametrize("editor", ["false", "/there/is/none", "sed 'x"])
def test_an_editor_that_fails_answers_nothing(monkeypatch: pytest.MonkeyPatch, editor: str) -> None:
    monkeypatch.setenv("VISUAL", editor)
    with pytest.raises(Failed):
        editing.edited("old\n")


def graph() -> RunView:
    """A map with an item that is done and one at work, a task that was left out, one that waits, and a child run."""
    parked, claimed = TaskStatus.TASK_STATUS_PARKED, TaskStatus.TASK_STATUS_CLAIMED
    done, skipped = TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_SKIPPED
    result = TaskResult(turns=2, cost_usd_micros=700)
    wait, by_child = ParkCause.PARK_CAUSE_WAIT, ParkCause.PARK_CAUSE_CHILD_RUN
    tasks = [
        TaskView(
            task_id="do-1", kind="map", status=parked, park_cause=ParkCause.PARK_CAUSE_MAP, items=9, items_ended=1
        ),
        TaskView(task_id="do_0-1", node_id="do_0", parent_task_id="do-1", status=done, result=result),
        TaskView(task_id="do_1-1", node_id="do_1", parent_task_id="do-1", status=claimed),
        TaskView(task_id="left-1", kind="noop", status=skipped, skipped_why="the choice was right"),
        TaskView(task_id="hold-1", kind="wait", status=parked, park_cause=wait, due_at_unix_micros=NOON),
        TaskView(task_id="hear-1", kind="wait", status=parked, park_cause=wait, signal="released"),
        TaskView(task_id="sub-1", kind="workflow", status=parked, park_cause=by_child, child_run_id="demo-sub"),
    ]
    parent = Parent(run_id="outer", task_id="inner-1")
    return RunView(
        run_id="demo", status=RunStatus.RUN_STATUS_RUNNING, tasks=tasks, parent=parent, priority=-10, tasks_left_out=7
    )


async def test_a_graph_is_shown_with_maps_as_one_line(crewlog: Crewlog, remembering: Remembering) -> None:
    remembering.view = graph()
    shown = (await crewlog("show", "demo")).stdout
    assert "part of   inner-1 of run outer" in shown
    assert "priority  -10" in shown
    lines = {line.split()[0]: line for line in shown.splitlines() if "-1 " in line}
    assert "do_0-1" not in lines
    assert lines["do-1"].split()[:2] == ["do-1", "map"]
    assert "$0.0007" in lines["do-1"]
    assert lines["do-1"].endswith("1 of 9 done, 1 at work")
    assert lines["left-1"].endswith("the choice was right")
    assert "waits for its time, until 2023-11-1" in lines["hold-1"]
    assert lines["hear-1"].endswith("waits for the signal released")
    assert lines["sub-1"].endswith("run demo-sub")


def ended_map(*statuses: TaskStatus.ValueType) -> list[TaskView]:
    items = [
        TaskView(task_id=f"do_{n}-1", node_id=f"do_{n}", parent_task_id="do-1", status=status)
        for n, status in enumerate(statuses)
    ]
    whole = TaskView(task_id="do-1", kind="map", items=len(items), items_ended=len(items))
    return [whole, *items]


async def test_an_item_that_was_cancelled_is_not_done(crewlog: Crewlog, remembering: Remembering) -> None:
    done, cancelled = TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_CANCELLED
    tasks = ended_map(done, done, cancelled, TaskStatus.TASK_STATUS_TIMED_OUT)
    remembering.view = RunView(run_id="demo", tasks=tasks)
    shown = (await crewlog("show", "demo")).stdout
    assert "2 of 4 done, 1 failed, 1 cancelled" in shown
    assert "2 of 4 done, 1 failed, 1 cancelled" in "\n".join(summary.in_words(remembering.view, scripted=False))


async def test_items_that_are_not_shown_are_done(crewlog: Crewlog, remembering: Remembering) -> None:
    whole, *items = ended_map(*[TaskStatus.TASK_STATUS_SUCCEEDED] * 5, TaskStatus.TASK_STATUS_FAILED)
    remembering.view = RunView(run_id="demo", tasks=[whole, *items[3:]], tasks_left_out=3)
    assert "5 of 6 done, 1 failed" in (await crewlog("show", "demo")).stdout


async def test_items_say_what_they_are(crewlog: Crewlog, remembering: Remembering) -> None:
    whole, *items = ended_map(TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_FAILED)
    for item, name in zip(items, ("a.py", "b\x1b[2J.py"), strict=True):
        item.item, item.result.summary = name, "looked at"
    remembering.view = RunView(run_id="demo", tasks=[whole, *items])
    shown = (await crewlog("show", "demo", "--items")).stdout
    assert "a.py: looked at" in shown and "b\\x1b[2J.py: looked at" in shown
    assert "a.py" not in (await crewlog("show", "demo")).stdout


async def test_what_has_not_begun_when_its_run_is_over_does_not_wait(
    crewlog: Crewlog, remembering: Remembering
) -> None:
    payload = TaskResult(structured_json='{"version":3}')
    heard = TaskView(task_id="hear-1", kind="wait", status=TaskStatus.TASK_STATUS_SUCCEEDED, result=payload)
    ask = TaskView(task_id="ask-1", kind="gate", status=TaskStatus.TASK_STATUS_WAITING)
    remembering.view = RunView(run_id="demo", tasks=[heard, ask])
    assert "waiting" in (await crewlog("show", "demo")).stdout
    remembering.view.ended_at_unix_micros = NOON
    lines = (await crewlog("show", "demo")).stdout.splitlines()
    assert lines[-2].endswith('{"version":3}')
    assert lines[-1].split() == ["ask-1", "gate", "not", "begun"]
    assert "ask-1   not begun" in "\n".join(summary.in_words(remembering.view, scripted=False))


async def test_items_of_a_run_that_was_stopped_are_done_or_not(crewlog: Crewlog, remembering: Remembering) -> None:
    done, cancelled = TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_CANCELLED
    whole, *items = ended_map(done, done, cancelled)
    whole.items_ended = 2  # what is stopped with its run does not go on, and the map does not hear of it
    remembering.view = RunView(run_id="demo", tasks=[whole, *items])
    assert "2 of 3 done, 1 cancelled" in (await crewlog("show", "demo")).stdout


async def test_an_item_that_is_done_by_another_run_is_at_work(crewlog: Crewlog, remembering: Remembering) -> None:
    tasks = ended_map(TaskStatus.TASK_STATUS_PARKED, TaskStatus.TASK_STATUS_PARKED)
    tasks[0].items_ended, tasks[1].park_cause = 0, ParkCause.PARK_CAUSE_CHILD_RUN
    remembering.view = RunView(run_id="demo", tasks=tasks)
    assert "0 of 2 done, 1 at work, 1 waiting" in (await crewlog("show", "demo")).stdout


async def test_a_run_that_has_failed_and_is_not_over_is_being_stopped(
    crewlog: Crewlog, remembering: Remembering
) -> None:
    running = RunStatus.RUN_STATUS_RUNNING
    remembering.view = RunView(run_id="demo", status=running, failure=Failure(reason="command_failed"))
    assert "status    running, is being stopped\n" in (await crewlog("show", "demo")).stdout
    assert "demo  running, is being stopped  " in (await crewlog("runs")).stdout
    remembering.view = RunView(run_id="demo", status=running)
    assert "status    running\n" in (await crewlog("show", "demo")).stdout


async def test_only_the_last_try_of_a_command_is_quoted(crewlog: Crewlog, remembering: Remembering) -> None:
    failed = TaskStatus.TASK_STATUS_FAILED
    results = [TaskResult(structured_json=json.dumps({"output": f"from try {number}"})) for number in (1, 2)]
    remembering.view = RunView(
        run_id="demo",
        tasks=[
            TaskView(task_id=f"a-{n}", node_id="a", visit=n, kind="command", status=failed, result=result)
            for n, result in enumerate(results, 1)
        ],
    )
    shown = (await crewlog("show", "demo")).stdout
    assert "from try 2" in shown and "from try 1" not in shown


@pytest.mark.parametrize(("before", "is_quoted"), [(b"", False), (b"half done\n", True)])
async def test_of_a_command_that_was_cut_off_is_quoted_what_it_has_printed(
    crewlog: Crewlog, remembering: Remembering, before: bytes, is_quoted: bool
) -> None:
    timed_out, cut = TaskStatus.TASK_STATUS_TIMED_OUT, TaskResult(output=Body(inline=before + b"This was cut off"))
    remembering.view = RunView(
        run_id="demo", tasks=[TaskView(task_id="a-1", node_id="a", kind="command", status=timed_out, result=cut)]
    )
    assert ("has printed" in (await crewlog("show", "demo")).stdout) == is_quoted


async def test_what_became_of_items_is_said_once(crewlog: Crewlog, remembering: Remembering) -> None:
    tasks = ended_map(TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_CANCELLED)
    message = "1 of 2 items of 'do' are done; do_1-1: cancelled"
    tasks[0].failure.CopyFrom(Failure(reason="map_failed", message=message))
    remembering.view = RunView(run_id="demo", tasks=tasks)
    [line] = [line for line in (await crewlog("show", "demo")).stdout.splitlines() if line.startswith("do-1 ")]
    assert line.endswith(f"  {message}")


async def test_a_child_run_is_named_once(crewlog: Crewlog, remembering: Remembering) -> None:
    failure = Failure(reason="command_failed", message="run demo-sub: the command has failed")
    task = TaskView(task_id="sub-1", kind="workflow", child_run_id="demo-sub", failure=failure)
    remembering.view = RunView(run_id="demo", tasks=[task])
    [line] = [line for line in (await crewlog("show", "demo")).stdout.splitlines() if line.startswith("sub-1 ")]
    assert line.endswith("  run demo-sub: the command has failed")


async def test_items_are_shown_when_they_are_asked_for(crewlog: Crewlog, remembering: Remembering) -> None:
    remembering.view = graph()
    shown = (await crewlog("show", "demo", "--items")).stdout
    assert "do_0-1" in shown
    assert "7 tasks more: items that are done" in shown
    remembering.view.tasks_left_out = 0
    assert "do-1: 7 of 9 items have not begun" in (await crewlog("show", "demo", "--items")).stdout
    assert "have not begun" not in (await crewlog("show", "demo")).stdout


def _with_failed_command(output: str) -> RunView:
    result = TaskResult(output=Body(inline=output.encode()))
    task = TaskView(task_id="test-1", kind="command", status=TaskStatus.TASK_STATUS_FAILED, result=result)
    return RunView(run_id="demo", status=RunStatus.RUN_STATUS_FAILED, tasks=[task])


async def test_the_end_of_what_a_failed_command_has_printed_is_shown(
    crewlog: Crewlog, remembering: Remembering
) -> None:
    remembering.view = _with_failed_command("\n".join(f"line {number}" for number in range(30)) + "\nred \x1b[31m\n")
    for lines in (
        (await crewlog("show", "demo")).stdout,
        "\n".join(summary.in_words(remembering.view, scripted=False)),
    ):
        assert "`crewlog show demo --task test-1` shows all of it" in lines
        assert "line 21\n" in lines and "line 20\n" not in lines
        assert "red \\x1b[31m" in lines and "\x1b" not in lines


async def test_a_task_is_shown_with_all_of_its_output(crewlog: Crewlog, remembering: Remembering) -> None:
    remembering.view = _with_failed_command("\n".join(f"line {number}" for number in range(30)))
    shown = (await crewlog("show", "demo", "--task", "test-1")).stdout
    assert "line 0\n" in shown and "line 29\n" in shown
    assert "not whole" not in shown and "(cut" not in shown
    as_data = json.loads((await crewlog("show", "demo", "--task", "test-1", "-o", "json")).stdout)
    assert as_data["task_id"] == "test-1"


async def test_of_an_output_that_is_cut_it_is_said_how_much_there_was(
    crewlog: Crewlog, remembering: Remembering
) -> None:
    remembering.view = _with_failed_command("\n".join(f"line {number}" for number in range(30)))
    remembering.view.tasks[0].result.output_cut_from_bytes = 48_894
    shown = (await crewlog("show", "demo")).stdout
    assert "(cut, of 48,894 bytes)" in shown
    assert "`crewlog show demo --task test-1` shows what is kept of 48,894 bytes" in shown
    assert "the output is not whole: it had 48,894 bytes" in (await crewlog("show", "demo", "--task", "test-1")).stdout


async def test_a_task_that_is_not_there_is_not_shown(crewlog: Crewlog, remembering: Remembering) -> None:
    remembering.view = _with_failed_command("")
    done = await crewlog("show", "demo", "--task", "test-7")
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert "no task 'test-7'" in done.stderr
