"""What the scheduler is told by its environment; nothing else of it reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Config:
    """`name` is unique among the schedulers that live, and stays when one is started again; it may be empty."""

    data_directory: Path
    nats_url: str
    nats_user: str
    nats_password: str
    address: str
    git_address: str
    service_token: str
    service_verify_key: str
    claim_signing_key: str
    name: str = ""


def from_environment(environment: Mapping[str, str] = os.environ) -> Config:
    """Raises KeyError with the name of the variable that is missing."""
    return Config(
        data_directory=Path(environment["CREWLOG_DATA_DIR"]),
        nats_url=environment["CREWLOG_NATS_URL"],
        nats_user=environment["CREWLOG_NATS_USER"],
        nats_password=environment["CREWLOG_NATS_PASSWORD"],
        address=environment["CREWLOG_SCHEDULER_ADDRESS"],
        git_address=environment["CREWLOG_GIT_ADDRESS"],
        service_token=environment["CREWLOG_SERVICE_TOKEN"],
        service_verify_key=environment["CREWLOG_SERVICE_VERIFY_KEY"],
        claim_signing_key=environment["CREWLOG_CLAIM_SIGNING_KEY"],
        name=environment.get("CREWLOG_SCHEDULER_ID", ""),
    )
