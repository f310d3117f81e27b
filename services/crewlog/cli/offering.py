"""Asks the gateway for what the shell completes: each question once, for a second at most.

`typed` is what stands on the line so far, by the names of the parameters. Where nobody answers there is nothing to
offer, and nobody to tell: the shell is in the middle of a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
from crewlog.cli import config
from crewlog.cli.launcher.directory import DataDirectory
from crewlog.v1.admission_pb2 import AdmissionDimension, ListAdmissionLimits
from crewlog.v1.admission_pb2_grpc import AdmissionServiceStub
from crewlog.v1.budget_service_pb2 import ListBudgets, ListGates
from crewlog.v1.budget_service_pb2_grpc import BudgetServiceStub, GateServiceStub
from crewlog.v1.project_pb2 import ListProjects
from crewlog.v1.project_pb2_grpc import ProjectServiceStub
from crewlog.v1.run_pb2 import GateView, GetRun, ListRuns, RunStatus, TaskStatus, TaskView
from crewlog.v1.run_service_pb2_grpc import RunServiceStub
from google.protobuf.message import Message

ANSWER_SECONDS_MAX = 1.0
OFFERED_MAX = 100
Typed = Mapping[str, Any]
Found = list[tuple[str, str]]


def runs(typed: Typed) -> Found:
    listed = ListRuns(page_size=OFFERED_MAX, with_children=bool(typed.get("children")))
    found = _ask(typed, RunServiceStub, "List", listed, "runs")
    return [(run.run_id, f"{_name(RunStatus.Name(run.status))}, {run.workflow}") for run in found]


def tasks(typed: Typed) -> Found:
    return [
        (task.task_id, f"{_name(TaskStatus.Name(task.status))}, {task.role or task.kind}") for task in _tasks(typed)
    ]


def signals(typed: Typed) -> Found:
    return [(task.signal, f"{task.task_id} waits for it") for task in _tasks(typed) if task.signal]


def gates(typed: Typed) -> Found:
    return [(gate.gate_id, gate.question) for gate in _gates(typed)]


def answers(typed: Typed) -> Found:
    asked = (gate for gate in _gates(typed) if gate.gate_id == typed.get("gate"))
    return [(choice, gate.question) for gate in asked for choice in gate.choices]


def budgets(typed: Typed) -> Found:
    found = _ask(typed, BudgetServiceStub, "List", ListBudgets(page_size=OFFERED_MAX), "budgets")
    return [(budget.budget_id, f"below {budget.parent_id}" if budget.parent_id else "") for budget in found]


def limit_names(typed: Typed) -> Found:
    wanted = str(typed.get("dimension") or "").upper()
    found = _ask(typed, AdmissionServiceStub, "List", ListAdmissionLimits(), "limits")
    named = (limit for limit in found if AdmissionDimension.Name(limit.dimension).endswith(f"_{wanted}"))
    return [(limit.name, f"at most {limit.tasks_max}" if limit.tasks_max >= 0 else "no limit") for limit in named]


def projects(typed: Typed) -> Found:
    found = _ask(typed, ProjectServiceStub, "List", ListProjects(page_size=OFFERED_MAX), "projects")
    return [(project.project_id, project.path) for project in found]


def _tasks(typed: Typed) -> Iterable[TaskView]:
    run_id = str(typed.get("run_id") or "")
    found: Iterable[TaskView] = _ask(typed, RunServiceStub, "Get", GetRun(run_id=run_id), "tasks") if run_id else ()
    return found


def _gates(typed: Typed) -> Iterable[GateView]:
    """Of the run itself: those of its child runs are answered with the id of theirs."""
    run_id = str(typed.get("run_id") or "")
    found: Iterable[GateView] = _ask(
        typed, GateServiceStub, "List", ListGates(run_id=run_id, page_size=OFFERED_MAX), "gates"
    )
    return [gate for gate in found if gate.run_id == run_id]


def _name(constant: str) -> str:
    """`RUN_STATUS_FAILED` and `TASK_STATUS_TIMED_OUT` without what they begin with."""
    return constant.partition("_STATUS_")[2].lower()


def _ask(typed: Typed, service: Callable[[grpc.Channel], Any], method: str, request: Message, field: str) -> Any:
    address, token = _where(typed)
    if not address:
        return ()
    metadata = (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(address) as channel:
        try:
            answer = getattr(service(channel), method)(request, timeout=ANSWER_SECONDS_MAX, metadata=metadata)
        except grpc.RpcError:
            return ()
    return getattr(answer, field)


def _where(typed: Typed) -> tuple[str, str]:
    """Without an address where there is no platform. Of several addresses the first is asked."""
    directory = DataDirectory(Path(typed.get("data_dir") or config.data_dir()).expanduser())
    address, token = typed.get("address") or config.address(), typed.get("token") or config.token()
    try:
        endpoints = None if address else directory.read_endpoints()
        is_there = endpoints is not None and directory.holder()
        address = endpoints.gateway if endpoints is not None and is_there else address
        return address.split(",")[0].strip(), token or directory.read_token()
    except OSError:
        return "", ""
