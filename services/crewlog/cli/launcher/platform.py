"""The platform in one data directory: starts everything in order, keeps it running, stops it in order.

    async with Platform(data_dir, scripted_model=script) as platform:
        platform.gateway_address, platform.token, platform.pid_of("executor")

The log comes first. The services start side by side, and the platform is ready when each of them says so.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from crewlog.cli import config
from crewlog.cli.config import ModelAccess
from crewlog.cli.launcher import child, environment, log_server, logfiles, orphans, ports, readiness
from crewlog.cli.launcher.child import Child, Program
from crewlog.cli.launcher.credentials import Credentials, new_credentials
from crewlog.cli.launcher.directory import DataDirectory, DirectoryLock, Endpoints
from crewlog.cli.launcher.environment import LOG, MODEL, SERVICES, Plan
from crewlog.cli.launcher.supervisor import Say, Supervisor

STOP_ORDER = ("gateway", "scheduler", "executor", "git", MODEL, LOG)
STOP_SECONDS_MAX = 4.5
STOP_SECONDS_EACH_MAX = 2.2
CUT_LOGS_SECONDS = 30.0


class Platform:
    """`say` is told what a person at the terminal should know. Raises Refused when it cannot start."""

    def __init__(
        self,
        data_dir: Path,
        *,
        scripted_model: Path | None = None,
        model: ModelAccess | None = None,
        sandbox: str = "auto",
        executor_slots: int = 0,
        say: Say = lambda line: None,
    ) -> None:
        self.directory = DataDirectory(data_dir.absolute())
        self._script = scripted_model.absolute() if scripted_model else None
        self._model = model or ModelAccess()
        self._sandbox = sandbox
        self._executor_slots = executor_slots
        self._say = say
        self._supervisors: dict[str, Supervisor] = {}
        self._lock: DirectoryLock | None = None
        self._pipe: tuple[int, int] | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        assert self._plan is not None, "the platform was not started"
        return self._plan

    @property
    def gateway_address(self) -> str:
        return self.plan.address("gateway")

    @property
    def token(self) -> str:
        return self.plan.credentials.client_token

    def pid_of(self, name: str) -> int:
        """The process of a service, of `nats-server` or of `model` now; 0 while it is being started again."""
        return self._supervisors[name].pid

    def restarts_of(self, name: str) -> int:
        """How often it was started again."""
        return self._supervisors[name].restarts

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when everything answers. Whatever it has started is stopped again when it raises."""
        self._lock = self.directory.lock()
        self._pipe = os.pipe()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops everything in order, at the latest after STOP_SECONDS_MAX. Doing it twice is doing it once."""
        self.directory.remove_endpoints()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        await self._stop_children()
        for fd in self._pipe or ():
            os.close(fd)
        self._pipe = None
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    async def _start(self) -> None:
        for name, pid in (await orphans.end_orphans(self.directory.path / "run")).items():
            self._say(f"ended {name} (process {pid}), left over from an earlier start")
        chosen = ports.choose((LOG, *SERVICES, MODEL), self.directory.read_ports())
        self.directory.write_ports(chosen)
        self._plan = self._new_plan(chosen)
        await self._begin([log_server.program(self.plan)])
        await self._supervisors[LOG].until_ready()
        await log_server.prepare(self.plan)
        others = [environment.service(self.plan, name) for name in SERVICES]
        await self._begin([*others, *self._scripted_model()])
        await asyncio.gather(*(self._supervisors[name].until_ready() for name in self._supervisors if name != LOG))
        self._write_endpoints()
        self._housekeeping = asyncio.create_task(self._keep_house())

    def _new_plan(self, chosen: dict[str, int]) -> Plan:
        return Plan(
            data_dir=self.directory.path,
            ports=chosen,
            log_url=f"nats://{ports.LOOPBACK}:{chosen[LOG]}",
            credentials=self._credentials(),
            model=self._model,
            script=self._script,
            sandbox=self._sandbox,
            executor_slots=str(self._executor_slots or ""),
            inherited=config.inherited(),
            inherited_for_outgoing_calls=config.inherited_for_outgoing_calls(),
        )

    def _credentials(self) -> Credentials:
        return new_credentials(self.directory.token(), SERVICES, log_server.USERS)

    def _scripted_model(self) -> list[Program]:
        return [environment.scripted_model(self.plan)] if self._script else []

    async def _begin(self, programs: list[Program]) -> None:
        for program in programs:
            self._supervisors[program.name] = self._supervisor(program.name)
        await asyncio.gather(*(self._supervisors[program.name].begin() for program in programs))

    def _supervisor(self, name: str) -> Supervisor:
        return Supervisor(
            name,
            start=lambda: self._start_child(name),
            ready=lambda: self._ready(name),
            say=self._say,
            last_words=lambda: self._last_words(name),
            changed=self._write_endpoints,
        )

    async def _start_child(self, name: str) -> Child:
        assert self._pipe is not None
        return await child.start(self._program(name), self.directory, self._pipe[0])

    def _program(self, name: str) -> Program:
        if name == LOG:
            return log_server.program(self.plan)
        return environment.scripted_model(self.plan) if name == MODEL else environment.service(self.plan, name)

    async def _ready(self, name: str) -> None:
        if name in SERVICES:
            await readiness.serving(self.plan.address(name))
        else:
            await readiness.accepting(ports.LOOPBACK, self.plan.ports[name])

    def _last_words(self, name: str) -> str:
        path = self.directory.log_path(name)
        words = logfiles.last_words(path)
        return f"{words} (see {path})" if words else f"see {path}"

    def _write_endpoints(self) -> None:
        pids = {name: self.pid_of(name) for name in self._supervisors}
        self.directory.write_endpoints(Endpoints(self.gateway_address, os.getpid(), pids))

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(CUT_LOGS_SECONDS)
            await asyncio.to_thread(logfiles.cut, self.directory.path / "logs")

    async def _stop_children(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS_MAX
        running = [self._supervisors[name] for name in STOP_ORDER if name in self._supervisors]
        for supervisor in running:
            left = max(0.0, deadline - time.monotonic())
            if not await supervisor.stop(min(left, STOP_SECONDS_EACH_MAX)):
                self._say(f"{supervisor.name} does not stop")
        with suppress(ProcessLookupError):
            await asyncio.gather(*(supervisor.kill() for supervisor in running))
        self._supervisors = {}
