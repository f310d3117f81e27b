"""An agent in a process of its own that does not listen: nobody else notices, and it is gone when it has to be."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import pytest
from crewlog.executor import agent_process
from crewlog.executor.agent_process import AgentProcess
from crewlog.v1.body_pb2 import Body
from crewlog.v1.scheduler_pb2 import Grant, TaskMessage

MORE_THAN_A_PIPE_HOLDS = 64


def _never_reads(pipe: Connection) -> None:
    os.setpgrp()
    pipe.send((1, 0.0, 0))
    signal.pause()


class Begun:
    """Begins a process that says that it is there, and then nothing."""

    def __init__(self) -> None:
        self.processes: list[ForkServerProcess] = []

    def __call__(self, grant: Grant) -> tuple[ForkServerProcess, Connection]:
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        process = context.Process(target=_never_reads, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self.processes.append(process)
        return process, ours


async def test_a_process_that_does_not_read_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_process, "END_SECONDS", 0.2)
    begun = Begun()
    agent = AgentProcess(begun, Grant(agent_id="r_a-1"))
    running = asyncio.create_task(agent.run())
    async with asyncio.timeout(30):
        while not agent.progress_revision:
            await asyncio.sleep(0.01)
    told = threading.Event()
    threading.Thread(target=_tell, args=(agent, told), daemon=True).start()
    assert told.wait(5), "telling it waits until it listens"
    running.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait((running,))
    assert not begun.processes[0].is_alive()


def _tell(agent: AgentProcess, told: threading.Event) -> None:
    for number in range(MORE_THAN_A_PIPE_HOLDS):
        agent.hear(TaskMessage(number=number, text=Body(inline=bytes(64_000))))
    told.set()
