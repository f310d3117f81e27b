"""A provider and commands at their worst, on a real platform: the run gets there, and what it did it did once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from crewlog.cli.verifying import verify
from crewlog.v1.run_pb2 import GetRun, ResumeRun, RunStatus

from tests.e2e.world import git, platform_on, types_of

GROWN_MIB_MAX = 100

STORM = """
name: storm
scripts:
  - system: "Role: engineer"
    steps:
      - say: I begin with several things at once, and some of them are wrong.
        tools:
          - {tool: bash, input: {command: "echo once >> effects.txt"}}
          - {tool: read, malformed_input: '{"path": "eff'}
          - {tool: reed, input: {path: effects.txt}, id: same}
          - {tool: read, input: {path: effects.txt}, id: same}
        faults:
          - {error: {status: 529, retry_after: {millis: 20}}}
          - {disconnect_after: 9}
          - {error: {status: 500, after: 12}}
      - cases:
          - expect: "(?s)The input of read is wrong.*reed is no tool.*once"
            tools:
              - {tool: bash, input: {command: "head -c 100M /dev/zero | tr '\\\\0' x"}}
              - {tool: bash, input: {command: "trap '' TERM HUP; while :; do sleep 0.1; done", timeout_seconds: 1}}
      - cases:
          - expect: "(?s)killed: more than 64 MiB of output.*timed out after 1 s"
            say: I was told why.
"""
BUSY = """
name: busy
scripts:
  - system: "Role: engineer"
    steps:
      - {say: Done, faults: [{error: {status: 529, message: busy, headers: {x-should-retry: "false"}}}]}
"""


def resident_mib(pid: int) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


async def test_a_storm_changes_nothing_but_the_time(tmp_path: Path, repository: Path) -> None:
    script = tmp_path / "storm.yaml"
    script.write_text(STORM)
    async with platform_on(tmp_path, repository, script) as world:
        executor = world.platform.pid_of("executor")
        before = resident_mib(executor)
        await world.start("storm", workflow_name="agent")
        entries = await world.watch("storm", lambda name: name in ("run_succeeded", "run_failed", "run_paused"))
        run = await world.gateway.runs.Get(GetRun(run_id="storm", at_least_revision=entries[-1].revision))
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED, (run.failure, run.paused)
        assert run.tasks[0].result.summary == "I was told why."
        assert git(repository, "show", "crewlog/storm:effects.txt") == "once\n"
        happened = Counter(name for entry in entries for name in types_of(entry))
        assert (happened["model_call_failed"], happened["model_call_succeeded"]) == (3, 3)
        assert [entry["fault"] for entry in world.ledger()] == ["error", "disconnect", "error", "", "", ""]
        assert world.platform.pid_of("executor") == executor
        assert resident_mib(executor) - before < GROWN_MIB_MAX
        await verify(world.gateway, "storm")


async def test_a_provider_that_is_not_to_be_asked_again_pauses_the_run(tmp_path: Path, repository: Path) -> None:
    script = tmp_path / "busy.yaml"
    script.write_text(BUSY)
    async with platform_on(tmp_path, repository, script) as world:
        await world.start("busy", workflow_name="agent")
        entries = await world.watch("busy", lambda name: name == "run_paused")
        run = await world.gateway.runs.Get(GetRun(run_id="busy", at_least_revision=entries[-1].revision))
        assert run.status == RunStatus.RUN_STATUS_PAUSED
        assert run.paused.failure.reason == "model_overloaded"
        assert "`crewlog resume RUN`" in run.paused.failure.what_to_do
        assert len(world.ledger()) == 1
        await world.gateway.runs.Resume(ResumeRun(run_id="busy"))
        assert (await world.finished("busy")).status == RunStatus.RUN_STATUS_SUCCEEDED
