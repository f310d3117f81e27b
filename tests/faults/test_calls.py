"""Calls between processes whose answer does not come: whoever asks again gets the same, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from crewlog.domain.errors import Unavailable
from crewlog.domain.run import state as run_state
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.port import AggregateId
from crewlog.runtime import auth, limits
from crewlog.runtime.channel import dial
from crewlog.v1 import scheduler_pb2
from crewlog.v1.budget_pb2 import Amounts, Limit, LowerBudget, RaiseBudget, SetBudget
from crewlog.v1.budget_service_pb2_grpc import BudgetServiceStub
from crewlog.v1.node_pb2 import WaitNode
from crewlog.v1.run_pb2 import (
    AgentNode,
    CancelRun,
    CancelTask,
    Node,
    PauseRun,
    ResumeRun,
    RetryRun,
    Role,
    SendMessage,
    SignalRun,
    StartRun,
    Workflow,
)
from crewlog.v1.scheduler_pb2 import ExecutorReport, SchedulerOrder
from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceStub
from google.protobuf.message import Message
from grpc import StatusCode
from grpc.aio import AioRpcError, Channel

from tests.contract.wire import Wire
from tests.service.test_scheduling import WAIT_SECONDS, World, free_address

NODES = [
    Node(node_id="a", agent=AgentNode(role=Role(name="r", prompt="p"))),
    Node(node_id="w", wait=WaitNode(signal="deployed")),
]
WORKFLOW = Workflow(name="w", nodes=NODES)
START = StartRun(run_id="r", workflow=WORKFLOW)
CANCEL = CancelRun(run_id="r", reason="enough")
MESSAGE = SendMessage(run_id="r", task_id="a-1", message_id="m", text="hurry")
BUDGET = SetBudget(budget_id="team", limit=Limit(usd_micros=100))
ONE = Amounts(usd_micros=1)
_BUDGET = (SetBudget, RaiseBudget, LowerBudget)
METHODS = {
    StartRun: "Start",
    CancelRun: "Cancel",
    CancelTask: "CancelTask",
    PauseRun: "Pause",
    ResumeRun: "Resume",
    RetryRun: "Retry",
    SendMessage: "Send",
    SignalRun: "Signal",
    SetBudget: "Set",
    RaiseBudget: "Raise",
    LowerBudget: "Lower",
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, MemoryLog(), free_address(), auth.new_keypair(), auth.new_keypair())


@asynccontextmanager
async def wired(world: World) -> AsyncIterator[Wire]:
    """A scheduler, and a wire to it that can be cut."""
    async with world.scheduler():
        wire = Wire(f"tcp://{world.scheduler_address}")
        await wire.open()
        try:
            async with dial(world.scheduler_address, world.token) as channel:
                await asyncio.wait_for(channel.channel_ready(), WAIT_SECONDS)
            yield wire
        finally:
            await wire.close()


async def call(address: str, token: str, command: Message, seconds: float) -> Any:
    async with dial(address, token) as channel:
        return await send(channel, command, seconds)


async def send(channel: Channel, command: Message, seconds: float) -> Any:
    service = BudgetServiceStub if isinstance(command, _BUDGET) else SchedulerServiceStub
    return await getattr(service(channel), METHODS[type(command)])(command, timeout=seconds)


def aggregate_of(command: Any) -> AggregateId:
    if isinstance(command, _BUDGET):
        return AggregateId("local", "budget", command.budget_id)
    return AggregateId("local", "run", command.run_id)


@pytest.mark.parametrize(
    ("before", "command"),
    [
        ([], START),
        ([START], PauseRun(run_id="r")),
        ([START, PauseRun(run_id="r")], ResumeRun(run_id="r")),
        ([START], MESSAGE),
        ([START], SignalRun(run_id="r", name="deployed", request_id="once")),
        ([START], CancelTask(run_id="r", task_id="a-1")),
        ([START], CANCEL),
        ([START, CANCEL], RetryRun(run_id="r", request_id="again")),
        ([], BUDGET),
        ([BUDGET], RaiseBudget(budget_id="team", by=ONE, request_id="more")),
        ([BUDGET], LowerBudget(budget_id="team", by=ONE, request_id="less")),
    ],
    ids=lambda value: value.DESCRIPTOR.name if isinstance(value, Message) else "",
)
async def test_fault_46_an_answer_that_was_lost_is_got_by_asking_again(
    world: World, before: Sequence[Message], command: Message
) -> None:
    async with wired(world) as wire:
        for earlier in before:
            await call(world.scheduler_address, world.token, earlier, WAIT_SECONDS)
            if earlier is CANCEL:
                await world.until("r", run_state.is_over)
        known = len(await world.log.read(aggregate_of(command)))
        async with dial(wire.address, world.token) as channel:
            await asyncio.wait_for(channel.channel_ready(), WAIT_SECONDS)
            wire.loses_answers = True
            asking = asyncio.create_task(send(channel, command, WAIT_SECONDS))
            async with asyncio.timeout(WAIT_SECONDS):
                while len(await world.log.read(aggregate_of(command))) == known:
                    await asyncio.sleep(0.01)
            wire.cut()
            with pytest.raises(Unavailable):
                await asking
        carried_out = [stored.payload for stored in await world.log.read(aggregate_of(command))]
        receipts = [await call(world.scheduler_address, world.token, command, WAIT_SECONDS) for _ in range(2)]
        assert receipts[0] == receipts[1]
        assert [stored.payload for stored in await world.log.read(aggregate_of(command))] == carried_out


def test_every_command_of_the_scheduler_is_among_them() -> None:
    """But for those that have their number, their call or their stream, or append nothing by themselves."""
    served = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].methods
    by_themselves = {"Grow", "Spawn", "Synchronize", "Recover", "Explain"}
    assert {method.name for method in served} - by_themselves <= set(METHODS.values())


@pytest.mark.slow
async def test_fault_45_a_stream_to_nobody_ends(world: World) -> None:
    """The other side has vanished without a word: nothing is refused, nothing is answered."""
    async with wired(world) as wire, dial(wire.address, world.token) as channel:
        reports: asyncio.Queue[ExecutorReport] = asyncio.Queue()

        async def said() -> AsyncIterator[ExecutorReport]:
            while True:
                yield await reports.get()

        stream = SchedulerServiceStub(channel).Synchronize(said())
        await reports.put(ExecutorReport(executor_id="e", slots=1))
        await call(world.scheduler_address, world.token, START, WAIT_SECONDS)
        first = await stream.read()
        assert isinstance(first, SchedulerOrder) and first.grants
        wire.holds, wire.loses_answers = b"", True
        with pytest.raises(AioRpcError) as ended:
            async with asyncio.timeout(limits.KEEPALIVE_SECONDS + limits.KEEPALIVE_TIMEOUT_SECONDS + 5):
                await stream.read()
        assert ended.value.code() is StatusCode.UNAVAILABLE
        with suppress(asyncio.CancelledError):
            stream.cancel()
