"""The environment of every process: what it needs, and nothing that is more secret than that."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crewlog.cli.config import ModelAccess
from crewlog.cli.launcher.child import Program
from crewlog.cli.launcher.credentials import Credentials
from crewlog.cli.launcher.ports import LOOPBACK

SERVICES = ("git", "scheduler", "executor", "gateway")
SCHEDULER = "scheduler"
EXECUTOR = "executor"
MODEL = "model"
LOG = "nats-server"
PYTHON = (sys.executable, "-P", "-m")


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many processes there are of the services that may have several, and what the executors are like: the labels
    (`gpu,big`) of the first, the second, and so on; where agents live.
    """

    executors: int = 1
    schedulers: int = 1
    executor_labels: Sequence[str] = ()
    isolation: str = ""

    @property
    def processes(self) -> tuple[str, ...]:
        """The names of all processes of services: `executor`, `executor-2`."""
        numbers = {SCHEDULER: self.schedulers, EXECUTOR: self.executors}
        return tuple(name for service in SERVICES for name in _names(service, numbers.get(service, 1)))


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the processes of one start have to know between them."""

    data_dir: Path
    ports: Mapping[str, int]
    log_url: str
    credentials: Credentials
    model: ModelAccess
    script: Path | None = None
    sandbox: str = "auto"
    executor_slots: str = ""
    fleet: Fleet = Fleet()
    prices: Path | None = None
    inherited: Mapping[str, str] = field(default_factory=dict)
    inherited_for_outgoing_calls: Mapping[str, str] = field(default_factory=dict)

    def address(self, name: str) -> str:
        return f"{LOOPBACK}:{self.ports[name]}"

    def addresses(self, service: str) -> str:
        """Of all processes of a service, as whoever calls it wants them."""
        return ",".join(self.address(name) for name in self.fleet.processes if service_of(name) == service)


def service_of(name: str) -> str:
    """What a process is one of: `executor` for `executor-2`."""
    service, _, number = name.rpartition("-")
    return service if number.isdecimal() else name


def number_of(name: str) -> int:
    return int(name.rpartition("-")[2]) if service_of(name) != name else 1


def service(plan: Plan, name: str) -> Program:
    """How to start one process of the four services."""
    service = service_of(name)
    environment = {**plan.inherited, **_common(plan, name), **_OWN[service](plan, number_of(name))}
    return Program(name, (*PYTHON, f"crewlog.{service}"), {k: v for k, v in environment.items() if v})


def scripted_model(plan: Plan) -> Program:
    """How to start the server that plays the script. It needs nothing of ours."""
    arguments = ("--script", str(plan.script), "--port", str(plan.ports[MODEL]))
    return Program(MODEL, (*PYTHON, "crewlog.models.scripted", *arguments), dict(plan.inherited))


def _names(service: str, count: int) -> Iterator[str]:
    yield service
    yield from (f"{service}-{number}" for number in range(2, count + 1))


def _common(plan: Plan, name: str) -> dict[str, str]:
    """A service listens where it is called, and learns its own address alone."""
    service = service_of(name)
    addresses = {other: plan.addresses(other) for other in SERVICES} | {service: plan.address(name)}
    return {
        **{f"CREWLOG_{other.upper()}_ADDRESS": address for other, address in addresses.items()},
        "CREWLOG_DATA_DIR": str(plan.data_dir),
        "CREWLOG_NATS_URL": plan.log_url,
        "CREWLOG_NATS_USER": service,
        "CREWLOG_NATS_PASSWORD": plan.credentials.log_passwords[service],
        "CREWLOG_SERVICE_TOKEN": plan.credentials.service_tokens[service],
        "CREWLOG_SERVICE_VERIFY_KEY": plan.credentials.service_verify_key,
    }


def _gateway(plan: Plan, number: int) -> dict[str, str]:
    """The only process that learns the client's token and the model's key."""
    return {
        "CREWLOG_CLIENT_TOKEN": plan.credentials.client_token,
        "CREWLOG_CLAIM_VERIFY_KEY": plan.credentials.claims.verify_key,
        "CREWLOG_MODEL": plan.model.model,
        "CREWLOG_PRICES": _prices(plan),
        **(_scripted(plan) if plan.script else _real(plan)),
    }


def _scripted(plan: Plan) -> dict[str, str]:
    return {"CREWLOG_MODEL_BASE_URL": f"http://{plan.address(MODEL)}", "CREWLOG_MODEL_SCRIPTED": "1"}


def _real(plan: Plan) -> dict[str, str]:
    return {"CREWLOG_MODEL_BASE_URL": plan.model.base_url, "ANTHROPIC_API_KEY": plan.model.api_key}


def _prices(plan: Plan) -> str:
    return str(plan.prices or "")


def _scheduler(plan: Plan, number: int) -> dict[str, str]:
    """The name stays: by it, a scheduler does not wait for the lease of the process before it to end."""
    return {
        "CREWLOG_SCHEDULER_ID": f"{SCHEDULER}-{number}",
        "CREWLOG_CLAIM_SIGNING_KEY": plan.credentials.claims.signing_key,
    }


def _executor(plan: Plan, number: int) -> dict[str, str]:
    """The name stays: by it, the scheduler knows at once that the process before it is gone."""
    labels = plan.fleet.executor_labels[number - 1 : number]
    return {
        **plan.inherited_for_outgoing_calls,
        "CREWLOG_SANDBOX": plan.sandbox,
        "CREWLOG_EXECUTOR_ID": f"{EXECUTOR}-{number}",
        "CREWLOG_EXECUTOR_SLOTS": plan.executor_slots,
        "CREWLOG_EXECUTOR_LABELS": "".join(labels),
        "CREWLOG_EXECUTOR_ISOLATION": plan.fleet.isolation,
        "CREWLOG_PRICES": _prices(plan),
    }


def _git(plan: Plan, number: int) -> dict[str, str]:
    return {"CREWLOG_CLAIM_VERIFY_KEY": plan.credentials.claims.verify_key}


_OWN = {"gateway": _gateway, SCHEDULER: _scheduler, EXECUTOR: _executor, "git": _git}
