"""Who waits for what: signals to runs, limits on tasks at once, and why tasks do not go on."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterable

from crewlog.cli import wording
from crewlog.cli.controlling import ID_BYTES, write_receipt
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, write_line, write_message, write_messages, write_table
from crewlog.domain.admission import EVERY_OTHER
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.admission_pb2 import AdmissionDimension, AdmissionLimit, ListAdmissionLimits, SetAdmissionLimit
from crewlog.v1.run_pb2 import SignalRun
from crewlog.v1.waiting_pb2 import ExplainWaiting, WaitingReason, WaitingTask

NO_LIMIT = -1


async def signal(gateway: Gateway, output: Output, run_id: str, name: str, data: str, request_id: str) -> int:
    payload = _json(sys.stdin.read() if data == "-" else data)
    request_id = request_id or secrets.token_hex(ID_BYTES)
    command = SignalRun(run_id=run_id, name=name, payload_json=payload, request_id=request_id)
    receipt = await gateway.runs.Signal(command)
    write_receipt(output, receipt, run_id=run_id, name=name, request_id=request_id)
    say(f"signal {name} is sent to run {run_id}")
    return 0


async def set_limit(gateway: Gateway, output: Output, dimension: str, name: str, tasks_max: str) -> int:
    most = _tasks_max(tasks_max)
    meant = AdmissionDimension.Value(f"ADMISSION_DIMENSION_{dimension.upper()}")
    receipt = await gateway.admission.Set(SetAdmissionLimit(dimension=meant, name=name, tasks_max=most))
    write_receipt(output, receipt, dimension=dimension, name=name)
    say(f"{dimension} {wording.plain(name)}: " + ("no limit" if most < 0 else f"at most {most} at once, from now on"))
    return 0


async def limits(gateway: Gateway, output: Output) -> int:
    known = (await gateway.admission.List(ListAdmissionLimits())).limits
    found = [limit for limit in known if _still_counts(limit, known)]
    if output is not Output.TABLE:
        write_messages(found, output)
    elif found:
        write_table(("dimension", "name", ">at most", ">at work"), [_limit_row(limit) for limit in found])
    else:
        write_line("there are no limits")
    return 0


async def write_why(gateway: Gateway, output: Output, run_id: str) -> int:
    """Of one run, or of all that are not over."""
    found = await gateway.runs.Explain(ExplainWaiting(run_id=run_id))
    if output is not Output.TABLE:
        write_message(found, output)
    elif found.tasks:
        write_table(("run", "task", "since", "why", ">ahead"), [_waiting_row(task) for task in found.tasks])
        _say_where_to_answer(gateway, found.tasks)
    else:
        write_line("nothing waits")
    if found.is_cut:
        say("there are more" if run_id else "there are more: name a run")
    return 0


def _say_where_to_answer(gateway: Gateway, tasks: Iterable[WaitingTask]) -> None:
    """For the first task that waits for a person."""
    asking = next((task for task in tasks if task.reason == WaitingReason.WAITING_REASON_GATE), None)
    if asking is not None:
        say(f"see what to answer: {gateway.command(f'gates --run {asking.run_id}')}")


def _limit_row(limit: AdmissionLimit) -> tuple[str, ...]:
    dimension = wording.admission_dimension(limit.dimension)
    most = "none" if limit.tasks_max == NO_LIMIT else str(limit.tasks_max)
    return dimension, wording.plain(limit.name), most, str(limit.tasks_at_work)


def _still_counts(limit: AdmissionLimit, known: Iterable[AdmissionLimit]) -> bool:
    """One that was taken away does while tasks are at work under it, or where it frees a name from the limit of `*`."""
    if limit.tasks_max != NO_LIMIT or limit.tasks_at_work:
        return True
    return any(each.dimension == limit.dimension and each.name == EVERY_OTHER for each in known)


def _waiting_row(task: WaitingTask) -> tuple[str, ...]:
    until = f", until {wording.date_and_time(task.due_at_unix_micros)}" if task.due_at_unix_micros else ""
    return (
        task.run_id,
        task.task_id,
        wording.date_and_time(task.since_unix_micros),
        f"{wording.waiting_reason(task.reason)}: {wording.one_line(task.why, 200)}{until}",
        str(task.ahead or ""),
    )


def _json(text: str) -> str:
    """Raises InvalidCommand for what is no JSON."""
    try:
        json.loads(text or "null")
    except (ValueError, RecursionError) as error:
        raise InvalidCommand(
            f"the data is not JSON: {error}", what_to_do="""quote it for the shell, such as --data '{"ok": true}'"""
        ) from error
    return text


def _tasks_max(text: str) -> int:
    if text in ("none", str(NO_LIMIT)):
        return NO_LIMIT
    if text.isascii() and text.isdigit():
        return int(text[:10])
    raise InvalidCommand(f"{text[:80]!r} is no limit", what_to_do="give a number from 0 on, or `none` to remove it")
