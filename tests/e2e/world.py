"""A platform with the demo project, for tests from end to end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from crewlog.cli.gateway import Gateway, of_channel
from crewlog.cli.launcher.platform import Platform
from crewlog.crews import load_workflow
from crewlog.domain.errors import Unavailable
from crewlog.runtime.channel import dial
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.run_pb2 import GetRun, RunView, StartRun
from crewlog.v1.run_service_pb2 import WatchRun
from grpc import StatusCode
from grpc.aio import AioRpcError

from tests.e2e.afterwards import LEDGER

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo"
TASK = (DEMO / "task.txt").read_text()
CREW = load_workflow(str(DEMO / "crew.yaml"))
WAIT_SECONDS = 60.0
LOOK_AGAIN_SECONDS = 0.05

T = TypeVar("T")


def git(path: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@localhost")
    return subprocess.run(
        ("git", "-C", str(path), *identity, *arguments), check=True, capture_output=True, text=True
    ).stdout


@dataclass
class World:
    platform: Platform
    gateway: Gateway
    project_id: str
    directory: Path

    async def start(self, run_id: str, **fields: object) -> None:
        """With the workflow of the demo, unless it is given or named."""
        plan = {} if fields.get("workflow_name") or "workflow" in fields else {"workflow": CREW}
        asked: dict[str, object] = {"input": TASK, **plan, **fields}
        await self.gateway.runs.Start(StartRun(run_id=run_id, project_id=self.project_id, **asked))  # type: ignore[arg-type]

    async def watch(self, run_id: str, until: Callable[[str], bool], after: int = 0) -> list[RecordedEntry]:
        """The entries up to the first one with an event of which `until` says so."""
        found: list[RecordedEntry] = []
        async with asyncio.timeout(WAIT_SECONDS):
            async for message in self.gateway.runs.Watch(WatchRun(run_id=run_id, from_revision=after)):
                if message.HasField("entry"):
                    found.append(message.entry)
                    if any(until(name) for name in types_of(message.entry)):
                        return found
        raise AssertionError("the stream ended before it")

    async def finished(self, run_id: str) -> RunView:
        entries = await self.watch(run_id, lambda name: name in ("run_succeeded", "run_failed", "run_cancelled"))
        return await self.gateway.runs.Get(GetRun(run_id=run_id, at_least_revision=entries[-1].revision))

    def ledger(self) -> list[dict[str, object]]:
        """Every request that the model server has answered."""
        with urllib.request.urlopen(f"http://{self.platform.plan.address('model')}/ledger") as answer:
            return [json.loads(line) for line in answer.read().splitlines()]

    def leave_ledger(self) -> None:
        """Says how often the model was asked, where the model server still lives; several platforms add up."""
        with suppress(OSError):
            path = self.directory / LEDGER
            before = int(path.read_text()) if path.exists() else 0
            path.write_text(str(before + len(self.ledger())))

    def pid_of(self, name: str) -> int:
        """To send signals to: 0, which is no process yet, would be everything that was started with these tests."""
        pid = self.platform.pid_of(name)
        assert pid, f"{name} is between two lives"
        return pid

    def kill(self, *names: str) -> None:
        for pid in [self.pid_of(name) for name in names]:
            os.kill(pid, signal.SIGKILL)


async def in_spite(call: Callable[[], Awaitable[T]]) -> T:
    """The answer, also when who has to give it is away for a while."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await call()
            except (Unavailable, AioRpcError) as error:
                assert isinstance(error, Unavailable) or error.code() is StatusCode.UNAVAILABLE
                await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def finished_in_spite(world: World, run_id: str) -> RunView:
    """The end of the run, also when the gateway is away for a while."""
    return await in_spite(lambda: world.finished(run_id))


def demo_script(tmp_path: Path) -> Path:
    """The script of the demo, with a model that thinks faster."""
    path = tmp_path / "demo.yaml"
    path.write_text(re.sub(r"delay_millis: \d+", "delay_millis: 20", (DEMO / "script.yaml").read_text()))
    return path


@asynccontextmanager
async def platform_on(
    tmp_path: Path, repository: Path, script: Path | None = None, **options: Any
) -> AsyncIterator[World]:
    async with (
        Platform(tmp_path / "data", scripted_model=script or demo_script(tmp_path), **options) as platform,
        dial(platform.gateway_address, platform.token) as channel,
    ):
        gateway = of_channel(channel, platform.gateway_address)
        project = await gateway.projects.Register(RegisterProject(path=str(repository)))
        world = World(platform, gateway, project.project_id, tmp_path)
        yield world
        world.leave_ledger()


def types_of(recorded: RecordedEntry) -> list[str]:
    return [str(event.WhichOneof("fact")) for decision in recorded.entry.decisions for event in decision.events]
