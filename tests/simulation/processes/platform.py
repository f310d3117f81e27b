"""The platform in one event loop: real schedulers and executors, over a simulated network, log, git, model and tools.

What a process is made of is what its service's `work` makes: only what leads out of it is replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from crewlog.domain.decider import fold
from crewlog.domain.errors import Refused
from crewlog.domain.run import decider as run_rules
from crewlog.domain.run.state import Run
from crewlog.eventlog import codec
from crewlog.eventlog.memory import MemoryBlobs, MemoryLive
from crewlog.eventlog.memory_leases import MemoryLeases
from crewlog.executor import app as executor_app
from crewlog.executor import config as executor_config
from crewlog.executor.models import Models
from crewlog.models import provider as real_provider
from crewlog.runtime import auth, channel, serve
from crewlog.scheduler import app as scheduler_app
from crewlog.scheduler import config as scheduler_config
from crewlog.scheduler.lease import Candidate, IsLeading, StillWorking
from crewlog.tools import registry, sandbox
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub, add_WorkspaceServiceServicer_to_server

from tests.simulation.processes import determinism
from tests.simulation.processes.channel import Channel
from tests.simulation.processes.effects import Effects, Sandbox
from tests.simulation.processes.git import Git
from tests.simulation.processes.leases import LeaseClient
from tests.simulation.processes.log import Disk, LogClient, LogFaults
from tests.simulation.processes.loop import CURRENT, Process, VirtualLoop
from tests.simulation.processes.model import Provider
from tests.simulation.processes.network import Listener, Network, current, pass_time

SCHEDULER, GIT, GATEWAY = "scheduler-1", "git", "gateway"
CLAIM_KEYS = auth.new_keypair()


@dataclass(slots=True)
class Platform:
    """Everything that outlives a process."""

    seed: int
    directory: Path
    loop: VirtualLoop
    disk: Disk
    chance: Random = field(init=False)
    paths: Counter[str] = field(default_factory=Counter)
    network: Network = field(init=False)
    log_faults: LogFaults = field(default_factory=LogFaults)
    git: Git = field(init=False)
    provider: Provider = field(init=False)
    effects: Effects = field(init=False)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    live: dict[str, Process] = field(default_factory=dict)
    gone: list[Process] = field(default_factory=list)
    clients: Process = field(init=False)
    leases: MemoryLeases = field(init=False)
    schedulers: str = SCHEDULER
    mistakes: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    slots: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = Random(self.seed)
        self.network = Network(self.loop, self.chance, self.paths)
        self.git = Git(self.paths)
        self.provider = Provider(self.disk, Random(self.seed + 1), self.seed, self.paths)
        self.effects = Effects(self.disk, self.git, self.paths)
        self.leases = MemoryLeases(self.loop.time)
        self.clients = Process(GATEWAY, self.loop)
        self._replace()

    def boot(self, name: str) -> Process:
        """A new process of this name; the one before it is dead."""
        process = Process(name, self.loop)
        process.clock_micros = self.live[name].clock_micros if name in self.live else 0
        self.live[name] = process
        self.tell(f"{name} starts")
        process.start(self._main(process))
        return process

    def tell(self, what: str) -> None:
        self.trace.append(f"{self.loop.time():9.3f}  {what}")

    def run(self, run_id: str) -> Run:
        """The run as the log has it."""
        run: Run = fold(run_rules, (fact for entry in self.disk.history("run", run_id) for fact in codec.facts(entry)))
        return run

    async def _main(self, process: Process) -> None:
        """What `python -m` does: a process that ends by itself is started again by whoever started it."""
        try:
            await self._work(process)
        except Refused as refusal:
            self.paths[f"{process.name.partition('-')[0]} gave up"] += 1
            self.tell(f"{process.name} gave up: {refusal}")
        except StillWorking:
            self.paths["scheduler ended as it was still working"] += 1
        except BaseException as bug:
            self.mistakes.append(f"{process.name} failed: {bug!r}")
            raise
        finally:
            process.kill()

    def _work(self, process: Process) -> Coroutine[Any, Any, None]:
        log = LogClient(self.network, self.disk, process, self.log_faults)
        if process.name.startswith("scheduler"):
            return self._lead(process, log)
        if process.name.startswith("executor"):
            config = self._executor_config(process.name)
            return executor_app.work(config, log, MemoryLive(), self.blobs, process.stop_asked)
        return self._serve_git(process)

    async def _lead(self, process: Process, log: LogClient) -> None:
        """As the `serve` of the scheduler."""
        channel: Any = Channel(self.network, GIT)
        git: Any = WorkspaceServiceStub(channel)
        config = self._scheduler_config(process.name)

        async def work(is_leading: IsLeading, over: asyncio.Event) -> None:
            self.paths["scheduler leads"] += 1
            await scheduler_app.work(config, log, git, over, is_leading)

        leases = LeaseClient(self.network, self.leases, process)
        await Candidate(leases, process.name, clock=self.loop.time).run(work, process.stop_asked)

    async def _serve_git(self, process: Process) -> None:
        listener = Listener(process)
        add_WorkspaceServiceServicer_to_server(self.git, listener)  # type: ignore[arg-type]
        self.network.listen(GIT, listener)
        await process.stop_asked.wait()

    def _scheduler_config(self, name: str) -> scheduler_config.Config:
        return scheduler_config.Config(
            data_directory=self.directory / name,
            nats_url="",
            nats_user="",
            nats_password="",
            address=name,
            git_address=GIT,
            service_token="",
            service_verify_key="",
            claim_signing_key=CLAIM_KEYS.signing_key,
            name=name,
        )

    def _executor_config(self, name: str) -> executor_config.Config:
        return executor_config.Config(
            data_directory=self.directory,
            nats_url="",
            nats_user="",
            nats_password="",
            address=name,
            scheduler_address=self.schedulers,
            git_address=GIT,
            gateway_address=GATEWAY,
            service_token="",
            service_verify_key="",
            name=name,
            slots=self.slots.get(name, 4),
            sandbox="none",
            search_path="",
        )

    def _replace(self) -> None:
        determinism.replace_surroundings(Random(self.seed + 2))
        determinism.replace_everywhere(channel.dial, lambda address, token: Channel(self.network, address))
        determinism.replace_everywhere(serve.start_server, self._listen)
        determinism.replace_everywhere(Models, lambda credentials: self.provider)
        determinism.replace_everywhere(registry.TOOLS, self.effects.tools())
        determinism.replace_everywhere(sandbox.choose, self._choose_sandbox)
        determinism.replace_everywhere(real_provider.warm_up, _nothing_to_warm_up)
        logger = logging.getLogger("crewlog")
        logger.setLevel(logging.INFO)
        logger.addHandler(_Listening(self))

    async def _choose_sandbox(self, *_: Any, **__: Any) -> Sandbox:
        return Sandbox(self.effects)

    async def _listen(self, registrations: Any, *, address: str, **_: Any) -> Listener:
        """As start_server."""
        listener = Listener(current())
        for registration in registrations:
            registration.add(registration.servicer, listener)
        self.network.listen(address, listener)
        await pass_time(0)
        return listener


class _Listening(logging.Handler):
    """An error in the log of a service is a bug, unless somebody has refused."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(logging.INFO)
        self._platform = platform

    def emit(self, record: logging.LogRecord) -> None:
        process = CURRENT.get(None)
        said = f"{process.name if process else ''}: {record.getMessage()}"
        self._platform.tell(said)
        self._platform.paths["shut out by a later claim"] += "was taken over" in said
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else None
            self._platform.mistakes.append(f"{said}: {error!r}{_where(error)}")


def _where(error: BaseException | None) -> str:
    """The innermost places, for whoever reads the failure."""
    places: list[str] = []
    trace = error.__traceback__ if error else None
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f" at {' > '.join(places[-5:])}" if places else ""


async def _nothing_to_warm_up() -> None:
    return


def left_behind(loop: VirtualLoop) -> list[str]:
    """Errors of tasks that nobody has looked at, in processes that could have."""
    found = [*loop.failures]
    for process, task in loop.tasks:
        is_over = process is not None and process.is_alive and task.done() and not task.cancelled()
        if is_over and getattr(task, "_log_traceback", False):
            error = task.exception()
            found.append(f"nobody has looked at {error!r}{_where(error)}")
    return found
