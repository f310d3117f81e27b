"""What docs/workflows.md says of failures and of loops is what its own examples do."""

from __future__ import annotations

import re
from pathlib import Path

from crewlog.crews import load_workflow
from crewlog.domain.run import state as run_state
from crewlog.v1.run_pb2 import Workflow

from tests.domain.playing import Play, edge, node

PAGE = (Path(__file__).parents[2] / "docs/workflows.md").read_text()


def example(holds: str, folder: Path) -> Workflow:
    """The example of the page in which this stands."""
    path = folder / "w.yaml"
    path.write_text(next(text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if holds in text))
    return load_workflow(str(path))


def play(workflow: Workflow) -> Play:
    return Play(*workflow.nodes, edges=tuple(workflow.edges))


def side_by_side(folder: Path) -> Play:
    playing = play(example("side by side", folder))
    assert set(playing.ready) == {"lint", "types", "fast", "slow", "other"}
    return playing


def test_a_failure_that_nobody_handles_stops_what_is_at_work_beside_it() -> None:
    playing = Play(node("done"), node("works"), node("fails"), node("later", "works"), node("begins"))
    playing.end("done-1")
    playing.claim("works-1", "fails-1")
    playing.end("fails-1", fail="broken")
    assert playing.ready == () and run_state.is_stopping(playing.run)
    assert not run_state.is_finishing(playing.run)
    playing.end("works-1")
    assert "later-1" not in playing.run.tasks and playing.finish() == "failed"
    assert playing.status("done-1") == "succeeded"


def test_the_checks_side_by_side_go_on_as_the_page_says(tmp_path: Path) -> None:
    playing = side_by_side(tmp_path)
    playing.end("lint-1", fail="command_failed")
    playing.end("types-1", fail="command_failed")
    playing.wait(60)
    assert playing.status("types-2") == "ready"
    playing.end("types-2", fail="command_failed")
    assert "mend" in playing.ready
    playing.end("slow-1", fail="command_failed")
    playing.end("fast-1")
    playing.end("other-1")
    playing.end("mend-1")
    playing.end("report-1")
    assert playing.finish() == "succeeded"


def test_a_join_for_which_too_few_are_left_fails(tmp_path: Path) -> None:
    playing = side_by_side(tmp_path)
    playing.end("slow-1", fail="command_failed")
    assert playing.run.failure is None
    playing.end("fast-1", fail="command_failed")
    playing.end("other-1")
    assert playing.run.failure is not None and playing.run.failure.reason == "join_missed"


def test_checks_side_by_side_are_all_repeated_where_the_way_back_leads_before_them(tmp_path: Path) -> None:
    playing = play(example("What fails goes to somebody who mends it", tmp_path))
    for visit in (1, 2):
        playing.end(f"checks-{visit}")
        assert set(playing.ready) == {"lint", "unit"}
        playing.end(f"lint-{visit}")
        playing.end(f"unit-{visit}", fail="command_failed")
        playing.end(f"checked-{visit}")
        assert playing.ready == ("mend",)
        playing.end(f"mend-{visit}")
    playing.end("checks-3")
    playing.end("lint-3")
    playing.end("unit-3")
    playing.end("checked-3")
    assert (playing.status("ask-3"), playing.status("mend-3")) == ("parked", "skipped")


def test_a_loop_whose_visits_are_used_up_lets_the_failure_stand() -> None:
    playing = Play(node("do"), node("test", "do"), edges=(edge("test", "do", "failed", visits_max=3),))
    for visit in (1, 2, 3):
        playing.end(f"do-{visit}")
        assert playing.run.failure is None
        playing.end(f"test-{visit}", fail="command_failed")
    assert playing.run.failure is not None and playing.run.failure.reason == "command_failed"
    assert playing.finish() == "failed"


def test_an_edge_for_failures_leads_on_when_the_loop_is_used_up() -> None:
    edges = (edge("test", "do", "failed", visits_max=1), edge("test", "ask", "failed"))
    playing = Play(node("do"), node("test", "do"), node("ask"), edges=edges)
    playing.end("do-1")
    playing.end("test-1", fail="command_failed")
    assert playing.run.failure is None and playing.ready == ("ask",)


def test_what_is_retried_is_no_round_of_a_loop(tmp_path: Path) -> None:
    workflow = example("name: parts", tmp_path)
    assert [(way.visits_max, way.to) for way in workflow.edges] == [(3, "do")]
    retried = node("do")
    retried.retry.attempts_max = 2
    playing = Play(retried, node("test", "do"), edges=(edge("test", "do", "failed", visits_max=2),))
    playing.end("do-1", fail="broken")
    playing.end("do-2")
    playing.end("test-1", fail="command_failed")
    assert playing.run.failure is None and playing.run.visits["do"] == 3
