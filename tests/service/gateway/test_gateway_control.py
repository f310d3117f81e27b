"""Runs that are paused, resumed, cancelled, retried and told something: what is refused, forwarded, and read of it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound, WrongState
from crewlog.v1.agent_pb2 import (
    AgentStatus,
    ContentBlock,
    EffectKey,
    FinishModelCall,
    GetAgent,
    HostAgent,
    ModelAnswer,
    ParkAgent,
    ToolSpec,
    ToolUse,
)
from crewlog.v1.agent_pb2 import EffectClass as Effect
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Amounts
from crewlog.v1.budget_service_pb2 import ListGates
from crewlog.v1.recovery_pb2 import AgentRecovery, RecoverRun
from crewlog.v1.run_pb2 import (
    AnswerGate,
    CancelRun,
    CancelTask,
    ClaimTask,
    EndTask,
    FinishRun,
    GateKind,
    GateStatus,
    GetRun,
    LapseClaim,
    ListRuns,
    MessageMode,
    ParkCause,
    ParkTask,
    PauseRun,
    Question,
    ResumeRun,
    RetryRun,
    RunLimits,
    RunStatus,
    RunView,
    SendMessage,
    TaskFailure,
    TaskStatus,
    TaskView,
)
from crewlog.v1.run_service_pb2 import WatchRun

from tests.service.gateway.acting import NOON, Spending, plan, start

SENT: list[tuple[str, Any]] = [
    ("Cancel", CancelRun(run_id="run-1", reason="why", grace_seconds=600)),
    ("CancelTask", CancelTask(run_id="run-1", task_id="a-1", reason="why", grace_seconds=3)),
    ("Pause", PauseRun(run_id="run-1", reason="why")),
    ("Resume", ResumeRun(run_id="run-1")),
    (
        "Send",
        SendMessage(
            run_id="run-1", task_id="a-1", message_id="m-1", mode=MessageMode.MESSAGE_MODE_QUEUE, text="look\n"
        ),
    ),
]
BAD: list[tuple[str, Any, str]] = [
    ("Pause", PauseRun(run_id="A"), "run_id"),
    ("Pause", PauseRun(run_id="run-1", reason="a" * 2_001), "reason"),
    ("Resume", ResumeRun(run_id=""), "run_id"),
    ("Cancel", CancelRun(run_id="run-1", grace_seconds=601), "grace_seconds"),
    ("Cancel", CancelRun(run_id="run-1", grace_seconds=-1), "grace_seconds"),
    ("CancelTask", CancelTask(run_id="run-1", task_id=""), "task_id"),
    ("CancelTask", CancelTask(run_id="run-1", task_id="a"), "task_id"),
    ("CancelTask", CancelTask(run_id="run-1", task_id="a.b-1"), "task_id"),
    ("CancelTask", CancelTask(run_id="run-1", task_id="a-1", reason="a" * 2_001), "reason"),
    ("CancelTask", CancelTask(run_id="run-1", task_id="a-1", grace_seconds=601), "grace_seconds"),
    ("Retry", RetryRun(run_id="run-1"), "request_id"),
    ("Retry", RetryRun(run_id="run-1", request_id="a" * 65), "request_id"),
    ("Retry", RetryRun(run_id="run-1", request_id="a\n"), "request_id"),
    ("Retry", RetryRun(run_id="run-1", request_id="r", by=Amounts(usd_micros=-1)), "by.usd_micros"),
    ("Send", SendMessage(run_id="run-1", text="look"), "message_id"),
    ("Send", SendMessage(run_id="run-1", message_id="m" * 65, text="look"), "message_id"),
    ("Send", SendMessage(run_id="run-1", message_id="m-1", text=" \n"), "text"),
    ("Send", SendMessage(run_id="run-1", message_id="m-1", text="ä" * 32_769), "text"),
    ("Send", SendMessage(run_id="run-1", message_id="m-1", text="look", mode=cast(Any, 9)), "mode"),
    ("Send", SendMessage(run_id="run-1", message_id="m-1", text="look", task_id="a"), "task_id"),
    ("Recover", RecoverRun(), "run_id"),
    ("Recover", RecoverRun(run_id="A", dry_run=True), "run_id"),
]


async def agents(world: Any, run_id: str = "run-1") -> Spending:
    """A run whose tasks a and b are being worked on."""
    return await Spending(world, run_id, await world.register()).begin()


async def view_of(world: Any, revision: int, run_id: str = "run-1") -> RunView:
    view: RunView = await world.run_service.Get(GetRun(run_id=run_id, at_least_revision=revision))
    return view


async def listed(world: Any, *statuses: RunStatus.ValueType) -> list[str]:
    wanted = ListRuns(statuses=statuses, at_least_revision=await world.log.head())
    return [run.run_id for run in (await world.run_service.List(wanted)).runs]


def task(view: RunView, task_id: str) -> TaskView:
    return next(task for task in view.tasks if task.task_id == task_id)


@pytest.mark.parametrize(("method", "request_"), SENT)
async def test_who_asks_is_said_by_the_gateway_and_the_rest_is_forwarded(
    world: Any, method: str, request_: Any
) -> None:
    await agents(world)
    who = "sent_by" if method == "Send" else "by"
    asked = type(request_)()
    asked.CopyFrom(request_)
    asked.MergeFrom(type(request_)(at_unix_micros=1, **{who: "root"}))
    revision = (await getattr(world.run_service, method)(asked)).revision
    assert (await getattr(world.run_service, method)(asked)).revision == revision
    request_.MergeFrom(type(request_)(**{who: "local"}))
    assert world.scheduler.asked == [request_, request_]


@pytest.mark.parametrize(("method", "request_", "field"), BAD)
async def test_a_bad_request_is_refused_by_field_and_not_forwarded(
    world: Any, method: str, request_: Any, field: str
) -> None:
    with pytest.raises(InvalidCommand) as caught:
        await getattr(world.run_service, method)(request_)
    assert list(caught.value.violations) == [field]
    assert world.scheduler.asked == []


@pytest.mark.parametrize(("method", "request_"), SENT)
async def test_a_run_that_does_not_exist_is_not_found(world: Any, method: str, request_: Any) -> None:
    with pytest.raises(NotFound):
        await getattr(world.run_service, method)(request_)


async def test_a_run_is_paused_listed_as_such_and_resumed(world: Any) -> None:
    run = await agents(world)
    await world.start_run("run-2", run.project_id)
    revision = (await world.run_service.Pause(PauseRun(run_id="run-1", reason="lunch"))).revision
    view = await view_of(world, revision)
    assert (view.status, view.paused.reason, view.paused.by) == (RunStatus.RUN_STATUS_PAUSED, "lunch", "local")
    assert await listed(world, RunStatus.RUN_STATUS_PAUSED) == ["run-1"]
    assert await listed(world, RunStatus.RUN_STATUS_RUNNING) == ["run-2"]
    assert (await world.run_service.List(ListRuns(at_least_revision=await world.log.head()))).runs[
        1
    ].status == RunStatus.RUN_STATUS_PAUSED
    revision = (await world.run_service.Resume(ResumeRun(run_id="run-1"))).revision
    view = await view_of(world, revision)
    assert (view.status, view.HasField("paused")) == (RunStatus.RUN_STATUS_RUNNING, False)
    assert await listed(world, RunStatus.RUN_STATUS_PAUSED) == []


async def test_a_paused_run_that_is_cancelled_is_not_paused_any_more(world: Any) -> None:
    await agents(world)
    await world.run_service.Pause(PauseRun(run_id="run-1"))
    revision = (await world.run_service.Cancel(CancelRun(run_id="run-1"))).revision
    view = await view_of(world, revision)
    assert (view.status, view.HasField("paused")) == (RunStatus.RUN_STATUS_CANCELLING, False)
    assert await listed(world, RunStatus.RUN_STATUS_PAUSED) == []


async def test_a_task_says_that_it_is_to_stop_and_how_much_it_was_told(world: Any) -> None:
    await agents(world)
    for number in (1, 2):
        await world.run_service.Send(SendMessage(run_id="run-1", task_id="a-1", message_id=f"m-{number}", text="look"))
    revision = (await world.run_service.CancelTask(CancelTask(run_id="run-1", task_id="b-1"))).revision
    view = await view_of(world, revision)
    assert (task(view, "a-1").messages, task(view, "a-1").is_cancel_requested) == (2, False)
    assert (task(view, "b-1").messages, task(view, "b-1").is_cancel_requested) == (0, True)


async def test_the_same_message_with_other_content_is_a_conflict(world: Any) -> None:
    await agents(world)
    message = SendMessage(run_id="run-1", task_id="a-1", message_id="m-1", text="a" * 65_536)
    revision = (await world.run_service.Send(message)).revision
    assert (await world.run_service.Send(message)).revision == revision
    message.mode = MessageMode.MESSAGE_MODE_INTERRUPT
    with pytest.raises(Conflict):
        await world.run_service.Send(message)


async def fail(world: Any, run_id: str = "run-1") -> int:
    """The first task fails, and with it the run."""
    at = NOON
    failed = TaskFailure(failure=Failure(reason="turns_exhausted"))
    await world.run_command(EndTask(run_id=run_id, task_id="a-1", failed=failed, at_unix_micros=at))
    revision: int = await world.run_command(FinishRun(run_id=run_id, at_unix_micros=at))
    return revision


async def entries(world: Any, request: WatchRun) -> list[int]:
    """The revisions of a stream that ends."""
    async with asyncio.timeout(20):
        return [message.entry.revision async for message in world.run_service.Watch(request) if message.entry.revision]


async def test_a_run_that_is_retried_is_open_again_everywhere(world: Any) -> None:
    await world.start_run("run-1", await world.register())
    await world.claim("run-1")
    over = await fail(world)
    seen = await entries(world, WatchRun(run_id="run-1"))
    assert seen[-1] == over and (await view_of(world, over)).ended_at_unix_micros == NOON
    retry = RetryRun(run_id="run-1", request_id="r-1", requested_by="root")
    revision = (await world.run_service.Retry(retry)).revision
    assert world.scheduler.asked[-1].requested_by == "local"
    assert (await world.run_service.Retry(retry)).revision == revision
    view = await view_of(world, revision)
    assert (view.status, view.ended_at_unix_micros, view.HasField("failure")) == (
        RunStatus.RUN_STATUS_RUNNING,
        0,
        False,
    )
    assert [each.task_id for each in view.tasks] == ["a-1", "a-2"]
    assert await listed(world, RunStatus.RUN_STATUS_RUNNING) == ["run-1"]
    assert await listed(world, RunStatus.RUN_STATUS_FAILED) == []
    watching = asyncio.create_task(entries(world, WatchRun(run_id="run-1", from_revision=seen[-1])))
    await world.claim("run-1", "a-2")
    ended = await world.finish("run-1", "a-2")
    assert [await watching, (await view_of(world, ended)).status] == [
        [revision, revision + 1, revision + 2, ended],
        RunStatus.RUN_STATUS_SUCCEEDED,
    ]


async def test_a_run_that_is_retried_is_the_same_after_everything_was_read_anew(world: Any) -> None:
    await world.start_run("run-1", await world.register())
    await world.claim("run-1")
    await fail(world)
    revision = (await world.run_service.Retry(RetryRun(run_id="run-1", request_id="r-1"))).revision
    before = await view_of(world, revision)
    await world.stop_gateway()
    world.projection_file.unlink()
    await world.start_gateway()
    assert await view_of(world, revision) == before
    assert await listed(world, RunStatus.RUN_STATUS_RUNNING) == ["run-1"]


async def test_a_run_that_succeeded_is_not_retried(world: Any) -> None:
    await world.start_run("run-1", await world.register())
    await world.claim("run-1")
    await world.finish("run-1")
    with pytest.raises(WrongState):
        await world.run_service.Retry(RetryRun(run_id="run-1", request_id="r-1"))


async def ask(world: Any, **question: Any) -> int:
    """The agent of a task asks a person."""
    parked = ParkTask(
        run_id="run-1",
        task_id="a-1",
        cause=ParkCause.PARK_CAUSE_QUESTION,
        question=Question(turn=1, kind=GateKind.GATE_KIND_QUESTION, question="Which?", **question),
        generation=1,
        at_unix_micros=NOON,
    )
    revision: int = await world.run_command(parked)
    return revision


async def test_a_question_is_answered_with_a_text(world: Any) -> None:
    await agents(world)
    revision = await ask(world, default_choice="neither")
    view = await view_of(world, revision)
    assert (task(view, "a-1").status, task(view, "a-1").park_cause) == (
        TaskStatus.TASK_STATUS_PARKED,
        ParkCause.PARK_CAUSE_QUESTION,
    )
    (gate,) = (await world.gate_service.List(ListGates(at_least_revision=await world.log.head()))).gates
    assert (gate.kind, gate.question, gate.default_choice) == (GateKind.GATE_KIND_QUESTION, "Which?", "neither")
    answer = AnswerGate(run_id="run-1", gate_id=gate.gate_id, text="the second\n")
    revision = (await world.gate_service.Answer(answer)).revision
    assert (await world.gate_service.Answer(answer)).revision == revision
    view = await view_of(world, revision)
    assert (view.gates[0].status, view.gates[0].text) == (GateStatus.GATE_STATUS_ANSWERED, "the second\n")
    assert task(view, "a-1").park_cause == ParkCause.PARK_CAUSE_UNSPECIFIED
    assert (await world.gate_service.List(ListGates(at_least_revision=revision))).gates == []


async def test_a_question_that_nobody_waits_for_is_closed(world: Any) -> None:
    await agents(world)
    await ask(world, choices=["one", "two"])
    await world.run_service.CancelTask(CancelTask(run_id="run-1", task_id="a-1"))
    closing = ClaimTask(run_id="run-1", task_id="a-1", executor_id="scheduler", to_close=True, at_unix_micros=NOON)
    revision = await world.run_command(closing)
    assert (await world.gate_service.List(ListGates(at_least_revision=revision))).gates == []
    (gate,) = (
        await world.gate_service.List(ListGates(with_closed=True, at_least_revision=await world.log.head()))
    ).gates
    assert gate.status == GateStatus.GATE_STATUS_CLOSED
    with pytest.raises(Conflict):
        await world.gate_service.Answer(AnswerGate(run_id="run-1", gate_id=gate.gate_id, choice="one"))


async def test_a_run_says_its_limits(world: Any) -> None:
    limits = RunLimits(duration_seconds_max=60, waiting_seconds_max=30)
    revision = await world.start_run("run-1", await world.register(), limits=limits)
    assert (await view_of(world, revision)).limits == limits


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (RunLimits(duration_seconds_max=-1), "limits.duration_seconds_max"),
        (RunLimits(duration_seconds_max=2_592_001), "limits.duration_seconds_max"),
        (RunLimits(waiting_seconds_max=-1), "limits.waiting_seconds_max"),
        (RunLimits(waiting_seconds_max=604_801), "limits.waiting_seconds_max"),
    ],
)
async def test_bad_limits_are_refused_by_field(world: Any, limits: RunLimits, field: str) -> None:
    project_id = await world.register()
    with pytest.raises(InvalidCommand) as caught:
        await world.start_run("run-1", project_id, limits=limits)
    assert list(caught.value.violations) == [field]


def two_tools(world_run: Spending) -> tuple[HostAgent, FinishModelCall]:
    """An agent with tools, and an answer that calls two of them."""
    host = world_run.host("a", 1)
    classes = (("read", Effect.EFFECT_CLASS_PURE), ("bash", Effect.EFFECT_CLASS_OPAQUE))
    host.tools.extend(ToolSpec(name=name, effect_class=effect_class) for name, effect_class in classes)
    calls = [ContentBlock(tool_use=ToolUse(tool_use_id=name, tool=name)) for name, _ in classes]
    answer = ModelAnswer(content=calls, stop_reason="tool_use", cost_usd_micros=7)
    return host, FinishModelCall(key=EffectKey(turn=1, index=-1, attempt=1), answer=answer)


async def under_way(world: Any) -> Spending:
    """Agent a waits for two tools, agent b for the model."""
    run = Spending(world, "run-1", await world.register())
    await world.start_run("run-1", run.project_id, workflow=plan("a", "b"))
    for name in ("a", "b"):
        await world.claim("run-1", f"{name}-1")
    host, calls = two_tools(run)
    await run.act("a", host, start(1), calls)
    await run.act("b", run.host("b", 1), start(1))
    return run


async def test_what_recovery_would_find_is_said_beforehand_and_nothing_is_done(world: Any) -> None:
    run = await under_way(world)
    await world.start_run("run-2", run.project_id)
    await world.claim("run-2")
    await world.host("run-2")
    head = await world.log.head()
    found = await world.run_service.Recover(RecoverRun(run_id="run-1", dry_run=True, at_least_revision=head))
    a, b = found.agents
    assert (found.revision, a.agent_id, a.executor_id, a.generation) == (head, "run-1_a-1", "e-1", 1)
    assert (a.receipt.model_answers_reused, a.receipt.reused_usd_micros) == (1, 7)
    assert (a.receipt.tool_calls_run_again, a.receipt.tool_calls_told_unknown, a.receipt.model_calls_lost) == (1, 1, 0)
    assert (b.task_id, b.receipt.model_calls_lost, b.receipt.lost_usd_micros) == ("b-1", 1, 1_000)
    every = await world.run_service.Recover(RecoverRun(dry_run=True))
    assert [agent.agent_id for agent in every.agents] == ["run-1_a-1", "run-1_b-1", "run-2_a-1"]
    assert await world.log.head() == head and world.scheduler.asked == []


async def test_what_was_said_beforehand_is_what_is_found(world: Any) -> None:
    run = await under_way(world)
    head = await world.log.head()
    said = await world.run_service.Recover(RecoverRun(run_id="run-1", dry_run=True, at_least_revision=head))
    recovery = await world.run_service.Recover(RecoverRun(run_id="run-1", by="root"))
    assert recovery.agents == said.agents and recovery.revision > 0
    assert world.scheduler.asked == [RecoverRun(run_id="run-1", by="local")]
    for name in ("a", "b"):
        revision = await run.act(name, run.host(name, 2))
    for agent in said.agents:
        view = await world.agent_service.Get(GetAgent(agent_id=agent.agent_id, at_least_revision=revision))
        assert (view.last_receipt, view.resumes, view.executor_id) == (agent.receipt, 1, "e-2")
    assert view.in_doubt == 1


async def test_agents_that_are_over_are_not_recovered(world: Any) -> None:
    run = await under_way(world)
    revision = await run.end("a")
    found = await world.run_service.Recover(RecoverRun(run_id="run-1", dry_run=True, at_least_revision=revision))
    assert [agent.agent_id for agent in found.agents] == ["run-1_b-1"]
    with pytest.raises(NotFound):
        await world.run_service.Recover(RecoverRun(run_id="run-9", dry_run=True))


async def test_an_agent_that_has_let_go_says_why(world: Any) -> None:
    run = await agents(world)
    revision = await run.act("a", ParkAgent(cause=ParkCause.PARK_CAUSE_HANDED_OVER, at_unix_micros=NOON))
    view = await world.agent_service.Get(GetAgent(agent_id="run-1_a-1", at_least_revision=revision))
    assert (view.is_parked, view.park_cause) == (True, ParkCause.PARK_CAUSE_HANDED_OVER)
    found = await world.run_service.Recover(RecoverRun(run_id="run-1", dry_run=True))
    assert found.agents[0].is_parked and found.agents[0] == AgentRecovery(
        run_id="run-1",
        task_id="a-1",
        agent_id="run-1_a-1",
        executor_id="e-1",
        generation=1,
        is_parked=True,
        park_cause=ParkCause.PARK_CAUSE_HANDED_OVER,
        receipt=found.agents[0].receipt,
    )
    await world.run_command(LapseClaim(run_id="run-1", task_id="a-1", generation=1))
    revision = await run.act("a", run.host("a", 2))
    view = await world.agent_service.Get(GetAgent(agent_id="run-1_a-1", at_least_revision=revision))
    assert (view.is_parked, view.resumes, view.in_doubt) == (False, 1, 0)
    assert (view.status, view.generation) == (AgentStatus.AGENT_STATUS_RUNNING, 2)
