"""The platform in one data directory: starts everything in order, keeps it running, stops it in order.

    async with Platform(data_dir, scripted_model=script) as platform:
        platform.gateway_address, platform.token, platform.pid_of("executor")

The log comes first. The services start side by side, and the platform is ready when each of them says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from crewlog.cli import config
from crewlog.cli.config import ModelAccess
from crewlog.cli.launcher import log_server, logfiles, orphans, ports
from crewlog.cli.launcher.children import Children
from crewlog.cli.launcher.credentials import new_credentials
from crewlog.cli.launcher.directory import DataDirectory, DirectoryLock, Endpoints
from crewlog.cli.launcher.environment import LOG, MODEL, SERVICES, Fleet, Plan
from crewlog.cli.launcher.supervisor import Say
from crewlog.domain.errors import Unavailable
from crewlog.models.prices import PriceList

PORT_CHOICES_MAX = 3
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
        executors: int = 1,
        schedulers: int = 1,
        executor_labels: Sequence[str] = (),
        isolation: str = "",
        prices: Path | None = None,
        say: Say = lambda line: None,
    ) -> None:
        self.directory = DataDirectory(data_dir.absolute())
        self._script = scripted_model.absolute() if scripted_model else None
        self._model = model or ModelAccess()
        self._sandbox = sandbox
        self._executor_slots = executor_slots
        self._fleet = Fleet(executors, schedulers, tuple(executor_labels), isolation)
        self._prices = prices.absolute() if prices else None
        self._say = say
        self._lock: DirectoryLock | None = None
        self._pipe: tuple[int, int] | None = None
        self._plan: Plan | None = None
        self._children: Children | None = None
        self._housekeeping: asyncio.Task[None] | None = None

    @property
    def plan(self) -> Plan:
        """Ports, addresses and secrets; they stay known after the end."""
        assert self._plan is not None, "the platform was not started"
        return self._plan

    @property
    def gateway_address(self) -> str:
        return self.plan.address("gateway")

    @property
    def token(self) -> str:
        return self.plan.credentials.client_token

    def pid_of(self, name: str) -> int:
        """The process of a service (`executor`, `executor-2`), of `nats-server` or of `model` now; 0 while it is being
        started again."""
        return self._running.supervisor_of(name).pid

    def restarts_of(self, name: str) -> int:
        """How often it was started again."""
        return self._running.supervisor_of(name).restarts

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when everything answers. Whatever it has started is stopped again when it raises; nothing is, where
        the price file is not valid."""
        PriceList.load(self._prices)
        self._lock = self.directory.lock()
        self._pipe = os.pipe()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops everything in order: within five seconds, after executors have handed over what they work on. Doing it
        twice is doing it once."""
        if self._lock is None:
            return
        self.directory.remove_endpoints()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        if self._children is not None:
            await self._children.stop()
        for fd in self._pipe or ():
            os.close(fd)
        self._pipe = None
        self._lock.release()
        self._lock = None

    @property
    def _running(self) -> Children:
        assert self._children is not None, "the platform was not started"
        return self._children

    async def _start(self) -> None:
        assert self._pipe is not None
        for name, pid in (await orphans.end_orphans(self.directory.path / "run")).items():
            self._say(f"ended {name} (process {pid}), left over from an earlier start")
        choices_left = PORT_CHOICES_MAX - 1
        while not await self._start_children(self._pipe[0], may_fail=choices_left > 0):
            choices_left -= 1
        self._write_endpoints()
        self._housekeeping = asyncio.create_task(self._keep_house())

    async def _start_children(self, parent_fd: int, *, may_fail: bool) -> bool:
        """False when somebody else took one of the ports after they were chosen, and it may be tried with others."""
        self._plan = self._new_plan()
        self._children = Children(self.plan, self.directory, parent_fd, self._say, self._write_endpoints)
        try:
            await self._children.start([LOG])
            await log_server.prepare(self.plan)
            await self._children.start([*self._fleet.processes, *([MODEL] if self._script else [])])
        except Unavailable:
            await self._children.stop()
            taken = ports.taken(self.plan.ports)
            if not (taken and may_fail):
                raise
            self._say(f"another process took {_named(taken)} in between: starting again with other ports")
            return False
        return True

    def _new_plan(self) -> Plan:
        chosen = ports.choose((LOG, *self._fleet.processes, MODEL), self.directory.read_ports())
        self.directory.write_ports(chosen)
        return Plan(
            data_dir=self.directory.path,
            ports=chosen,
            log_url=f"nats://{ports.LOOPBACK}:{chosen[LOG]}",
            credentials=new_credentials(self.directory.token(), SERVICES, log_server.USERS),
            model=self._model,
            script=self._script,
            sandbox=self._sandbox,
            executor_slots=str(self._executor_slots or ""),
            fleet=self._fleet,
            prices=self._prices,
            inherited=config.inherited(),
            inherited_for_outgoing_calls=config.inherited_for_outgoing_calls(),
        )

    def _write_endpoints(self) -> None:
        self.directory.write_endpoints(Endpoints(self.gateway_address, os.getpid(), self._running.pids()))

    async def _keep_house(self) -> None:
        while True:
            await asyncio.to_thread(logfiles.cut, self.directory.path / "logs")
            await asyncio.sleep(CUT_LOGS_SECONDS)


def _named(taken: Mapping[str, int]) -> str:
    return ", ".join(f"port {port} of {name}" for name, port in taken.items())
