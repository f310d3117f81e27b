"""What the shell completes: names that the platform knows, at once, and nothing where it is not there."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from crewlog.cli import completing, config, main, offering
from crewlog.v1.admission_pb2 import AdmissionDimension, AdmissionLimit
from crewlog.v1.budget_pb2 import BudgetView
from crewlog.v1.project_pb2 import ProjectView
from crewlog.v1.run_pb2 import GateView, RunStatus, RunView, TaskStatus, TaskView

from tests.service.cli.remembering import Remembering

Complete = Callable[..., Awaitable[list[str]]]
START = "import sys; sys.argv = ['crewlog']; from crewlog.cli.main import main; main()"
EVIL = 'what? "$(touch x)" `touch y` \\$(touch z)\';)(:é\n'
PARKED, SUCCEEDED = TaskStatus.TASK_STATUS_PARKED, TaskStatus.TASK_STATUS_SUCCEEDED


async def _completed(environment: dict[str, str]) -> str:
    """As the shell asks for it; whatever goes wrong, nothing is said beside it."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("CREWLOG")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", START, env=known | environment, stdout=pipe, stderr=pipe
    )
    out, err = await asyncio.wait_for(process.communicate(), 30.0)
    assert err == b""
    return out.decode()


def _in_fish(line: str) -> dict[str, str]:
    return {
        "_CREWLOG_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": f"crewlog {line}",
    }


@pytest.fixture
def complete(address: str) -> Complete:
    """The lines that fish is offered: value and description."""

    async def completed(line: str) -> list[str]:
        where = {"CREWLOG_ADDRESS": address, "CREWLOG_TOKEN": "secret"}
        return (await _completed(_in_fish(line) | where)).strip().splitlines()

    return completed


@pytest.fixture
def known(remembering: Remembering) -> Remembering:
    remembering.view = RunView(
        run_id="demo",
        status=RunStatus.RUN_STATUS_RUNNING,
        workflow="fix",
        tasks=[
            TaskView(task_id="fix-1", role="implementer", status=SUCCEEDED),
            TaskView(task_id="hold-1", kind="wait", status=PARKED, signal="released"),
        ],
    )
    remembering.gates = [
        GateView(run_id="demo", gate_id="ask-1-1", question=EVIL, choices=["approve", EVIL]),
        GateView(run_id="demo-child", gate_id="ask-1-1", choices=["left"]),
        GateView(run_id="demo-child", gate_id="hold-1-1"),
    ]
    remembering.budgets = [BudgetView(budget_id="tenant"), BudgetView(budget_id="named_team", parent_id="tenant")]
    remembering.limits = [
        AdmissionLimit(dimension=AdmissionDimension.ADMISSION_DIMENSION_ROLE, name="reviewer", tasks_max=2),
        AdmissionLimit(dimension=AdmissionDimension.ADMISSION_DIMENSION_ROLE, name="*", tasks_max=9),
        AdmissionLimit(dimension=AdmissionDimension.ADMISSION_DIMENSION_POOL, name="gpu", tasks_max=1),
    ]
    remembering.projects = [ProjectView(project_id="slug-1", path="/home/me/slug")]
    return remembering


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("show ", ["demo\trunning, fix"]),
        ("show de", ["demo\trunning, fix"]),
        ("show x", []),
        ("events --run ", ["demo\trunning, fix"]),
        ("show demo --task ", ["fix-1\tsucceeded, implementer", "hold-1\tparked, wait"]),
        ("cancel demo --grace 5s --task fi", ["fix-1\tsucceeded, implementer"]),
        ("signal demo ", ["released\thold-1 waits for it"]),
        ("gates answer demo ", ["ask-1-1\twhat? touch x touch y touch z"]),
        ("gates answer demo ask-1-1 ", ["approve\twhat? touch x touch y touch z"]),
        ("gates answer demo other-1-1 ", []),
        ("budget show ", ["tenant", "named_team\tbelow tenant", "run_demo\trunning, fix"]),
        ("budget raise run_", ["run_demo\trunning, fix"]),
        ("budget set ", ["tenant", "named_team\tbelow tenant"]),
        ("run it --charge ", ["team\tbelow tenant"]),
        ("limits set role ", ["reviewer\tat most 2"]),
        ("runs --project ", ["slug-1\t/home/me/slug"]),
    ],
)
async def test_what_the_platform_knows_is_offered(
    complete: Complete, known: Remembering, line: str, offered: list[str]
) -> None:
    assert await complete(line) == offered


