"""The environment of every process: what it needs, and nothing that is more secret than that."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crewlog.cli.config import ModelAccess
from crewlog.cli.launcher.child import Program
from crewlog.cli.launcher.credentials import Credentials
from crewlog.cli.launcher.ports import LOOPBACK

SERVICES = ("git", "scheduler", "executor", "gateway")
MODEL = "model"
LOG = "nats-server"
PYTHON = (sys.executable, "-P", "-m")


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
    prices: Path | None = None
    inherited: Mapping[str, str] = field(default_factory=dict)
    inherited_for_outgoing_calls: Mapping[str, str] = field(default_factory=dict)

    def address(self, name: str) -> str:
        return f"{LOOPBACK}:{self.ports[name]}"


def service(plan: Plan, name: str) -> Program:
    """How to start one of the four services."""
    environment = {**plan.inherited, **_common(plan, name), **_OWN[name](plan)}
    return Program(name, (*PYTHON, f"crewlog.{name}"), {k: v for k, v in environment.items() if v})


def scripted_model(plan: Plan) -> Program:
    """How to start the server that plays the script. It needs nothing of ours."""
    arguments = ("--script", str(plan.script), "--port", str(plan.ports[MODEL]))
    return Program(MODEL, (*PYTHON, "crewlog.models.scripted", *arguments), dict(plan.inherited))


def _common(plan: Plan, name: str) -> dict[str, str]:
    addresses = {f"CREWLOG_{other.upper()}_ADDRESS": plan.address(other) for other in SERVICES}
    return {
        **addresses,
        "CREWLOG_DATA_DIR": str(plan.data_dir),
        "CREWLOG_NATS_URL": plan.log_url,
        "CREWLOG_NATS_USER": name,
        "CREWLOG_NATS_PASSWORD": plan.credentials.log_passwords[name],
        "CREWLOG_SERVICE_TOKEN": plan.credentials.service_tokens[name],
        "CREWLOG_SERVICE_VERIFY_KEY": plan.credentials.service_verify_key,
    }


def _gateway(plan: Plan) -> dict[str, str]:
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


def _scheduler(plan: Plan) -> dict[str, str]:
    return {"CREWLOG_CLAIM_SIGNING_KEY": plan.credentials.claims.signing_key}


def _executor(plan: Plan) -> dict[str, str]:
    """The name stays: by it, the scheduler knows at once that the process before it is gone."""
    return {
        **plan.inherited_for_outgoing_calls,
        "CREWLOG_SANDBOX": plan.sandbox,
        "CREWLOG_EXECUTOR_ID": "executor-1",
        "CREWLOG_EXECUTOR_SLOTS": plan.executor_slots,
        "CREWLOG_PRICES": _prices(plan),
    }


def _git(plan: Plan) -> dict[str, str]:
    return {"CREWLOG_CLAIM_VERIFY_KEY": plan.credentials.claims.verify_key}


_OWN = {"gateway": _gateway, "scheduler": _scheduler, "executor": _executor, "git": _git}
