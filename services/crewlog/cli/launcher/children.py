"""The processes of one start, each under its supervisor: begun together, stopped in order.

Executors are stopped first, while everything that they need still runs: they hand over what they work on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from crewlog.cli.launcher import child, environment, log_server, logfiles, ports, readiness
from crewlog.cli.launcher.child import Child, Program
from crewlog.cli.launcher.directory import DataDirectory
from crewlog.cli.launcher.environment import EXECUTOR, LOG, MODEL, SCHEDULER, SERVICES, Plan, service_of
from crewlog.cli.launcher.supervisor import Say, Supervisor

STOP_ORDER = ("gateway", SCHEDULER, "git", MODEL, LOG)
STOP_SECONDS_MAX = 4.5
STOP_SECONDS_EACH_MAX = 2.2
HAND_OVER_SECONDS_MAX = 12.0
QUIET_SECONDS = 2.0
FROZEN_SECONDS = 3.0


class Children:
    """`parent_fd` is the pipe by which they see that the launcher is gone; `changed` is called when one is replaced."""

    def __init__(
        self, plan: Plan, directory: DataDirectory, parent_fd: int, say: Say, changed: Callable[[], None]
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._parent_fd = parent_fd
        self._say = say
        self._changed = changed
        self._supervisors: dict[str, Supervisor] = {}

    def supervisor_of(self, name: str) -> Supervisor:
        return self._supervisors[name]

    def pids(self) -> dict[str, int]:
        return {name: supervisor.pid for name, supervisor in self._supervisors.items()}

    async def start(self, names: Iterable[str]) -> None:
        """Returns when all of them answer; raises Unavailable for the first one that does not."""
        begun = {name: self._supervisor(name) for name in names}
        self._supervisors |= begun
        await asyncio.gather(*(supervisor.begin() for supervisor in begun.values()))
        await asyncio.gather(*(supervisor.until_ready() for supervisor in begun.values()))

    async def stop(self) -> None:
        """Executors first, then one after the other, each with its time; what is left at the end is killed."""
        await self._hand_over()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for supervisor in self._of(*STOP_ORDER):
            left = max(0.0, deadline - time.monotonic())
            if not await supervisor.stop(min(left, STOP_SECONDS_EACH_MAX)):
                self._say(f"{supervisor.name} does not stop")
        await asyncio.gather(*(supervisor.kill() for supervisor in self._supervisors.values()))

    async def _hand_over(self) -> None:
        executors = self._of(EXECUTOR)
        stopping = [asyncio.create_task(self._stop_executor(each)) for each in executors]
        if not stopping:
            return
        _, waiting = await asyncio.wait(stopping, timeout=QUIET_SECONDS)
        if waiting:
            names = [each.name for each, task in zip(executors, stopping, strict=True) if task in waiting]
            self._say(f"waiting for {', '.join(names)} to hand over, {HAND_OVER_SECONDS_MAX:.0f} s at most")
        await asyncio.gather(*stopping)

    async def _stop_executor(self, executor: Supervisor) -> None:
        """One that does not even answer how it is has nothing to hand over."""
        stopping = asyncio.create_task(executor.stop(HAND_OVER_SECONDS_MAX))
        answering = asyncio.create_task(self._ready(executor.name))
        await asyncio.wait((stopping, answering), timeout=FROZEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            await asyncio.wait((stopping,))
        if not stopping.done() or not stopping.result():
            self._say(f"{executor.name} does not stop")
            await executor.kill()
        answering.cancel()
        await asyncio.wait((stopping, answering))

    def _of(self, *services: str) -> list[Supervisor]:
        """The supervisors of these services, in this order."""
        return [each for service in services for name, each in self._supervisors.items() if service_of(name) == service]

    def _supervisor(self, name: str) -> Supervisor:
        return Supervisor(
            name,
            start=lambda: self._start_child(name),
            ready=lambda: self._ready(name),
            say=self._say,
            last_words=lambda: self._last_words(name),
            changed=self._changed,
        )

    async def _start_child(self, name: str) -> Child:
        return await child.start(self._program(name), self._directory, self._parent_fd)

    def _program(self, name: str) -> Program:
        if name == LOG:
            return log_server.program(self._plan)
        return environment.scripted_model(self._plan) if name == MODEL else environment.service(self._plan, name)

    async def _ready(self, name: str) -> None:
        """A scheduler that stands by serves nothing: it is enough that one of them leads."""
        if service_of(name) == SCHEDULER:
            await readiness.serving(self._plan.addresses(SCHEDULER))
        elif service_of(name) in SERVICES:
            await readiness.serving(self._plan.address(name))
        else:
            await readiness.true(lambda: name != LOG or log_server.is_listening(self._plan))
            await readiness.accepting(ports.LOOPBACK, self._plan.ports[name])

    def _last_words(self, name: str) -> str:
        path = self._directory.log_path(name)
        words = logfiles.last_words(path)
        return f"{words} (see {path})" if words else f"see {path}"