async def test_the_most_recent_run_comes_first(complete: Complete, remembering: Remembering) -> None:
    remembering.runs = [RunView(run_id="younger"), RunView(run_id="older")]
    assert [line.split("\t")[0] for line in await complete("show ")] == ["younger", "older"]


async def test_workflows_need_no_platform(tmp_path: Path) -> None:
    offered = await _completed(_in_fish("run it -w f") | {"CREWLOG_DATA_DIR": str(tmp_path)})
    assert offered.splitlines() == ["feature\tbuilt in", "fix\tbuilt in"]


async def test_commands_and_options_are_offered_as_ever(complete: Complete) -> None:
    assert {line.split("\t")[0] for line in await complete("re")} == {"replay", "resume", "retry", "recover"}
    assert "--why-waiting" in "\n".join(await complete("runs --"))
    assert {line.split("\t")[0] for line in await complete("budget ")} == {"set", "raise", "lower", "list", "show"}


async def test_in_the_other_shells(known: Remembering, address: str) -> None:
    where = {"CREWLOG_ADDRESS": address, "CREWLOG_TOKEN": "secret"}
    bash = {"_CREWLOG_COMPLETE": "complete_bash", "COMP_WORDS": "crewlog show d", "COMP_CWORD": "2"}
    assert await _completed(where | bash) == "demo\n"
    zsh = {"_CREWLOG_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "crewlog show "}
    assert await _completed(where | zsh) == """_arguments '*: :(("demo":"running, fix"))'\n"""


async def test_without_a_platform_nothing_is_offered_and_nothing_is_said(tmp_path: Path) -> None:
    assert await _completed(_in_fish("show ") | {"CREWLOG_DATA_DIR": str(tmp_path / "none")}) == "\n"
    assert await _completed(_in_fish("show ") | {"CREWLOG_ADDRESS": "127.0.0.1:1", "CREWLOG_TOKEN": "x"}) == "\n"


async def test_with_a_wrong_token_nothing_is_said(address: str) -> None:
    assert await _completed(_in_fish("show ") | {"CREWLOG_ADDRESS": address, "CREWLOG_TOKEN": "wrong"}) == "\n"


def test_who_listens_and_does_not_answer_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        assert offering.runs({"address": f"127.0.0.1:{silent.getsockname()[1]}", "token": "x"}) == []
        assert time.monotonic() - begun < offering.ANSWER_SECONDS_MAX + 10


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, None),
        ({"_CREWLOG_COMPLETE": "source_bash"}, None),
        (
            {"_CREWLOG_COMPLETE": "complete_bash", "COMP_WORDS": "crewlog show d", "COMP_CWORD": "2"},
            ["crewlog", "show"],
        ),
        ({"_CREWLOG_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "crewlog run"}, ["crewlog"]),
        ({"_CREWLOG_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "crewlog run "}, ["crewlog", "run"]),
    ],
)
def test_the_words_before_the_one_that_is_completed(environment: dict[str, str], words: list[str] | None) -> None:
    assert config.completed_words(environment) == words


def test_only_the_command_that_is_named_is_built() -> None:
    def commands(*words: str) -> set[str]:
        few = main.narrowed(("crewlog", *words))
        found = {each.name or getattr(each.callback, "__name__", "") for each in few.registered_commands}
        return found | {str(each.name) for each in few.registered_groups}

    assert commands("show", "x") == {"show", "up"}
    assert commands("budget", "set") == {"budget", "up"}
    assert len(commands()) == len(commands("--help")) == len(commands("shwo")) > 20


def test_what_is_not_plain_never_reaches_the_shell() -> None:
    odd = ["$(x)", "a b", "*", "-x", "`x`", "a;b", "a'b", 'a"b', "a:b", "a\\b", "é", ""]
    assert [value for each in odd for value, _ in completing.offered([(each, "")], "")] == []
    assert completing.offered([("demo-1", EVIL)], "de") == [("demo-1", "what? touch x touch y touch z")]
