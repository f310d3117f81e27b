"""People at the platform: they start runs, interfere with them, and answer what they are asked, sooner or later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from crewlog.domain.errors import Contention, Refused, Unavailable
from crewlog.domain.run import money as run_money
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run
from crewlog.v1.budget_pb2 import Amounts, RaiseBudget
from crewlog.v1.budget_service_pb2_grpc import BudgetServiceStub, GateServiceStub
from crewlog.v1.recovery_pb2 import RecoverRun
from crewlog.v1.run_pb2 import (
    AnswerGate,
    CancelRun,
    CancelTask,
    GateStatus,
    MessageMode,
    PauseRun,
    ResumeRun,
    RetryRun,
    RunStatus,
    SendMessage,
    SignalRun,
    StartRun,
    TaskStatus,
)
from crewlog.v1.scheduler_pb2_grpc import SchedulerServiceStub
from google.protobuf.message import Message

from tests.simulation.processes.channel import Channel
from tests.simulation.processes.loop import wall_nanos
from tests.simulation.processes.network import pass_time
from tests.simulation.processes.platform import Platform
from tests.simulation.processes.programs import SIGNAL, start_run

AGAIN_SECONDS = 0.5
MORE = Amounts(usd_micros=2_000_000)
MODES = (
    MessageMode.MESSAGE_MODE_STEER,
    MessageMode.MESSAGE_MODE_QUEUE,
    MessageMode.MESSAGE_MODE_INTERRUPT,
)


class People:
    """`helpful`: they interfere no more, and answer everything."""

    def __init__(self, platform: Platform, runs: int, starting_seconds: float, interference: float) -> None:
        channel: Any = Channel(platform.network, platform.schedulers)
        self.scheduler: Any = SchedulerServiceStub(channel)
        self.gates: Any = GateServiceStub(channel)
        self.budgets: Any = BudgetServiceStub(channel)
        self.helpful = False
        self.started: set[str] = set()
        self.run_ids = [f"r{number}" for number in range(runs)]
        self._platform = platform
        self._chance = Random(platform.seed + 3)
        self._starting_seconds = starting_seconds
        self._interference = interference
        self._requests = 0

    async def start_all(self) -> None:
        for number in range(len(self.run_ids)):
            await self._start(start_run(self._chance, number, wall_nanos() // 1000))
            await pass_time(self._chance.random() * 2 * self._starting_seconds / len(self.run_ids))

    async def _start(self, command: StartRun) -> None:
        await self._insist(self.scheduler.Start, command)
        self.started.add(command.run_id)

    async def live(self) -> None:
        while True:
            await pass_time(3 * self._chance.random())
            for run_id in self.run_ids:
                if run_id in self.started:
                    await self._look_at(self._platform.run(run_id))

    async def _look_at(self, run: Run) -> None:
        if run_state.is_over(run):
            await self._retry(run)
        elif self.helpful or self._chance.random() < 0.1:
            await self._answer(run)
        elif self._chance.random() < self._interference:
            await self._interfere(run)

    async def _retry(self, run: Run) -> None:
        """A run that came to a bad end is taken up again, at most once."""
        if run.status == RunStatus.RUN_STATUS_SUCCEEDED or run.retries or self.helpful or self._chance.random() < 0.8:
            return
        retry = RetryRun(run_id=run.started.run_id, request_id="again")
        await self._try(self.scheduler.Retry, retry)

    async def _interfere(self, run: Run) -> None:
        run_id, chance = run.started.run_id, self._chance
        task_id = chance.choice(sorted(run.tasks)) if run.tasks else "n0-1"
        match chance.choice(("cancel", "cancel task", "pause", "pause", "resume", "say", "say", "say", "recover")):
            case "cancel" if chance.random() < 0.2:
                cancel = CancelRun(run_id=run_id, reason="somebody says so", grace_seconds=chance.choice((0, 2)))
                await self._try(self.scheduler.Cancel, cancel)
            case "cancel task" if chance.random() < 0.3:
                await self._try(self.scheduler.CancelTask, CancelTask(run_id=run_id, task_id=task_id))
            case "pause":
                await self._try(self.scheduler.Pause, PauseRun(run_id=run_id, reason="a break"))
            case "resume":
                await self._try(self.scheduler.Resume, ResumeRun(run_id=run_id))
            case "say":
                await self._try(self.scheduler.Send, self._message(run_id, chance.choice(("", task_id))))
            case "recover" if chance.random() < 0.2:
                await self._try(self.scheduler.Recover, RecoverRun(run_id=run_id))

    def _message(self, run_id: str, task_id: str) -> SendMessage:
        self._requests += 1
        mode = self._chance.choice(MODES)
        self._platform.paths[MessageMode.Name(mode)] += 1
        text = f"message {self._requests}"
        return SendMessage(run_id=run_id, task_id=task_id, message_id=f"m{self._requests}", mode=mode, text=text)

    async def _answer(self, run: Run) -> None:
        run_id = run.started.run_id
        for gate_id, gate in list(run.gates.items()):
            if gate.status == GateStatus.GATE_STATUS_OPEN:
                choices = list(gate.opened.choices)
                answer = AnswerGate(run_id=run_id, gate_id=gate_id, by=MORE if "raise" in choices else None)
                if choices:
                    answer.choice = self._chance.choice(choices)
                else:
                    answer.text = "as you like"
                await self._try(self.gates.Answer, answer)
        if any(task.signal for task in run.tasks.values() if task.task_id in run.parked):
            self._requests += 1
            signal = SignalRun(run_id=run_id, name=SIGNAL, request_id=f"s{self._requests}", payload_json="1")
            await self._try(self.scheduler.Signal, signal)
        if run.paused is not None:
            await self._try(self.scheduler.Resume, ResumeRun(run_id=run_id))
        if any(task.status == TaskStatus.TASK_STATUS_PARKED and task.parked_on for task in run.tasks.values()):
            top = run.started.parent.root_run_id or run_id
            await self._try(self.budgets.Raise, self._raise(run_money.RUN_BUDGET_PREFIX + top))
        for child_run_id in run.child_runs.values():
            await self._answer(self._platform.run(child_run_id))

    def _raise(self, budget_id: str) -> RaiseBudget:
        self._requests += 1
        return RaiseBudget(budget_id=budget_id, by=MORE, request_id=f"q{self._requests}")

    async def _insist(self, ask: Callable[[Message], Awaitable[Any]], command: Message) -> None:
        """Until there is an answer; the same command again is the same command."""
        while not await self._try(ask, command):
            await pass_time(AGAIN_SECONDS)

    async def _try(self, ask: Callable[[Message], Awaitable[Any]], command: Message) -> bool:
        name = command.DESCRIPTOR.name
        try:
            await ask(command)
        except (Unavailable, Contention) as reason:
            self._platform.paths[f"{type(reason).__name__} for a client"] += 1
            return False
        except Refused as refusal:
            self._platform.paths[f"{name} refused"] += 1
            self._platform.tell(f"{name} was refused: {refusal}")
            return True
        self._platform.paths[f"{name} accepted"] += 1
        self._platform.tell(f"{name} {getattr(command, 'run_id', '')}")
        return True
