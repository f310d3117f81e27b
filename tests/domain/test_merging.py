"""What is said of files that do not fit together."""

from __future__ import annotations

from crewlog.scheduler import merging
from crewlog.v1.node_pb2 import JoinNode

from tests.domain.playing import Play, node


def test_a_conflict_names_the_tasks_and_what_can_be_done() -> None:
    play = Play(node("a"), node("b"), node("same"), node("j", "a", "b", "same", join_files=JoinNode()))
    play.end("same-1")
    play.end("a-1", commit="a" * 40)
    play.end("b-1", commit="b" * 40)
    makers = merging.makers_of(play.run, play.run.tasks["j-1"])
    assert sorted(makers) == ["a-1", "b-1"]
    failure = merging.conflict(["f.txt"], makers)
    assert failure.message == f"what was done side by side by {', '.join(makers)} cannot be merged: f.txt"
    assert "on: [conflicted]" in failure.what_to_do and "branch" not in failure.what_to_do


def test_of_many_names_a_few_are_shown() -> None:
    paths = [f"f{number:03}" for number in range(300)]
    message = merging.conflict(paths, [f"t-{number}" for number in range(300)]).message
    assert len(message) < 300 and message.count("...") == 2
