"""The command beside a gateway that remembers what it was asked, over real gRPC."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from crewlog.cli.main import main
from crewlog.runtime.auth import Access, Verifier
from crewlog.runtime.serve import Registration, start_server
from crewlog.v1.admission_pb2_grpc import add_AdmissionServiceServicer_to_server
from crewlog.v1.agent_pb2_grpc import add_AgentServiceServicer_to_server
from crewlog.v1.budget_service_pb2_grpc import (
    add_BudgetServiceServicer_to_server,
    add_CostServiceServicer_to_server,
    add_GateServiceServicer_to_server,
)
from crewlog.v1.events_pb2_grpc import add_EventServiceServicer_to_server
from crewlog.v1.project_pb2_grpc import add_ProjectServiceServicer_to_server
from crewlog.v1.run_service_pb2_grpc import add_RunServiceServicer_to_server
from grpc.aio import Server

from tests.service.cli.remembering import Crewlog, Done, Remembering

SECONDS_MAX = 30.0
_SERVICES: dict[str, Callable[[Any, Server], None]] = {
    "crewlog.v1.AdmissionService": add_AdmissionServiceServicer_to_server,
    "crewlog.v1.AgentService": add_AgentServiceServicer_to_server,
    "crewlog.v1.RunService": add_RunServiceServicer_to_server,
    "crewlog.v1.GateService": add_GateServiceServicer_to_server,
    "crewlog.v1.EventService": add_EventServiceServicer_to_server,
    "crewlog.v1.BudgetService": add_BudgetServiceServicer_to_server,
    "crewlog.v1.ProjectService": add_ProjectServiceServicer_to_server,
    "crewlog.v1.CostService": add_CostServiceServicer_to_server,
}


@pytest.fixture
def remembering() -> Remembering:
    return Remembering()


@pytest.fixture
async def address(remembering: Remembering) -> AsyncIterator[str]:
    services = [Registration(name, add, remembering, Access.CLIENT) for name, add in _SERVICES.items()]
    server = await start_server(services, address="127.0.0.1:0", verifier=Verifier("secret"))
    yield server.address
    await server.stop()


@pytest.fixture
def crewlog(address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Crewlog:
    """Runs the command as its entry point does, in this process."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["crewlog", *arguments, "--address", address, "--token", "secret"])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return end.value.code

    async def beside_the_gateway(*arguments: str) -> Done:
        code = await asyncio.to_thread(run, *arguments)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return beside_the_gateway


@pytest.fixture
def watch(address: str) -> Crewlog:
    """Runs `crewlog watch demo` as a process: it listens for signals."""

    async def run(*more: str) -> Done:
        words = ("-m", "crewlog.cli", "watch", "demo", "--address", address, "--token", "secret", *more)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=pipe, stderr=pipe)
        out, err = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    return run
