"""The part of RunService that asks something of a run that is there: checked here, decided by the scheduler.

What the gateway has to say itself is overwritten, whatever a client has sent: who asks, and when. Each command names
what makes it one and the same when it is sent again: the run, the task, the request or the message.
"""

from __future__ import annotations

from typing import Any

from crewlog.domain.errors import NotFound
from crewlog.gateway import control_checks
from crewlog.gateway.projection import Projection
from crewlog.gateway.recovering import recovery
from crewlog.runtime.auth import current_principal
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.recovery_pb2 import RecoverRun, Recovery
from crewlog.v1.run_pb2 import CancelRun, CancelTask, PauseRun, ResumeRun, RetryRun, SendMessage, SignalRun
from crewlog.v1.run_service_pb2_grpc import RunServiceServicer
from crewlog.v1.waiting_pb2 import ExplainWaiting, Waiting


class Control(RunServiceServicer):
    """`commands` is the service of the scheduler."""

    def __init__(self, projection: Projection, commands: Any) -> None:
        self._projection = projection
        self._commands = commands

    async def Cancel(self, request: CancelRun, context: Any) -> Receipt:
        control_checks.check_cancel(request)
        command = _copy(request, by=current_principal())
        receipt: Receipt = await self._commands.Cancel(command)
        return receipt

    async def CancelTask(self, request: CancelTask, context: Any) -> Receipt:
        control_checks.check_cancel_task(request)
        command = _copy(request, by=current_principal())
        receipt: Receipt = await self._commands.CancelTask(command)
        return receipt

    async def Pause(self, request: PauseRun, context: Any) -> Receipt:
        control_checks.check_pause(request)
        command = _copy(request, by=current_principal())
        receipt: Receipt = await self._commands.Pause(command)
        return receipt

    async def Resume(self, request: ResumeRun, context: Any) -> Receipt:
        control_checks.check_resume(request)
        command = _copy(request, by=current_principal())
        receipt: Receipt = await self._commands.Resume(command)
        return receipt

    async def Retry(self, request: RetryRun, context: Any) -> Receipt:
        control_checks.check_retry(request)
        command = _copy(request, requested_by=current_principal())
        receipt: Receipt = await self._commands.Retry(command)
        return receipt

    async def Send(self, request: SendMessage, context: Any) -> Receipt:
        control_checks.check_send(request)
        command = _copy(request, sent_by=current_principal())
        receipt: Receipt = await self._commands.Send(command)
        return receipt

    async def Signal(self, request: SignalRun, context: Any) -> Receipt:
        control_checks.check_signal(request)
        command = _copy(request, by=current_principal())
        receipt: Receipt = await self._commands.Signal(command)
        return receipt

    async def Explain(self, request: ExplainWaiting, context: Any) -> Waiting:
        """The scheduler has it at hand, and with it who is connected."""
        control_checks.check_explain(request)
        waiting: Waiting = await self._commands.Explain(request)
        return waiting

    async def Recover(self, request: RecoverRun, context: Any) -> Recovery:
        """What is found is looked at before the claims are taken away: afterwards nobody holds them."""
        control_checks.check_recover(request)
        await self._projection.reached(request.at_least_revision)
        if not request.dry_run:
            await self._projection.caught_up()
        found = await self._projection.read(recovery, request.run_id)
        if found is None:
            raise no_run(request.run_id)
        if not request.dry_run:
            receipt = await self._commands.Recover(RecoverRun(run_id=request.run_id, by=current_principal()))
            found.revision = receipt.revision
        return found


def no_run(run_id: str) -> NotFound:
    return NotFound(f"there is no run {run_id!r}", what_to_do="see `crewlog runs`")


def _copy(request: Any, **of_the_gateway: str) -> Any:
    """The command for the scheduler, which stamps the time."""
    command = type(request)()
    command.CopyFrom(request)
    command.ClearField("at_unix_micros")
    for field, value in of_the_gateway.items():
        setattr(command, field, value)
    return command
