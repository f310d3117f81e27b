"""Finds the gateway and talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from crewlog.cli import about, config
from crewlog.cli.exits import ExitCode, Failed
from crewlog.cli.launcher.directory import DataDirectory
from crewlog.cli.options import Where
from crewlog.domain.errors import NotAuthenticated, Refused, Unavailable
from crewlog.runtime.channel import dial
from crewlog.runtime.status import NOBODY_THERE, RemoteFault, refusal_of
from crewlog.v1.admission_pb2_grpc import AdmissionServiceStub
from crewlog.v1.agent_pb2_grpc import AgentServiceStub
from crewlog.v1.budget_service_pb2_grpc import BudgetServiceStub, CostServiceStub, GateServiceStub
from crewlog.v1.events_pb2_grpc import EventServiceStub
from crewlog.v1.project_pb2_grpc import ProjectServiceStub
from crewlog.v1.run_service_pb2_grpc import RunServiceStub
from crewlog.v1.workspace_pb2_grpc import FileServiceStub

if TYPE_CHECKING:
    from crewlog.v1.admission_pb2_grpc import AdmissionServiceAsyncStub
    from crewlog.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from crewlog.v1.budget_service_pb2_grpc import (
        BudgetServiceAsyncStub,
        CostServiceAsyncStub,
        GateServiceAsyncStub,
    )
    from crewlog.v1.events_pb2_grpc import EventServiceAsyncStub
    from crewlog.v1.project_pb2_grpc import ProjectServiceAsyncStub
    from crewlog.v1.run_service_pb2_grpc import RunServiceAsyncStub
    from crewlog.v1.workspace_pb2_grpc import FileServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Gateway:
    """The public services of one gateway. `hint` is how a command that is suggested to a person finds it again."""

    address: str
    runs: RunServiceAsyncStub
    agents: AgentServiceAsyncStub
    projects: ProjectServiceAsyncStub
    events: EventServiceAsyncStub
    files: FileServiceAsyncStub
    budgets: BudgetServiceAsyncStub
    gates: GateServiceAsyncStub
    costs: CostServiceAsyncStub
    admission: AdmissionServiceAsyncStub
    hint: str = ""

    def command(self, words: str) -> str:
        """A command line that asks the same platform."""
        return f"{about.command()} {words}{self.hint}"


async def ask(where: Where, question: Callable[[Gateway], Awaitable[int | None]]) -> int | None:
    """Raises Refused as the gateway did, and Failed when it is broken or takes longer than the command may."""
    try:
        async with asyncio.timeout(where.timeout_seconds or None) as limit, connect(where) as gateway:
            return await question(gateway)
    except TimeoutError as error:
        if limit.expired():
            raise Failed(f"not done after {where.timeout_seconds:g} s", ExitCode.TIMED_OUT) from error
        raise
    except grpc.aio.AioRpcError as error:
        meaning = refusal_of(error)
        raise (_explained(meaning) if isinstance(meaning, Refused) else Failed(str(meaning))) from None
    except Unavailable as refusal:
        raise _explained(refusal) from None
    except RemoteFault as fault:
        raise Failed(f"{fault}\n  {fault.what_to_do}") from fault


def _explained(refusal: Refused) -> Refused:
    """gRPC describes a gateway that is not there in words for those who know its parts."""
    if not isinstance(refusal, Unavailable) or not refusal.message.startswith(NOBODY_THERE):
        return refusal
    last = refusal.message.rpartition(": ")[2]
    return Unavailable(f"the gateway does not answer: {last}", what_to_do="start it with `crewlog up`")


@asynccontextmanager
async def connect(where: Where) -> AsyncIterator[Gateway]:
    """Raises Unavailable when nobody is there to be asked, NotAuthenticated without a token."""
    address, token = where.address or _address(where.data_dir), where.token or _token(where.data_dir)
    channel = dial(address, token)
    try:
        yield of_channel(channel, address, _hint(where))
    finally:
        await channel.close()


def of_channel(channel: grpc.aio.Channel, address: str, hint: str = "") -> Gateway:
    return Gateway(
        address,
        RunServiceStub(channel),
        AgentServiceStub(channel),
        ProjectServiceStub(channel),
        EventServiceStub(channel),
        FileServiceStub(channel),
        BudgetServiceStub(channel),
        GateServiceStub(channel),
        CostServiceStub(channel),
        AdmissionServiceStub(channel),
        hint,
    )


def _address(data_dir: Path) -> str:
    directory = DataDirectory(data_dir)
    endpoints = directory.read_endpoints()
    if endpoints is None or not directory.holder():
        starting = " (it is being started)" if directory.holder() else ""
        raise Unavailable(
            f"no crewlog is running on {data_dir}{starting}",
            what_to_do="start it with `crewlog up`, or name one with --data-dir or --address",
        )
    return endpoints.gateway


def _token(data_dir: Path) -> str:
    token = DataDirectory(data_dir).read_token()
    if not token:
        raise NotAuthenticated(
            f"there is no token in {data_dir}", what_to_do="give one with --token or CREWLOG_TOKEN, or run `crewlog up`"
        )
    return token


def _hint(where: Where) -> str:
    if where.address:
        return f" --address {where.address}"
    return "" if where.data_dir == config.data_dir() else f" --data-dir {where.data_dir}"
