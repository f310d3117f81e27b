"""Random graphs, played at random: they end, and everything that their logs say may be so."""

from __future__ import annotations

from crewlog.domain import run
from crewlog.domain.invariants import violations
from crewlog.domain.run_state import Run
from crewlog.domain.workflow import violations_of
from crewlog.eventlog import codec
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry
from crewlog.v1.run_pb2 import Workflow
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.domain.random_graphs import workflows
from tests.domain.random_play import RUN, Play

EXAMPLES = 150
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
SEEDS = st.integers(0, 2**31)


def played(workflow: Workflow, seed: int) -> Play:
    assume(not violations_of(workflow))
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
    play = played(workflow, seed)
    assert list(violations(written(play))) == []


@BOUNDED
@given(workflows(), SEEDS)
def test_whoever_reads_the_log_up_to_any_entry_goes_on_the_same(workflow: Workflow, seed: int) -> None:
    play = played(workflow, seed)
    state: Run = run.INITIAL
    for entry, (command, events) in zip(written(play), play.entries, strict=True):
        assert run.decide(state, command) == events
        state = run.fold_all(state, codec.facts(entry))
    assert state == play.run
