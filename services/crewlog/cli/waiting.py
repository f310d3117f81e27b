"""Who waits for what: signals to runs, limits on tasks at once, and why tasks do not go on."""

from __future__ import annotations

import json
import secrets
import sys

from crewlog.cli import wording
from crewlog.cli.controlling import ID_BYTES, write_receipt
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, write_message, write_table
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.admission_pb2 import AdmissionDimension, ListAdmissionLimits, SetAdmissionLimit
from crewlog.v1.run_pb2 import SignalRun
from crewlog.v1.waiting_pb2 import ExplainWaiting, Waiting


async def signal(gateway: Gateway, output: Output, run_id: str, name: str, data: str, request_id: str) -> int:
    payload = _payload(sys.stdin.read() if data == "-" else data)
    request_id = request_id or secrets.token_hex(ID_BYTES)
    command = SignalRun(run_id=run_id, name=name, payload_json=payload, request_id=request_id)
    receipt = await gateway.runs.Signal(command)
    write_receipt(output, receipt, run_id=run_id, name=name, request_id=request_id)
    say(f"signal {name} is sent to run {run_id}")
    return 0


async def set_limit(gateway: Gateway, output: Output, dimension: str, name: str, tasks_max: int) -> int:
    meant = AdmissionDimension.Value(f"ADMISSION_DIMENSION_{dimension.upper()}")
    receipt = await gateway.admission.Set(SetAdmissionLimit(dimension=meant, name=name, tasks_max=tasks_max))
    write_receipt(output, receipt, dimension=dimension, name=name)
    say(f"{dimension} {name}: " + ("no limit" if tasks_max < 0 else f"at most {tasks_max} at once, from now on"))
    return 0


async def limits(gateway: Gateway, output: Output) -> int:
    found = await gateway.admission.List(ListAdmissionLimits())
    if output is not Output.TABLE:
        write_message(found, output)
        return 0
    rows = [
        (_word(each.dimension), wording.plain(each.name), str(each.tasks_max), str(each.tasks_at_work))
        for each in found.limits
    ]
    write_table(("dimension", "name", ">at most", ">at work"), rows)
    return 0


async def why(gateway: Gateway, output: Output, run_id: str) -> int:
    found: Waiting = await gateway.runs.Explain(ExplainWaiting(run_id=run_id))
    if output is not Output.TABLE:
        write_message(found, output)
        return 0
    rows = [
        (each.run_id, each.task_id, wording.date_and_time(each.since_unix_micros), wording.plain(each.why))
        for each in found.tasks
    ]
    write_table(("run", "task", "since", "why"), rows)
    if found.is_cut:
        say("there are more: name a run")
    return 0


def _payload(text: str) -> str:
    try:
        json.loads(text or "null")
    except ValueError as error:
        raise InvalidCommand(
            f"the data is not JSON: {error}", what_to_do="""such as --data '{"ok": true}'"""
        ) from error
    return text


def _word(dimension: AdmissionDimension.ValueType) -> str:
    return AdmissionDimension.Name(dimension).removeprefix("ADMISSION_DIMENSION_").lower()
