"""What a person asks of a run that is there: pause, resume, cancel, retry, and messages to its agents."""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import dataclass

from crewlog.cli import budgeting, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, to_json, write_line
from crewlog.domain.errors import InvalidCommand, Unavailable
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.budget_pb2 import Amounts
from crewlog.v1.run_pb2 import (
    CancelRun,
    CancelTask,
    GetRun,
    MessageMode,
    PauseRun,
    ResumeRun,
    RetryRun,
    RunStatus,
    SendMessage,
    TaskStatus,
)

ID_BYTES = 8
_CANCELLING = "is being cancelled: what it has done is kept"


@dataclass(frozen=True, slots=True)
class Stop:
    """Without a task it is the whole run that is stopped."""

    task: str = ""
    grace_seconds: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """What is said to an agent. Without a task it is the only one that works; without an id it gets one."""

    text: str
    mode: str = "steer"
    task: str = ""
    message_id: str = ""


async def pause(gateway: Gateway, output: Output, run_id: str, reason: str) -> int:
    receipt = await gateway.runs.Pause(PauseRun(run_id=run_id, reason=reason))
    write_receipt(output, receipt, run_id=run_id)
    say(f"run {run_id} is paused: its agents let go after the step that they are at")
    say(f"  go on      {gateway.command(f'resume {run_id}')}")
    return 0


async def resume(gateway: Gateway, output: Output, run_id: str) -> int:
    receipt = await gateway.runs.Resume(ResumeRun(run_id=run_id))
    write_receipt(output, receipt, run_id=run_id)
    say(f"run {run_id} goes on, every agent from its last recorded step")
    _say_how_to_watch(gateway, run_id)
    return 0


async def cancel(gateway: Gateway, output: Output, run_id: str, stop: Stop) -> int:
    receipt = await _cancel(gateway, run_id, stop)
    names = {"run_id": run_id, "task_id": stop.task} if stop.task else {"run_id": run_id}
    write_receipt(output, receipt, **names)
    what = f"task {stop.task} of run {run_id}" if stop.task else f"run {run_id}"
    stands = await _how_it_stands(gateway, run_id, stop.task, receipt.revision)
    say(f"{what} {stands}")
    if stands == _CANCELLING:
        _say_how_to_watch(gateway, run_id)
    return 0


async def retry(gateway: Gateway, output: Output, run_id: str, by: Amounts, request_id: str) -> int:
    request_id = request_id or secrets.token_hex(ID_BYTES)
    receipt = await gateway.runs.Retry(RetryRun(run_id=run_id, request_id=request_id, by=by if by.ByteSize() else None))
    write_receipt(output, receipt, run_id=run_id, request_id=request_id)
    raised = f", with {budgeting.in_words(by)} more" if by.ByteSize() else ""
    say(f"run {run_id} is taken up again{raised}: what has succeeded is kept, the rest is done again")
    _say_how_to_watch(gateway, run_id)
    return 0


async def send(gateway: Gateway, output: Output, run_id: str, words: Words) -> int:
    text = sys.stdin.read() if words.text == "-" else words.text
    if not text.strip():
        raise InvalidCommand("the message is empty", what_to_do='say something: crewlog send RUN "use tabs"')
    message = SendMessage(
        run_id=run_id,
        task_id=words.task,
        message_id=words.message_id or f"m-{secrets.token_hex(ID_BYTES)}",
        mode=MessageMode.Value(f"MESSAGE_MODE_{words.mode.upper()}"),
        text=text,
    )
    receipt = await gateway.runs.Send(message)
    write_receipt(output, receipt, run_id=run_id, message_id=message.message_id)
    say(f"message {message.message_id} is sent ({words.mode})")
    _say_how_to_watch(gateway, run_id)
    return 0


def write_receipt(output: Output, receipt: Receipt, **names: str) -> None:
    """What was done, and the revision at which it is seen; a table has nothing of it."""
    if output is Output.TABLE:
        return
    write_line(json.dumps({**names, **to_json(receipt)}, indent=2 if output is Output.JSON else None))


def named(task: str | None) -> str:
    """The task that is meant, empty where none was named. An empty name, such as that of a variable that is not set, is
    not taken for the whole run."""
    if task is not None and not task.strip():
        raise InvalidCommand("--task is empty", what_to_do="name a task as `crewlog show` does, or leave it out")
    return task or ""


async def _how_it_stands(gateway: Gateway, run_id: str, task_id: str, revision: int) -> str:
    """What was to be cancelled may have been over before."""
    try:
        view = await gateway.runs.Get(GetRun(run_id=run_id, at_least_revision=revision))
    except Unavailable:
        return _CANCELLING  # the cancel is recorded; only how far it has come cannot be told
    task = next((task for task in view.tasks if task.task_id == task_id), None)
    if task is not None and task.status in (TaskStatus.TASK_STATUS_SUCCEEDED, TaskStatus.TASK_STATUS_FAILED):
        return f"has {wording.task_status(task.status)} already, and stays as it is"
    if not task_id and view.status in (RunStatus.RUN_STATUS_SUCCEEDED, RunStatus.RUN_STATUS_FAILED):
        return f"has {wording.run_status(view.status)} already, and stays as it is"
    return _CANCELLING


async def _cancel(gateway: Gateway, run_id: str, stop: Stop) -> Receipt:
    if not stop.task:
        command = CancelRun(run_id=run_id, reason=stop.reason, grace_seconds=stop.grace_seconds)
        return await gateway.runs.Cancel(command)
    of_task = CancelTask(run_id=run_id, task_id=stop.task, reason=stop.reason, grace_seconds=stop.grace_seconds)
    return await gateway.runs.CancelTask(of_task)


def _say_how_to_watch(gateway: Gateway, run_id: str) -> None:
    say(f"  watch it   {gateway.command(f'watch {run_id}')}")
