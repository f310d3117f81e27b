"""Histories of agents that hand over results, that are commands, or that have children: what may be passes, and each
thing that must never be written is seen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from crewlog.domain.agent.ends import INVALID_OUTPUTS_MAX
from crewlog.domain.conduct.invariants import violations
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentFailed,
    AgentParked,
    AgentStarted,
    AgentSucceeded,
    AgentTakenOver,
    AllotmentRaised,
    AllotmentShared,
    ContentBlock,
    EffectClass,
    EffectKey,
    ModelAnswer,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolFailure,
    ToolOutput,
    ToolUse,
)
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Amounts, Limit, Reservation
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import (
    AgentNode,
    ChildSpawned,
    Node,
    ParkCause,
    Planning,
    Role,
    RunStarted,
    TaskCancelRequested,
    TaskClaimed,
    TaskParked,
    TaskResult,
    TaskSucceeded,
    TaskUnparked,
    Workflow,
)
from google.protobuf.message import Message

from tests.domain.written import Fact, entries, log

SCHEMA = '{"type": "object", "required": ["is_good"]}'
GOOD, BAD = '{"is_good":true}', "{}"
PLAN = '{"tasks":[{"id":"look","role":"scout","prompt":"look"}]}'
CODE = '{"exit_code":%d,"output":"","report":null}'
SCOUT = Role(name="scout")
CHILDREN = ParkCause.PARK_CAUSE_CHILDREN
REVERSIBLE, OPAQUE = EffectClass.EFFECT_CLASS_REVERSIBLE, EffectClass.EFFECT_CLASS_OPAQUE


def key(turn: int = 1, index: int = 0) -> EffectKey:
    return EffectKey(turn=turn, index=index, attempt=1)


def call(turn: int = 1, **reserved: int) -> ModelCallStarted:
    return ModelCallStarted(key=key(turn, -1), reservation=Reservation(**reserved))  # type: ignore[arg-type]


def asks_for(tool: str, turn: int = 1) -> tuple[Message, ...]:
    """The answer, and the intent."""
    use = ToolUse(tool=tool)
    answer = ModelAnswer(content=[ContentBlock(tool_use=use)], stop_reason="tool_use")
    return ModelCallSucceeded(key=key(turn, -1), answer=answer), ToolCallStarted(key=key(turn), call=use)


def stops(turn: int = 1, why: str = "end_turn") -> ModelCallSucceeded:
    return ModelCallSucceeded(key=key(turn, -1), answer=ModelAnswer(stop_reason=why))


def done(result: str = "", turn: int = 1) -> ToolCallSucceeded:
    return ToolCallSucceeded(key=key(turn), output=ToolOutput(structured_json=result))


def refused(turn: int = 1, reason: str = "invalid_output") -> ToolCallFailed:
    return ToolCallFailed(key=key(turn), failure=ToolFailure(reason=reason))


def ended(result: str = "") -> AgentSucceeded:
    return AgentSucceeded(result=TaskResult(structured_json=result))


def failed(reason: str, result: str = "") -> AgentFailed:
    return AgentFailed(failure=Failure(reason=reason), result=TaskResult(structured_json=result))


STARTED = AgentStarted(generation=1)
OWES = AgentStarted(generation=1, node=AgentNode(output_schema=SCHEMA))
PLANS = AgentStarted(generation=1, node=AgentNode(planning=Planning(roles=[SCOUT])))
FINISH: list[Fact] = [OWES, call(), asks_for("finish")]
SECOND: list[Fact] = [call(2), asks_for("finish", 2)]
OFTEN: list[Fact] = [
    fact for turn in range(1, INVALID_OUTPUTS_MAX + 2) for fact in (call(turn), asks_for("finish", turn), refused(turn))
]
ONCE_MORE = INVALID_OUTPUTS_MAX + 2


@pytest.mark.parametrize(
    "facts",
    [
        [*FINISH, done(GOOD), ended(GOOD)],
        [*FINISH, refused(), *SECOND, done(GOOD, 2), ended(GOOD)],
        [*FINISH, done(GOOD), *SECOND, refused(2), ended(GOOD)],
        [*FINISH, done(GOOD), AgentCancelled(result=TaskResult(structured_json=GOOD))],
        [OWES, call(), stops(), *SECOND, done(GOOD, 2), ended(GOOD)],
        [OWES, call(), stops(why="refusal"), failed("model_refused")],
        [OWES, *OFTEN, failed("output_invalid")],
        [OWES, *OFTEN[:-1], done(GOOD, ONCE_MORE - 1), call(ONCE_MORE), stops(ONCE_MORE), ended(GOOD)],
        [PLANS, call(), asks_for("finish"), done(PLAN), ended(PLAN)],
        [STARTED, call(), stops(), ended()],
        [STARTED, call(), asks_for("finish"), refused(reason="unknown_tool"), call(2), stops(2), ended()],
    ],
)
def test_what_an_agent_may_hand_over(facts: Sequence[Fact]) -> None:
    assert list(violations(entries(*facts))) == []


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([*FINISH, done(BAD), ended(BAD)], "the result does not fit"),
        ([PLANS, call(), asks_for("finish"), done(GOOD)], "the result does not fit"),
        ([*FINISH, done()], "hands over nothing, and that is not what it is for"),
        ([OWES, call(), asks_for("read"), done(GOOD)], "and that is not what it is for"),
        ([STARTED, call(), asks_for("finish"), done(GOOD)], "and that is not what it is for"),
        ([OWES, call(), stops(), ended()], "AgentSucceeded, and no result was handed over"),
        ([*FINISH, refused(), ended()], "AgentSucceeded, and no result was handed over"),
        ([*FINISH, done(GOOD), ended('{"is_good":false}')], "was handed over"),
        ([*FINISH, refused(), failed("turns_exhausted", GOOD)], "and nothing was handed over"),
        ([STARTED, call(), stops(), ended(GOOD)], "and nothing was handed over"),
        ([*FINISH, refused(), failed("output_invalid")], "and only 1 did not do"),
        ([OWES, *OFTEN, call(ONCE_MORE)], "the model is asked again after 4 results that did not do"),
        ([OWES, call(), stops(), *OFTEN[3:], call(ONCE_MORE)], "asked again after 4 results"),
    ],
)
def test_what_an_agent_must_never_hand_over_is_seen(facts: Sequence[Fact], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts)))


def runs(effect_class: EffectClass.ValueType = REVERSIBLE, tool: str = "command", index: int = 0) -> ToolCallStarted:
    return ToolCallStarted(key=key(index=index), call=ToolUse(tool=tool), effect_class=effect_class)


def command(*intents: Message, **fields: object) -> tuple[Message, ...]:
    node = CommandNode(argv=["make"], **fields)  # type: ignore[arg-type]
    return AgentStarted(generation=1, command=node), *(intents or (runs(),))


OK, BROKEN = CODE % 0, CODE % 2


@pytest.mark.parametrize(
    "facts",
    [
        [command(), done(OK), ended(OK)],
        [command(), done(BROKEN), failed("command_failed", BROKEN)],
        [command(ok_exit_codes=[2]), done(BROKEN), ended(BROKEN)],
        [command(), refused(reason="timed_out"), failed("command_timed_out")],
        [command(runs(OPAQUE), network=True), done(OK), failed("disk_full", OK)],
        [command(), AgentCancelled()],
    ],
)
def test_what_a_command_may_do(facts: Sequence[Fact]) -> None:
    assert list(violations(entries(*facts))) == []


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([command(), done(OK), call(2)], "a command asks a model"),
        ([command(runs(tool="bash"))], "a command begins bash at (1, 0)"),
        ([command(), runs(index=1)], "a command begins command at (1, 1)"),
        ([command(runs(OPAQUE))], "the command counts as EFFECT_CLASS_OPAQUE"),
        ([command(network=True)], "the command counts as EFFECT_CLASS_REVERSIBLE"),
        ([command(), done()], "the command has come to nothing, which has no exit code"),
        ([command(), done("[]")], "which has no exit code"),
        ([command(), done(BROKEN), ended(BROKEN)], "AgentSucceeded, and the command has come to"),
        ([command(), refused(), ended()], "AgentSucceeded, and the command has come to nothing"),
        ([command(), done(OK), failed("command_failed", OK)], "AgentFailed, and the command has come to"),
        ([command(), done(OK), ended(BROKEN)], "was handed over"),
    ],
)
def test_what_a_command_must_never_do_is_seen(facts: Sequence[Fact], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts)))


def share(usd_micros: int = 30, turn: int = 1, **fields: int) -> AllotmentShared:
    return AllotmentShared(key=key(turn), share=Amounts(usd_micros=usd_micros, **fields))


RICH = AgentStarted(generation=1, allotment=Limit(usd_micros=100))
SPAWN: list[Fact] = [RICH, call(), asks_for("spawn")]
AGAIN: list[Fact] = [call(2), asks_for("spawn", 2)]
PARENT: list[Fact] = [*SPAWN, share(), done(), call(2), asks_for("wait_for_children", 2)]
RAISED = AllotmentRaised(allotment=Limit(usd_micros=200), run_revision=3)
WAITS = AgentParked(cause=CHILDREN)


@pytest.mark.parametrize(
    "facts",
    [
        [*PARENT, (done(turn=2), WAITS), AgentTakenOver(generation=2), call(3, usd_micros=70)],
        [*SPAWN, share(), done(), *AGAIN, share(69, 2)],
        [
            *SPAWN,
            share(),
            (AllotmentRaised(allotment=Limit(usd_micros=200), run_revision=3), done()),
            *AGAIN,
            share(99, 2),
        ],
        [*SPAWN, refused(reason="denied"), call(2, usd_micros=100)],
    ],
)
def test_what_a_parent_may_do(facts: Sequence[Fact]) -> None:
    assert list(violations(entries(*facts))) == []


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([*SPAWN, share(100)], "100 usd_micros are shared, and 100 are left"),
        ([*SPAWN, share(60), done(), *AGAIN, share(40, 2)], "40 usd_micros are shared, and 40 are left"),
        ([*SPAWN, share(0)], "0 usd_micros are shared"),
        ([*SPAWN, share(30, model_calls=1)], "1 model_calls are shared, and 0 are left"),
        ([*SPAWN, share(), done(), call(2, usd_micros=71)], "is reserved above the allotment"),
        ([*SPAWN, share(), share()], "gives a second share away"),
        ([*SPAWN, done(), share()], "gives a share away, and spawns no child"),
        ([RICH, call(), asks_for("read"), share()], "gives a share away, and spawns no child"),
        ([*PARENT, WAITS], "AgentParked for children, and nobody has asked it to wait"),
        ([*PARENT, done(turn=2), call(3), stops(3), WAITS], "nobody has asked it to wait"),
        (
            [RICH, call(), asks_for("wait_for_children"), (done(), WAITS)],
            "AgentParked for children, and there are none",
        ),
        ([*SPAWN, refused(), call(2), asks_for("wait_for_children", 2), (done(turn=2), WAITS)], "there are none"),
    ],
)
def test_what_a_parent_must_never_do_is_seen(facts: Sequence[Fact], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts)))


PARENT_NODE = Node(node_id="a", agent=AgentNode(role=SCOUT, children=[SCOUT]))
RUN = RunStarted(workflow=Workflow(nodes=[PARENT_NODE]), budget=Limit(usd_micros=100))
HAS = TaskClaimed(task_id="a-1", node_id="a", visit=1, generation=1, executor_id="e", allotment=Limit(usd_micros=100))
PARKED, GOES_ON = TaskParked(task_id="a-1", cause=CHILDREN), TaskUnparked(task_id="a-1")
CLOSED = TaskClaimed(task_id="a-1", node_id="a", visit=1, generation=2, to_close=True)


def child(number: int = 1, usd_micros: int = 30) -> ChildSpawned:
    return ChildSpawned(
        task_id="a-1",
        number=number,
        node_id=f"a_c{number}",
        node=AgentNode(role=SCOUT),
        allotment=Limit(usd_micros=usd_micros),
        turn=number,
    )


def over(number: int = 1) -> TaskSucceeded:
    return TaskSucceeded(task_id=f"a_c{number}-1")


@pytest.mark.parametrize(
    "facts",
    [
        [RUN, HAS, child(), child(2), PARKED, over(2), (over(), GOES_ON)],
        [RUN, HAS, child(), over(), (PARKED, GOES_ON)],
        [RUN, HAS, child(), PARKED, TaskCancelRequested(task_id="a-1"), CLOSED, over()],
        [RUN, HAS, child(), TaskParked(task_id="a-1"), GOES_ON],
    ],
)
def test_how_a_task_may_wait_for_its_children(facts: Sequence[Fact]) -> None:
    assert list(violations(entries(*facts, kind="run"))) == []


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([RUN, HAS, child(), PARKED, GOES_ON], "a-1 goes on, and its child a_c1 has not ended"),
        ([RUN, HAS, child(), child(2), PARKED, (over(), GOES_ON)], "its child a_c2 has not ended"),
        ([RUN, HAS, child(), PARKED, over()], "a-1 waits for its children, and all of them have ended"),
        ([RUN, HAS, child(), over(), PARKED], "a-1 waits for its children, and all of them have ended"),
        ([RUN, HAS, child(), child(2, 71)], "gives a_c2 more than it holds"),
    ],
)
def test_how_a_task_must_never_wait_for_its_children_is_seen(facts: Sequence[Fact], word: str) -> None:
    assert any(word in what for what in violations(entries(*facts, kind="run")))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ([share()], ""),
        ([], "child a_c1 gets another share than a-1 has given away"),
        ([share(29)], "child a_c1 gets another share than a-1 has given away"),
    ],
)
def test_a_child_gets_what_its_parent_has_given_away(given: Sequence[Fact], word: str) -> None:
    begun = AgentStarted(generation=1, executor_id="e", allotment=Limit(usd_micros=100))
    before: list[Fact] = [begun, call(), asks_for("spawn"), *given]
    parent = [("agent", "x_a-1", fact) for fact in before]
    found = list(violations(log(("run", "x", RUN), ("run", "x", HAS), *parent, ("run", "x", child()))))
    assert any(word in what for what in found) if word else found == []
