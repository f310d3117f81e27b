"""An output of which some is left out: whoever goes on with it can tell, and nobody works on a part for the whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crewlog.domain.run import context as run_context
from crewlog.domain.run import results as run_results
from crewlog.domain.workflow.expression_functions import CutText
from crewlog.domain.workflow.expressions import ExpressionFailed, compile_expression
from crewlog.domain.workflow.templates import Template
from crewlog.v1.body_pb2 import Body
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import EndTask, MapNode, Node, NoopNode, Parent, TaskFailed, TaskResult

from tests.domain.playing import Play, edge, node, of

SIZE = 48_894
CUT = CutText.of("a.py\nb.py", SIZE)
ENDED = {"cut": {"output": CUT}, "whole": {"output": "a.py\nb.py\n"}, "json": {"output": "[1]"}, "old": {"result": 1}}


def command() -> Any:
    return CommandNode(argv=["git", "ls-files"])


def printed(text: str = "a.py\nb.py", output: int = 0, in_result: int = 0, in_report: int = 0) -> TaskResult:
    value = {
        "exit_code": 0,
        "output": text[-4:],
        "report": "[1]",
        "output_cut_from_bytes": in_result,
        "report_cut_from_bytes": in_report,
    }
    inline = Body(inline=text.encode())
    return TaskResult(output=inline, output_cut_from_bytes=output, structured_json=json.dumps(value))


def each(over: str) -> Any:
    return MapNode(body=Node(noop=NoopNode()), over=over)


@pytest.mark.parametrize(
    "text",
    [
        "lines(tasks.cut.output)",
        "lines(tasks['cut'].output).filter(f, f.endsWith('.py'))",
        "parse_json(tasks.cut.output) || true",
        "lines(tasks.whole.output + tasks.cut.output)",
        "lines(tasks.cut.output + '')",
        "lines(string(tasks.cut.output))",
        "[tasks.cut, tasks.whole].map(t, lines(t.output))",
        "lines('cut' in tasks ? tasks.cut.output : '')",
    ],
)
def test_a_part_is_not_taken_for_the_whole(text: str) -> None:
    with pytest.raises(
        ExpressionFailed, match=f"an output of {SIZE} bytes of which some are left out: let the command"
    ):
        compile_expression(text).value({"tasks": ENDED})
    with pytest.raises(ExpressionFailed, match="left out"):
        Template.of(f"{{{{ {text} }}}}").render({"tasks": ENDED})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tasks.cut.output", "a.py\nb.py"),
        ("tasks.cut.output.contains('a.py')", True),
        ("lines(tasks.whole.output)", ["a.py", "b.py"]),
        ("tasks.cut.output + '!'", "a.py\nb.py!"),
        ("size(tasks.cut.output) > 0 && parse_json(tasks.json.output) == [1]", True),
    ],
)
def test_what_is_not_taken_for_the_whole_is_a_text_as_any_other(text: str, value: Any) -> None:
    assert compile_expression(text).value({"tasks": ENDED}) == value


def test_many_texts_that_are_cut_are_not_looked_for_for_ever() -> None:
    cut = [CutText.of(f"{number:06}", SIZE) for number in range(2_000)]
    ended = {"many": {"result": cut}, "large": {"output": "x\n" * 30_000}}
    compile_expression("size(tasks.many.result) > 0 && size(lines(tasks.large.output)) > 0").value({"tasks": ended})
    with pytest.raises(ExpressionFailed, match="too many texts"):
        compile_expression("size(tasks.many.result) + size(lines(tasks.large.output))").value({"tasks": ended})


@pytest.mark.parametrize(
    ("over", "result"),
    [
        ("lines(tasks.list.output)", printed(output=SIZE)),
        ("lines(tasks.list.result.output)", printed(in_result=SIZE)),
        ("lines(tasks.list.result.report)", printed(in_report=SIZE)),
        ("parse_json(tasks.list.result.report)", printed(in_report=SIZE)),
    ],
)
def test_a_map_over_a_part_fails(over: str, result: TaskResult) -> None:
    play = Play(node("list", command=command()), node("m", "list", map=each(over)))
    play.claim("list-1")
    [failed] = of(play.do(EndTask(task_id="list-1", succeeded=result)), TaskFailed)
    assert (failed.task_id, failed.failure.reason) == ("m-1", "expression_failed")
    assert f"{SIZE} bytes" in failed.failure.message


@pytest.mark.parametrize("over", ["lines(tasks.list.output)", "parse_json(tasks.list.result.report)"])
def test_a_map_over_what_is_whole_begins(over: str) -> None:
    """Whatever is left out of something else."""
    result = printed(in_result=SIZE)
    play = Play(node("list", command=command()), node("m", "list", map=each(over)))
    play.claim("list-1")
    play.do(EndTask(task_id="list-1", succeeded=result))
    assert play.ready[0] == "m_0"


@pytest.mark.parametrize(("size", "goes_on"), [(0, "m_0"), (SIZE, "split")])
def test_an_edge_can_lead_on_from_what_is_cut(size: int, goes_on: str) -> None:
    play = Play(
        node("list", command=command()),
        node("m", map=each("lines(tasks.list.output)")),
        node("split"),
        edges=(
            edge("list", "m", when="task.output_cut_from_bytes == 0"),
            edge("list", "split", when="task.output_cut_from_bytes > 0 && tasks.list.output_cut_from_bytes == 48894"),
        ),
    )
    play.claim("list-1")
    play.do(EndTask(task_id="list-1", succeeded=printed(output=size)))
    assert play.ready[0] == goes_on


def test_a_child_run_hands_on_what_is_cut_as_such() -> None:
    child = Play(node("list", command=command()), parent=Parent(run_id="p", task_id="sub-1"))
    child.claim("list-1")
    child.do(EndTask(task_id="list-1", succeeded=printed(output=SIZE, in_result=SIZE)))
    child.finish()
    result = run_results.end_of(child.run, child.now).succeeded
    assert (result.output.inline, result.output_cut_from_bytes) == (b"a.py\nb.py", SIZE)
    assert json.loads(result.structured_json)["output_cut_from_bytes"] == SIZE


def test_a_child_run_says_how_much_all_of_its_last_tasks_have_printed() -> None:
    child = Play(node("a", command=command()), node("b", command=command()), parent=Parent(run_id="p", task_id="sub-1"))
    child.claim("a-1", "b-1")
    for task_id, size in (("a-1", 0), ("b-1", SIZE)):
        child.do(EndTask(task_id=task_id, succeeded=printed(output=size)))
    child.finish()
    result = run_results.end_of(child.run, child.now).succeeded
    assert result.output_cut_from_bytes == len(b"a.py\nb.py") + SIZE


def test_an_item_that_is_cut_is_known_as_such() -> None:
    play = Play(node("a"), node("m", "a", map=each("tasks.a.result")))
    play.end("a-1", value=[json.loads(printed(in_result=SIZE).structured_json)])
    with pytest.raises(ExpressionFailed, match="left out"):
        run_context.evaluated(play.run, "lines(item.output)", "m_0")
    assert run_context.evaluated(play.run, "lines(item.report)", "m_0") == ["[1]"]
