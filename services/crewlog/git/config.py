"""What the git service is told by its environment; nothing else of it reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMMANDS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Config:
    """`search_path` is where git and its own programs are found; `directory` holds everything that is managed."""

    directory: Path
    search_path: str
    nats_url: str
    nats_user: str
    nats_password: str
    address: str
    service_verify_key: str
    claim_verify_key: str
    commands_at_once: int = COMMANDS_AT_ONCE


def from_environment(environment: Mapping[str, str] = os.environ) -> Config:
    """Raises KeyError with the name of the variable that is missing."""
    return Config(
        directory=Path(environment["CREWLOG_DATA_DIR"]).resolve() / "git",
        search_path=environment.get("PATH", os.defpath),
        nats_url=environment["CREWLOG_NATS_URL"],
        nats_user=environment["CREWLOG_NATS_USER"],
        nats_password=environment["CREWLOG_NATS_PASSWORD"],
        address=environment["CREWLOG_GIT_ADDRESS"],
        service_verify_key=environment["CREWLOG_SERVICE_VERIFY_KEY"],
        claim_verify_key=environment["CREWLOG_CLAIM_VERIFY_KEY"],
    )
