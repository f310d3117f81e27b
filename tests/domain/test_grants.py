"""What an executor is told when it gets a task, for the first time and again."""

from __future__ import annotations

import json
from dataclasses import replace

from crewlog.git import checks
from crewlog.scheduler import grants, prompts
from crewlog.v1.node_pb2 import CommandNode, Join, JoinMode, RetryPolicy
from crewlog.v1.run_pb2 import LapseClaim, MapNode, Node, NoopNode, RetryRun, RunStarted
from crewlog.v1.scheduler_pb2 import Grant
from crewlog.v1.workspace_pb2 import CommitWorkspace, Snapshot

from tests.domain.playing import SECOND, Play, agent, node


def granted(play: Play, task_id: str) -> Grant:
    return grants.make(play.run, play.run.tasks[task_id], 1, lambda *_: "token")


def test_a_task_that_goes_into_other_hands_is_still_about_the_same() -> None:
    """What has ended since could not be worked out: the claim would stand in the log, and nobody would be told."""
    command = CommandNode(argv=["look", '{{ "b" in tasks ? tasks.b.result.output : "nothing" }}'])
    early = Join(mode=JoinMode.JOIN_MODE_ANY, keep_rest=True)
    play = Play(node("a"), node("b", continue_on_failure=True), node("j", "a", "b", command=command, join=early))
    play.claim("b-1")
    play.end("a-1")
    play.claim("j-1")
    first = granted(play, "j-1")
    assert list(first.node.command.argv) == ["look", "nothing"]
    play.now += SECOND
    play.end("b-1", fail="broken")
    play.do(LapseClaim(task_id="j-1", generation=1))
    play.claim("j-1")
    assert granted(play, "j-1").node == first.node


def test_an_agent_is_told_why_it_is_asked_again() -> None:
    play = Play(node("a", agent=agent(), retry=RetryPolicy(attempts_max=2)))
    play.end("a-1", fail="broken")
    play.wait(1)
    play.claim("a-2")
    assert "sent back" not in prompts.compose(play.run, play.run.tasks["a-2"])
    assert "visit 2: the one before has not succeeded (broken)" in prompts.compose(play.run, play.run.tasks["a-2"])
    play.end("a-2", fail="broken")
    play.finish()
    play.do(RetryRun(request_id="again"))
    play.claim("a-3")
    assert "visit 3: the one before has not succeeded (broken)" in prompts.compose(play.run, play.run.tasks["a-3"])


def test_the_title_can_stand_in_a_commit() -> None:
    """The input of a child run is what an agent has written: its commits were refused, with all that was done."""
    play = Play(node("a", agent=agent()))
    play.claim("a-1")
    started = RunStarted()
    started.CopyFrom(play.run.started)
    started.input.inline = b"\n Mend\0 the\x07 parser\r\nand more"
    play.run = replace(play.run, started=started)
    title = granted(play, "a-1").title
    assert title == "Mend the parser"
    commit = CommitWorkspace(workspace_id="r_a-1", run_id="r", snapshot=Snapshot(tree="0" * 40, full_tree="0" * 40))
    commit.message = f"worker: {title}"
    checks.commit(commit)


def test_a_prompt_has_an_end_however_many_say_however_much() -> None:
    """A grant that no call can carry would be lost again and again; and nobody else is served while it is made."""
    many = [f"n{number}" for number in range(300)]
    play = Play(*(node(name) for name in many), node("z", *many, agent=agent()))
    for name in many:
        play.end(f"{name}-1", value=["part"] * 6_000, output="x" * 30_000)
    play.claim("z-1")
    prompt = granted(play, "z-1").prompt
    assert len(prompt) < 1.1 * prompts.HANDED_OVER_CHARACTERS_MAX
    assert all(f"What {name!r} handed over" in prompt for name in many)
    assert "characters are left out here" in prompt


def test_a_large_value_stands_in_a_prompt_as_it_was_handed_over() -> None:
    play = Play(node("a"), node("b"), node("z", "a", "b", agent=agent()))
    play.end("a-1", value={"parts": list(range(3_000))})
    play.end("b-1", value={"parts": [1]})
    play.claim("z-1")
    prompt = granted(play, "z-1").prompt
    assert json.dumps({"parts": list(range(3_000))}) in prompt
    assert '{\n "parts": [\n  1\n ]\n}' in prompt


def test_what_is_left_out_of_the_results_of_a_map_is_said() -> None:
    count = prompts.PARTS_MAX + 50
    many = MapNode(body=Node(noop=NoopNode()), times=count, at_once_max=count)
    play = Play(node("many", map=many), node("z", "many", agent=agent()))
    for number in range(count):
        play.end(f"many_{number}-1", output="short" if number else "x" * 1_000)
    play.claim("z-1")
    prompt = granted(play, "z-1").prompt
    assert "[... 50 more are left out here ...]" in prompt
    assert prompt.count("characters are left out here") == 1
    assert f"many_{prompts.PARTS_MAX - 1}:\nshort" in prompt
