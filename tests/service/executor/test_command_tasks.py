"""Tasks that are commands: what they print and leave behind is the result, and a crash in the middle starts anew."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from crewlog.domain.agent.ends import OUTPUT_BYTES_MAX
from crewlog.domain.agent.state import Agent
from crewlog.domain.kept import Kept
from crewlog.executor import tool_calls
from crewlog.executor.control import Leave
from crewlog.tools import command_task
from crewlog.tools.limits import RESULT_OUTPUT_BYTES_MAX, STRUCTURED_BYTES_MAX
from crewlog.v1.agent_pb2 import AgentStatus, EffectClass
from crewlog.v1.node_pb2 import CommandNode
from crewlog.v1.run_pb2 import Node

from tests.service.executor.desks import Desks


def command(*argv: str, **fields: Any) -> Node:
    return Node(node_id="check", command=CommandNode(argv=argv, **fields))


def shell(line: str, **fields: Any) -> Node:
    return command("sh", "-c", line, **fields)


def result_of(agent: Agent) -> Any:
    assert agent.result is not None
    return json.loads(agent.result.structured_json)


async def test_a_command_is_one_effect_with_its_intent_and_its_result(desks: Desks) -> None:
    node = shell("cat hay.txt; echo '<ok/>' > report.xml; echo new > made.txt", report_path="report.xml")
    agent = await desks.work(node)
    assert await desks.types(node) == ["AgentStarted", "ToolCallStarted", "ToolCallSucceeded", "AgentSucceeded"]
    assert result_of(agent) == {
        "exit_code": 0,
        "output": "hay",
        "report": "<ok/>\n",
        "output_cut_from_bytes": 0,
        "report_cut_from_bytes": 0,
    }
    assert agent.result is not None and agent.snapshot is not None
    assert (agent.result.output.inline, agent.result.output_cut_from_bytes) == (b"hay", 0)
    assert agent.result.commit not in ("", desks.service.head)
    assert (agent.result.turns, agent.result.tool_calls, agent.result.cost_usd_micros) == (0, 1, 0)


async def test_argv_is_not_read_by_a_shell(desks: Desks) -> None:
    agent = await desks.work(command("echo", "$HOME; rm *", "a  b"))
    assert result_of(agent)["output"] == "$HOME; rm * a  b"


async def test_nothing_changed_is_the_commit_that_it_began_with(desks: Desks) -> None:
    agent = await desks.work(command("true"))
    assert agent.result is not None and agent.result.commit == desks.service.head


@pytest.mark.parametrize(
    ("line", "ok", "status"),
    [
        ("exit 3", [], AgentStatus.AGENT_STATUS_FAILED),
        ("exit 3", [2, 3], AgentStatus.AGENT_STATUS_SUCCEEDED),
        ("exit 0", [3], AgentStatus.AGENT_STATUS_SUCCEEDED),
        ("kill -9 $$", [], AgentStatus.AGENT_STATUS_FAILED),
    ],
)
async def test_an_exit_code_says_how_it_went(desks: Desks, line: str, ok: list[int], status: int) -> None:
    agent = await desks.work(shell(f"echo said; {line}", ok_exit_codes=ok))
    assert agent.status == status
    assert result_of(agent)["exit_code"] in (0, 3, 137)
    assert result_of(agent)["output"] == "said"
    if status == AgentStatus.AGENT_STATUS_FAILED:
        assert agent.failure is not None and agent.failure.reason == "command_failed"


async def test_a_program_that_is_not_there_fails_and_says_so(desks: Desks) -> None:
    agent = await desks.work(command("no-such-program"))
    assert agent.failure is not None and agent.failure.reason == "command_failed"
    assert agent.result is not None and b"o such file" in agent.result.output.inline


async def test_a_command_that_takes_too_long_is_ended(desks: Desks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_task, "COMMAND_SECONDS_MAX", 1.5)
    agent = await desks.work(shell("echo begun; sleep 60"))
    assert agent.failure is not None and agent.failure.reason == "command_timed_out"
    assert agent.result is not None and agent.result.output.inline.startswith(b"begun")


LARGE = len("".join(f"{number}\n" for number in range(1, 100_001))) + len("last\n")


async def test_a_large_output_is_cut_at_its_beginning(desks: Desks) -> None:
    agent = await desks.work(shell("seq 1 100000; cat /dev/null; echo last", report_path="gone.xml"))
    result = result_of(agent)
    assert result["output"].endswith("100000\nlast")
    assert RESULT_OUTPUT_BYTES_MAX // 2 < len(result["output"]) <= RESULT_OUTPUT_BYTES_MAX
    assert result["report"] is None
    assert agent.result is not None
    assert agent.result.output_cut_from_bytes == result["output_cut_from_bytes"] == LARGE
    assert re.match(rf"\[\.\.\. {LARGE - len(result['output'].split(chr(10), 1)[1])} bytes are", result["output"])


async def test_what_is_cut_for_the_result_alone_is_said_there_alone(desks: Desks) -> None:
    agent = await desks.work(shell("seq 1 4000; head -c 30000 /dev/zero | tr '\\0' x > report", report_path="report"))
    result = result_of(agent)
    assert agent.result is not None and agent.result.output.inline.startswith(b"1\n2\n")
    assert (agent.result.output_cut_from_bytes, result["output_cut_from_bytes"]) == (0, 18_892)
    assert result["report_cut_from_bytes"] == 30_000 and result["report"].endswith(" bytes are left out here ...]")


@pytest.mark.parametrize("seconds", ["command", "tool"])
async def test_a_large_output_of_what_was_ended_says_so_too(
    desks: Desks, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    if seconds == "command":
        monkeypatch.setattr(command_task, "COMMAND_SECONDS_MAX", 1.5)
    else:
        monkeypatch.setattr(tool_calls, "TOOL_SECONDS_MAX", 1.5)
    agent = await desks.work(shell("seq 1 100000; echo last; exec sleep 60"))
    assert agent.failure is not None and agent.failure.reason == "command_timed_out"
    assert agent.result is not None and agent.result.output_cut_from_bytes == LARGE


async def test_an_output_that_grows_when_it_is_shown_still_stands_in_the_event(desks: Desks) -> None:
    agent = await desks.work(shell("head -c 30000 /dev/zero; echo; echo last"))
    assert agent.result is not None and agent.result.output.inline.endswith(b"\\x00\nlast")
    assert result_of(agent)["output"].endswith("last")


async def test_what_grows_when_it_is_shown_is_there_also_where_the_command_was_ended(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_calls, "TOOL_SECONDS_MAX", 1.5)
    agent = await desks.work(shell("head -c 19000 /dev/zero; echo; echo last; exec sleep 60"))
    assert agent.result is not None and b"\\x00\nlast\n" in agent.result.output.inline
    assert agent.result.output_cut_from_bytes > OUTPUT_BYTES_MAX


async def test_no_report_is_read_outside_of_the_workspace(desks: Desks, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden")
    agent = await desks.work(shell(f"ln -s {tmp_path}/secret report", report_path="report"))
    assert result_of(agent)["report"] is None


def test_a_result_is_never_too_large() -> None:
    for report in ('\\"\t' * 20_000, "\1" * 60_000):
        worst = command_task.structured(1, Kept('\\"' * 20_000), Kept(report))
        assert len(worst.encode()) <= STRUCTURED_BYTES_MAX
        assert json.loads(worst)["output_cut_from_bytes"] == 40_000
        assert json.loads(worst)["report_cut_from_bytes"] == 60_000
        assert "left out" in json.loads(worst)["output"]


async def test_a_command_that_was_killed_with_its_executor_runs_again_from_its_first_files(
    desks: Desks, tmp_path: Path
) -> None:
    node = shell(f"cat hay.txt; echo more >> hay.txt; echo run >> {tmp_path}/runs; test -e {tmp_path}/go || sleep 60")
    await desks.killed(node, lambda _: (tmp_path / "runs").exists())
    (tmp_path / "go").touch()
    agent = await desks.work(node, generation=2)
    assert agent.status == AgentStatus.AGENT_STATUS_SUCCEEDED
    assert (tmp_path / "runs").read_text() == "run\nrun\n"
    assert result_of(agent)["output"] == "hay"
    assert agent.last_receipt is not None and agent.last_receipt.tool_calls_restored == 1


async def test_a_command_with_network_is_never_silently_run_again(desks: Desks, tmp_path: Path) -> None:
    node = shell(f"echo run >> {tmp_path}/runs; sleep 60", network=True)
    begun = await desks.killed(node, lambda _: (tmp_path / "runs").exists())
    assert [effect.effect_class for effect in begun.open.values()] == [EffectClass.EFFECT_CLASS_OPAQUE]
    agent = await desks.work(node, generation=2)
    assert agent.failure is not None and agent.failure.reason == "command_in_doubt"
    assert (tmp_path / "runs").read_text() == "run\n"


async def test_a_cancelled_command_ends_with_its_files(desks: Desks, tmp_path: Path) -> None:
    node = shell(f"echo new > made.txt; echo half done; touch {tmp_path}/begun; sleep 60")
    host = desks.host(desks.grant(node))
    working = asyncio.ensure_future(host.run())
    async with asyncio.timeout(30):
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)
        host.ask_to_leave(Leave.CANCEL)
        await working
    agent = await desks.agent(node)
    assert agent.status == AgentStatus.AGENT_STATUS_CANCELLED
    assert agent.snapshot is not None and agent.result is not None and agent.result.commit != desks.service.head
    assert agent.result.output.inline.startswith(b"half done\nThis was cut off")
