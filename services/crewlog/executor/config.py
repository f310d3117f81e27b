"""What the executor is told by its environment; nothing else of it reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SLOTS_DEFAULT = 32


class Isolation(StrEnum):
    """Where agents live: all in the executor's process, or each in one of its own."""

    NONE = "none"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Config:
    """`slots` tasks are worked on at once; `name` is unique among the executors that live; `search_path` is that of the
    commands that agents run; `prices` is a price file that overrides the list."""

    data_directory: Path
    nats_url: str
    nats_user: str
    nats_password: str
    address: str
    scheduler_address: str
    git_address: str
    gateway_address: str
    service_token: str
    service_verify_key: str
    name: str
    slots: int
    sandbox: str
    search_path: str
    prices: Path | None = None
    labels: tuple[str, ...] = ()
    isolation: Isolation = Isolation.NONE


def from_environment(environment: Mapping[str, str] = os.environ) -> Config:
    """Raises KeyError with the name of the variable that is missing."""
    return Config(
        data_directory=Path(environment["CREWLOG_DATA_DIR"]),
        nats_url=environment["CREWLOG_NATS_URL"],
        nats_user=environment["CREWLOG_NATS_USER"],
        nats_password=environment["CREWLOG_NATS_PASSWORD"],
        address=environment["CREWLOG_EXECUTOR_ADDRESS"],
        scheduler_address=environment["CREWLOG_SCHEDULER_ADDRESS"],
        git_address=environment["CREWLOG_GIT_ADDRESS"],
        gateway_address=environment["CREWLOG_GATEWAY_ADDRESS"],
        service_token=environment["CREWLOG_SERVICE_TOKEN"],
        service_verify_key=environment["CREWLOG_SERVICE_VERIFY_KEY"],
        name=environment.get("CREWLOG_EXECUTOR_ID") or environment.get("HOSTNAME") or "executor-1",
        slots=int(environment.get("CREWLOG_EXECUTOR_SLOTS", SLOTS_DEFAULT)),
        sandbox=environment.get("CREWLOG_SANDBOX", "auto"),
        search_path=environment.get("PATH", os.defpath),
        prices=Path(environment["CREWLOG_PRICES"]) if environment.get("CREWLOG_PRICES") else None,
        labels=_labels(environment.get("CREWLOG_EXECUTOR_LABELS", "")),
        isolation=Isolation(environment.get("CREWLOG_EXECUTOR_ISOLATION") or Isolation.NONE),
    )


def _labels(written: str) -> tuple[str, ...]:
    return tuple(label for part in written.split(",") if (label := part.strip()))
