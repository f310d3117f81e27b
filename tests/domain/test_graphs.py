"""Random graphs, played at random: they end, and everything that their logs say may be so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.run import decider as run
from crewlog.domain.run.graph_events import without
from crewlog.domain.run.state import Run
from crewlog.domain.workflow.validation import violations_of
from crewlog.eventlog import codec
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry
from crewlog.v1.node_pb2 import Edge, GateNode, GateNodeKind, Outcome
from crewlog.v1.run_pb2 import AgentNode, AllotmentGrown, GateOpened, MapNode, Node, NoopNode, Workflow, WorkflowNode
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.domain.random_graphs import INNER, WORKER, loops, workflows
from tests.domain.random_play import RUN, Play

EXAMPLES = 150
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
LOOPING = settings(BOUNDED, max_examples=EXAMPLES // 2)
SEEDS = st.integers(0, 2**31)


def played(workflow: Workflow, seed: int) -> Play:
    play = Play(workflow, seed)
    play.play()
    return play


def written(play: Play) -> list[Entry]:
    """As it would stand in the log."""
    return [
        Entry.FromString(
            Entry(
                aggregate=Aggregate(tenant="local", kind="run", id=RUN),
                ordinal=ordinal,
                decisions=[Decision(events=[codec.pack(event) for event in events])],
            ).SerializeToString(deterministic=True)
        )
        for ordinal, (_, events) in enumerate(play.entries, start=1)
    ]


@BOUNDED
@given(workflows(), SEEDS)
def test_a_random_graph_ends_and_does_nothing_that_must_not_happen(workflow: Workflow, seed: int) -> None:
    assume(not violations_of(workflow))
    play = played(workflow, seed)
    assert list(violations(written(play))) == []


@BOUNDED
@given(workflows(), SEEDS)
def test_whoever_reads_the_log_up_to_any_entry_goes_on_the_same(workflow: Workflow, seed: int) -> None:
    assume(not violations_of(workflow))
    check_replay(played(workflow, seed))


def check_replay(play: Play) -> None:
    state: Run = run.INITIAL
    for entry, (command, events) in zip(written(play), play.entries, strict=True):
        assert run.decide(state, command) == events
        state = run.fold_all(state, codec.facts(entry))
    assert state == play.run


@LOOPING
@given(loops(), SEEDS)
def test_work_that_is_sent_back_leaves_nothing_behind(workflow: Workflow, seed: int) -> None:
    assert not violations_of(workflow)
    play = played(workflow, seed)
    assert list(violations(written(play))) == []
    check_replay(play)


def _noop(node_id: str, *depends_on: str) -> Node:
    return Node(node_id=node_id, depends_on=depends_on, noop=NoopNode())


def _all_of(*nodes: Node, edges: Sequence[Edge] = ()) -> Workflow:
    return Workflow(name="broken", nodes=nodes, edges=edges)


def _edge(source: str, to: str, **fields: Any) -> Edge:
    named: dict[str, Any] = {"from": source, "to": to, **fields}
    return Edge(**named)


AGENTS = [Node(node_id=f"n{number}", agent=AgentNode(role=WORKER)) for number in range(3)]
CHILD_RUN = _all_of(*AGENTS, Node(node_id="sub", workflow=WorkflowNode(workflow=INNER)))
FAN = Node(node_id="n0", map=MapNode(body=Node(noop=NoopNode()), times=5, at_once_max=5))
AGAIN_AND_AGAIN = _all_of(
    _noop("n0"), _noop("n1", "n0"), edges=[_edge("n1", "n0", visits_max=2), _edge("n0", "n1", when="true")]
)
BOTH = [_noop("n0"), _noop("n1"), _noop("n2", "n0", "n1")]
AGAIN = _edge("n1", "n0", when="task.visit < 3", visits_max=3)
ONE_OF_TWO = _all_of(_noop("n0"), _noop("n1"), edges=[_edge("n0", "n1", when="false")])


BROKEN_RULES: list[tuple[str, str, object, Workflow]] = [
    ("are not decided", "run.graph_events._goes_on", lambda *_, **__: True, _all_of(*BOTH)),
    ("visits that the workflow allows", "run.ends._may_visit", lambda run, _: run.visited < 20, AGAIN_AND_AGAIN),
    ("ways to it were taken", "run.graph_events.has_enough", lambda *_: True, ONE_OF_TWO),
    ("has not ended", "run.graph_events._goes_on", lambda *_, **__: False, _all_of(_noop("n0"), _noop("n1", "n0"))),
    ("goes above the budget", "run.money.first_allotment", lambda run, *_: run.limit, _all_of(*AGENTS)),
    ("the growth of task sub-1 goes above", "amounts.fits", lambda *_: True, CHILD_RUN),
]


@pytest.mark.parametrize(("said", "rule", "broken", "workflow"), BROKEN_RULES)
def test_a_rule_that_is_broken_is_seen(
    monkeypatch: pytest.MonkeyPatch, said: str, rule: str, broken: object, workflow: Workflow
) -> None:
    assert not any(said in what for seed in range(20) for what in violations(written(played(workflow, seed))))
    monkeypatch.setattr(f"crewlog.domain.{rule}", broken)
    assert any(said in what for seed in range(20) for what in violations(written(played(workflow, seed))))


def test_child_runs_in_random_graphs_get_more() -> None:
    plays = [played(CHILD_RUN, seed) for seed in range(40)]
    facts = [event for play in plays for _, events in play.entries for event in events]
    assert any(isinstance(fact, AllotmentGrown) and fact.task_id.startswith("sub") for fact in facts)
    assert any(isinstance(fact, GateOpened) and fact.task_id.startswith("sub") for fact in facts)
    assert not [what for play in plays for what in violations(written(play))]


def test_what_is_done_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crewlog.domain.run.decider.ENDED", frozenset())
    with pytest.raises(AssertionError, match="was done twice"):
        played(_all_of(_noop("n0")), 1)


def test_a_run_that_never_ends_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crewlog.domain.run.state.is_finishing", lambda _: False)
    with pytest.raises(AssertionError, match="nothing goes on"):
        played(_all_of(_noop("n0")), 1)


def test_what_is_left_of_an_older_visit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    asks = GateNode(question="well?", kind=GateNodeKind.GATE_NODE_KIND_ANSWER)
    workflow = _all_of(_noop("n0"), _noop("n1", "n0"), Node(node_id="n2", depends_on=["n0"], gate=asks), edges=[AGAIN])
    monkeypatch.setattr("crewlog.domain.run.money.outdated", lambda *_: [])
    with pytest.raises(AssertionError, match="of older visits"):
        for seed in range(100):
            played(workflow, seed)


def test_a_turn_that_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = _all_of(
        *[_noop("n0"), _noop("n1", "n0"), _noop("n2", "n0"), _noop("n3", "n0"), _noop("n4", "n0")], edges=[AGAIN]
    )
    broken = "crewlog.domain.run.graph_events.without_turn"
    monkeypatch.setattr(broken, lambda queue, _, task: without(queue, task.node_id))
    with pytest.raises(AssertionError, match="lost their turn"):
        for seed in range(100):
            played(workflow, seed)


def test_what_is_decided_otherwise_the_next_time_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    play = played(AGAIN_AND_AGAIN, 1)
    monkeypatch.setattr("crewlog.domain.run.ends._SAID", dict.fromkeys(Outcome.values(), "did something"))
    with pytest.raises(AssertionError):
        check_replay(play)


def test_more_items_at_once_than_the_map_allows_are_seen() -> None:
    logs = [written(played(_all_of(FAN), seed)) for seed in range(20)]
    assert not any("may be" in what for log in logs for what in violations(log))
    for event in (event for log in logs for decision in log[0].decisions for event in decision.events):
        if event.HasField("map_expanded"):
            event.map_expanded.at_once_max = 1
    assert any("may be" in what for log in logs for what in violations(log))
