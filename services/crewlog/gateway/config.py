"""What the gateway is told by its environment; nothing else of it reads the environment.

The keys of model providers are read here and in no other service.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crewlog.models.prices import DEFAULT_MODEL

SCRIPTED_KEY = "scripted"
ENVIRONMENT_KEY = "anthropic"


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """How the models of runs are reached; the key is kept in memory and never shown."""

    api_key: str = field(default="", repr=False)
    base_url: str = ""
    scripted: bool = False
    default_model: str = ""

    @property
    def credential(self) -> str:
        """The name of the key, which is no secret: costs are attributed to it."""
        return SCRIPTED_KEY if self.scripted else ENVIRONMENT_KEY


@dataclass(frozen=True, slots=True)
class Config:
    data_directory: Path
    nats_url: str
    nats_user: str
    nats_password: str = field(repr=False)
    address: str
    scheduler_address: str
    git_address: str
    client_token: str = field(repr=False)
    service_token: str = field(repr=False)
    service_verify_key: str
    claim_verify_key: str
    model: ModelAccess
    prices: Path | None = None


def from_environment(environment: Mapping[str, str] = os.environ) -> Config:
    """Raises KeyError with the name of the variable that is missing."""
    return Config(
        data_directory=Path(environment["CREWLOG_DATA_DIR"]),
        nats_url=environment["CREWLOG_NATS_URL"],
        nats_user=environment["CREWLOG_NATS_USER"],
        nats_password=environment["CREWLOG_NATS_PASSWORD"],
        address=environment["CREWLOG_GATEWAY_ADDRESS"],
        scheduler_address=environment["CREWLOG_SCHEDULER_ADDRESS"],
        git_address=environment["CREWLOG_GIT_ADDRESS"],
        client_token=environment["CREWLOG_CLIENT_TOKEN"],
        service_token=environment["CREWLOG_SERVICE_TOKEN"],
        service_verify_key=environment["CREWLOG_SERVICE_VERIFY_KEY"],
        claim_verify_key=environment["CREWLOG_CLAIM_VERIFY_KEY"],
        model=model_access(environment),
        prices=Path(environment["CREWLOG_PRICES"]) if environment.get("CREWLOG_PRICES") else None,
    )


def model_access(environment: Mapping[str, str]) -> ModelAccess:
    """A scripted model needs no key, and gets none that is real."""
    scripted = environment.get("CREWLOG_MODEL_SCRIPTED") == "1"
    return ModelAccess(
        api_key=SCRIPTED_KEY if scripted else environment.get("ANTHROPIC_API_KEY", ""),
        base_url=environment.get("CREWLOG_MODEL_BASE_URL", ""),
        scripted=scripted,
        default_model=environment.get("CREWLOG_MODEL", "") or DEFAULT_MODEL,
    )
